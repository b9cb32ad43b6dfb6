/** Signing out: no data of a user stays on the device, in any tab, and no unsent write is lost without consent. */

import 'fake-indexeddb/auto';

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

import { StoreError, type Store } from '../src/store.js';
import { IndexedDbStore } from '../src/store/indexeddb.js';
import { MemoryStore } from '../src/store/memory.js';
import { SqliteStore } from '../src/store/sqlite.js';
import type { ChatSync as Sync } from '../src/chat.js';
import { UnsentError } from '../src/wipe.js';
import { App, USER } from './support/app.js';
import { all, database, exists, put } from './support/databases.js';
import { C, conversation, CONVERSATION, id, M, message, MESSAGE, tokenOf } from './support/rows.js';
import { KINDS, sqliteDriver } from './support/stores.js';

const app = new App();
let count = 0;

async function pass(done: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 200 && !(await done()); i++) await app.world.clock.pass(50);
  expect(await done()).toBe(true);
}
const synced = (sync: Sync): Promise<void> =>
  pass(async () => {
    const { state, pending } = await sync.status.read();
    return state === 'live' && pending === 0;
  });
const state = async (sync: Sync): Promise<string> => (await sync.status.read()).state;

async function destroy(sync: Sync, options: Parameters<Sync['destroy']>[0] = {}): Promise<void> {
  let outcome: unknown = 'none yet';
  sync.destroy(options).then(
    () => (outcome = null),
    (error: unknown) => (outcome = error),
  );
  await pass(() => outcome !== 'none yet');
  if (outcome !== null) throw outcome;
}

describe.each(KINDS)('destroy, $name', ({ make }) => {
  it('no data of a user stays, and a store made after it is new', async () => {
    const { store, reopen, end } = make();
    const sync = app.open({ store });
    const home = await sync.createConversation('Trip');
    await sync.sendMessage(home, 'Hello');
    await synced(sync);
    const before = await store.read((tx) => tx.meta());
    await destroy(sync);
    expect(await state(sync)).toBe('destroyed');
    expect(app.world.network.sockets.size).toBe(0);
    const after = await reopen();
    await after.read(async (tx) => {
      expect(await tx.meta()).toMatchObject({ user: '', cursor: null, position: null, nextN: 1 });
      expect((await tx.meta()).clientId).not.toBe(before.clientId);
      expect(await tx.all(CONVERSATION)).toEqual([]);
      expect(await tx.of(MESSAGE, home)).toEqual([]);
      expect(await tx.entries()).toEqual([]);
    });
    const again = app.open({ store: after });
    await synced(again);
    expect((await again.messages(home).read()).rows).toMatchObject([{ content: 'Hello' }]);
    await app.end(again);
    await end();
  });

  it('nothing is deleted while writes are on this device only, unless they may be discarded, and the error counts them', async () => {
    const { store, end } = make();
    const sync = app.open({ store });
    const home = await sync.createConversation('x');
    await sync.sendMessage(home, 'refuse me');
    await synced(sync);
    const refused = destroy(sync);
    await expect(refused).rejects.toBeInstanceOf(UnsentError);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await sync.sendMessage(home, 'unsent');
    await expect(destroy(sync)).rejects.toThrow('on this device only: 2');
    expect(await sync.status.read()).toMatchObject({ pending: 1, rejected: 1 });
    expect((await sync.messages(home).read()).rows.map((row) => row.content)).toEqual(['refuse me', 'unsent']);
    app.world.network.mode = 'up';
    await synced(sync);
    await destroy(sync, { discardUnsent: true });
    expect(await state(sync)).toBe('destroyed');
    await end();
  });

  it('local work of a device that works alone counts as unsent', async () => {
    const { store, end } = make();
    const sync = app.alone({ store });
    await sync.sendMessage(await sync.createConversation('x'), 'local');
    await expect(destroy(sync)).rejects.toMatchObject({ count: 2 });
    await destroy(sync, { discardUnsent: true });
    await end();
  });
});

