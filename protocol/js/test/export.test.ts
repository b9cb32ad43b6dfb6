/** What is on this device only can be handed to a person who helps: as plain JSON, with its texts and without a token. */

import 'fake-indexeddb/auto';

import { describe, expect, it } from 'vitest';

import type { ChatSync } from '../src/chat.js';
import { createSync, type Export } from '../src/sync.js';
import { MemoryStore } from '../src/store/memory.js';
import { App, USER } from './support/app.js';
import { FORUM } from './support/forum.js';
import { tokenOf } from './support/rows.js';
import { KINDS } from './support/stores.js';

const app = new App();

/** As it arrives at the other end. */
async function exported(sync: Pick<ChatSync, 'export'>): Promise<Export> {
  const given = await sync.export();
  const text = JSON.stringify(given);
  expect(JSON.parse(text)).toEqual(given); // plain JSON loses nothing
  expect(text).not.toContain(tokenOf(USER));
  return given;
}

async function answered(sync: ChatSync): Promise<void> {
  for (let i = 0; i < 200 && (await sync.status.read()).pending > 0; i++) await app.world.clock.pass(10);
}

describe.each(KINDS)('export, $name', ({ make }) => {
  it('names pending and rejected writes with the texts of their rows, and nothing that the server has', async () => {
    const { store, end } = make();
    const sync = app.open({ store, url: 'wss://me:secret@test/sync?key=secret' });
    await app.world.clock.pass(0);
    const home = await sync.createConversation('Trip');
    const sent = await sync.sendMessage(home, 'sent');
    await answered(sync);
    expect((await exported(sync)).unsent).toEqual([]);
    await sync.sendMessage(home, 'refuse me');
    await answered(sync);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await sync.sendMessage(home, 'unsent');
    await sync.editMessage(sent, 'edited');
    await sync.deleteMessage(sent);
    await app.world.clock.pass(100);
    const { unsent, ...about } = await exported(sync);
    expect(about).toMatchObject({ version: 1, url: 'wss://test/sync', user: USER, state: 'offline', reason: 'cut' });
    expect(unsent).toMatchObject([
      { state: 'rejected', op: '+', kind: 'message', columns: { content: 'refuse me' }, code: 'refused', message: 'It cannot be.' },
      { state: 'pending', op: '+', columns: { content: 'unsent' }, row: null, n: 4 },
      { state: 'pending', op: '~', id: sent, columns: { content: 'edited' }, row: { content: 'sent' }, n: 5 },
      { state: 'pending', op: '-', id: sent, at: null, row: { content: 'sent' } },
    ]);
    await expect(sync.destroy()).rejects.toMatchObject({ count: unsent.length });
    await end();
  });
});

it('names local work, too', async () => {
  const sync = app.alone();
  const home = await sync.createConversation('Mine');
  await sync.sendMessage(home, 'local');
  expect((await exported(sync)).unsent).toMatchObject([
    { state: 'local', op: '+', kind: 'conversation', id: home, columns: { title: 'Mine' } },
    { state: 'local', kind: 'message', columns: { content: 'local', conversationId: home } },
  ]);
});

it('values that JSON does not have become texts', async () => {
  const { plain } = await import('../src/unsent.js');
  expect(plain([1n, NaN, -Infinity, new Uint8Array([1, 2]), undefined, { a: [null, true] }])).toEqual([
    '1',
    'NaN',
    '-Infinity',
    'AQI=',
    null,
    { a: [null, true] },
  ]);
  const sync = createSync({ schema: FORUM, url: 'ws://x/sync', user: USER, store: new MemoryStore() });
  expect((await exported(sync as never)).unsent).toEqual([]);
  await sync.close();
});
