/** The whole library in a world whose time, network and tabs the test controls. */

import { describe, expect, it, vi } from 'vitest';

import { UNTOUCHED } from '../src/clean.js';
import { WriteError } from '../src/mutation.js';
import { LOCAL } from '../src/rows.js';
import type { Status } from '../src/status.js';
import { StoreError, type Store } from '../src/store.js';
import { MemoryStore } from '../src/store/memory.js';
import type { ChatSync as Sync } from '../src/chat.js';
import type { TokenReason } from '../src/token.js';
import { App, USER } from './support/app.js';
import { newConversation } from './support/model.js';
import { C, conversation, CONVERSATION, id, M, message, MESSAGE, tokenOf } from './support/rows.js';
import { quiet } from './support/world.js';

const app = new App();

const status = (sync: Sync): Promise<Status> => sync.status.read();
const texts = async (sync: Sync, conversation = C(1)): Promise<string[]> =>
  (await sync.messages(conversation).read()).rows.map((row) => row.content);
const now = (): number => app.world.clock.now() * 1000;

/** Another device writes a conversation with messages 1 … count, a second apart. */
function history(n: number, count: number, at = now() - 10_000_000_000): void {
  app.server.push(id(99), (app.server.state.clients.get(id(99))?.n ?? 0) + 1, [newConversation(C(n), `c${n}`, at)]);
  for (let i = 1; i <= count; i++) app.server.message(C(n), M(1000 * n + i), `${i}`, at + i * 1_000_000);
}

describe('offline first', () => {
  it('a write is shown at once, with its state', async () => {
    app.world.network.mode = 'down';
    const sync = app.open();
    const home = await sync.createConversation('Trip');
    await sync.sendMessage(home, 'Hello');
    expect((await sync.conversations().read()).rows).toMatchObject([{ title: 'Trip', state: 'pending' }]);
    expect(await sync.messages(home).read()).toMatchObject({
      rows: [{ content: 'Hello', state: 'pending', hole: false }],
      more: false,
    });
    expect(await status(sync)).toMatchObject({ pending: 2, lastLive: null });
    app.world.network.mode = 'up';
    await app.world.clock.pass(2_000);
    expect((await sync.messages(home).read()).rows).toMatchObject([{ content: 'Hello', state: 'synced' }]);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0, reason: null, tier: 'pro' });
    expect((await status(sync)).lastLive).toBeGreaterThan(0);
  });

  it('writes get instants by the clock of the server, each later than the last', async () => {
    app.server.now = () => app.world.clock.now() - 86_400_000;
    const sync = app.open();
    await app.world.clock.pass(0);
    const home = await sync.createConversation();
    await Promise.all([sync.sendMessage(home, 'a'), sync.sendMessage(home, 'b')]);
    const { rows } = await sync.messages(home).read();
    expect(rows.map((row) => row.content)).toEqual(['a', 'b']);
    expect(rows[0]?.createdAt).toBe((app.world.clock.now() - 86_400_000) * 1000 + 1);
    expect(rows[1]?.createdAt).toBe((app.world.clock.now() - 86_400_000) * 1000 + 2);
  });

  it('a write that can never be sent is refused, and nothing of it is stored', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    const home = await sync.createConversation();
    await expect(sync.sendMessage(home, 'a\0b')).rejects.toThrow(WriteError);
    await expect(sync.sendMessage(home, '\ud800')).rejects.toMatchObject({
      code: 'bad_text',
      message: expect.stringContaining('half of a surrogate pair'),
    });
    await expect(sync.sendMessage(home, 'x'.repeat(100_001))).rejects.toMatchObject({
      code: 'too_long',
      message: expect.stringContaining('100001 bytes'),
    });
    await expect(sync.sendMessage('HOME', 'x')).rejects.toThrow(WriteError);
    await expect(sync.editMessage(M(1), 'x')).rejects.toThrow('no such message');
    await expect(sync.renameConversation(C(9), 'x')).rejects.toThrow('no such conversation');
    await expect(sync.discard(77)).rejects.toThrow(WriteError);
    await app.world.clock.pass(0);
    expect(await status(sync)).toMatchObject({ pending: 0, rejected: 0 });
  });

  it('a rejected write stays, and the user can correct, retry or discard it', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    const home = await sync.createConversation('x');
    await sync.sendMessage(home, 'refuse me');
    await sync.sendMessage(home, 'fine');
    await app.world.clock.pass(0);
    const shown = (await sync.messages(home).read()).rows;
    expect(shown).toMatchObject([
      { content: 'refuse me', state: 'rejected', code: 'refused', reason: 'It cannot be.' },
      { content: 'fine', state: 'synced' },
    ]);
    expect(await sync.quarantine.read()).toHaveLength(1);
    await expect(sync.editMessage(shown[0]?.id ?? '', 'x')).rejects.toThrow('retry or discard');
    await sync.retry(shown[0]?.key ?? -1, 'take me');
    await app.world.clock.pass(0);
    expect((await sync.messages(home).read()).rows).toMatchObject([
      { content: 'take me', state: 'synced' },
      { content: 'fine' },
    ]);
    await sync.sendMessage(home, 'refuse me again');
    await app.world.clock.pass(0);
    await sync.discard((await sync.quarantine.read())[0]?.key ?? -1);
    expect(await texts(sync, home)).toEqual(['take me', 'fine']);
  });

  it('a store belongs to one user', async () => {
    const store = new MemoryStore();
    await app.open({ store }).ready;
    const other = app.open({ store, user: id(2) });
    await expect(other.ready).rejects.toThrow(StoreError);
    await expect(other.sendMessage(C(1), 'x')).rejects.toThrow("another user's");
  });

  it('a query calls its listeners at a change, once for changes that came together, and never without listeners', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    history(1, 0);
    const query = sync.messages(C(1));
    let calls = 0;
    const stop = query.subscribe(() => calls++);
    await quiet();
    const before = calls;
    app.server.message(C(1), M(1), 'a', now());
    app.server.message(C(1), M(2), 'b', now() + 1);
    await app.world.clock.pass(0);
    expect(query.value?.rows.map((row) => row.content)).toEqual(['a', 'b']);
    expect(calls - before).toBeLessThanOrEqual(4);
    stop();
    const after = calls;
    app.server.message(C(1), M(3), 'c', now() + 2);
    await app.world.clock.pass(0);
    expect(calls).toBe(after);
    expect((await query.read()).rows).toHaveLength(3);
  });
});

