/** Bundles the page into the folder given as the first argument (default ../static): index.html, page.css, page.js, sw.js. */
import { copyFile, mkdir } from 'node:fs/promises';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const here = fileURLToPath(new URL('.', import.meta.url));
const out = resolve(process.argv[2] ?? resolve(here, '../static'));

/** The library's sources are in another folder of the repository. Their imports are resolved from this folder's packages. */
const packagesFromHere = {
  name: 'packages-from-here',
  setup({ onResolve, resolve: ask }) {
    onResolve({ filter: /^[^./]/ }, ({ path, kind, pluginData }) =>
      kind === 'entry-point' || pluginData === 'asked' ? undefined : ask(path, { kind, resolveDir: here, pluginData: 'asked' }),
    );
  },
};

await mkdir(out, { recursive: true });
await build({
  entryPoints: { page: resolve(here, 'src/main.ts'), sw: resolve(here, 'src/sw.ts') },
  outdir: out,
  bundle: true,
  minify: true,
  sourcemap: false,
  legalComments: 'none',
  format: 'esm',
  target: ['es2022', 'chrome105', 'firefox110', 'safari16'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  define: { 'process.env.NODE_ENV': '"production"' },
  plugins: [packagesFromHere],
  logLevel: 'warning',
});
await copyFile(resolve(here, 'index.html'), resolve(out, 'index.html'));
