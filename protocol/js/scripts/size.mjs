/** Prints what an app's bundle grows by, minified and gzipped; fails if the library without Dexie outgrows its limit. */
import { build } from 'esbuild';
import { gzipSync } from 'node:zlib';

const LIMIT = 25 * 1024;
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
const library = await gzipped(`export * from './src/index.ts';`, outside);
const browser = await gzipped(`export * from './src/index.ts'; export * from './src/store/dexie.ts';`, outside);
const msgpack = await gzipped(`export { decode, encode } from '@msgpack/msgpack';`, outside);
console.log(`library, with MessagePack            ${library} bytes (MessagePack alone: ${msgpack})`);
console.log(`… and the store in IndexedDB         ${browser} bytes`);
console.log(
  `… and the hooks for React            ${await gzipped(`export * from './src/index.ts'; export * from './src/store/dexie.ts'; export * from './src/react.ts';`, outside)} bytes`,
);
console.log(
  `… and Dexie itself                   ${await gzipped(`export * from './src/index.ts'; export * from './src/store/dexie.ts';`, ['react'])} bytes`,
);
console.log(
  `for React Native: library and SQLite ${await gzipped(`export * from './src/index.ts'; export * from './src/store/sqlite.ts';`, outside)} bytes`,
);
if (browser > LIMIT) {
  console.error(`library and store are more than ${LIMIT} bytes`);
  process.exitCode = 1;
}
