/**
 * Prints what a browser loads of the library, minified and compressed, with everything that comes with it but React. Fails
 * if a chat app loads more than LIMIT, or if README.md says something else.
 */
import { readFileSync } from 'node:fs';
import { brotliCompressSync, gzipSync } from 'node:zlib';

import { build } from 'esbuild';

const LIMIT = 40_960; // bytes, gzipped; 4,100 of them are for streams
const root = new URL('..', import.meta.url).pathname;

async function sizeOf(...imports) {
  const { outputFiles } = await build({
    stdin: { contents: imports.join('\n'), resolveDir: root },
    bundle: true,
    write: false,
    minify: true,
    format: 'esm',
    target: 'es2022',
    external: ['react'],
    legalComments: 'none',
    logLevel: 'warning',
  });
  const [{ contents }] = outputFiles;
  return { gzip: gzipSync(contents, { level: 9 }).length, brotli: brotliCompressSync(contents).length };
}

const SYNC = `export { createSync, newId, PageError, StoreError, UnsentError, WriteError } from './src/index.ts';`;
const CHAT = `export { createChatSync } from './src/index.ts';`;
const STORE = `export { IndexedDbStore } from './src/store/indexeddb.ts';`;
const SQLITE = `export { SqliteStore } from './src/store/sqlite.ts';`;
const HOOKS = `export * from './src/hooks.ts';`;
const CHAT_HOOKS = `export * from './src/react.ts';`;

const app = await sizeOf(SYNC, CHAT, STORE, CHAT_HOOKS);
const module = await sizeOf(`export * from './src/index.ts';`, STORE);
const sizes = {
  MessagePack: await sizeOf(`export { pack, unpack } from './src/msgpack.ts';`),
  'library with MessagePack': await sizeOf(SYNC),
  '… and the store in IndexedDB': await sizeOf(SYNC, STORE),
  '… and the names of a chat app': await sizeOf(SYNC, CHAT, STORE),
  '… and the hooks for React: everything that a chat app loads': app,
  'the module without a bundler': module,
  'for React Native: library, store in SQLite, hooks': await sizeOf(SYNC, SQLITE, HOOKS),
};
console.log(`${''.padEnd(60)} ${'gzip'.padStart(7)} ${'brotli'.padStart(7)}`);
for (const [what, { gzip, brotli }] of Object.entries(sizes)) {
  console.log(`${what.padEnd(60)} ${String(gzip).padStart(7)} ${String(brotli).padStart(7)}`);
}

function fail(sentence) {
  console.error(sentence);
  process.exitCode = 1;
}
if (app.gzip > LIMIT) fail(`a chat app loads more than ${LIMIT} bytes`);
const readme = readFileSync(`${root}/README.md`, 'utf8');
for (const [row, size] of [
  ['| a chat app with React', app],
  ['| the module [without', module],
]) {
  const line = readme.split('\n').find((each) => each.startsWith(row));
  const [gzip, brotli] = [...(line ?? '').matchAll(/ (\d+) KB/g)].map(([, figure]) => Number(figure) * 1000);
  for (const [said, is] of [
    [gzip, size.gzip],
    [brotli, size.brotli],
  ]) {
    if (!(Math.abs(said - is) <= 1000)) fail(`README.md must say ${Math.round(is / 1000)} KB, not ${said / 1000}: ${line}`);
  }
}
