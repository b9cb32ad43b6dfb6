/**
 * Streams of a real server: ATLAS_URL and ATLAS_HTTP are its addresses, ATLAS_TOKEN a user's token, ATLAS_SERVICE_TOKEN that
 * of the app's backend, and ATLAS_ROWS a conversation and empty messages of it.
 */

import { afterEach, describe, expect, it } from 'vitest';

import type { ChatSync, ShownMessage } from '../src/chat.js';
import type { Encoding } from '../src/codec.js';
import { device, live, until } from './support/device.js';
import { KINDS } from './support/stores.js';

const { ATLAS_URL: url, ATLAS_HTTP: http, ATLAS_TOKEN: token, ATLAS_SERVICE_TOKEN: service, ATLAS_ROWS } = process.env;
const [home = '', ...messages] = (ATLAS_ROWS ?? '').split(',');
const user = token === undefined ? '' : (JSON.parse(atob(token.split('.')[1] ?? '')) as { sub: string }).sub;

async function call<T>(method: string, path: string, body?: object): Promise<T> {
  const answer = await fetch(`${http}/v1/streams${path}`, {
    method,
    headers: { Authorization: `Bearer ${service}`, 'Content-Type': 'application/json' },
    ...(body && { body: JSON.stringify(body) }),
  });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return (answer.status === 204 ? {} : await answer.json()) as T;
}

/** The app's backend, which writes one message. */
class Writer {
  private offset = 0;
  private stream = '';

  constructor(private readonly message: string) {}

  async open(): Promise<void> {
    const place = { user, kind: 'message', id: this.message, column: 'content' };
    this.stream = (await call<{ stream: string }>('POST', '', place)).stream;
  }

  async write(text: string): Promise<void> {
    this.offset = (await call<{ offset: number }>('PATCH', `/${this.stream}`, { offset: this.offset, text })).offset;
  }

  end(how: 'done' | 'failed', write = true): Promise<unknown> {
    return call('POST', `/${this.stream}/${how}`, { offset: this.offset, write });
  }

  stopped(): Promise<{ readonly state?: string }> {
    return call('GET', `/${this.stream}/stop?wait=25`);
  }
}

const WORDS = ['Grüezi', ' 東京', ' 🚲', ' and', ' more', '.'];

describe.skipIf(ATLAS_ROWS === undefined)('streams of a real server', () => {
  const ends: (() => Promise<void>)[] = [];
  const open = (encoding: Encoding, store = KINDS[0]?.make().store): ChatSync => {
    const sync = device({ url: url ?? '', user, getToken: () => token ?? '', encoding, ...(store && { store }) });
    ends.push(() => sync.close());
    return sync;
  };
  afterEach(async () => {
    for (const end of ends.splice(0)) await end();
  });
  const row = (sync: ChatSync, message: string, will: (row: ShownMessage) => boolean): Promise<unknown> =>
    until(sync.messages(home), ({ rows }) => rows.some((each) => each.id === message && will(each)));

  it.each(['msgpack', 'json'] as const)('an answer grows on two devices, and the row takes its place: %s', async (encoding) => {
    const message = messages.pop() ?? '';
    const [a, b] = [open(encoding), open(encoding)];
    await Promise.all([live(a), live(b)]);
    const query = a.messages(home);
    const seen: string[] = [];
    const leave = query.subscribe(() => {
      const shown = query.value?.rows.find(({ id }) => id === message);
      if (shown) seen.push(shown.content);
    });
    const writer = new Writer(message);
    await writer.open();
    await row(a, message, ({ streaming }) => streaming === true);
    expect(await until(a.streams(), ({ length }) => length === 1)).toEqual([
      { kind: 'message', id: message, column: 'content', parent: home },
    ]);
    for (const word of WORDS) await writer.write(word);
    const text = WORDS.join('');
    await Promise.all([a, b].map((sync) => row(sync, message, ({ content }) => content === text)));
    const late = open(encoding);
    await row(late, message, ({ content, stream }) => content === text && stream === 'open');
    await writer.end('done');
    await Promise.all([a, b, late].map((sync) => row(sync, message, (each) => each.stream === undefined && each.content === text)));
    leave();
    expect(seen.every((content, i) => text.startsWith(content) && content.length >= (seen[i - 1]?.length ?? 0))).toBe(true);
    expect(await until(a.streams(), ({ length }) => length === 0)).toEqual([]);
  });

  it('a device that lost its connection goes on, and shows what it had after a restart without one', async () => {
    const message = messages.pop() ?? '';
    const { store, reopen } = KINDS[1]?.make() ?? expect.fail();
    const first = open('msgpack', store);
    await live(first);
    const writer = new Writer(message);
    await writer.open();
    await writer.write('So far');
    await row(first, message, ({ content }) => content === 'So far');
    await first.close();
    const again = device({ url: 'ws://127.0.0.1:1/sync', user, store: await reopen(), getToken: () => token ?? '' });
    await row(again, message, ({ content, streaming }) => content === 'So far' && streaming === true);
    await again.close();
    await writer.write(', so good.');
    const third = open('msgpack', await reopen());
    await row(third, message, ({ content }) => content === 'So far, so good.');
    await writer.end('done');
    await row(third, message, (each) => each.stream === undefined && each.content === 'So far, so good.');
  });

  it('a stop ends it everywhere, and its writer learns it', async () => {
    const message = messages.pop() ?? '';
    const [a, b] = [open('msgpack'), open('json')];
    await Promise.all([live(a), live(b)]);
    const writer = new Writer(message);
    await writer.open();
    await writer.write('Half an');
    await row(b, message, ({ content }) => content === 'Half an');
    const told = writer.stopped();
    expect(await b.stop('message', message, 'content')).toBe(true);
    expect(await told).toMatchObject({ state: 'stopped' });
    await row(a, message, ({ content, stream }) => content === 'Half an' && stream !== 'open');
    await expect(writer.write(' answer')).rejects.toThrow('409');
    expect(await a.stop('message', message)).toBe(false);
    expect(await a.stop('message', home)).toBe(false);
  });
});
