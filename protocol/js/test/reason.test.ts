/** Why there is no connection: each trouble is one sentence with what to do, as soon as it is known. */

import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';

import type { ChatSync } from '../src/chat.js';
import type { FetchLike } from '../src/reason.js';
import type { Status } from '../src/status.js';
import { StoreError } from '../src/store.js';
import { MemoryStore } from '../src/store/memory.js';
import type { WebSocketClass } from '../src/websocket.js';
import { App, USER } from './support/app.js';
import { device, until } from './support/device.js';
import { id, tokenOf } from './support/rows.js';

const app = new App();
const status = (sync: ChatSync): Promise<Status> => sync.status.read();

describe('over real sockets', () => {
  const ends: (() => Promise<unknown>)[] = [];
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
  });

  async function listening(answer: RequestListener): Promise<number> {
    const server: Server = createServer(answer);
    ends.push(() => new Promise((resolve) => server.close(resolve)));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return (server.address() as AddressInfo).port;
  }
  async function unused(): Promise<number> {
    const port = await listening(() => undefined);
    await ends.pop()?.();
    return port;
  }
  /** What the status says in the end. */
  async function reasonAt(url: string, code: string): Promise<string> {
    const sync = device({ url, user: USER, getToken: () => tokenOf(USER) });
    ends.unshift(() => sync.close());
    const { reason, retryAt, state } = await until(
      sync.status,
      (value) => value.reason?.code === code && value.retryAt !== null,
    );
    expect(state).toBe('offline');
    expect(retryAt).toBeGreaterThan(Date.now() - 31_000);
    expect(reason?.message.split(': ').length).toBeGreaterThan(1);
    return reason?.message ?? '';
  }

  it.each<readonly [number, string, string]>([
    [404, 'http_404', 'answered 404: check the path'],
    [403, 'http_403', "answered 403: add this page's origin"],
    [502, 'http_502', 'answered 502: it is tried again'],
    [200, 'http_200', 'answered 200, not as Atlas Sync does: check the address'],
    [301, 'redirect', 'redirects elsewhere: use the address'],
    [426, 'no_websocket', 'no WebSocket opens: let the proxies'],
  ])('a server that answers %i', async (code, name, says) => {
    const credentials: unknown[] = [];
    const port = await listening((request, response) => {
      credentials.push(request.headers.cookie, request.headers.authorization);
      response.writeHead(code, { Location: 'https://elsewhere.example.com/' }).end();
    });
    const message = await reasonAt(`ws://127.0.0.1:${port}/wrong?key=secret`, name);
    expect(message).toContain(`the server at ws://127.0.0.1:${port}/wrong ${says.startsWith('no ') ? 'answers, but ' : ''}${says}`);
    expect(credentials.filter((each) => each !== undefined)).toEqual([]);
  });

  it('a port at which nothing listens', async () => {
    const url = `ws://127.0.0.1:${await unused()}/sync`;
    expect(await reasonAt(url, 'unreachable')).toMatch(/nothing listens at .*: start the server, or check the port|check the address/);
    const sync = device({ url, user: USER, getToken: () => tokenOf(USER) });
    ends.unshift(() => sync.close());
    await until(sync.status, ({ reason }) => reason?.message.startsWith(`nothing listens at ${url}`) === true);
  });

  it('a host that does not exist', async () => {
    const sync = device({ url: 'ws://nowhere.invalid/sync', user: USER, getToken: () => tokenOf(USER) });
    ends.unshift(() => sync.close());
    await until(sync.status, ({ reason }) => reason?.message.startsWith('there is no such host') === true);
  });

  it('TLS that fails', async () => {
    const port = await listening((_, response) => response.end());
    expect(await reasonAt(`wss://127.0.0.1:${port}/sync`, 'tls')).toContain("mend the server's certificate");
  });

  it('a URL that is none', async () => {
    expect(await reasonAt('wss://', 'bad_url')).toContain('correct `url`');
  });

  it('a URL that is none, which the browser repeats with what is secret in it', async () => {
    class Refusing {
      constructor(url: string) {
        throw new SyntaxError(`The URL '${url}' is invalid.`);
      }
    }
    const environment = { WebSocket: Refusing as unknown as WebSocketClass };
    const sync = device({ url: 'wss//me:secret@host?key=secret', user: USER, getToken: () => tokenOf(USER), environment });
    ends.unshift(() => sync.close());
    const { reason } = await until(sync.status, (value) => value.reason?.code === 'bad_url');
    expect(reason?.message).not.toContain('secret');
  });
});

