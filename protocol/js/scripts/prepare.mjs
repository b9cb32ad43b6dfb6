/**
 * Builds dist before npm packs or installs this folder. In a checkout where nothing is installed, it first installs what
 * the build needs: npm does not do so for `npm pack`, nor for an app that installs the folder.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const cwd = fileURLToPath(new URL('..', import.meta.url));
const npm = process.env['npm_execpath'];
if (npm === undefined) throw new Error('npm runs this script: npm run prepare');

/**
 * The npm that called has set its own options in the environment, as for a global or a production install; the options
 * given here count more. What is said goes to stderr, because `npm pack --json` says its result on stdout.
 */
function run(...args) {
  const { status } = spawnSync(process.execPath, [npm, ...args], { cwd, stdio: ['ignore', 2, 'inherit'] });
  if (status !== 0) process.exit(status ?? 1);
}

const needed = ['esbuild', 'typescript'];
if (!needed.every((name) => existsSync(`${cwd}/node_modules/${name}/package.json`))) {
  run('ci', '--ignore-scripts', '--include=dev', '--no-global', '--no-dry-run', '--no-workspaces', '--no-json');
}
run('run', '--silent', 'compile');
