/** Prints how much the library adds to an app's bundle, minified and gzipped. Fails if library and store exceed the limit. */
import { build } from 'esbuild';
import { gzipSync } from 'node:zlib';

const LIMIT = 35 * 1024;
const root = new URL('..', import.meta.url).pathname;

async function gzipped(contents, external) {
  const { outputFiles } = await build({
    stdin: { contents, resolveDir: root },
    bundle: true,
    write: false,
    minify: true,
    format: 'esm',
    target: 'es2022',
    external,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

const outside = ['dexie', 'react'];
const SYNC = `export { createSync, environment, newId, PageError, StoreError, WriteError } from './src/index.ts';`;
const of = (...entries) => SYNC + entries.map((entry) => `export * from './src/${entry}.ts';`).join('');
const msgpack = await gzipped(`export { decode, encode } from '@msgpack/msgpack';`, outside);
const browser = await gzipped(of('store/dexie'), outside);
const sizes = {
  [`library, with MessagePack (${msgpack} alone)`]: await gzipped(of(), outside),
  '… and a store in IndexedDB': browser,
  '… and the hooks for React': await gzipped(of('store/dexie', 'react'), outside),
  '… and Dexie itself': await gzipped(of('store/dexie'), ['react']),
  'for React Native: library and a store in SQLite': await gzipped(of('store/sqlite'), outside),
};
for (const [what, bytes] of Object.entries(sizes)) console.log(`${what.padEnd(48)} ${bytes} bytes`);
if (browser > LIMIT) {
  console.error(`library and store are more than ${LIMIT} bytes`);
  process.exitCode = 1;
}
