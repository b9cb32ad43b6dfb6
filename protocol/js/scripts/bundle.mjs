/**
 * Bundles the library and its store in IndexedDB as one module, for pages without a bundler, into the folder given as the
 * first argument (default ../dist/browser). The module in assets/ has a name that carries a hash of its content, and so has
 * its source map. atlas-sync.js, whose name stays, passes its exports on; manifest.json has its integrity.
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
  outfile: resolve(out, 'assets', NAME),
  bundle: true,
  write: false,
  minify: true,
  sourcemap: 'external',
  legalComments: 'none',
  format: 'esm',
  target: 'es2022',
  logLevel: 'warning',
});
const [map, module] = ['.map', '.js'].map((end) => outputFiles.find(({ path }) => path.endsWith(end)).contents);
const { sources, ...rest } = JSON.parse(Buffer.from(map).toString());
// Where the sources lie on the machine that builds is nobody's business, and would change the map's name.
const portable = JSON.stringify({ ...rest, sources: sources.map((path) => path.replace(/^(\.\.\/)*/, '')) });
const mapFile = hashed(`${NAME}.map`, portable);
const contents = Buffer.from(`${Buffer.from(module).toString()}//# sourceMappingURL=${mapFile}\n`);
const file = `assets/${hashed(NAME, contents)}`;
const integrity = `sha384-${createHash('sha384').update(contents).digest('base64')}`;
await publish(resolve(out, file), contents);
await writeFile(resolve(out, 'assets', mapFile), portable); // only developer tools load it
await publish(resolve(out, NAME), `export * from './${file}';\n`);
await writeFile(resolve(out, 'manifest.json'), `${JSON.stringify({ [NAME]: { file, integrity } }, null, 2)}\n`);
