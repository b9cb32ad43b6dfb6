/** Stores of earlier versions and of earlier schemas, opened by this one. */

import 'fake-indexeddb/auto';

import sqlite from 'node-sqlite3-wasm';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it, vi } from 'vitest';

import { createChatSync } from '../src/chat.js';
import { EARLIEST } from '../src/clock.js';
import { reshape } from '../src/reshape.js';
import { keyOf, LOCAL, type Row } from '../src/rows.js';
import { CHAT } from '../src/schema.chat.js';
import { compile, shapeOf, type Kind, type Schema } from '../src/schema.js';
import { Destroyed, StoreError, type Store } from '../src/store.js';
import { asked } from '../src/store/idb.js';
import { IndexedDbStore } from '../src/store/indexeddb.js';
import { SqliteStore, type SqlDriver } from '../src/store/sqlite.js';
import { createSync } from '../src/sync.js';
import { App, USER } from './support/app.js';
import { FORUM } from './support/forum.js';
import {
  CLIENT,
  makeOldIndexedDb,
  makeOldSqlite,
  OLD_ENTRIES,
  oldDatabase,
  oldMeta,
  OLD_ROWS,
} from './support/former.js';
import { all, database, deleteDatabase, DEXIE_FIRST, exists, WITH_DEXIE } from './support/databases.js';
import { newConversation, newMessage } from './support/model.js';
import { C, CHAT_KINDS, CONVERSATION, id, M, message, MESSAGE, PROFILE, tokenOf } from './support/rows.js';
import { KINDS, sqliteDriver } from './support/stores.js';

const app = new App();
let count = 0;
const ends: (() => void | Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function pass(done: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 200 && !(await done()); i++) await app.world.clock.pass(50);
  expect(await done()).toBe(true);
}

interface Former {
  readonly open: () => Store;
  /** Opens it, and fails after so many steps. Returns whether there are as many. */
  readonly interrupted: (steps: number) => Promise<boolean>;
}

/** `more`: further messages. */
type Make = (meta: object, more?: typeof OLD_ROWS.messages) => Promise<Former>;

const closing = <S extends Store>(store: S): S => {
  ends.push(() => store.close());
  return store;
};

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'atlas-upgrade-'));
  ends.push(() => rmSync(path, { recursive: true }));
  return path;
}

async function makeIndexedDb(meta: object, more: typeof OLD_ROWS.messages = []): Promise<Former> {
  const name = `upgrade-${++count}`;
  (await makeOldIndexedDb(name, meta, more)).close();
  return {
    open: () => closing(new IndexedDbStore({ name })),
    interrupted: async (steps) => {
      // The tab is closed: a transaction of either database, under way, is aborted, and nothing runs after it.
      const { transaction } = IDBDatabase.prototype;
      let left = steps;
      IDBDatabase.prototype.transaction = function (...args) {
        const made = transaction.apply(this, args);
        if (this.name.startsWith(name) && args[1] === 'readwrite' && --left < 0) made.abort();
        return made;
      };
      const store = new IndexedDbStore({ name });
      await store.read((tx) => tx.meta()).catch(() => undefined);
      await store.close();
      IDBDatabase.prototype.transaction = transaction;
      return left < 0;
    },
  };
}

async function makeSqlite(meta: object, more: typeof OLD_ROWS.messages = []): Promise<Former> {
  const path = join(folder(), 'device.sqlite');
  makeOldSqlite(path, meta, more);
  return {
    open: () => closing(new SqliteStore(sqliteDriver(path))),
    interrupted: async (steps) => {
      const driver = sqliteDriver(path);
      let left = steps;
      const dying: SqlDriver = {
        ...driver,
        run: async (sql, params) => {
          if (--left < 0) throw new Error('the app was closed');
          return driver.run(sql, params);
        },
      };
      const store = new SqliteStore(dying);
      await store.read((tx) => tx.meta()).catch(() => undefined);
      await store.close();
      return left < 0;
    },
  };
}

const newRow = ({ kind, ...row }: Record<string, unknown>): object => ({
  ...row,
  kind: kind === 'c' ? 'conversation' : 'message',
});
const AT = 2 ** 52;

