/** README.md, compared with the code. */

import { readdirSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

const root = new URL('..', import.meta.url);
const readme = readFileSync(new URL('README.md', root), 'utf8');
const sources = (readdirSync(new URL('src', root), { recursive: true }) as string[]).filter((name) =>
  name.endsWith('.ts'),
);
const read = (name: string): string => readFileSync(new URL(`src/${name}`, root), 'utf8');

const map = readme.slice(readme.indexOf('## Working on the library'));
const groups = map
  .split(/^\| [^`\n]+ \| \|$/m)
  .slice(2) // after the commands
  .map((group) => [...group.matchAll(/`([a-z_./]+\.ts)`/g)].map((match) => match[1] as string));

it('the map of the library names each of its files once', () => {
  expect(groups.flat().sort()).toEqual(sources.sort());
});

it('a file imports, apart from types, only from its own group of the map and from the groups above it', () => {
  const level = new Map(groups.flatMap((names, i) => names.map((name) => [name, i])));
  const upwards: string[] = [];
  for (const name of sources) {
    for (const [, what, path] of read(name).matchAll(/^(?:import|export) ([^;]*?) from '(\.[^']+)\.js';$/gm)) {
      if (what?.startsWith('type ')) continue;
      const target = new URL(`${path}.ts`, `file:///${name}`).pathname.slice(1);
      if ((level.get(target) ?? Infinity) > (level.get(name) ?? -1)) upwards.push(`${name} imports ${target}`);
    }
  }
  expect(upwards).toEqual([]);
});

it('each public call of a Sync is described', () => {
  const chat = read('chat.ts').split('export class ChatSync')[1]?.split('\n}\n')[0];
  const body = `${read('sync.ts').split('  // ---- Internals ----')[0]}${chat}`;
  const calls = [...body.matchAll(/^ {2}(?:override )?(?:async )?([a-z]\w+)(?:<[^(]*>)?\(/gm)].map(
    (match) => match[1] as string,
  );
  expect(calls).toEqual(expect.arrayContaining(['insert', 'list', 'sendMessage']));
  const missing = calls.filter(
    (call) => !['constructor', 'super'].includes(call) && !new RegExp(`\\b${call}\\(`).test(readme),
  );
  expect(missing).toEqual([]);
});