describe('coming back', () => {
  it('a device waits twice as long after each failure, and connects at once when its tab becomes visible', async () => {
    app.world.network.mode = 'down';
    const tab = app.world.tab();
    app.open({ environment: tab.environment() });
    await app.world.clock.pass(40_000);
    const waits = app.world.network.attempts.slice(1).map((at, i) => at - (app.world.network.attempts[i] ?? 0));
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 15_000]);
    const before = app.world.network.attempts.length;
    tab.show();
    await app.world.clock.pass(0);
    expect(app.world.network.attempts.length).toBe(before + 1);
  });

  it('a device waits as long as the server advised, also when its tab becomes visible', async () => {
    const tab = app.world.tab();
    const sync = app.open({ environment: tab.environment() });
    await app.world.clock.pass(0);
    for (const peer of [...app.server.peers]) {
      peer.say({ t: 'error', code: 'going_away', message: '', retryable: true, retry_after: 5000 });
      peer.shut(4000);
    }
    await app.world.clock.pass(100);
    tab.show();
    await app.world.clock.pass(4_800);
    expect(app.world.network.attempts).toHaveLength(1);
    expect((await status(sync)).state).toBe('offline');
    await app.world.clock.pass(200);
    expect((await status(sync)).state).toBe('live');
  });

  it('a dead connection is noticed by its silence, and by a probe after waking up', async () => {
    const tab = app.world.tab();
    const sync = app.open({ environment: tab.environment() });
    await app.world.clock.pass(0);
    app.world.network.mode = 'dead';
    await app.world.clock.pass(2 * app.server.keepalive - 1);
    expect(app.world.network.attempts).toHaveLength(1);
    app.world.network.mode = 'up';
    await app.world.clock.pass(1_000);
    expect(app.world.network.attempts).toHaveLength(2);
    expect((await status(sync)).state).toBe('live');
    app.world.network.mode = 'dead';
    tab.show();
    await app.world.clock.pass(2_400);
    expect(app.world.network.attempts).toHaveLength(2);
    app.world.network.mode = 'up';
    await app.world.clock.pass(1_200);
    expect(app.world.network.attempts).toHaveLength(3);
    tab.show();
    await app.world.clock.pass(3_000);
    expect(app.world.network.attempts).toHaveLength(3);
  });

  it('a device that comes back gets the changes after its cursor', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    history(1, 2);
    await app.world.clock.pass(0);
    app.world.network.mode = 'down';
    app.world.network.cut();
    app.server.message(C(1), M(9), 'missed', now());
    await app.world.clock.pass(100);
    expect(await texts(sync)).toEqual(['1', '2']);
    app.world.network.mode = 'up';
    await app.world.clock.pass(2_000);
    expect(await texts(sync)).toEqual(['1', '2', 'missed']);
  });

  it('a device closes with 4000 when the server breaks the protocol, and comes back', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    const [socket] = app.world.network.sockets;
    for (const peer of app.server.peers) peer.say({ t: 'changes', from: 'AAAA', to: 'AAAB', rows: [], seq: 1 });
    await app.world.clock.pass(0);
    expect(socket?.closedWith).toEqual([4000]);
    expect((await status(sync)).reason).toMatchObject({ code: 'ProtocolError' });
    await app.world.clock.pass(1_000);
    expect(await status(sync)).toMatchObject({ state: 'live', reason: null });
  });

  it('a device that is told to start over keeps its unsent writes', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    history(1, 1);
    await app.world.clock.pass(0);
    for (const peer of [...app.server.peers]) {
      peer.say({ t: 'error', code: 'position_lost', message: '', retryable: true });
      peer.shut(4200);
    }
    await sync.sendMessage(C(1), 'mine');
    await app.world.clock.pass(2_000);
    expect(await texts(sync)).toEqual(['1', 'mine']);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0 });
  });

  it('a push that got an error is sent again when the server says, on a later connection no earlier', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    app.server.pushErrors.push({ code: 'slow_down', retry_after: 8_000 });
    const home = await sync.createConversation('x');
    await app.world.clock.pass(1_000);
    app.world.network.cut();
    await app.world.clock.pass(6_500);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 1 });
    await app.world.clock.pass(3_000);
    expect(await status(sync)).toMatchObject({ pending: 0 });
    expect(app.server.conversations.has(home)).toBe(true);
  });

  it('a mutation is not sent again while its result is being stored', async () => {
    class Slow extends MemoryStore {
      override async write<T>(work: Parameters<typeof MemoryStore.prototype.write<T>>[0]): Promise<T> {
        const written = await super.write(work);
        for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
        return written;
      }
    }
    const sync = app.open({ store: new Slow() });
    await app.world.clock.pass(0);
    const home = await sync.createConversation('x');
    for (let i = 0; i < 20; i++) await sync.sendMessage(home, `${i}`);
    for (let i = 0; i < 20; i++) await app.world.clock.pass(0);
    expect(await status(sync)).toMatchObject({ pending: 0 });
    expect(app.server.repeats).toBe(0);
  });

  it('a device connects in the end although its store was full, or failed, when it began', async () => {
    class Failing extends MemoryStore {
      broken: 'no' | 'full' | 'all' = 'no';
      override read: MemoryStore['read'] = (work) => (this.broken === 'all' ? this.fail() : super.write(work));
      override write: MemoryStore['write'] = (work) => (this.broken === 'no' ? super.write(work) : this.fail());
      override async close(): Promise<void> {}
      private fail(): Promise<never> {
        return Promise.reject(new DOMException('no room', 'QuotaExceededError'));
      }
    }
    for (const how of ['full', 'all'] as const) {
      const store = new Failing();
      const [first, second] = [app.open({ store }), app.open({ store })];
      await Promise.all([first.ready, second.ready]);
      const stop = second.status.subscribe(() => undefined);
      store.broken = how;
      await first.close();
      await app.world.clock.pass(10_000);
      if (how === 'full') {
        expect(await status(second)).toMatchObject({ state: 'offline', reason: { code: 'store_full' }, retryAt: expect.any(Number) });
      }
      store.broken = 'no';
      await app.world.clock.pass(31_000);
      expect(await status(second)).toMatchObject({ state: 'live', reason: null });
      stop();
      await second.close();
    }
  });

  it('a device stays away when the server says so, until the app calls reconnect', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    for (const peer of [...app.server.peers]) {
      peer.say({ t: 'error', code: 'bad_frame', message: 'what?', retryable: false });
      peer.shut(4300);
    }
    await app.world.clock.pass(3_600_000);
    expect(app.world.network.attempts).toHaveLength(1);
    expect(await status(sync)).toMatchObject({ state: 'offline', reason: { code: 'bad_frame', message: 'what?' }, retryAt: null });
    sync.reconnect();
    await app.world.clock.pass(0);
    expect((await status(sync)).state).toBe('live');
  });
});