async function expectUpgraded(store: Store, full = true): Promise<void> {
  await store.read(async (tx) => {
    const meta = await tx.meta();
    expect(meta).toEqual({
      user: USER,
      clientId: CLIENT,
      generation: full ? 123 : 0,
      cursor: 'AAEC/w==',
      position: 29,
      nextKey: 10,
      nextN: 8,
      bounds: { frameBytes: 20_000 },
      lease: 4,
      local: false,
      downgraded: false,
      shape: shapeOf(CHAT_KINDS),
      schema: null,
      tier: null,
      ahead: -7,
      lastAt: AT,
      notBefore: 0,
      lastLive: 5,
      edited: full ? [`conversation ${C(3)}`] : [],
      merging: 0,
      adopted: ['AtlasDB_v3'],
      made: expect.stringMatching(/-/),
      destroyed: false,
      newest: { seq: 0, isKnown: false },
    });
    expect(await tx.all(PROFILE)).toEqual([{ kind: 'profile', seq: 10, id: id(1), tier: 'pro', status: null }]);
    expect(await tx.newest(CONVERSATION, '', null, 9)).toEqual(
      [0, 1, 3, 2].map((i) => newRow(OLD_ROWS.conversations[i] ?? {})),
    );
    expect(await tx.newest(MESSAGE, C(1), null, 9)).toEqual([2, 1, 0].map((i) => newRow(OLD_ROWS.messages[i] ?? {})));
    expect(await tx.newest(MESSAGE, C(3), null, 9)).toEqual([4, 3].map((i) => newRow(OLD_ROWS.messages[i] ?? {})));
    expect((await tx.local(CONVERSATION)).map((row) => row.id).sort()).toEqual([C(3), C(4)]);
    expect((await tx.local(MESSAGE)).map((row) => row.id).sort()).toEqual([M(4), M(5)]);
    expect(await tx.floors(CONVERSATION, [''])).toEqual([[2000, C(2)]]);
    expect(await tx.floors(MESSAGE, [C(1), C(2), C(3)])).toEqual([[-5, M(1)], undefined, 'start']);
    expect(await tx.floors(PROFILE, [''])).toEqual(['start']);
    expect(await tx.gone()).toEqual([]);
    const entries = await tx.entries();
    expect(entries.map(({ mutation: _, ...entry }) => entry)).toEqual(
      OLD_ENTRIES.map(({ mutation: _, ...entry }) => entry),
    );
    expect(entries.map(({ mutation }) => JSON.stringify(mutation))).toEqual(
      [
        { op: '+', kind: 'conversation', id: C(6), columns: { title: null }, at: AT },
        { op: '~', kind: 'conversation', id: C(1), columns: { title: '\x01s' }, at: AT },
        { op: '+', kind: 'message', id: M(6), columns: { conversationId: C(1), role: 'user', content: 'ü' }, at: AT },
        { op: '~', kind: 'message', id: M(1), dated: -5, columns: { content: 'new' }, at: AT },
        { op: '-', kind: 'message', id: M(3), dated: 10 },
        { op: '-', kind: 'conversation', id: C(2) },
        {
          op: '+',
          kind: 'message',
          id: M(8),
          columns: { conversationId: C(9), role: 'user', content: 'kept' },
          at: AT,
        },
      ].map((mutation) => JSON.stringify(mutation)),
    );
  });
}

const MAKES: readonly (readonly [string, Make])[] = [
  ['indexeddb', makeIndexedDb],
  ['sqlite', makeSqlite],
];

