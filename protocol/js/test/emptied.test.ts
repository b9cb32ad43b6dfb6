/** Databases that go away while the app is open: deleted by the user, by another tab, or by a browser that gives up. */

import 'fake-indexeddb/auto';

import { forceCloseDatabase } from 'fake-indexeddb';
import { afterEach, describe, expect, it } from 'vitest';

import type { ChatSync as Sync } from '../src/chat.js';
import { IndexedDbStore } from '../src/store/indexeddb.js';
import { MemoryStore } from '../src/store/memory.js';
import { newMeta } from '../src/store.js';
import { App, USER } from './support/app.js';
import { clear, deleteDatabase } from './support/databases.js';
import { C } from './support/rows.js';

const app = new App();
let count = 0;
const { open } = indexedDB;
const { transaction } = IDBDatabase.prototype;
afterEach(() => {
  indexedDB.open = open;
  IDBDatabase.prototype.transaction = transaction;
});

async function pass(done: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 200 && !(await done()); i++) await app.world.clock.pass(50);
  expect(await done()).toBe(true);
}
const live = (sync: Sync): Promise<void> =>
  pass(async () => {
    const { state, pending } = await sync.status.read();
    return state === 'live' && pending === 0;
  });
const contents = async (sync: Sync): Promise<string[]> =>
  (await sync.messages(C(1)).read()).rows.map((row) => row.content);
const sent = (): string[] => [...app.server.messages.values()].map((row) => row.content);

/** The connections that stores have opened to a database. */
function opened(): IDBDatabase[] {
  const all: IDBDatabase[] = [];
  indexedDB.open = function (...args) {
    const request = open.apply(this, args);
    request.addEventListener('success', () => all.push(request.result));
    return request;
  };
  return all;
}

const WAYS: Readonly<Record<string, (name: string, connections: readonly IDBDatabase[]) => Promise<void>>> = {
  'the data of the site is cleared': async (name, connections) => {
    for (const db of connections) forceCloseDatabase(db as never);
    await deleteDatabase(name);
  },
  'the database is deleted': (name) => deleteDatabase(name),
  'its content is deleted': async (name) => {
    const db = await new Promise<IDBDatabase>((resolve) => {
      const opening = indexedDB.open(name);
      opening.onsuccess = () => resolve(opening.result);
    });
    for (const store of db.objectStoreNames) await clear(db, store);
    db.close();
  },
};

describe.each(Object.entries(WAYS))('%s', (_, empty) => {
  it.each([1, 2])('the device goes on as a new one, with %i tabs', async (tabs) => {
    const name = `emptied-${++count}`;
    const connections = opened();
    const stores = Array.from({ length: tabs }, () => new IndexedDbStore({ name }));
    const syncs = stores.map((store) => app.open({ store }));
    const [first, last] = [syncs[0], syncs.at(-1)] as [Sync, Sync];
    await first.createConversation('Trip', C(1));
    await first.sendMessage(C(1), 'before');
    for (const sync of syncs) await live(sync);
    const before = await (stores[0] as IndexedDbStore).read((tx) => tx.meta());

    await empty(`${name}/kinds`, connections);
    for (const sync of syncs) await live(sync);
    await pass(async () => (await contents(last)).length === 1);
    await last.sendMessage(C(1), 'after');
    for (const sync of syncs) await live(sync);
    await pass(() => sent().length === 2);
    expect(sent()).toEqual(['before', 'after']);
    for (const [i, store] of stores.entries()) {
      await pass(async () => (await contents(syncs[i] as Sync)).length === 2);
      expect(await contents(syncs[i] as Sync)).toEqual(['before', 'after']);
      const meta = await store.read((tx) => tx.meta());
      expect(meta).toMatchObject({ user: USER, nextN: 2 });
      expect(meta.clientId).not.toBe(before.clientId);
      expect(meta.clientId).toMatch(/^(?!00000000-0000-0000)[0-9a-f-]{36}$/);
      expect((await syncs[i]?.status.read())?.reason?.code).toBe('store_emptied');
    }
    expect([...app.server.state.clients.keys()].some((client) => /^0{8}-/.test(client))).toBe(false);
  });

  it('also while the device has no connection: what was written is lost, and what is written then is sent', async () => {
    const name = `emptied-${++count}`;
    const connections = opened();
    const sync = app.open({ store: new IndexedDbStore({ name }) });
    await sync.createConversation('Trip', C(1));
    await live(sync);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await sync.sendMessage(C(1), 'lost');
    await empty(`${name}/kinds`, connections);
    await sync.sendMessage(C(1), 'kept');
    expect(await contents(sync)).toEqual(['kept']);
    app.world.network.mode = 'up';
    await app.world.clock.pass(60_000);
    await live(sync);
    expect(sent()).toEqual(['kept']);
    expect((await sync.status.read()).reason?.code).toBe('store_emptied');
  });
});