describe('tokens', () => {
  it.each<readonly [string, unknown, string]>([
    ["another user's", tokenOf(id(2)), "another user's token"],
    ['an opaque one', 'v4.local.opaque', 'no JWT with a `sub`'],
    ['one without a sub', tokenOf(undefined), 'no JWT with a `sub`'],
    ['one with a sub that is no text', tokenOf(1), 'no JWT with a `sub`'],
    ['one that is empty', '', 'no JWT with a `sub`'],
    ['one that is none', undefined, 'no JWT with a `sub`'],
  ])('no WebSocket is opened while getToken gives %s, and the status says so', async (_, wrong, words) => {
    let token = wrong as string;
    const sync = app.open({ getToken: () => token });
    await sync.createConversation('mine');
    await app.world.clock.pass(60_000);
    expect(await status(sync)).toMatchObject({
      pending: 1,
      reason: { code: 'TokenError', message: expect.stringContaining(words) },
    });
    expect(app.world.network.attempts).toEqual([]);
    token = tokenOf(USER.toUpperCase());
    await app.world.clock.pass(31_000); // the longest pause between two attempts
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0, reason: null });
  });

  it('an unreadable token refreshes no connection, and the token in use goes on', async () => {
    let token = tokenOf(USER);
    const offered: string[] = [];
    app.server.tokens = (each) => offered.push(each) > 0;
    app.server.tokenLife = 600_000;
    const sync = app.open({ getToken: () => token });
    await app.world.clock.pass(0);
    token = 'opaque';
    for (let i = 0; i < 28; i++) {
      for (const peer of app.server.peers) peer.say({ t: 'pong' });
      await app.world.clock.pass(20_000);
    }
    expect(offered).toEqual([tokenOf(USER)]);
    expect(await status(sync)).toMatchObject({ state: 'live', reason: { code: 'TokenError' } });
  });

  it('another token is asked for before the one in use ends', async () => {
    const reasons: TokenReason[] = [];
    app.server.tokenLife = 600_000;
    app.open({ getToken: (reason) => tokenOf(USER, reasons.push(reason)) });
    await app.world.clock.pass(0);
    // Heartbeats keep the line alive.
    for (let i = 0; i < 60; i++) {
      for (const peer of app.server.peers) peer.say({ t: 'pong' });
      await app.world.clock.pass(20_000);
    }
    expect(app.world.network.attempts).toHaveLength(1);
    expect(reasons).toEqual(['connecting', 'expiring', 'expiring']);
  });

  it('a refused token is not sent again', async () => {
    const reasons: TokenReason[] = [];
    let token = tokenOf(USER, 'stale');
    app.server.tokens = (offered) => offered.endsWith('fresh');
    const sync = app.open({ getToken: (reason) => (reasons.push(reason), token) });
    await app.world.clock.pass(20_000);
    expect(app.world.network.attempts).toHaveLength(1);
    expect(reasons.slice(0, 3)).toEqual(['connecting', 'refused', 'refused']);
    token = tokenOf(USER, 'fresh');
    await app.world.clock.pass(30_000);
    expect((await status(sync)).state).toBe('live');
    expect(app.world.network.attempts).toHaveLength(2);
  });

  it('a token that does not come, or comes late, does not keep a device offline for ever', async () => {
    let asked = 0;
    const sync = app.open({
      getToken: () =>
        asked++ === 0
          ? new Promise<string>(() => undefined)
          : asked === 2
            ? Promise.reject(new Error('no'))
            : tokenOf(USER),
    });
    await app.world.clock.pass(63_000);
    expect(asked).toBe(3);
    expect((await status(sync)).state).toBe('live');
  });
});