describe('what a browser may ask', () => {
  /** A page's fetch: asked with these modes, it gives these answers. */
  async function inquire(answers: Readonly<Record<string, unknown>>): Promise<{ sync: ChatSync; asked: string[] }> {
    const asked: string[] = [];
    const fetch: FetchLike = async (url, { mode = 'cors', credentials }) => {
      asked.push(`${mode} ${credentials} ${url}`);
      const answer = answers[mode];
      if (answer === undefined) throw new TypeError('Failed to fetch');
      return answer as { status: number; type: string };
    };
    app.world.network.mode = 'down';
    const sync = app.open({ environment: { ...app.world.tab().environment(), fetch } });
    await app.world.clock.pass(0);
    return { sync, asked };
  }

  it('the URL is asked once a minute at most, and never with credentials', async () => {
    const { sync, asked } = await inquire({ cors: { status: 404, type: 'basic' } });
    expect((await status(sync)).reason?.code).toBe('http_404');
    for (let i = 0; i < 5; i++) {
      await app.world.clock.pass(11_000);
      expect((await status(sync)).reason?.code).toBe('http_404');
    }
    expect(asked).toEqual(['cors omit https://test/sync']);
    await app.world.clock.pass(35_000);
    expect(asked).toHaveLength(2);
  });

  it('an answer that a page may not read still says that something is there', async () => {
    const { sync, asked } = await inquire({ 'no-cors': { status: 0, type: 'opaque' } });
    expect((await status(sync)).reason).toMatchObject({ code: 'no_websocket', message: expect.stringContaining('origins') });
    expect(asked).toHaveLength(2);
  });

  it('without an answer the sentence covers what is known', async () => {
    const { sync } = await inquire({});
    expect((await status(sync)).reason).toMatchObject({
      code: 'unreachable',
      message: expect.stringContaining('nothing answers at wss://test/sync: check the address, its port and certificate'),
    });
  });

  it('an answer that comes once the device is connected is not shown', async () => {
    let answer: (value: { status: number; type: string }) => void = () => undefined;
    const fetch: FetchLike = () => new Promise((resolve) => (answer = resolve));
    app.world.network.mode = 'down';
    const sync = app.open({ environment: { ...app.world.tab().environment(), fetch } });
    await app.world.clock.pass(0);
    expect((await status(sync)).reason?.message).toBe(
      'the server cannot be reached at wss://test/sync: check the address, its port and path',
    );
    app.world.network.mode = 'up';
    await app.world.clock.pass(1_000);
    answer({ status: 404, type: 'basic' });
    await app.world.clock.pass(0);
    expect(await status(sync)).toMatchObject({ state: 'live', reason: null, retryAt: null });
  });

  it('a device without a network says that, and asks nothing', async () => {
    app.world.network.mode = 'down';
    const fetch: FetchLike = () => Promise.reject(new Error('asked'));
    const sync = app.open({ environment: { ...app.world.tab().environment(), fetch, online: () => false } });
    await app.world.clock.pass(0);
    expect((await status(sync)).reason).toMatchObject({ code: 'no_network', message: expect.stringContaining('as soon as') });
  });
});

describe('the server', () => {
  it.each<readonly [string, number]>([
    ['token_refused', 4101],
    ['token_expired', 4100],
    ['too_many_sockets', 4003],
    ['replaced', 4302],
    ['going_away', 4000],
    ['local_only', 4301],
  ])('%s is said in words for people', async (code, close) => {
    const sync = app.open();
    await app.world.clock.pass(0);
    for (const peer of [...app.server.peers]) {
      peer.say({ t: 'error', code, message: 'for clients', retryable: true });
      peer.shut(close);
    }
    app.world.network.mode = 'dead';
    await app.world.clock.pass(0);
    const { reason } = await status(sync);
    expect(reason).toMatchObject({ code, message: expect.not.stringContaining('for clients') });
  });

  it.each<readonly [number, string, string]>([
    [1006, 'cut', 'it is tried again'],
    [4099, 'closed', '(4099): it is tried again'],
    [4199, 'closed', 'another token (4199)'],
    [4299, 'closed', 'fetches everything anew'],
    [4399, 'closed', 'stay away (4399): reconnect()'],
  ])('a close with %i and without an error is said', async (close, code, says) => {
    const sync = app.open();
    await app.world.clock.pass(0);
    app.world.network.mode = 'dead';
    for (const peer of [...app.server.peers]) peer.shut(close);
    await app.world.clock.pass(0);
    expect((await status(sync)).reason).toMatchObject({ code, message: expect.stringContaining(says) });
  });

  it.each(['push', 'page', 'stop'])('a %s that is put off is none, and the cut that follows is', async (answers) => {
    const sync = app.open();
    await app.world.clock.pass(0);
    for (const peer of [...app.server.peers]) {
      peer.say({ t: 'error', code: 'slow_down', message: 'for clients', retryable: true, answers, id: 7 });
    }
    await app.world.clock.pass(0);
    expect(await status(sync)).toMatchObject({ state: 'live', reason: null });
    app.world.network.mode = 'dead';
    for (const peer of [...app.server.peers]) peer.shut(1006);
    await app.world.clock.pass(0);
    expect((await status(sync)).reason?.code).toBe('cut');
  });

  it('a server that falls silent is said, and a new connection made', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    app.world.network.mode = 'dead';
    await app.world.clock.pass(60_000);
    expect((await status(sync)).reason?.code).toMatch(/silent|unreachable/);
    app.world.network.mode = 'up';
    await app.world.clock.pass(45_000);
    expect(await status(sync)).toMatchObject({ state: 'live', reason: null });
  });

  it('the time of the next attempt is shown while it is waited for', async () => {
    app.world.network.mode = 'down';
    const sync = app.open();
    await app.world.clock.pass(0);
    const { retryAt } = await status(sync);
    expect(retryAt).toBe(app.world.clock.now() + 500);
    const attempts = app.world.network.attempts.length;
    await app.world.clock.pass(500);
    expect(app.world.network.attempts).toHaveLength(attempts + 1);
    app.world.network.mode = 'dead';
    await app.world.clock.pass(1_000);
    expect(await status(sync)).toMatchObject({ state: 'connecting', retryAt: null });
  });
});

