/** Adopting the database of an earlier app. */

import 'fake-indexeddb/auto';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { createChatSync, type ChatSync as Sync } from '../src/chat.js';
import { IndexedDbStore } from '../src/store/indexeddb.js';
import { all, clear, database, deleteDatabase, exists, put } from './support/databases.js';
import { ModelServer, newConversation } from './support/model.js';
import { C, CONVERSATION, id, M, MESSAGE, tokenOf } from './support/rows.js';
import { World } from './support/world.js';

const USER = id(1);
const OTHER = id(2);
const OLD = 'AtlasDB_v3';
const T = 1_690_000_000_000;
let count = 0;

const openOld = (): Promise<IDBDatabase> =>
  database(OLD, 30, {
    conversations: ['id', { userId: 'userId', createdAt: 'createdAt', updatedAt: 'updatedAt' }],
    messages: ['id', { conversationId: 'conversationId', userId: 'userId', synced: 'synced' }],
  });

async function oldDatabase(): Promise<void> {
  const old = await openOld();
  await put(old, 'conversations', [
    { id: C(1), userId: USER, title: 'Synced', createdAt: T, updatedAt: T + 5000 },
    { id: C(2), userId: USER, title: 'Half', createdAt: new Date(T), updatedAt: T + 9000 },
    { id: C(3), userId: OTHER, title: 'Somebody else', createdAt: T, updatedAt: T },
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
  await put(old, 'messages', [
      message(M(1), C(1), 'here and there', T + 1, 1),
      message(M(2), C(2), 'there, too', T + 2, true),
      message(M(3), C(2), 'never sent', T + 3, 0),
      message(M(4), C(2), 'edited, not sent', T + 4, false, { updatedAt: T + 4000 }),
      message('msg_1', 'chat_7Gh', 'of another form', T + 5, 0, { role: 'assistant' }),
      message(M(5), C(3), 'not mine', T, 0, { userId: OTHER }),
    ]);
  old.close();
}

describe('an earlier database', () => {
  const open: Sync[] = [];
  const server = (): ModelServer => {
    const model = new ModelServer();
    model.push(id(9), 1, [newConversation(C(1), 'Synced', T * 1000), newConversation(C(2), 'Renamed', T * 1000)]);
    model.message(C(1), M(1), 'here and there', (T + 1) * 1000);
    model.message(C(2), M(2), 'there, too', (T + 2) * 1000);
    return model;
  };
  const sync = (
    world: World,
    name: string,
    user = USER,
    store = new IndexedDbStore({ name, adopt: { name: OLD, userId: user } }),
  ): Sync => {
    const made = createChatSync({
      url: 'wss://test/sync',
      store,
      user,
      encoding: 'json',
      getToken: () => tokenOf(user),
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
    await deleteDatabase(OLD);
  });

  it('adopted rows are shown at once, and the unsynced ones are pushed, once', async () => {
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
    const { server: ended } = world;
    expect([...ended.conversations.values()].map((row) => row.title).sort()).toEqual(['Renamed', 'Synced', null]);
    expect([...ended.messages.values()].map((row) => row.content).sort()).toEqual([
      'edited, not sent',
      'here and there',
      'never sent',
      'there, too',
    ]);
    const rows = (await again.messages(C(2)).read()).rows;
    expect(rows.map((row) => [row.content, row.state])).toEqual([
      ['there, too', 'synced'],
      ['never sent', 'synced'],
      ['edited, not sent', 'synced'],
    ]);
    expect(rows[2]?.updatedAt).toBe((T + 4000) * 1000);
    // A device may not write the role of this one.
    expect((await again.quarantine.read()).map(({ code, mutation }) => [code, mutation])).toEqual([
      ['bad_value', expect.objectContaining({ columns: expect.objectContaining({ content: 'of another form' }) })],
    ]);
    // What the old database had is not taken a second time.
    await again.deleteMessage(M(3));
    await pass(world, async () => (await again.status.read()).pending === 0);
    await again.close();
    const third = sync(world, name);
    await pass(world, async () => (await third.status.read()).state === 'live');
    expect(world.server.messages.has(M(3))).toBe(false);
    expect((await third.messages(C(2)).read()).rows).toHaveLength(2);
  });

  it('the earlier database stays as it was', async () => {
    const world = new World(server());
    await sync(world, `adopt-${++count}`).ready;
    const old = await openOld();
    expect((await all(old, 'messages')).filter((row) => row['synced'] === 0)).toHaveLength(3);
    expect((await all(old, 'conversations')).filter((row) => row['userId'] === OTHER)).toHaveLength(1);
    old.close();
  });

  it('an earlier database need not exist', async () => {
    await deleteDatabase(OLD);
    const world = new World(server());
    const made = sync(world, `adopt-${++count}`);
    expect((await made.conversations().read()).rows).toEqual([]);
    expect(await exists(OLD)).toBe(false);
  });

  describe('with rows that name no owner', () => {
    /** A conversation of each owner and of nobody, with messages that name this user, another one and nobody. */
    beforeEach(async () => {
      const old = await openOld();
      await clear(old, 'conversations');
      await clear(old, 'messages');
      const at = { createdAt: T, updatedAt: T };
      await put(old, 'conversations', [
        { id: C(1), userId: USER, title: 'mine', ...at },
        { id: C(2), userId: OTHER, title: 'theirs', ...at },
        { id: C(3), title: 'of nobody', ...at },
        { id: C(4), userId: null, title: 'of null', ...at },
      ]);
      const homes = { [C(1)]: 'mine', [C(2)]: 'theirs', [C(3)]: 'of nobody', [C(4)]: 'of null', [C(9)]: 'in none' };
      const rows = Object.entries(homes).flatMap(([conversationId, home], i) =>
        Object.entries({ USER, OTHER, nobody: undefined }).map(([name, userId], j) => ({
          id: M(10 * i + j),
          conversationId,
          content: `${home} by ${name}`,
          role: 'user',
          timestamp: T + j,
          synced: j === 1 ? 1 : 0,
          ...(userId === undefined ? {} : { userId }),
        })),
      );
      await put(old, 'messages', rows);
      old.close();
    });

    const held = async (made: Sync, store: IndexedDbStore): Promise<string[]> => {
      await made.ready;
      const homes = [1, 2, 3, 4, 9].map(C);
      const kept = await store.read(async (tx) => [
        ...(await tx.get(CONVERSATION, homes)).map((row) => row?.['title']),
        ...(await Promise.all(homes.map((home) => tx.of(MESSAGE, home)))).flat().map((row) => row['content']),
      ]);
      return kept.filter((each): each is string => typeof each === 'string').sort();
    };
    const open = (user: string, name = `adopt-${++count}`): { readonly made: Sync; readonly store: IndexedDbStore } => {
      const world = new World(new ModelServer());
      world.network.mode = 'down';
      const store = new IndexedDbStore({ name, adopt: { name: OLD, userId: user } });
      return { made: sync(world, name, user, store), store };
    };
    const heldBy = async (user: string): Promise<string[]> => {
      const { made, store } = open(user);
      return held(made, store);
    };

    const MINE = ['in none by USER', 'mine', 'mine by USER', 'mine by nobody'];
    const THEIRS = ['in none by OTHER', 'theirs', 'theirs by OTHER', 'theirs by nobody'];
    const CLAIMED = ['of nobody', 'of null'].flatMap((home) => [home, `${home} by USER`, `${home} by nobody`]);

    it('rows without an owner go to the first user, once, and a message goes only where its conversation goes', async () => {
      expect(await heldBy(USER)).toEqual([...MINE, ...CLAIMED].sort());
      expect(await heldBy(OTHER)).toEqual(THEIRS);
      expect(await heldBy(id(3))).toEqual([]);
      // A store that is made anew gets the same again.
      expect(await heldBy(USER)).toEqual([...MINE, ...CLAIMED].sort());
    });

    it('no row of another user is sent, whoever comes first', async () => {
      const world = new World(new ModelServer());
      const theirs = sync(world, `adopt-${++count}`, OTHER);
      await pass(world, async () => {
        const { state, pending } = await theirs.status.read();
        return state === 'live' && pending === 0;
      });
      const tried = (await theirs.quarantine.read()).map(
        ({ mutation }) => mutation.op === '+' && mutation.columns['content'],
      );
      const sent = [...world.server.messages.values()].map((row) => row.content).concat(tried.map(String));
      expect(sent).toContain('theirs by nobody');
      expect(sent).toContain('of nobody by nobody');
      expect(sent.filter((content) => /USER|^mine/.test(content))).toEqual([]);
    });

    it('an interrupted adoption loses no row and adopts none twice', async () => {
      class Dying extends IndexedDbStore {
        private writes = 0;
        override write: IndexedDbStore['write'] = (work) =>
          ++this.writes === 2 ? Promise.reject(new Error('the tab was closed')) : super.write(work);
      }
      const name = `adopt-${++count}`;
      const dying = sync(
        new World(new ModelServer()),
        name,
        USER,
        new Dying({ name, adopt: { name: OLD, userId: USER } }),
      );
      await expect(dying.ready).rejects.toThrow('the tab was closed');
      await dying.close();
      expect(await heldBy(OTHER)).toEqual(THEIRS);
      const { made, store } = open(USER, name);
      expect(await held(made, store)).toEqual([...MINE, ...CLAIMED].sort());
    });

    it('of two users who come at once, in two tabs each, one gets the rows without an owner', async () => {
      const names = [`adopt-${++count}`, `adopt-${++count}`];
      const opened = [USER, OTHER, USER, OTHER].map((user, i) => open(user, names[i % 2]));
      const all = await Promise.all(opened.map(({ made, store }) => held(made, store)));
      expect(all[2]).toEqual(all[0]);
      expect(all[3]).toEqual(all[1]);
      const claimers = [all[0], all[1]].filter((kept) => kept?.includes('of nobody by nobody'));
      expect(claimers).toHaveLength(1);
    });

    it("no row is adopted into a store that turns out to be another user's", async () => {
      const name = `adopt-${++count}`;
      const store = new IndexedDbStore({ name });
      const made = sync(new World(new ModelServer()), name, USER, store);
      await made.ready;
      await expect(open(OTHER, name).made.ready).rejects.toThrow("another user's");
      expect(await held(made, store)).toEqual([]);
    });
  });
});