describe('histories', () => {
  const WINDOW = { conversation: 2, message: 3 };

  it('a list that is shown before its parent is inserted is whole from then on', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    await sync.conversations().read();
    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.world.clock.pass(0);
    const list = sync.messages(C(5));
    list.subscribe(() => undefined);
    await vi.waitFor(() => expect(list.value?.more).toBe(true), 20_000);
    await sync.createConversation('Trip', C(5));
    await vi.waitFor(() => expect(list.value?.more).toBe(false), 20_000);
  });

  it('a history is shown from its floor on; older rows come from the store, then from the server', async () => {
    for (let n = 1; n <= 4; n++) history(n, 20, now() - 10_000_000_000 + n * 1_000_000_000);
    const sync = app.open({ window: WINDOW });
    await app.world.clock.pass(0);
    const list = sync.conversations({ limit: 2 });
    expect((await list.read()).rows.map((row) => row.id)).toEqual([C(4), C(3)]);
    expect(list.value?.more).toBe(true);
    const query = sync.messages(C(4), { limit: 3 });
    expect((await query.read()).rows.map((row) => row.content)).toEqual(['18', '19', '20']);

    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.world.clock.pass(0);
    expect(await query.loadOlder(4)).toBe('offline');
    app.world.network.mode = 'up';
    await app.world.clock.pass(5_000);
    const seen: string[] = [];
    for (;;) {
      const older = query.loadOlder(4);
      await quiet();
      if ((await older) !== 'here') break;
      seen.push(query.value?.rows[0]?.content ?? '');
    }
    expect(seen).toEqual(['14', '10', '6', '2', '1']);
    expect(await query.read()).toMatchObject({ more: false });
    const more = list.loadOlder(5);
    await quiet();
    expect(await more).toBe('here');
    expect(list.value?.rows.map((row) => row.id)).toEqual([C(4), C(3), C(2), C(1)]);
    expect(list.value?.more).toBe(false);
  });

  it('an old message is never shown as if no message were between it and the next', async () => {
    history(1, 20);
    const sync = app.open({ window: WINDOW });
    await app.world.clock.pass(0);
    app.server.push(id(98), 1, [
      ['~', 'm', [M(1005), app.server.messages.get(M(1005))?.createdAt ?? 0], { content: 'edited' }, now()],
    ]);
    await app.world.clock.pass(0);
    expect(await texts(sync)).toEqual(['18', '19', '20']);
    const query = sync.messages(C(1), { limit: 3 });
    for (let i = 0; i < 6; i++) {
      void query.loadOlder(3);
      await quiet();
    }
    expect((await query.read()).rows.map((row) => row.content)).toEqual(
      Array.from({ length: 20 }, (_, i) => (i === 4 ? 'edited' : `${i + 1}`)),
    );
  });

  it('a list shows the newest rows, as many as were asked for, whatever waits in the outbox', async () => {
    history(1, 4);
    const sync = app.open();
    await app.world.clock.pass(0);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.world.clock.pass(0);
    const query = sync.messages(C(1), { limit: 3 });
    const shown = async (): Promise<unknown> => {
      const { rows, more } = await query.read();
      return { rows: rows.map((row) => row.content), more };
    };
    await sync.sendMessage(C(1), 'a');
    expect(await shown()).toEqual({ rows: ['3', '4', 'a'], more: true });
    await sync.sendMessage(C(1), 'b');
    expect(await shown()).toEqual({ rows: ['4', 'a', 'b'], more: true });
    await sync.deleteMessage(M(1004));
    await sync.deleteMessage(M(1003));
    expect(await shown()).toEqual({ rows: ['2', 'a', 'b'], more: true });
    expect(await query.loadOlder(1)).toBe('here');
    expect(await shown()).toEqual({ rows: ['1', '2', 'a', 'b'], more: false });
    expect(await query.loadOlder(1)).toBe('start');
    await sync.sendMessage(C(1), 'c');
    expect(await shown()).toEqual({ rows: ['2', 'a', 'b', 'c'], more: true });
    expect(await query.loadOlder(5)).toBe('here');
    expect(await shown()).toEqual({ rows: ['1', '2', 'a', 'b', 'c'], more: false });
    const list = sync.conversations({ limit: 1 });
    const home = await sync.createConversation('new');
    expect(await list.read()).toMatchObject({ rows: [{ id: home }], more: true });
  });

  it('a history without a floor is marked, and fetched as soon as possible', async () => {
    for (let n = 1; n <= 4; n++) history(n, 8, now() - 10_000_000_000 + n * 1_000_000_000);
    const sync = app.open({ window: WINDOW });
    await app.world.clock.pass(0);
    app.server.message(C(1), M(1), 'news', now());
    await app.world.clock.pass(0);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.world.clock.pass(0);
    const query = sync.messages(C(1), { limit: 5 });
    expect(await query.read()).toMatchObject({ rows: [{ content: 'news', hole: true }], more: true });
    const stop = query.subscribe(() => undefined);
    app.world.network.mode = 'up';
    await app.world.clock.pass(5_000);
    expect(query.value?.rows.map((row) => [row.content, row.hole])).toEqual(
      ['5', '6', '7', '8', 'news'].map((text) => [text, false]),
    );
    stop();
  });

  it('the history of a conversation that was just begun elsewhere is complete', async () => {
    history(1, 1);
    const sync = app.open({ window: WINDOW });
    await app.world.clock.pass(0);
    history(2, 2, now());
    await app.world.clock.pass(0);
    expect(await sync.messages(C(2)).read()).toMatchObject({
      rows: [{ content: '1', hole: false }, { content: '2' }],
      more: false,
    });
  });
});

