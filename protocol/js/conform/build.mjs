// Makes the adapter for `atlas-sync conform`: node conform/build.mjs FILE

import { build } from 'esbuild';
import { fileURLToPath } from 'node:url';

await build({
  entryPoints: [fileURLToPath(new URL('adapter.ts', import.meta.url))],
  outfile: process.argv[2],
  bundle: true,
  platform: 'node',
  format: 'esm',
  target: 'node20',
  // What is CommonJS may ask for `require`.
  banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  external: ['node-sqlite3-wasm', 'ws'],
  logLevel: 'warning',
});
