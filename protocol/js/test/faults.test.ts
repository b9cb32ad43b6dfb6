/** Failures around the library, and what must not follow from them. */

import { expect, it } from 'vitest';

import type { Status } from '../src/status.js';
import { MemoryStore } from '../src/store/memory.js';
import type { ChatSync as Sync } from '../src/chat.js';
import { App } from './support/app.js';
import { newConversation } from './support/model.js';
import { C, conversation, CONVERSATION, id, M, message, MESSAGE } from './support/rows.js';

const app = new App();

/** A store that outlives its users, and whose writes fail or are slow when the test says so. */
class Shared extends MemoryStore {
  broken = false;
  slow = false;
  override read: MemoryStore['read'] = (work) => super.write(work);
  override write: MemoryStore['write'] = async (work) => {
    if (this.broken) throw new Error('broken');
    const written = await super.write(work);
    if (this.slow) for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
    return written;
  };
  override async close(): Promise<void> {}
}

const status = (sync: Sync): Promise<Status> => sync.status.read();

it("another user's store is never sent, whatever the app calls", async () => {
  const store = new Shared();
  const theirs = app.open({ store, user: id(7), getToken: () => Promise.reject(new Error('none')) });
  await theirs.createConversation('secret');
  await app.end(theirs);
  const mine = app.open({ store });
  mine.reconnect();
  await expect(mine.ready).rejects.toThrow("another user's");
  mine.reconnect();
  await app.world.clock.pass(60_000);
  expect(app.world.network.attempts).toEqual([]);
});

it('a write that was under way when its tab closed succeeds, and its promise resolves', async () => {
  const store = new Shared();
  const sync = app.open({ store });
  await app.world.clock.pass(0);
  store.slow = true;
  const writing = sync.createConversation('x');
  await new Promise((resolve) => setImmediate(resolve));
  await app.end(sync);
  await expect(writing).resolves.toMatch(/-/);
});

it('a page that was asked of a closing leader comes from the next one, or its promise resolves with offline', async () => {
  for (let n = 1; n <= 3; n++) {
    const at = (app.world.clock.now() - 10_000_000) * 1000;
    app.server.push(id(99), n, [newConversation(C(n), `c${n}`, at)]);
    for (let i = 1; i <= 60; i++) app.server.message(C(n), M(1000 * n + i), `${i}`, at + i * 1_000_000);
  }
  const store = new Shared();
  const leader = app.open({ store, window: { conversation: 3, message: 2 } });
  const others = [1, 2, 3].map(() => app.open({ store }));
  await app.world.clock.pass(0);
  app.world.network.mode = 'dead';
  const waiting = others.map((sync, i) => sync.messages(C(i + 1), { limit: 2 }).loadOlder(3));
  await app.end(leader);
  app.world.network.mode = 'up';
  await app.world.clock.pass(40_000);
  for (const older of await Promise.all(waiting)) expect(['here', 'offline']).toContain(older);
});

it('a tab without a getToken never leads while another tab has one', async () => {
  const store = new Shared();
  const without = app.alone({ store });
  await app.world.clock.pass(0);
  const withToken = app.open({ store });
  await app.world.clock.pass(0);
  without.reconnect();
  await app.world.clock.pass(10_000);
  expect(app.world.network.attempts).toHaveLength(2); // the second because it was asked for
  for (const sync of [without, withToken]) expect((await status(sync)).state).toBe('live');
  await app.end(withToken);
  expect((await status(without)).state).toBe('offline');
});

it('a downgrade by a tab whose leader is frozen reaches that one when it thaws', async () => {
  const store = new Shared();
  const [first, second] = [app.world.tab(), app.world.tab()];
  const [a, b] = [
    app.open({ store, environment: first.environment() }),
    app.open({ store, environment: second.environment() }),
  ];
  await app.world.clock.pass(2_000);
  first.freeze();
  second.show();
  await b.downgrade();
  await app.world.clock.pass(30_000);
  first.thaw();
  await app.world.clock.pass(30_000);
  expect(app.world.network.sockets.size).toBe(0);
  for (const sync of [a, b]) expect((await status(sync)).state).toBe('local');
});

it('a tab that was replaced while its store failed comes back when it becomes visible', async () => {
  const store = new Shared();
  const tab = app.world.tab();
  const sync = app.open({ store, environment: tab.environment() });
  await app.world.clock.pass(0);
  for (const peer of [...app.server.peers]) {
    peer.say({ t: 'error', code: 'replaced', message: '', retryable: false });
    peer.shut(4302);
  }
  store.broken = true;
  await app.world.clock.pass(0);
  store.broken = false;
  tab.show();
  await app.world.clock.pass(1_000);
  expect((await status(sync)).state).toBe('live');
});

/** The feed is late: what is written from now on is acknowledged, and the device does not see it. */
const late = (): void => {
  for (const peer of app.server.peers) peer.following = false;
};
const written = (): string[] => [...app.server.messages.values()].map((row) => row.content);
const shown = async (sync: Sync): Promise<unknown[]> =>
  (await sync.messages(C(1)).read()).rows.map((row) => [row.content, row.state]);