describe('cleaning', () => {
  it('old conversations are removed when storage runs low, unsent work never; paging brings them back', async () => {
    const old = now() - UNTOUCHED - 1_000_000_000;
    for (let n = 1; n <= 3; n++) history(n, 2, old + n);
    history(4, 2);
    const store = new MemoryStore();
    const sync = app.open({ store });
    await app.world.clock.pass(0);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.world.clock.pass(0);
    await sync.editMessage(M(2001), 'unsent');
    expect(await sync.cleanNow()).toBe(0);
    app.world.estimate = { usage: 90, quota: 100 };
    expect(await sync.cleanNow()).toBe(2);
    expect(await texts(sync, C(2))).toEqual(['unsent', '2']);
    expect(await store.read((tx) => tx.of(MESSAGE, C(1)))).toEqual([]);
    const list = sync.conversations();
    expect((await list.read()).rows.map((row) => row.id)).toEqual([C(4), C(2)]);
    expect(list.value?.more).toBe(true);
    app.world.network.mode = 'up';
    await app.world.clock.pass(40_000);
    const older = list.loadOlder();
    await quiet();
    expect(await older).toBe('here');
    expect((await list.read()).rows.map((row) => row.id).sort()).toEqual([C(1), C(2), C(3), C(4)]);
    const query = sync.messages(C(1));
    const stop = query.subscribe(() => undefined);
    await quiet();
    expect(query.value?.rows.map((row) => row.content)).toEqual(['1', '2']);
    stop();
  });
});