describe.each(MAKES)('%s, before there were kinds', (_, make) => {
  it('nothing is lost of what the last version kept', async () => {
    const { open } = await make(oldMeta(USER));
    await expectUpgraded(open());
    await expectUpgraded(open()); // also when it is opened again
  });

  it('nothing is lost of what the first version kept', async () => {
    await expectUpgraded((await make(oldMeta(USER, false))).open(), false);
  });

  it('an interrupted upgrade starts again', async () => {
    let steps = 0;
    for (let more = true; more; steps++) {
      const { open, interrupted } = await make(oldMeta(USER));
      more = await interrupted(steps);
      await expectUpgraded(open());
    }
    expect(steps).toBeGreaterThan(4);
  });

  it('many rows are kept', async () => {
    const more = Array.from({ length: 2300 }, (_, n) => ({
      kind: 'm',
      seq: 50,
      id: M(1000 + n),
      conversationId: C(2),
      role: 'user',
      content: `more ${n}`,
      createdAt: n,
      updatedAt: n,
    }));
    const store = (await make(oldMeta(USER), more)).open();
    await expectUpgraded(store);
    const rows = await store.read((tx) => tx.newest(MESSAGE, C(2), null, Infinity));
    expect(rows).toEqual(more.map(newRow).reverse());
  });

  it('the app goes on without a snapshot, and sends what waited', async () => {
    const { server } = app;
    server.push(id(9), 1, [
      newConversation(C(1), 'Synced', 1.6e15),
      newMessage(M(1), C(1), 'm1', 1.6e15 + 1),
      newMessage(M(2), C(1), 'm2', 1.6e15 + 2),
    ]);
    const store = (await make({ ...oldMeta(USER), cursor: server.cursor(), position: server.state.seq })).open();
    server.state.clients.set(CLIENT, { n: 2, results: new Map(), mutations: new Map() });
    const sync = app.open({ store });
    const { rows } = await sync.messages(C(1)).read();
    expect(rows.map((row) => [row.content, row.state])).toEqual([
      ['new', 'pending'],
      ['m2', 'synced'],
      ['ü', 'pending'],
    ]);
    expect(await sync.profile.read()).toMatchObject({ tier: 'pro' });
    await pass(async () => {
      const { state, pending, progress } = await sync.status.read();
      return state === 'live' && pending === 0 && progress === null;
    });
    expect(server.conversations.get(C(1))).toMatchObject({ title: '\x01s' });
    // No server accepts the instants of 1970 that these rows have: they get the nearest ones.
    expect(server.conversations.get(C(3))).toMatchObject({ title: 'Local, renamed', updatedAt: EARLIEST + 4 });
    expect(server.messages.get(M(4))).toMatchObject({ content: 'edited', home: C(3) });
    expect(server.messages.get(M(6))).toMatchObject({ content: 'ü', home: C(1) });
    expect((await sync.quarantine.read()).map(({ code }) => code)).toContain('unknown_conversation');
    expect((await sync.messages(C(1)).read()).rows.map((row) => row.content)).toContain('m2');
  });
});

