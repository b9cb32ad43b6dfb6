/**
 * Builds the page into the folder given as the first argument (default ../static). The names of page.js and page.css in
 * assets/ carry a hash of the content; index.html and sw.js keep their names. Each file has compressed copies beside it.
 */
import { readFile, rm } from 'node:fs/promises';
import { basename, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

import { hashed, publish } from '../../../protocol/js/scripts/assets.mjs';

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

/** What of markdown-it is replaced, and lean.ts says why. */
const lean = Object.fromEntries(
  ['entities', 'linkify-it', 'uc.micro', 'punycode.js'].map((name) => [name, resolve(here, 'src/lean.ts')]),
);

/** Bundles src/<source>. Returns the content of each file by its name, which begins with `name`. */
async function bundle(name, source, define = {}) {
  const { outputFiles } = await build({
    entryPoints: { [name]: resolve(here, 'src', source) },
    outdir: out,
    write: false,
    bundle: true,
    minify: true,
    sourcemap: false,
    legalComments: 'none',
    format: 'esm',
    target: ['es2022', 'chrome105', 'firefox110', 'safari16'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    define: { 'process.env.NODE_ENV': '"production"', ...define },
    alias: lean,
    plugins: [packagesFromHere],
    logLevel: 'warning',
  });
  return new Map(outputFiles.map(({ path, contents }) => [basename(path), contents]));
}

/** Files of an earlier build have other names. */
await rm(resolve(out, 'assets'), { recursive: true, force: true });
let document = await readFile(resolve(here, 'index.html'), 'utf8');
const assets = [];
for (const [name, content] of await bundle('page', 'main.ts')) {
  const path = `/assets/${hashed(name, content)}`;
  if (document.split(`"/${name}"`).length !== 2) throw new Error(`index.html must name /${name} once`);
  document = document.replace(`"/${name}"`, `"${path}"`);
  assets.push(path);
  await publish(out + path, content);
}
const worker = await bundle('sw', 'sw.ts', { ASSETS: JSON.stringify(assets) });
await publish(resolve(out, 'sw.js'), worker.get('sw.js'));
await publish(resolve(out, 'index.html'), document);