describe('after destroy', () => {
  it('every call is rejected with a sentence, and the status is destroyed', async () => {
    const sync = app.open();
    const home = await sync.createConversation('x');
    await synced(sync);
    let seen = '';
    sync.status.subscribe(() => (seen = sync.status.value.state));
    await Promise.all([destroy(sync), destroy(sync)]);
    expect(seen).toBe('destroyed');
    const calls: Record<string, () => Promise<unknown>> = {
      createConversation: () => sync.createConversation('y'),
      renameConversation: () => sync.renameConversation(home, 'y'),
      deleteConversation: () => sync.deleteConversation(home),
      sendMessage: () => sync.sendMessage(home, 'y'),
      editMessage: () => sync.editMessage(M(1), 'y'),
      deleteMessage: () => sync.deleteMessage(M(1)),
      retry: () => sync.retry(1),
      discard: () => sync.discard(1),
      loadOlder: () => sync.loadOlder('message', home),
      conversations: () => sync.conversations().read(),
      messages: () => sync.messages(home).read(),
      quarantine: () => sync.quarantine.read(),
      profile: () => sync.profile.read(),
      upgrade: () => sync.upgrade(),
      downgrade: () => sync.downgrade(),
      renew: () => sync.renew(),
    };
    for (const [name, call] of Object.entries(calls)) {
      const error: unknown = await call().catch((reason: unknown) => reason);
      expect(error, name).toBeInstanceOf(StoreError);
      expect((error as Error).message, name).toContain('this store was destroyed');
    }
    sync.reconnect();
    await app.world.clock.pass(60_000);
    expect(app.world.network.attempts).toHaveLength(1);
    expect(await sync.status.read()).toMatchObject({
      state: 'destroyed',
      pending: 0,
      reason: { code: 'destroyed', message: expect.stringContaining('make another store') },
      retryAt: null,
    });
    await destroy(sync); // once more is as good as once
    await sync.close();
  });

  it('a Sync that was closed before rejects with that reason', async () => {
    const sync = app.open();
    await sync.ready;
    await app.end(sync);
    await expect(destroy(sync)).rejects.toThrow('this sync is closed');
  });

  it("another user's store is not touched", async () => {
    const store = new MemoryStore();
    const sync = app.open({ store });
    await synced(sync);
    await expect(destroy(app.open({ store, user: id(2) }))).rejects.toThrow("another user's");
    expect(await state(sync)).toBe('live');
  });
});

describe('other tabs', () => {
  /** One database, which each tab opens for itself, and whether it is gone. */
  interface Browser {
    readonly store: () => Store;
    readonly gone: () => Promise<boolean>;
  }
  const BROWSERS: Readonly<Record<string, () => Browser>> = {
    'a store in memory': () => {
      const store = new MemoryStore();
      const gone = async (): Promise<boolean> =>
        store.read(async (tx) => {
          const left = [...(await tx.all(CONVERSATION)), ...(await tx.entries())];
          return (await tx.meta()).user === '' && left.length === 0;
        });
      return { store: () => store, gone };
    },
    IndexedDB: () => {
      const name = `destroy-${++count}`;
      return { store: () => new IndexedDbStore({ name }), gone: async () => !(await exists(`${name}/kinds`)) };
    },
  };

  describe.each(Object.entries(BROWSERS))('%s', (_, browser) => {
    it('every tab ends, whoever leads: none connects again, and the store stays deleted', async () => {
      const { store, gone } = browser();
      const syncs = [app.open({ store: store() }), app.open({ store: store() }), app.open({ store: store() })];
      const home = await syncs[0]?.createConversation('x');
      for (const sync of syncs) await synced(sync);
      await destroy(syncs[1] as Sync);
      await pass(() => syncs.every((sync) => sync.status.value.state === 'destroyed'));
      for (const sync of syncs) {
        expect(await state(sync)).toBe('destroyed');
        await expect(sync.sendMessage(home ?? '', 'late')).rejects.toThrow('this store was destroyed');
      }
      await app.world.clock.pass(60_000);
      expect(app.world.network.attempts).toHaveLength(1);
      expect(app.world.network.sockets.size).toBe(0);
      expect(await gone()).toBe(true);
    });

    it('a tab without a channel finds out by the store', async () => {
      const { store, gone } = browser();
      const deaf = app.world.tab().environment();
      const a = app.open({ store: store() });
      const b = app.open({ store: store(), environment: { ...deaf, channel: null } });
      await a.createConversation('x');
      await synced(a);
      expect((await b.conversations().read()).rows).toHaveLength(1);
      await destroy(a);
      await expect(b.createConversation('late')).rejects.toThrow('this store was destroyed');
      await pass(async () => (await state(b)) === 'destroyed');
      expect(await gone()).toBe(true);
    });

    it('a tab that was frozen meanwhile brings nothing back when it thaws', async () => {
      const { store, gone } = browser();
      const [first, second] = [app.world.tab(), app.world.tab()];
      const a = app.open({ store: store(), environment: first.environment() });
      await synced(a);
      const b = app.open({ store: store(), environment: second.environment() });
      await b.createConversation('x');
      await synced(b);
      first.freeze();
      await destroy(b);
      app.server.message(C(1), M(1), 'news', app.world.clock.now() * 1000);
      first.thaw();
      first.show();
      await pass(async () => (await state(a)) === 'destroyed');
      await app.world.clock.pass(60_000);
      expect(app.world.network.attempts).toHaveLength(1);
      expect(await gone()).toBe(true);
    });

    it('two tabs may sign out at the same time', async () => {
      const { store } = browser();
      const [a, b] = [app.open({ store: store() }), app.open({ store: store() })];
      await synced(a);
      await synced(b);
      await Promise.all([destroy(a), destroy(b)]);
      expect([await state(a), await state(b)]).toEqual(['destroyed', 'destroyed']);
    });

    it('a write before the deletion prevents it, and a write after it is rejected', async () => {
      const { store } = browser();
      const [a, b] = [app.open({ store: store() }), app.open({ store: store() })];
      await synced(a);
      await synced(b);
      app.world.network.mode = 'down';
      app.world.network.cut();
      const writes = Array.from({ length: 5 }, (_unused, i) => b.createConversation(`${i}`));
      const [outcome, ...written] = await Promise.allSettled([destroy(a), ...writes]);
      const taken = written.filter(({ status }) => status === 'fulfilled').length;
      if (outcome?.status === 'fulfilled') expect(taken).toBe(0);
      else expect(outcome?.reason).toBeInstanceOf(UnsentError);
      expect([0, 5]).toContain(taken);
    });
  });
});

