/**
 * The client against a real server: ATLAS_URL is its address, ATLAS_TOKEN a token, and ATLAS_RESTART, which is
 * optional, a command that stops and starts it.
 */

import { execSync } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';

import { newId } from '../src/index.js';
import type { ChatSync as Sync } from '../src/chat.js';
import { device, live, until } from './support/device.js';
import { KINDS } from './support/stores.js';

const url = process.env['ATLAS_URL'];
const token = process.env['ATLAS_TOKEN'];

describe.skipIf(url === undefined || token === undefined).each(KINDS)('the real server, $name', ({ make }) => {
  const user = token === undefined ? '' : (JSON.parse(atob(token.split('.')[1] ?? '')) as { sub: string }).sub;
  const ends: (() => Promise<void>)[] = [];
  const open = (change: object = {}): Sync => {
    const { store } = make();
    const sync = device({ url: url ?? '', user, store, getToken: () => token ?? '', ...change });
    ends.push(() => sync.close());
    return sync;
  };
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
  });

  it('two devices of one user exchange writes, edits, deletions; rejections go to quarantine', async () => {
    const [a, b] = [open(), open()];
    await Promise.all([live(a), live(b)]);
    const home = await a.createConversation('Lisbon');
    const first = await a.sendMessage(home, 'Where shall we stay?');
    await a.sendMessage(home, 'Alfama.');
    await expect(a.sendMessage(home, 'Forged.', { role: 'assistant' })).rejects.toMatchObject({ code: 'bad_value' });
    const there = b.messages(home);
    const seen = await until(there, ({ rows }) => rows.length === 2);
    expect(seen.rows.map((row) => [row.content, row.state, row.hole])).toEqual([
      ['Where shall we stay?', 'synced', false],
      ['Alfama.', 'synced', false],
    ]);
    expect(seen.more).toBe(false);
    await b.editMessage(first, 'Where shall we sleep?');
    await until(a.messages(home), ({ rows }) => rows[0]?.content === 'Where shall we sleep?');
    await b.renameConversation(home, 'Lisboa');
    await until(a.conversations(), ({ rows }) => rows[0]?.title === 'Lisboa' && rows[0].state === 'synced');
    const lost = await a.sendMessage(newId(), 'into nowhere');
    const [rejected] = await until(a.quarantine, (entries) => entries.length === 1);
    expect(rejected).toMatchObject({ code: 'unknown_parent', mutation: { id: lost } });
    await a.discard(rejected?.key ?? -1);
    await a.deleteMessage(first);
    await until(there, ({ rows }) => rows.length === 1);
    await a.deleteConversation(home);
    await until(b.conversations(), ({ rows }) => rows.every((row) => row.id !== home));
    await until(there, ({ rows }) => rows.length === 0);
    await until(a.status, (status) => status.pending === 0 && status.rejected === 0);
  });

  it('offline writes arrive in order, and once', async () => {
    const { store, reopen, end } = make();
    const offline = device({ url: 'ws://127.0.0.1:1/sync', user, store, getToken: () => token ?? '' });
    const home = await offline.createConversation('On the train');
    for (let i = 0; i < 300; i++) await offline.sendMessage(home, `line ${i}`);
    const shown = await offline.messages(home, { limit: 1000 }).read();
    expect(shown.rows.map((row) => row.state)).toEqual(new Array(300).fill('pending'));
    await offline.close();
    if (store.constructor.name !== 'MemoryStore') {
      const online = device({ url: url ?? '', user, store: await reopen(), getToken: () => token ?? '' });
      const other = open();
      await Promise.all([live(online), live(other)]);
      const there = other.messages(home, { limit: 1000 });
      const { rows } = await until(there, (value) => value.rows.length === 300);
      expect(rows.map((row) => row.content)).toEqual(Array.from({ length: 300 }, (_, i) => `line ${i}`));
      await online.deleteConversation(home);
      await live(online);
      await online.close();
    }
    await end();
  });

  it('pages lead to the beginning of a history, without a gap or a repeat', async () => {
    const writer = open();
    await live(writer);
    const home = await writer.createConversation('Long');
    for (let i = 0; i < 230; i++) await writer.sendMessage(home, `${i}`);
    await live(writer);
    const reader = open({ window: { conversation: 5, message: 20 } });
    await live(reader);
    const history = reader.messages(home, { limit: 20 });
    expect((await history.read()).rows.map((row) => row.content)).toEqual(
      Array.from({ length: 20 }, (_, i) => `${210 + i}`),
    );
    while ((await history.loadOlder(50)) === 'here') expect(history.value?.rows.at(-1)?.content).toBe('229');
    const { rows, more } = await history.read();
    expect(more).toBe(false);
    expect(rows.map((row) => row.content)).toEqual(Array.from({ length: 230 }, (_, i) => `${i}`));
    const list = reader.conversations({ limit: 5 });
    while ((await list.loadOlder(20)) === 'here');
    const all = writer.conversations({ limit: 5 });
    while ((await all.loadOlder(1000)) === 'here');
    expect((await list.read()).rows.map((row) => row.id)).toEqual((await all.read()).rows.map((row) => row.id));
    await writer.deleteConversation(home);
    await live(writer);
  });

  it.skipIf(process.env['ATLAS_RESTART'] === undefined)(
    'no write is lost or applied twice when the server is killed meanwhile',
    async () => {
      const [a, b] = [open(), open()];
      await Promise.all([live(a), live(b)]);
      const home = await a.createConversation('Storm');
      for (let i = 0; i < 400; i++) {
        if (i === 200) execSync(process.env['ATLAS_RESTART'] ?? '', { stdio: 'ignore' });
        await a.sendMessage(home, `${i}`);
      }
      const { rows } = await until(b.messages(home, { limit: 1000 }), (value) => value.rows.length === 400, 60_000);
      expect(rows.map((row) => row.content)).toEqual(Array.from({ length: 400 }, (_, i) => `${i}`));
      await a.deleteConversation(home);
      await live(a);
    },
    90_000,
  );
});
