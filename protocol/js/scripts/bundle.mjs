/**
 * Bundles the library and its store in IndexedDB as one module, for pages without a bundler, into the folder given as the first
 * argument (default ../dist/browser). manifest.json says which name the module has.
 */
import { createHash } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

import { hashed, publish } from './assets.mjs';

const NAME = 'atlas-sync.js';
const root = fileURLToPath(new URL('..', import.meta.url));
const out = resolve(process.argv[2] ?? resolve(root, 'dist/browser'));

const { outputFiles } = await build({
  stdin: { contents: `export * from './src/index.ts'; export * from './src/store/indexeddb.ts';`, resolveDir: root },
  bundle: true,
  write: false,
  minify: true,
  legalComments: 'none',
  format: 'esm',
  target: 'es2022',
  logLevel: 'warning',
});
const [{ contents }] = outputFiles;
const file = hashed(NAME, contents);
const integrity = `sha384-${createHash('sha384').update(contents).digest('base64')}`;
await publish(resolve(out, file), contents);
await writeFile(resolve(out, 'manifest.json'), `${JSON.stringify({ [NAME]: { file, integrity } }, null, 2)}\n`);