describe('what stays elsewhere on the device', () => {
  it('the database in IndexedDB and this user’s rows of the earlier app are deleted, those of others stay', async () => {
    const [name, earlier] = [`destroy-${++count}`, `earlier-${count}`];
    const old = await database(earlier, 30, { conversations: ['id', {}], messages: ['id', {}] });
    await put(old, 'conversations', [{ id: C(1), userId: USER }, { id: C(2), userId: id(2) }, { id: C(3) }]);
    await put(
      old,
      'messages',
      [1, 2, 3].map((n) => ({ id: M(n), conversationId: C(n), content: 'x' })),
    );
    const open = (): Sync => app.open({ store: new IndexedDbStore({ name, adopt: { name: earlier, userId: USER } }) });
    const sync = open();
    await synced(sync);
    await sync.deleteMessage(M(1));
    await synced(sync);
    await destroy(sync);
    expect(await exists(`${name}/kinds`)).toBe(false);
    expect(await all(old, 'conversations')).toEqual([{ id: C(2), userId: id(2) }]);
    expect((await all(old, 'messages')).map((row) => row['id'])).toEqual([M(2)]);
    const again = open();
    await synced(again);
    expect([...app.server.messages.keys()]).toEqual([M(3)]);
    old.close();
  });

  it('no row comes back if the database could not be deleted', async () => {
    class Stuck extends IndexedDbStore {
      override destroy = (): Promise<void> => Promise.reject(new Error('the browser crashed'));
    }
    const [name, earlier] = [`destroy-${++count}`, `earlier-${count}`];
    const old = await database(earlier, 30, { conversations: ['id', {}], messages: ['id', {}] });
    await put(old, 'conversations', [{ id: C(1), userId: USER }]);
    await put(old, 'messages', [{ id: M(1), conversationId: C(1), content: 'x' }]);
    old.close();
    const options = { name, adopt: { name: earlier, userId: USER } };
    const store = new Stuck(options);
    const sync = app.open({ store });
    await synced(sync);
    await sync.deleteMessage(M(1));
    await synced(sync);
    const { lease } = await store.read((tx) => tx.meta());
    await expect(destroy(sync)).rejects.toThrow('the browser crashed');
    const after = new IndexedDbStore(options);
    expect(await after.read((tx) => tx.meta())).toMatchObject({ user: '', lease: lease + 1 });
    await synced(app.open({ store: after }));
    expect(app.server.messages.size).toBe(0);
  });

  it('no text stays in the file of SQLite, nor beside it', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'atlas-sqlite-'));
    const path = join(folder, 'device.sqlite');
    const store = new SqliteStore(sqliteDriver(path));
    await store.write(async (tx) => {
      await tx.put(CONVERSATION, [conversation(1, 5)]);
      await tx.put(
        MESSAGE,
        Array.from({ length: 200 }, (_, n) => message(n, 1, 5, { content: `my secret ${n}` })),
      );
    });
    const sync = app.alone({ store });
    await sync.createConversation('another secret');
    await destroy(sync, { discardUnsent: true });
    const left = readdirSync(folder).map((file) => readFileSync(join(folder, file), 'latin1'));
    expect(left.join()).not.toContain('secret');
    rmSync(folder, { recursive: true });
  });

  it('a tab that keeps the database open does not hold up the deletion', async () => {
    const name = `destroy-${++count}`;
    const sync = app.open({ store: new IndexedDbStore({ name }), getToken: () => tokenOf(USER) });
    await synced(sync);
    const frozen = await new Promise<IDBDatabase>((resolve) => {
      const opening = indexedDB.open(`${name}/kinds`);
      opening.onsuccess = () => resolve(opening.result);
    });
    await destroy(sync);
    const rows = frozen.transaction(['rows', 'outbox']).objectStore('outbox').count();
    await new Promise((resolve) => (rows.onsuccess = resolve));
    expect(rows.result).toBe(0);
    frozen.close();
    await pass(async () => !(await exists(`${name}/kinds`)));
  });
});
