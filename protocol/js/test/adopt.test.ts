/** The database of the app as it was before it had Atlas Sync. */

import 'fake-indexeddb/auto';

import { Dexie } from 'dexie';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { DexieStore } from '../src/store/dexie.js';
import { createSync, type Sync } from '../src/sync.js';
import { ModelServer } from './support/model.js';
import { C, id, M } from './support/rows.js';
import { World } from './support/world.js';

const USER = id(1);
const OLD = 'AtlasDB_v3';
const T = 1_690_000_000_000;
let count = 0;

async function oldDatabase(): Promise<void> {
  const old = new Dexie(OLD);
  old.version(3).stores({
    conversations: 'id, userId, title, createdAt, updatedAt',
    messages: 'id, conversationId, userId, role, type, timestamp, synced, updatedAt',
  });
  await old.table('conversations').bulkPut([
    { id: C(1), userId: USER, title: 'Synced', createdAt: T, updatedAt: T + 5000 },
    { id: C(2), userId: USER, title: 'Half', createdAt: new Date(T), updatedAt: T + 9000 },
    { id: C(3), userId: id(2), title: 'Somebody else', createdAt: T, updatedAt: T },
    { id: 'chat_7Gh', userId: USER, title: null, createdAt: new Date(T).toISOString(), updatedAt: T },
  ]);
  const message = (
    key: string,
    conversationId: string,
    content: string,
    at: number,
    synced: unknown,
    more = {},
  ): object => ({
    id: key,
    conversationId,
    userId: USER,
    role: 'user',
    type: 'text',
    content,
    timestamp: at,
    synced,
    updatedAt: at,
    ...more,
  });
  await old
    .table('messages')
    .bulkPut([
      message(M(1), C(1), 'here and there', T + 1, 1),
      message(M(2), C(2), 'there, too', T + 2, true),
      message(M(3), C(2), 'never sent', T + 3, 0),
      message(M(4), C(2), 'edited, not sent', T + 4, false, { updatedAt: T + 4000 }),
      message('msg_1', 'chat_7Gh', 'of another form', T + 5, 0, { role: 'assistant' }),
      message(M(5), C(3), 'not mine', T, 0, { userId: id(2) }),
    ]);
  old.close();
}

describe('an earlier database', () => {
  const open: Sync[] = [];
  const server = (): ModelServer => {
    const model = new ModelServer();
    model.push(id(9), 1, [
      ['+c', C(1), 'Synced', T * 1000],
      ['+c', C(2), 'Renamed', T * 1000],
    ]);
    model.message(C(1), M(1), 'here and there', (T + 1) * 1000);
    model.message(C(2), M(2), 'there, too', (T + 2) * 1000);
    return model;
  };
  const sync = (world: World, name: string): Sync => {
    const made = createSync({
      url: 'wss://test/sync',
      store: new DexieStore({ name, adopt: { name: OLD, userId: USER } }),
      user: USER,
      encoding: 'json',
      getToken: () => 't',
      environment: world.tab().environment(),
    });
    open.push(made);
    return made;
  };
  const pass = async (world: World, done: () => boolean | Promise<boolean>): Promise<void> => {
    for (let i = 0; i < 200 && !(await done()); i++) await world.clock.pass(50);
  };

  beforeEach(oldDatabase);
  afterEach(async () => {
    await Promise.all(open.splice(0).map((each) => each.close()));
    await Dexie.delete(OLD);
  });

  it('is shown at once, and what it had not sent goes up, once', async () => {
    const world = new World(server());
    world.network.mode = 'down';
    const name = `adopt-${++count}`;
    const first = sync(world, name);
    expect((await first.conversations().read()).rows.map((row) => [row.title, row.state])).toEqual([
      ['Half', 'local'],
      ['Synced', 'synced'],
      [null, 'local'],
    ]);
    expect((await first.messages(C(2)).read()).rows.map((row) => [row.content, row.state])).toEqual([
      ['there, too', 'synced'],
      ['never sent', 'local'],
      ['edited, not sent', 'local'],
    ]);
    await first.close(); // before anything went up
    const again = sync(world, name);
    await again.ready;
    world.network.mode = 'up';
    await pass(world, async () => {
      const { state, pending, progress } = await again.status.read();
      return state === 'live' && pending === 0 && progress === null;
    });
    const { state } = world.server;
    expect([...state.conversations.values()].map((row) => row.title).sort()).toEqual(['Renamed', 'Synced', null]);
    expect([...state.messages.values()].map((row) => row.content).sort()).toEqual([
      'edited, not sent',
      'here and there',
      'never sent',
      'of another form',
      'there, too',
    ]);
    const rows = (await again.messages(C(2)).read()).rows;
    expect(rows.map((row) => [row.content, row.state])).toEqual([
      ['there, too', 'synced'],
      ['never sent', 'synced'],
      ['edited, not sent', 'synced'],
    ]);
    expect(rows[2]?.updatedAt).toBe((T + 4000) * 1000);
    expect(await again.quarantine.read()).toEqual([]);
    // What the old database had is not taken a second time.
    await again.deleteMessage(M(3));
    await pass(world, async () => (await again.status.read()).pending === 0);
    await again.close();
    const third = sync(world, name);
    await pass(world, async () => (await third.status.read()).state === 'live');
    expect(world.server.state.messages.has(M(3))).toBe(false);
    expect((await third.messages(C(2)).read()).rows).toHaveLength(2);
  });

  it('is left as it was', async () => {
    const world = new World(server());
    await sync(world, `adopt-${++count}`).ready;
    const old = await new Dexie(OLD).open();
    expect(await old.table('messages').where('synced').equals(0).count()).toBe(3);
    old.close();
  });

  it('need not be there', async () => {
    await Dexie.delete(OLD);
    const world = new World(server());
    const made = sync(world, `adopt-${++count}`);
    expect((await made.conversations().read()).rows).toEqual([]);
    expect(await Dexie.exists(OLD)).toBe(false);
  });
});