describe('in IndexedDB', () => {
  const make = async (): Promise<{ readonly name: string; readonly old: IDBDatabase }> => {
    const name = `upgrade-${++count}`;
    const old = await makeOldIndexedDb(name, oldMeta(USER));
    ends.push(() => old.close());
    return { name, old };
  };
  const frozen = (name: string, version?: number): Promise<IDBDatabase> =>
    new Promise((resolve, reject) => {
      const opening = indexedDB.open(name, version);
      opening.onerror = () => reject(new Error('blocked'));
      opening.onsuccess = () => {
        ends.push(() => opening.result.close());
        resolve(opening.result);
      };
    });

  it('a frozen tab of the earlier version does not hold up the upgrade', async () => {
    const { name, old } = await make();
    old.close();
    const tab = await frozen(name);
    await expectUpgraded(closing(new IndexedDbStore({ name })));
    expect(tab.objectStoreNames).toContain('messageRows'); // it is still open
  });

  it('the earlier version finds another user there, and no row', async () => {
    const { name, old } = await make();
    await expectUpgraded(closing(new IndexedDbStore({ name })));
    for (const tab of [old, await oldDatabase(name)]) {
      expect(await all(tab, 'head')).toEqual([{ user: 'a newer version of this app' }]);
      for (const store of tab.objectStoreNames) if (store !== 'head') expect(await all(tab, store)).toEqual([]);
      tab.close();
    }
  });

  it('a write of the earlier version comes before the upgrade, or fails', async () => {
    const { name, old } = await make();
    /** As the earlier version wrote. */
    const wrote = async (n: number): Promise<boolean> => {
      const tx = old.transaction(['head', 'messageRows'], 'readwrite');
      const { user } = await asked<{ user: string }>(tx.objectStore('head').get(0));
      if (user !== USER) return false;
      await asked(tx.objectStore('messageRows').put({ ...OLD_ROWS.messages[0], id: M(100 + n) }));
      return true;
    };
    const writing = (async () => {
      const all: boolean[] = [];
      do all.push(await wrote(all.length));
      while (all.at(-1));
      return all;
    })();
    const store = closing(new IndexedDbStore({ name }));
    await store.read((tx) => tx.meta());
    const outcome = await writing;
    const keys = outcome.map((_, n) => M(100 + n));
    const rows = await store.read((tx) => tx.get(MESSAGE, keys));
    expect(rows.map((row) => row !== undefined)).toEqual(outcome);
  });

  it('several tabs may upgrade it at once', async () => {
    const { name } = await make();
    const stores = [1, 2, 3].map(() => closing(new IndexedDbStore({ name })));
    // The first one that is ready begins to work.
    const first = await Promise.race(stores.map(async (store) => (await store.read((tx) => tx.meta()), store)));
    await first.write((tx) => tx.drop(MESSAGE, [M(2)]));
    const kept = await Promise.all(stores.map((store) => store.read((tx) => tx.all(MESSAGE))));
    for (const rows of kept) expect(rows.map((row) => row.id).sort()).toEqual([M(1), M(3), M(4), M(5)]);
  });

  it('nothing of it comes back after the store was destroyed', async () => {
    const { name, old } = await make();
    old.close();
    const store = new IndexedDbStore({ name });
    await expectUpgraded(store);
    await store.close();
    await store.destroy();
    expect(await exists(name)).toBe(false);
    const again = closing(new IndexedDbStore({ name }));
    expect(await again.read(async (tx) => [(await tx.meta()).user, await tx.all(MESSAGE)])).toEqual(['', []]);
  });

  it('also if only the database of this version was deleted', async () => {
    const { name } = await make();
    const store = new IndexedDbStore({ name });
    await expectUpgraded(store);
    await store.close();
    await deleteDatabase(`${name}/kinds`);
    const again = closing(new IndexedDbStore({ name }));
    expect(await again.read(async (tx) => [(await tx.meta()).user, await tx.all(MESSAGE)])).toEqual(['', []]);
  });

  it('a frozen tab of the version with Dexie holds it up: the status says so until it is closed', async () => {
    const name = `upgrade-${++count}`;
    const tab = await database(`${name}/kinds`, DEXIE_FIRST, WITH_DEXIE); // does not close when it is asked to
    const sync = app.alone({ store: new IndexedDbStore({ name }) });
    sync.status.subscribe(() => undefined);
    await pass(() => sync.status.value.reason?.code === 'store_blocked');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    ends.push(() => void vi.useRealTimers());
    const other = app.alone({ store: new IndexedDbStore({ name }) });
    await vi.advanceTimersByTimeAsync(5_000); // the browser tells it nothing
    expect((await other.status.read()).reason?.code).toBe('store_blocked');
    await app.end(other); // does not wait
    vi.useRealTimers();
    tab.close();
    await pass(() => sync.status.value.reason === null && sync.status.value.state === 'local');
    await sync.insert('conversation', { title: 'Vienna' });
    expect((await sync.conversations().read()).rows).toHaveLength(1);
    const closing = vi.spyOn(IDBDatabase.prototype, 'close');
    ends.push(() => closing.mockRestore());
    await app.end(sync);
    expect(closing).toHaveBeenCalledTimes(1);
  });

  it('a tab of this version does not hold up another upgrade', async () => {
    const name = `upgrade-${++count}`;
    const store = closing(new IndexedDbStore({ name }));
    await store.read((tx) => tx.meta());
    await frozen(`${name}/kinds`, 99);
    await expect(store.read((tx) => tx.meta())).rejects.toThrow(Destroyed);
  });
});