describe('tiers', () => {
  it('a device without a tier works alone, and an upgrade pushes its work once, with progress', async () => {
    const store = new MemoryStore();
    const sync = app.alone({ store });
    const home = await sync.createConversation('Mine');
    const gone = await sync.sendMessage(home, 'gone');
    for (let i = 0; i < 10; i++) await sync.sendMessage(home, `${i}`);
    const first = (await sync.messages(home).read()).rows[1];
    await sync.editMessage(first?.id ?? '', 'zero');
    await sync.deleteMessage(gone);
    await sync.renameConversation(home, 'All mine');
    const dropped = await sync.createConversation('x');
    await sync.sendMessage(dropped, 'x');
    await sync.deleteConversation(dropped);
    await app.world.clock.pass(100_000);
    expect(app.world.network.attempts).toEqual([]);
    expect(await status(sync)).toMatchObject({ state: 'local', pending: 0 });
    const expected = ['zero', ...Array.from({ length: 9 }, (_unused, i) => `${i + 1}`)];
    const shown = (await sync.messages(home).read()).rows;
    expect(shown.map((row) => row.content)).toEqual(expected);
    expect(new Set(shown.map((row) => row.state))).toEqual(new Set(['local']));

    const progress: unknown[] = [];
    const stop = sync.status.subscribe(() => progress.push(sync.status.value.progress?.done));
    await sync.upgrade(() => tokenOf(USER));
    await app.world.clock.pass(0);
    app.world.network.cut(); // in the middle, or not: nothing may be twice
    await app.world.clock.pass(5_000);
    stop();
    expect(progress.some((done) => typeof done === 'number' && done > 0)).toBe(true);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0, rejected: 0, progress: null });
    expect([...app.server.messages.values()].map((row) => row.content).sort()).toEqual([...expected].sort());
    expect([...app.server.conversations.values()].map((row) => row.title)).toEqual(['All mine']);
    expect(await texts(sync, home)).toEqual(expected);
    expect(await store.read((tx) => tx.local(MESSAGE))).toEqual([]);
  });

  it('a downgrade lasts in the store until an upgrade, whatever tokens there are', async () => {
    const store = new MemoryStore();
    store.close = async () => undefined;
    const before = app.open({ store });
    await app.world.clock.pass(0);
    await before.downgrade();
    await before.close();
    const after = app.open({ store });
    const home = await after.createConversation('mine');
    after.reconnect();
    await app.world.clock.pass(60_000);
    expect(await status(after)).toMatchObject({ state: 'local', pending: 0 });
    expect(app.world.network.attempts).toHaveLength(1);
    await after.upgrade();
    await app.world.clock.pass(0);
    expect(await status(after)).toMatchObject({ state: 'live', pending: 0 });
    expect(app.server.conversations.has(home)).toBe(true);
  });

  it('local work on rows that the server has already is applied to them, however much there is', async () => {
    history(1, 300);
    const store = new MemoryStore();
    await store.write(async (tx) => {
      const at = now() - 10_000_000_000;
      await tx.put(CONVERSATION, [conversation(1, LOCAL, { title: 'c1', createdAt: at, updatedAt: at })]);
      await tx.put(
        MESSAGE,
        Array.from({ length: 300 }, (_, i) =>
          message(1001 + i, 1, LOCAL, { content: `${i + 1}`, createdAt: at + (i + 1) * 1_000_000 }),
        ),
      );
    });
    const sync = app.alone({ store });
    await sync.renameConversation(C(1), 'Renamed');
    await sync.editMessage(M(1300), 'edited');
    await sync.upgrade(() => tokenOf(USER));
    for (let i = 0; i < 5; i++) await app.world.clock.pass(0);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0, rejected: 0, progress: null });
    expect(app.server.conversations.get(C(1))?.title).toBe('Renamed');
    expect(app.server.messages.get(M(1300))?.content).toBe('edited');
    expect(app.server.messages.size).toBe(300);
    expect((await sync.messages(C(1)).read()).rows.at(-1)).toMatchObject({ content: 'edited', state: 'synced' });
  });

  it('a downgrade keeps every row, and later writes wait', async () => {
    history(1, 2);
    const sync = app.open();
    await app.world.clock.pass(0);
    app.server.setTier('free');
    await app.world.clock.pass(60_000);
    expect(app.world.network.attempts).toHaveLength(1);
    expect(await status(sync)).toMatchObject({ state: 'local', reason: { code: 'local_only' } });
    expect(await texts(sync)).toEqual(['1', '2']);
    await sync.sendMessage(C(1), 'three');
    const alone = await sync.createConversation('alone');
    await sync.sendMessage(alone, 'solo');
    expect(await texts(sync)).toEqual(['1', '2', 'three']);
    app.server.setTier('pro');
    await sync.upgrade();
    await app.world.clock.pass(1_000);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0 });
    expect([...app.server.messages.values()].map((row) => row.content)).toEqual(['1', '2', 'three', 'solo']);
    await sync.downgrade();
    expect(await status(sync)).toMatchObject({ state: 'local' });
    expect(app.world.network.sockets.size).toBe(0);
  });
});