it('a Sync that nobody asks for anything notices a deletion at once', async () => {
  const name = `emptied-${++count}`;
  const store = new IndexedDbStore({ name });
  const sync = app.open({ store });
  await live(sync);
  let code: string | undefined;
  sync.status.subscribe(() => (code = sync.status.value.reason?.code));
  await deleteDatabase(`${name}/kinds`);
  await pass(() => code === 'store_emptied');
  expect(app.world.network.attempts).toHaveLength(2); // with the new client_id
});

describe('a browser whose database fails without saying so', () => {
  /** The next transactions fail so. */
  const HOW: Readonly<Record<string, (fails: () => boolean) => void>> = {
    'no transaction begins': (fails) => {
      IDBDatabase.prototype.transaction = function (...args) {
        if (fails()) throw new DOMException('the connection is closing', 'InvalidStateError');
        return transaction.apply(this, args);
      };
    },
    'requests fail': (fails) => {
      IDBDatabase.prototype.transaction = function (...args) {
        const made = transaction.apply(this, args);
        if (fails()) made.abort();
        return made;
      };
    },
  };

  describe.each(Object.entries(HOW))('%s', (_, break_) => {
    it('the database is opened again, and nothing is lost', async () => {
      const connections = opened();
      const sync = app.open({ store: new IndexedDbStore({ name: `emptied-${++count}` }) });
      await sync.createConversation('Trip', C(1));
      await live(sync);
      const [dead] = connections.splice(0);
      let broken = true;
      break_(() => broken && connections.length === 0); // as long as it is the old connection
      expect(dead).toBeDefined();
      await sync.sendMessage(C(1), 'written');
      broken = false;
      await live(sync);
      expect(sent()).toEqual(['written']);
      expect((await sync.status.read()).reason).toBeNull();
    });

    it('if that does not help, the status says so, until it works again', async () => {
      const sync = app.open({ store: new IndexedDbStore({ name: `emptied-${++count}` }) });
      await sync.createConversation('Trip', C(1));
      await live(sync);
      let broken = true;
      sync.status.subscribe(() => undefined);
      break_(() => broken);
      await expect(sync.sendMessage(C(1), 'refused')).rejects.toThrow('reload this page');
      await pass(() => sync.status.value.state === 'offline');
      expect(sync.status.value.reason?.message).toContain('reload this page');
      broken = false;
      await sync.sendMessage(C(1), 'accepted');
      await pass(() => sync.status.value.state === 'live' && sync.status.value.reason === null);
      await pass(() => sent().length === 1);
      expect(sent()).toEqual(['accepted']);
    });
  });
});

it('a store that was emptied takes nothing of the connection that was open', async () => {
  const store = new MemoryStore();
  const sync = app.open({ store });
  await sync.createConversation('Trip', C(1));
  await live(sync);
  // Another tab has made it anew, with the same lease by chance.
  const { lease } = await store.read((tx) => tx.meta());
  await store.write(async (tx) => {
    await tx.clear(true);
    const { user, shape } = await tx.meta();
    await tx.setMeta({ ...newMeta(C(77)), user, shape, lease });
  });
  app.server.message(C(1), C(9), 'news', app.world.clock.now() * 1000);
  await live(sync);
  await pass(async () => (await contents(sync)).length === 1);
  expect((await sync.conversations().read()).rows).toMatchObject([{ title: 'Trip' }]); // by a snapshot
});

it.each([
  ["another user's", { user: C(2) }],
  ['of another schema', { shape: '[]' }],
])('a Sync does not begin again in a store that was emptied and is %s now: it ends, and lets go of the lead', async (_, now) => {
  const store = new MemoryStore();
  const sync = app.open({ store });
  await live(sync);
  await store.write(async (tx) => {
    const { user, shape } = await tx.meta();
    await tx.clear(true);
    await tx.setMeta({ ...newMeta(C(77)), user, shape, ...now });
  });
  await pass(async () => (await sync.status.read()).state === 'destroyed');
  expect(await store.read((tx) => tx.meta())).toMatchObject({ made: C(77), ...now });
  await pass(() => app.world.network.sockets.size === 0);
});