describe('in SQLite', () => {
  it('a driver may return integers as bigint', async () => {
    const path = join(folder(), 'device.sqlite');
    makeOldSqlite(path, oldMeta(USER));
    const driver = sqliteDriver(path);
    const all: SqlDriver['all'] = async (sql, params) =>
      (await driver.all(sql, params)).map((row) =>
        Object.fromEntries(
          Object.entries(row).map(([name, value]) => [name, typeof value === 'number' ? BigInt(value) : value]),
        ),
      );
    await expectUpgraded(closing(new SqliteStore({ ...driver, all })));
  });

  it('the version before did not say how new its rows are', async () => {
    const path = join(folder(), 'device.sqlite');
    const store = new SqliteStore(sqliteDriver(path));
    await store.write(async (tx) => {
      await tx.put(MESSAGE, [{ ...message(1, 1, 41) }, { ...message(2, 1, 40) }]);
      await tx.remember([{ kind: 'message', key: M(3), seq: 50 }]);
    });
    await store.close();
    const db = new sqlite.Database(path);
    db.run("UPDATE atlas_meta SET version = 2, meta = json_remove(meta, '$.newest', '$.made', '$.destroyed')");
    db.run('CREATE INDEX atlas_outbox_state ON atlas_outbox (state, key)');
    db.close();
    const again = closing(new SqliteStore(sqliteDriver(path)));
    await again.read(async (tx) => {
      expect((await tx.meta()).newest).toEqual({ seq: 41, isKnown: true });
      expect(await tx.all(MESSAGE)).toHaveLength(2);
      expect(await tx.gone()).toEqual([]);
    });
  });

  it('a database from before there were streams has place for them, and the version before still opens it', async () => {
    const path = join(folder(), 'device.sqlite');
    const store = new SqliteStore(sqliteDriver(path));
    await store.write((tx) => tx.put(MESSAGE, [{ ...message(1, 1, 41) }]));
    await store.close();
    const db = new sqlite.Database(path);
    db.run('DROP TABLE atlas_streams');
    db.close();
    const again = closing(new SqliteStore(sqliteDriver(path)));
    await again.read(async (tx) => {
      expect(await tx.streams()).toEqual([]);
      expect(await tx.all(MESSAGE)).toHaveLength(1);
    });
    await again.close();
    const after = new sqlite.Database(path);
    expect(after.all('SELECT version FROM atlas_meta')).toEqual([{ version: 3 }]);
    after.close();
  });

  it('only the tables of this version remain, and the earlier one refuses it', async () => {
    const path = join(folder(), 'device.sqlite');
    makeOldSqlite(path, oldMeta(USER));
    const store = new SqliteStore(sqliteDriver(path));
    await expectUpgraded(store);
    await store.close();
    const db = new sqlite.Database(path);
    const names = db.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").map((row) => row['name']);
    expect(names).toEqual(['atlas_deletions', 'atlas_histories', 'atlas_meta', 'atlas_outbox', 'atlas_rows', 'atlas_streams']);
    expect(db.all('SELECT version FROM atlas_meta')).toEqual([{ version: 3 }]); // it accepts no other than 1
    db.run('UPDATE atlas_meta SET version = 4');
    db.close();
    const older = closing(new SqliteStore(sqliteDriver(path)));
    await expect(older.read((tx) => tx.meta())).rejects.toThrow(StoreError);
  });
});

it('the chat schema is the one that earlier versions stored', () => {
  // If this fails, former.ts needs a copy of the chat schema as it was: a new column must not count as stored.
  expect(JSON.parse(shapeOf(compile(CHAT)))).toEqual([
    { name: 'profile', key: ['uuid'], parent: null, newest: null, columns: { tier: 'text', status: 'text' } },
    {
      name: 'conversation',
      key: ['uuid'],
      parent: null,
      newest: 'updatedAt',
      columns: { title: 'text', createdAt: 'instant', updatedAt: 'instant' },
    },
    {
      name: 'message',
      key: ['uuid'],
      parent: 'conversation',
      newest: 'createdAt',
      columns: { conversationId: 'uuid', role: 'text', content: 'text', createdAt: 'instant', updatedAt: 'instant' },
    },
  ]);
});

/** A topic with threads, one of them local, and a vote; unsent, acknowledged and rejected writes. */
const TOPIC: Row = { kind: 'topic', seq: 3, id: 'a', titleText: 'A', _hiddenFlag: true };
const THREADS = [1n, 2n].map((n): Row => ({
  kind: 'thread',
  seq: n === 2n ? LOCAL : 3,
  id: n,
  topicId: 'a',
  name: `t${n}`,
  last: Number(3n - n),
}));
const VOTE: Row = { kind: 'vote', seq: LOCAL, id: ['b', 5n], threadId: 2n, topicId: 'a', isUp: true };
const FORUM_KINDS = compile(FORUM);
const before = (name: string): Kind => FORUM_KINDS.get(name) as Kind;
const without = (...names: string[]): Schema['kinds'] => FORUM.kinds.filter(({ name }) => !names.includes(name));
const thread = FORUM.kinds[2];
const withThread = (change: object): Schema => ({
  hash: 'another',
  kinds: [...without('thread'), { ...thread, ...change } as Schema['kinds'][number]],
});