describe('the app and the device', () => {
  it.each<readonly [string, () => string]>([
    ['signed out', () => { throw new Error('signed out'); }],
    ['no text', () => { throw 'no text'; }],
    ['undefined', () => { throw undefined; }],
  ])('getToken throws %s', async (says, getToken) => {
    const sync = app.open({ getToken });
    await app.world.clock.pass(0);
    expect((await status(sync)).reason).toEqual({
      code: 'no_token',
      message: `getToken() failed (${says}): it is asked again`,
    });
  });

  it('a refused token that getToken gives again', async () => {
    app.server.tokens = () => false;
    const sync = app.open();
    await app.world.clock.pass(0);
    expect((await status(sync)).reason?.code).toBe('token_refused');
    await app.world.clock.pass(2_000);
    expect((await status(sync)).reason).toMatchObject({
      code: 'token_refused',
      message: expect.stringContaining('getToken() gave it again'),
    });
  });

  it('a store that is gone, or is not this user’s, is said by the status itself', async () => {
    class Gone extends MemoryStore {
      gone = false;
      override read: MemoryStore['read'] = (work) => this.write(work);
      override write: MemoryStore['write'] = (work) =>
        this.gone ? Promise.reject(new DOMException('Internal error', 'UnknownError')) : super.write(work);
    }
    const store = new Gone();
    const sync = app.open({ store });
    const seen: Status[] = [];
    sync.status.subscribe(() => seen.push(sync.status.value));
    await app.world.clock.pass(0);
    expect(await status(sync)).toMatchObject({ state: 'live', reason: null });
    store.gone = true;
    expect((await status(sync)).reason).toEqual({
      code: 'store',
      message: 'the database on this device fails (UnknownError: Internal error): reload the app',
    });
    const before = seen.length;
    await app.world.clock.pass(60_000);
    expect(seen.length - before).toBeLessThan(20); // it is no loop
    store.gone = false;

    const shared = new MemoryStore();
    await app.open({ store: shared }).ready;
    const other = app.open({ store: shared, user: id(2), getToken: () => tokenOf(id(2)) });
    await expect(other.ready).rejects.toThrow(StoreError);
    expect((await status(other)).reason).toMatchObject({ code: 'StoreError', message: expect.stringContaining("another user's") });
  });

  it('what the app wants is nothing wrong: a downgrade leaves no reason', async () => {
    const sync = app.open();
    await app.world.clock.pass(0);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.world.clock.pass(100);
    expect((await status(sync)).reason).not.toBeNull();
    await sync.downgrade();
    expect(await status(sync)).toMatchObject({ state: 'local', reason: null, retryAt: null });
  });

  it('all tabs show the reason and the time of the next attempt', async () => {
    const store = new MemoryStore();
    const [a, b] = [app.open({ store }), app.open({ store })];
    app.world.network.mode = 'down';
    await app.world.clock.pass(5_000);
    const { reason, retryAt } = await status(a);
    expect(reason?.code).toBe('unreachable');
    expect(await status(b)).toMatchObject({ reason, retryAt });
  });
});