it.each(['resumes', 'finds another epoch', 'is told to start over'])(
  'a database that lost an acknowledged write gets it again: the device %s',
  async (how) => {
    const sync = app.open();
    await sync.createConversation('x', C(1));
    await app.world.clock.pass(0);
    const backup = app.server.backup();
    late();
    await sync.sendMessage(C(1), 'acknowledged');
    await app.world.clock.pass(0);
    expect(await shown(sync)).toEqual([['acknowledged', 'acked']]);
    if (how === 'is told to start over') {
      app.server.state = backup;
      for (const peer of [...app.server.peers]) {
        peer.say({ t: 'error', code: 'position_lost', message: '', retryable: true });
        peer.shut(4200);
      }
    } else {
      app.server.restore(backup, how === 'resumes' ? backup.epoch : undefined);
    }
    expect(written()).toEqual([]);
    await app.world.clock.pass(0);
    expect(await shown(sync)).toEqual([['acknowledged', 'acked']]);
    await app.world.clock.pass(2_000);
    expect(written()).toEqual(['acknowledged']);
    expect(await shown(sync)).toEqual([['acknowledged', 'synced']]);
  },
);

it('a database that was gone back to after a failover takes no new write for a repeat', async () => {
  const sync = app.open();
  await sync.createConversation('x', C(1));
  await app.world.clock.pass(0);
  const behind = app.server.backup();
  for (const text of ['a', 'b']) await sync.sendMessage(C(1), text);
  await app.world.clock.pass(0);
  const first = app.server.backup();
  app.server.restore(behind);
  await app.world.clock.pass(2_000);
  late();
  for (const text of ['c', 'd']) await sync.sendMessage(C(1), text); // with the numbers of a and b
  await app.world.clock.pass(0);
  expect(written()).toEqual(['c', 'd']);
  app.server.restore(first, first.epoch);
  await app.world.clock.pass(2_000);
  expect(written()).toEqual(['a', 'b', 'c', 'd']);
  expect(await shown(sync)).toEqual(['a', 'b', 'c', 'd'].map((text) => [text, 'synced']));
  expect(await status(sync)).toMatchObject({ state: 'live', pending: 0, rejected: 0 });
});

it('each connection of a device has a larger generation than the last, also if the clock is set back', async () => {
  const store = new Shared();
  const first = app.open({ store });
  await app.world.clock.pass(0);
  app.world.clock.time -= 86_400_000;
  app.world.network.cut();
  await app.world.clock.pass(2_000);
  const renewing = first.renew();
  await app.world.clock.pass(2_000);
  await renewing;
  await app.end(first);
  const second = app.open({ store });
  await app.world.clock.pass(2_000);
  expect((await status(second)).state).toBe('live');
  const { generations } = app.server;
  expect(generations).toHaveLength(4);
  expect(generations[0]).toBe(1_700_000_000_000_000);
  expect(generations.slice(1)).toEqual([1, 2, 3].map((more) => 1_700_000_000_000_000 + more));
});

it('a renewal that the store refuses leaves the device able to connect', async () => {
  const store = new Shared();
  const sync = app.open({ store });
  await app.world.clock.pass(0);
  store.broken = true;
  const renewing = sync.renew();
  await expect(renewing).rejects.toThrow('broken');
  store.broken = false;
  await app.world.clock.pass(31_000);
  expect((await status(sync)).state).toBe('live');
});

it('a device that never synced shows all its rows', async () => {
  const store = new Shared();
  await store.write(async (tx) => {
    await tx.put(CONVERSATION, [conversation(1, 0)]);
    await tx.put(
      MESSAGE,
      Array.from({ length: 120 }, (_, i) => message(1001 + i, 1, 0, { createdAt: 1_000_000 * (i + 1) })),
    );
  });
  const query = app.alone({ store }).messages(C(1), { limit: 50 });
  expect(await query.read()).toMatchObject({ more: true });
  expect(await query.loadOlder(50)).toBe('here');
  expect(await query.loadOlder(50)).toBe('here');
  expect((await query.read()).rows).toHaveLength(120);
  expect(await query.loadOlder(50)).toBe('start');
});

it('a device whose store is slow catches up in few transactions', async () => {
  const store = new Shared();
  const first = app.open({ store });
  await first.createConversation('x', C(1));
  await app.world.clock.pass(0);
  await app.end(first);
  const texts = Array.from({ length: 100 }, (_, n) => `${n}`);
  let writes = 0;
  const { write } = store;
  store.write = (work) => (writes++, write(work));
  store.slow = true;
  const sync = app.open({ store });
  for (let i = 0; i < 100 && app.server.peers.size === 0; i++) await app.world.clock.pass(0);
  texts.forEach((text, n) => app.server.message(C(1), M(n + 1), text, (app.world.clock.now() + n) * 1000));
  for (let i = 0; i < 100 && (await status(sync)).state !== 'live'; i++) await app.world.clock.pass(0);
  await app.world.clock.pass(1_000);
  const { rows } = await sync.messages(C(1), { limit: 200 }).read();
  expect(rows.map((row) => row.content)).toEqual(texts);
  expect(writes).toBeLessThan(30);
});