describe.each(KINDS)('another schema, $name', ({ make }) => {
  async function made(): Promise<{ readonly store: Store; readonly reopen: () => Promise<Store> }> {
    const { store, reopen, end } = make();
    ends.push(end);
    const rest = { seq: null, code: null, message: null };
    await store.write(async (tx) => {
      await reshape(tx, FORUM_KINDS);
      await tx.put(before('topic'), [TOPIC]);
      await tx.put(before('thread'), THREADS);
      await tx.put(before('vote'), [VOTE]);
      await tx.putFloors(before('topic'), [['', 'start']]);
      const columns = { topicId: 'a', name: 'new' };
      await tx.putEntries([
        { key: 1, n: 1, mutation: { op: '-', kind: 'vote', id: ['x', 1] }, state: 'acked', ...rest, seq: 9 },
        { key: 2, n: 2, mutation: { op: '+', kind: 'thread', id: 7, columns, at: 5 }, state: 'pending', ...rest },
        { key: 3, n: 3, mutation: { op: '-', kind: 'vote', id: ['y', 1] }, state: 'pending', ...rest },
        {
          key: 4,
          n: 0,
          mutation: { op: '-', kind: 'vote', id: ['z', 1] },
          state: 'rejected',
          ...rest,
          code: 'refused',
        },
      ]);
      await tx.setMeta({ user: USER, nextKey: 5, nextN: 4, cursor: 'AA==', lastAt: 77 });
    });
    return { store, reopen };
  }
  const change = async (store: Store, schema: Schema): Promise<(name: string) => Kind> => {
    const kinds = compile(schema);
    await store.write((tx) => reshape(tx, kinds));
    return (name) => kinds.get(name) as Kind;
  };
  const quarantine = (store: Store): Promise<unknown[]> =>
    store.read(async (tx) =>
      (await tx.entries())
        .filter(({ state }) => state === 'rejected')
        .map(({ key, code, mutation }) => [key, code, mutation.op, mutation.kind, mutation.id]),
    );

  it('a new kind, a new column, and one that is no more', async () => {
    const { store, reopen } = await made();
    const columns = [...thread.columns.slice(0, 1), ['last', 'instant?'], ['color', 'text?']];
    const { kinds } = withThread({ columns });
    const schema = { hash: '', kinds: [...kinds, { name: 'tag', tag: 'x', key: ['int'], columns: [] }] };
    const kind = await change(store, schema);
    const again = await reopen();
    await again.read(async (tx) => {
      expect(await tx.newest(kind('thread'), keyOf(kind('topic'), 'a'), null, 9)).toEqual(
        THREADS.map(({ name: _, ...row }) => ({ ...row, color: null })),
      );
      expect(await tx.all(kind('topic'))).toEqual([TOPIC]);
      expect(await tx.local(kind('vote'))).toEqual([VOTE]);
      expect(await tx.all(kind('tag'))).toEqual([]);
      expect(await tx.floors(kind('topic'), [''])).toEqual([undefined]);
      expect(await tx.floors(kind('post'), [keyOf(kind('thread'), 2n)])).toEqual(['start']);
      expect(await tx.meta()).toMatchObject({ cursor: null, shape: shapeOf(compile(schema)) });
      expect((await tx.pending(9)).map(({ key }) => key)).toEqual([2, 3]);
      expect((await tx.acked()).map(({ key }) => key)).toEqual([1]);
    });
    expect(await quarantine(again)).toHaveLength(1);
  });

  it('another column orders the rows, or none', async () => {
    const { store } = await made();
    const idsBy = async (newest?: string): Promise<unknown[]> => {
      const { newest: _, ...rest } = thread;
      const schema = { hash: '', kinds: [...without('thread'), { ...rest, ...(newest && { newest }) }] };
      const kind = await change(store, schema);
      const rows = await store.read((tx) => tx.newest(kind('thread'), keyOf(kind('topic'), 'a'), null, 9));
      return rows.map((row) => row.id);
    };
    expect(await idsBy('last')).toEqual([1n, 2n]);
    expect(await idsBy('name')).toEqual([2n, 1n]);
    expect(await idsBy('last')).toEqual([1n, 2n]);
    expect(await idsBy()).toEqual([2n, 1n]);
  });

  /** Without votes, and with other keys of threads. */
  const fewer: Schema = {
    hash: '',
    kinds: withThread({ key: ['text'] }).kinds.filter(({ name }) => !['vote', 'post'].includes(name)),
  };

  it('a kind that is no more, and one of another key: what was not sent goes to quarantine', async () => {
    const { store } = await made();
    const kind = await change(store, fewer);
    await store.read(async (tx) => {
      expect(await tx.all(kind('thread'))).toEqual([]);
      expect(await tx.all(before('vote'))).toEqual([]);
      expect(await tx.all(kind('topic'))).toEqual([TOPIC]);
      expect(await tx.acked()).toEqual([]);
      expect(await tx.pending(9)).toEqual([]);
      expect((await tx.entries()).at(-2)).toMatchObject({
        n: 0,
        mutation: { columns: { topicId: 'a', name: 't2', last: 1 }, at: 77 },
      });
      expect((await tx.meta()).nextKey).toBe(7);
    });
    expect(await quarantine(store)).toEqual([
      [2, 'not_allowed', '+', 'former thread', 7],
      [3, 'not_allowed', '-', 'vote', ['y', 1]],
      [4, 'refused', '-', 'vote', ['z', 1]],
      [5, 'not_allowed', '+', 'former thread', 2n],
      [6, 'not_allowed', '+', 'vote', ['b', 5n]],
    ]);
    await change(store, FORUM);
    expect(await quarantine(store)).toHaveLength(5);
  });

  it('another parent', async () => {
    const { store } = await made();
    const columns = [['setting_id', 'text'], ...thread.columns.slice(1)];
    const kind = await change(store, withThread({ parent: 'setting', columns }));
    expect(await store.read((tx) => tx.all(kind('thread')))).toEqual([]);
    expect(await quarantine(store)).toEqual([
      [2, 'not_allowed', '+', 'former thread', 7],
      [4, 'refused', '-', 'vote', ['z', 1]],
      [5, 'not_allowed', '+', 'former thread', 2n],
    ]);
  });

  it('if it is interrupted, nothing has changed', async () => {
    const { store, reopen } = await made();
    const kinds = compile({ hash: '', kinds: without('thread', 'post', 'vote') });
    const broken = store.write(async (tx) => {
      await reshape(tx, kinds);
      throw new Error('the tab was closed');
    });
    await expect(broken).rejects.toThrow('the tab was closed');
    await (
      await reopen()
    ).read(async (tx) => {
      expect(await tx.newest(before('thread'), keyOf(before('topic'), 'a'), null, 9)).toEqual(THREADS);
      expect(await tx.local(before('vote'))).toEqual([VOTE]);
      expect(await tx.entries()).toHaveLength(4);
      expect(await tx.floors(before('topic'), [''])).toEqual(['start']);
      expect(await tx.meta()).toMatchObject({ cursor: 'AA==', shape: shapeOf(FORUM_KINDS) });
    });
  });

  it('the quarantine of a former schema can be shown, and discarded, but not retried', async () => {
    const { store } = await made();
    const environment = app.world.tab().environment();
    const sync = createSync({ schema: fewer, url: 'wss://test/sync', store, user: USER, environment });
    ends.push(() => sync.close());
    expect((await sync.list('thread', { parent: 'a' } as object).read()).rows).toEqual([]);
    expect((await sync.list('topic').read()).rows).toMatchObject([{ id: 'a' }]);
    await expect(sync.retry(2)).rejects.toThrow('former thread');
    for (const { key } of await sync.quarantine.read()) await sync.discard(key);
    expect(await sync.quarantine.read()).toEqual([]);
  });
});