describe('tabs', () => {
  const store = (): Store => new MemoryStore();

  it('all tabs share one connection, and show the same', async () => {
    const shared = store();
    const [a, b] = [app.open({ store: shared }), app.open({ store: shared })];
    await app.world.clock.pass(0);
    expect(app.world.network.attempts).toHaveLength(1);
    history(1, 30);
    const query = b.messages(C(1), { limit: 2 });
    const stop = query.subscribe(() => undefined);
    await app.world.clock.pass(0);
    app.server.message(C(1), M(1), 'hello', now());
    await app.world.clock.pass(0);
    expect(query.value?.rows.at(-1)?.content).toBe('hello');
    expect((await status(b)).state).toBe('live');
    await b.sendMessage(C(1), 'from b');
    await app.world.clock.pass(0);
    expect((await a.messages(C(1)).read()).rows.at(-1)).toMatchObject({ content: 'from b', state: 'synced' });
    stop();
  });

  it('the leading tab fetches older pages for the others', async () => {
    history(1, 20);
    const shared = store();
    app.open({ store: shared, window: { conversation: 1, message: 2 } });
    const b = app.open({ store: shared });
    await app.world.clock.pass(0);
    const query = b.messages(C(1), { limit: 2 });
    const older = query.loadOlder(3);
    await app.world.clock.pass(0);
    expect(await older).toBe('here');
    expect(query.value?.rows.map((row) => row.content)).toEqual(['16', '17', '18', '19', '20']);
  });

  it('another tab takes the lead when the leader crashed or was closed', async () => {
    const shared = store();
    const first = app.world.tab();
    const a = app.open({ store: shared, environment: first.environment() });
    const [b, c] = [app.open({ store: shared }), app.open({ store: shared })];
    await app.world.clock.pass(0);
    first.crash();
    app.world.network.cut();
    await b.createConversation('x');
    await app.world.clock.pass(1_000);
    expect(await status(b)).toMatchObject({ state: 'live', pending: 0 });
    await b.close();
    await app.world.clock.pass(1_000);
    await c.createConversation('y');
    await app.world.clock.pass(1_000);
    expect(await status(c)).toMatchObject({ state: 'live', pending: 0 });
    expect(app.server.conversations.size).toBe(2);
    void a;
  });

  it('a frozen leader does not hold up the other tabs, and follows when it thaws', async () => {
    const shared = store();
    const first = app.world.tab();
    const a = app.open({ store: shared, environment: first.environment() });
    const second = app.world.tab();
    const b = app.open({ store: shared, environment: second.environment() });
    await app.world.clock.pass(0);
    expect(app.world.network.attempts).toHaveLength(1);
    await app.world.clock.pass(20_000); // a leader that answers is left alone
    expect(app.world.network.attempts).toHaveLength(1);

    first.freeze();
    second.show();
    const home = await b.createConversation('a is frozen');
    await app.world.clock.pass(9_000);
    expect(app.world.network.attempts).toHaveLength(2);
    expect(await status(b)).toMatchObject({ state: 'live', pending: 0 });

    first.thaw();
    await app.world.clock.pass(30_000);
    expect(app.world.network.attempts).toHaveLength(2);
    await a.sendMessage(home, 'from a');
    await app.world.clock.pass(0);
    expect(await status(a)).toMatchObject({ state: 'live', pending: 0 });
    expect([...app.server.messages.values()].map((row) => row.content)).toEqual(['from a']);
    expect(app.world.network.sockets.size).toBe(1);
  });

  it('hidden tabs do not take the lead from a silent leader', async () => {
    const shared = store();
    const first = app.world.tab();
    app.open({ store: shared, environment: first.environment() });
    const second = app.world.tab();
    second.seen = false;
    app.open({ store: shared, environment: second.environment() });
    await app.world.clock.pass(0);
    first.freeze();
    await app.world.clock.pass(40_000);
    expect(app.world.network.attempts).toHaveLength(1);
    second.show();
    await app.world.clock.pass(9_000);
    expect(app.world.network.attempts).toHaveLength(2);
    first.thaw();
    await app.world.clock.pass(0);
  });

  it('an upgrading tab takes the lead, because it has a getToken; a downgrade reaches the leader', async () => {
    const shared = store();
    const [a, b] = [app.alone({ store: shared }), app.alone({ store: shared })];
    await app.world.clock.pass(0);
    await b.createConversation('mine');
    await b.upgrade(() => tokenOf(USER));
    await app.world.clock.pass(1_000);
    for (const sync of [a, b]) expect(await status(sync)).toMatchObject({ state: 'live', pending: 0 });
    expect(app.server.conversations.size).toBe(1);
    await a.downgrade();
    await app.world.clock.pass(1_000);
    expect(app.world.network.sockets.size).toBe(0);
    expect(await status(b)).toMatchObject({ state: 'local' });
  });

  it('a follower can make the leader reconnect, whatever the server told the leader', async () => {
    const shared = store();
    const [a, b] = [app.open({ store: shared }), app.open({ store: shared })];
    await app.world.clock.pass(0);
    for (const peer of [...app.server.peers]) {
      peer.say({ t: 'error', code: 'bad_frame', message: 'what?', retryable: false });
      peer.shut(4300);
    }
    await app.world.clock.pass(60_000);
    expect(await status(b)).toMatchObject({ state: 'offline', reason: { code: 'bad_frame' } });
    b.reconnect();
    await app.world.clock.pass(1_000);
    for (const sync of [a, b]) expect(await status(sync)).toMatchObject({ state: 'live', reason: null });
    expect(app.world.network.attempts).toHaveLength(2);
  });

  it('a copied store gets another client_id by renew(), and pending writes are pushed under it', async () => {
    const shared = store();
    const sync = app.open({ store: shared });
    await app.world.clock.pass(0);
    await sync.createConversation('first');
    await app.world.clock.pass(0);
    const before = (await shared.read((tx) => tx.meta())).clientId;
    app.world.network.mode = 'down';
    app.world.network.cut();
    await sync.createConversation('second');
    app.world.network.mode = 'up';
    const renewing = sync.renew();
    await app.world.clock.pass(40_000);
    await renewing;
    await app.world.clock.pass(1_000);
    expect((await shared.read((tx) => tx.meta())).clientId).not.toBe(before);
    expect(await status(sync)).toMatchObject({ state: 'live', pending: 0, rejected: 0 });
    expect(app.server.conversations.size).toBe(2);
  });

  it('without locks, the visible tab leads', async () => {
    const shared = store();
    const [first, second] = [app.world.tab(), app.world.tab()];
    const a = app.open({ store: shared, environment: { ...first.environment(), locks: null } });
    await app.world.clock.pass(0);
    const b = app.open({ store: shared, environment: { ...second.environment(), locks: null } });
    await app.world.clock.pass(5_000);
    expect(app.world.network.sockets.size).toBe(1);
    await a.createConversation('x');
    first.show();
    await app.world.clock.pass(5_000);
    expect(app.world.network.sockets.size).toBe(1);
    expect(await status(a)).toMatchObject({ state: 'live', pending: 0 });
    expect(await status(b)).toMatchObject({ pending: 0 });
  });
});