it('a tab with the former schema ends, gives up the lead, and stores nothing any more', async () => {
  const name = `upgrade-${++count}`;
  const options = (): Omit<Parameters<typeof createChatSync>[0], 'store'> => ({
    url: 'wss://test/sync',
    user: USER,
    encoding: 'json',
    getToken: () => tokenOf(USER),
    environment: app.world.tab().environment(),
  });
  const former = createChatSync({ ...options(), store: new IndexedDbStore({ name }) });
  await pass(async () => (await former.status.read()).state === 'live');
  const store = new IndexedDbStore({ name });
  const schema: Schema = { ...CHAT, kinds: [...CHAT.kinds, { name: 'tag', tag: 'x', key: ['int'], columns: [] }] };
  const next = createSync({ ...options(), store, schema });
  ends.push(async () => {
    const closed = next.close();
    await app.world.clock.pass(0);
    await closed;
  });
  await next.ready;
  await pass(() => former.status.value.state === 'destroyed'); // by itself
  app.server.push(id(9), 1, [newConversation(C(1), 'Later', 1.6e15)]);
  await pass(async () => (await next.status.read()).state === 'live');
  await expect(former.createConversation()).rejects.toThrow(Destroyed);
  expect((await next.list('conversation').read()).rows).toMatchObject([{ title: 'Later' }]);
});
