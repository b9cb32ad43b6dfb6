/** Streams: texts that grow in rows, in one tab and in several, over lost connections and restarts. */

import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';

import type { ChatSync, ShownMessage } from '../src/chat.js';
import { environment } from '../src/environment.js';
import type { StreamFrame } from '../src/frames.js';
import { homeOf, nameOf } from '../src/rows.js';
import type { Store } from '../src/store.js';
import { KEEP_EVERY, Streaming } from '../src/streaming.js';
import {
  fitting,
  named,
  NO_STREAMS,
  placed,
  received,
  streamRow,
  unnamed,
  withRows,
  without,
  type HeldStream,
  type Streams,
} from '../src/streams.js';
import { MemoryStore } from '../src/store/memory.js';
import { codePoints, firstPoints } from '../src/text.js';
import { show } from '../src/view.js';
import { App } from './support/app.js';
import { newConversation } from './support/model.js';
import { C, CHAT_KINDS, id, M, message, MESSAGE } from './support/rows.js';
import { quiet } from './support/world.js';

const app = new App();
const S = (n: number): string => id(0x5000 + n);
const pass = (ms = 0): Promise<void> => app.world.clock.pass(ms);
const now = (): number => app.world.clock.now() * 1000;

/** Another device made a conversation with an empty message, which the app's backend will write. */
function placeholder(n = 1, content = ''): void {
  if (!app.server.conversations.has(C(1)))
    app.server.push(id(99), (app.server.state.clients.get(id(99))?.n ?? 0) + 1, [newConversation(C(1), 'c', now())]);
  app.server.message(C(1), M(n), content, now() + n);
}

/** The app's backend commits the message with this text. */
const commit = (content: string, n = 1): void => {
  const { id: _, home, role, createdAt, updatedAt } = app.server.messages.get(M(n)) as never as Record<string, never>;
  const values = { conversation_id: home, role, content, created_at: createdAt, updated_at: updatedAt };
  app.server.write('message', M(n), values as never);
};

const texts = (rows: readonly ShownMessage[] | undefined): unknown[] =>
  (rows ?? []).map(({ content, stream }) => (stream === undefined ? content : `${content}|${stream}`));
const shown = async (sync: ChatSync): Promise<unknown[]> => texts((await sync.messages(C(1)).read()).rows);

/** What a subscriber of the messages was told, one after the other. */
function watch(sync: ChatSync): { readonly said: unknown[][]; readonly stop: () => void } {
  const query = sync.messages(C(1));
  const said: unknown[][] = [];
  const stop = query.subscribe(() => said.push(texts(query.value?.rows)));
  return { said, stop };
}

/** A device that saw a text begin, and whose connection is cut. */
async function cutOff(): Promise<{ readonly sync: ChatSync } & ReturnType<typeof watch>> {
  placeholder();
  const sync = app.open();
  await pass();
  const watching = watch(sync);
  app.server.begin(S(1), M(1));
  app.server.append(S(1), 'one');
  await pass();
  app.world.network.cut();
  return { sync, ...watching };
}

const TEXT = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '世', '🙂', '🚲', ' ') });

describe('texts by code points', () => {
  it('the length and the beginning of a text are those of its characters', () => {
    fc.assert(
      fc.property(TEXT, fc.nat(20), (text, count) => {
        expect(codePoints(text)).toBe([...text].length);
        expect(firstPoints(text, count)).toBe([...text].slice(0, count).join(''));
      }),
    );
  });
});

describe('any course of a stream', () => {
  const frame = (offset: number, text: string, state = 'open'): StreamFrame => ({
    t: 'stream',
    stream: S(1),
    kind: 'message',
    id: M(1),
    column: 'content',
    since: 20,
    offset,
    text,
    state,
  });
  /** What a writer, the app and the line do, in turns. */
  const STEP = fc.oneof(
    fc.record({ grow: fc.nat(6) }),
    fc.record({ repeat: fc.nat(30) }),
    fc.record({ save: fc.nat(30) }),
    fc.constant({ connect: true }),
    fc.constant({ other: true }),
  );

  it('shows no text that was not written, never less than before, and at its end the row', () => {
    fc.assert(
      fc.property(TEXT, TEXT, fc.array(STEP), fc.constantFrom('done', 'failed', 'stopped'), (written, old, steps, end) => {
        fc.pre(written !== old); // else the stream is shown until the server does not name it
        const all = [...written];
        let streams: Streams = NO_STREAMS;
        let row = message(1, 1, 10, { content: old });
        let seq = 20;
        let [here, saved, length] = [0, 0, 0];
        const take = (one: StreamFrame): void => {
          streams = received(streams, MESSAGE, one) ?? expect.fail('it does not fit');
        };
        const store = (content: string): void => {
          row = { ...row, seq: ++seq, content };
          streams = withRows(streams, new Map([[S(1), streamRow(MESSAGE, 'content', row)]]), false);
        };
        const look = (): ShownMessage => {
          const rows = show(MESSAGE, C(1), [], [row], [], false, placed(streams));
          const [one] = rows as unknown as ShownMessage[];
          return one as ShownMessage;
        };
        take(frame(0, ''));
        streams = withRows(streams, new Map([[S(1), streamRow(MESSAGE, 'content', row)]]), false);
        for (const step of steps) {
          if ('grow' in step) {
            const to = Math.min(here + step.grow, all.length);
            take(frame(here, all.slice(here, to).join('')));
            here = to;
          } else if ('repeat' in step) {
            const from = Math.min(step.repeat, here);
            take(frame(from, all.slice(from, here).join('')));
          } else if ('save' in step) {
            // Also more than has arrived here, as on a new connection on which the rows come first.
            saved = Math.min(Math.max(step.save, saved), all.length);
            store(all.slice(0, saved).join(''));
          } else if ('connect' in step) {
            streams = named(streams, [S(1)]);
            take(frame(0, all.slice(0, here).join('')));
          } else {
            row = { ...row, seq: ++seq, role: `${seq}` }; // another column
            streams = withRows(streams, new Map([[S(1), streamRow(MESSAGE, 'content', row)]]), false);
          }
          const { content, streaming } = look();
          expect([content, streaming]).toEqual([all.slice(0, Math.max(here, saved)).join(''), true]);
          expect(content.length).toBeGreaterThanOrEqual(length);
          length = content.length;
        }
        take(frame(here, all.slice(here).join(''), end));
        expect(look().content).toBe(written === '' ? row.content : written); // whatever was saved
        store(written);
        expect(look()).toEqual({ ...row, state: 'synced', hole: false });
        streams = named(streams, []);
        expect(look().content).toBe(written);
        streams = without(streams, unnamed(streams));
        expect(streams.size).toBe(0);
      }),
    );
  });

  it('rows that were read earlier are shown with the stream as it was when it gave way', () => {
    const row = message(1, 1, 10, { content: '' });
    const of = (content: string, seq: number) =>
      new Map([[S(1), streamRow(MESSAGE, 'content', message(1, 1, seq, { content }))]]);
    const before = withRows(received(NO_STREAMS, MESSAGE, frame(0, 'Hel')) as Streams, of('', 10), false);
    const grown = received(before, MESSAGE, frame(3, 'lo', 'done')) as Streams;
    const over = withRows(grown, of('Hello', 30), false);
    const look = (streams: Streams): unknown => show(MESSAGE, C(1), [], [row], [], false, placed(streams))[0]?.['content'];
    expect(look(fitting(before, grown))).toBe('Hello');
    expect(look(fitting(grown, over))).toBe('Hello');
    expect(look(fitting(grown, NO_STREAMS))).toBe('Hello');
    expect(look(fitting(over, over))).toBe('');
    expect(nameOf(MESSAGE, homeOf(MESSAGE, row))).toBe(over.get(S(1))?.row?.history);
  });
});

describe('one device', () => {
  it('a text grows in its row, and the row takes its place without a gap', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    const { said, stop } = watch(sync);
    await pass();
    app.server.begin(S(1), M(1));
    await pass();
    for (const part of ['Hel', 'lo 🙂', ' world']) {
      app.server.append(S(1), part);
      await pass();
    }
    commit('Hello');
    await pass();
    app.server.append(S(1), '!', 'done');
    await pass();
    commit('Hello 🙂 world!');
    await pass();
    app.server.settle(S(1));
    app.server.beat();
    await pass();
    const all = said.map(([one]) => String(one));
    expect(all.filter((one, i) => one !== all[i - 1])).toEqual([
      '',
      '|open',
      'Hel|open',
      'Hello 🙂|open',
      'Hello 🙂 world|open',
      'Hello 🙂 world!|done',
      'Hello 🙂 world!',
    ]);
    expect(await sync.get('message', M(1)).read()).toMatchObject({ content: 'Hello 🙂 world!', state: 'synced' });
    stop();
  });

  it('a row with a stream says so beside its certainty, and other rows stay the same objects', async () => {
    placeholder(1);
    placeholder(2, 'other');
    const sync = app.open();
    await pass();
    const query = sync.messages(C(1));
    const stop = query.subscribe(() => undefined);
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'Hi');
    await pass();
    expect(query.value?.rows).toMatchObject([
      { content: 'Hi', state: 'synced', streaming: true, stream: 'open' },
      { content: 'other', state: 'synced' },
    ]);
    const [first, second] = query.value?.rows ?? [];
    expect(second).not.toHaveProperty('streaming');
    app.server.append(S(1), '!', 'failed');
    await pass();
    expect(query.value?.rows[0]).toMatchObject({ content: 'Hi!', streaming: false, stream: 'failed' });
    expect(query.value?.rows[0]).not.toBe(first);
    expect(query.value?.rows[1]).toBe(second);
    stop();
  });

  it('what the user writes is shown over a stream', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'theirs');
    await pass();
    app.world.network.mode = 'down';
    app.world.network.cut();
    await sync.editMessage(M(1), 'mine');
    expect((await sync.messages(C(1)).read()).rows).toMatchObject([{ content: 'mine', state: 'pending', stream: 'open' }]);
  });

  it('after a lost connection the text goes on', async () => {
    const { said, stop } = await cutOff();
    app.server.append(S(1), ' two');
    await pass(5_000);
    app.server.append(S(1), ' three');
    await pass();
    expect(said.at(-1)).toEqual(['one two three|open']);
    expect(said.flat().every((one) => 'one two three|open'.startsWith(String(one).replace('|open', '')))).toBe(true);
    stop();
  });

  it('a part that the app saved while the device was away comes first, and the text goes on', async () => {
    const { sync, said, stop } = await cutOff();
    app.server.append(S(1), ' two');
    commit('one two');
    app.server.append(S(1), ' three');
    await pass(5_000);
    app.server.append(S(1), ' four');
    await pass();
    expect(said.at(-1)).toEqual(['one two three four|open']);
    expect(await sync.streams().read()).toHaveLength(1);
    const all = said.map(([one]) => String(one).replace('|open', ''));
    expect(all.every((one, i) => 'one two three four'.startsWith(one) && one.length >= (all[i - 1] ?? '').length)).toBe(true);
    stop();
  });

  it('a stream that was settled while the device was away ends with its row', async () => {
    const { sync, said, stop } = await cutOff();
    app.server.append(S(1), ' two', 'done');
    commit('one two');
    app.server.settle(S(1));
    await pass(5_000);
    const all = said.map(([one]) => String(one));
    expect(all.filter((one, i) => one !== all[i - 1]).slice(-2)).toEqual(['one|open', 'one two']);
    expect(await sync.streams().read()).toEqual([]);
    stop();
  });

  it('a stream that is settled although its row never comes ends with the next live', async () => {
    placeholder(1, 'old');
    const sync = app.open();
    await pass();
    const { said, stop } = watch(sync);
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'new', 'failed');
    await pass();
    const late = watch(sync); // its rows are read while the stream is held
    await pass();
    app.server.settle(S(1));
    await pass();
    expect([said.at(-1), late.said.at(-1)]).toEqual([['new|failed'], ['new|failed']]);
    app.server.beat();
    await pass();
    expect([said.at(-1), late.said.at(-1)]).toEqual([['old'], ['old']]);
    stop();
    late.stop();
  });

  it('after a reload without a connection the text is shown as far as it was', async () => {
    placeholder();
    const store = new MemoryStore();
    const first = app.open({ store });
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'so far');
    await pass(KEEP_EVERY);
    app.world.network.mode = 'down';
    app.world.network.cut();
    await app.end(first);
    const again = app.open({ store });
    await pass();
    expect(await shown(again)).toEqual(['so far|open']);
    app.world.network.mode = 'up';
    app.server.append(S(1), ', and on', 'stopped');
    await pass(5_000);
    expect(await shown(again)).toEqual(['so far, and on|stopped']);
  });

  it('what came just before the app was closed is stored', async () => {
    placeholder();
    const store = new MemoryStore();
    const sync = app.open({ store });
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'x');
    await pass();
    await app.end(sync);
    expect(await store.read((tx) => tx.streams())).toMatchObject([{ stream: S(1), text: 'x', state: 'open' }]);
  });

  it('a stream that is over leaves nothing in the store', async () => {
    placeholder();
    const store = new MemoryStore();
    app.open({ store });
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'x', 'done');
    await pass(KEEP_EVERY);
    commit('x');
    await pass(KEEP_EVERY);
    expect(await store.read((tx) => tx.streams())).toMatchObject([{ over: true, text: '' }]);
    app.server.settle(S(1));
    app.server.beat();
    await pass(KEEP_EVERY);
    expect(await store.read((tx) => tx.streams())).toEqual([]);
  });

  it('streams are stored a few times a second, however many frames come', async () => {
    placeholder();
    const store = new MemoryStore();
    const put: number[] = [];
    const write = store.write.bind(store);
    store.write = (work) =>
      write((tx) =>
        work(
          Object.assign(Object.create(tx) as typeof tx, {
            putStreams: (streams: never) => {
              put.push(app.world.clock.now());
              return tx.putStreams(streams);
            },
          }),
        ),
      );
    app.open({ store });
    await pass();
    app.server.begin(S(1), M(1));
    for (let i = 0; i < 40; i++) {
      app.server.append(S(1), 'x');
      await pass(25);
    }
    expect(put.length).toBeGreaterThanOrEqual(3);
    put.forEach((at, i) => expect(at - (put[i - 1] ?? -Infinity)).toBeGreaterThanOrEqual(KEEP_EVERY));
  });

  it('a text that only grows loads no query from the store', async () => {
    placeholder();
    const store = new MemoryStore();
    const read = vi.spyOn(store, 'read');
    const sync = app.open({ store });
    const messages = sync.messages(C(1));
    const stops = [messages, sync.conversations(), sync.status, sync.quarantine].map((query) => query.subscribe(() => undefined));
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'a');
    await pass(KEEP_EVERY);
    const before = read.mock.calls.length;
    for (const part of 'growing') {
      app.server.append(S(1), part);
      await pass(20);
    }
    expect(texts(messages.value?.rows)).toEqual(['agrowing|open']);
    expect(read).toHaveBeenCalledTimes(before);
    stops.forEach((stop) => stop());
  });

  it('the open streams are a query of their own, which text does not change', async () => {
    placeholder(1);
    placeholder(2);
    const sync = app.open();
    await pass();
    const query = sync.streams();
    let calls = 0;
    const stop = query.subscribe(() => calls++);
    app.server.begin(S(1), M(1));
    app.server.begin(S(2), M(2));
    await pass();
    expect(query.value).toEqual([
      { kind: 'message', id: M(1), column: 'content', parent: C(1) },
      { kind: 'message', id: M(2), column: 'content', parent: C(1) },
    ]);
    const before = calls;
    for (const part of 'growing') {
      app.server.append(S(1), part);
      await pass();
    }
    expect(calls).toBe(before);
    app.server.append(S(1), '', 'done');
    await pass();
    expect(query.value).toMatchObject([{ id: M(2) }]);
    stop();
  });

  it('a stream of a row that another text has taken the place of is not among the open ones', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'draft');
    await pass();
    commit('something else');
    await pass();
    expect(await sync.streams().read()).toEqual([]);
    app.server.append(S(1), ' goes on');
    await pass();
    expect(await shown(sync)).toEqual(['something else']);
  });

  it('a store that is destroyed keeps no stream', async () => {
    placeholder();
    const store = new MemoryStore();
    const sync = app.open({ store });
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'secret');
    await pass(KEEP_EVERY);
    const gone = sync.destroy();
    await pass();
    await gone;
    expect(await store.read((tx) => tx.streams())).toEqual([]);
  });

  it('a first frame that does not begin the text ends the connection, and the next one brings it', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'abc');
    await pass();
    const [peer] = app.server.peers;
    peer?.tell({ ...(app.server.streams.get(S(1)) as never as { text: string }), stream: S(9), text: 'x' } as never, 1);
    await pass();
    expect(app.server.peers.has(peer as never)).toBe(false);
    await pass(5_000);
    expect((await sync.status.read()).state).toBe('live');
    expect(await shown(sync)).toEqual(['abc|open']);
  });
});

describe('several tabs', () => {
  it('a text grows in all of them, also in one that is opened later', async () => {
    placeholder();
    const store: Store = new MemoryStore();
    app.open({ store });
    const b = app.open({ store });
    await pass();
    const [seen, open] = [watch(b), b.streams()];
    const leave = open.subscribe(() => undefined);
    await pass();
    app.server.begin(S(1), M(1));
    for (const part of ['a', 'b', 'c']) {
      app.server.append(S(1), part);
      await pass();
    }
    expect(seen.said.slice(-3)).toEqual([['a|open'], ['ab|open'], ['abc|open']]);
    expect(open.value).toMatchObject([{ id: M(1), parent: C(1) }]);
    const late = app.open({ store });
    await pass();
    const more = watch(late);
    await pass();
    expect(more.said.at(-1)).toEqual(['abc|open']);
    app.server.append(S(1), 'd', 'done');
    await pass();
    expect([seen.said.at(-1), more.said.at(-1)]).toEqual([['abcd|done'], ['abcd|done']]);
    commit('abcd');
    await pass();
    app.server.settle(S(1));
    app.server.beat();
    await pass();
    for (const { said } of [seen, more]) {
      const all = said.map(([one]) => String(one));
      expect(all.filter((one, i) => one !== all[i - 1]).slice(-2)).toEqual(['abcd|done', 'abcd']);
    }
    expect(await open.read()).toEqual([]);
    for (const each of [seen.stop, more.stop, leave]) each();
  });

  it('when the leading tab crashes, the text goes on in another one', async () => {
    placeholder();
    const store: Store = new MemoryStore();
    const first = app.world.tab();
    app.open({ store, environment: first.environment() });
    const b = app.open({ store });
    await pass();
    const { said, stop } = watch(b);
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'a');
    await pass();
    first.crash();
    app.world.network.cut();
    app.server.append(S(1), 'b');
    await pass(5_000);
    expect(said.at(-1)).toEqual(['ab|open']);
    expect(said.flat().filter((one) => !['', '|open', 'a|open', 'ab|open'].includes(String(one)))).toEqual([]);
    stop();
  });

  it('another tab stops a stream', async () => {
    placeholder();
    const store: Store = new MemoryStore();
    app.open({ store });
    const b = app.open({ store });
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'a');
    await pass();
    const stopped = b.stop('message', M(1));
    await pass();
    expect(await stopped).toBe(true);
    expect(await shown(b)).toEqual(['a|stopped']);
  });

  it('a stop that another tab asked for is not lost with the leading tab', async () => {
    placeholder();
    const store: Store = new MemoryStore();
    const first = app.world.tab();
    app.open({ store, environment: first.environment() });
    app.open({ store });
    const third = app.open({ store }); // the second one leads next
    await pass();
    app.server.begin(S(1), M(1));
    await pass();
    app.server.stopErrors.push(null); // no answer comes
    const stopped = third.stop('message', M(1));
    await pass();
    first.crash();
    app.world.network.cut();
    await pass(5_000);
    expect(await stopped).toBe(true);
    expect(app.server.stops).toBe(2);
  });
});

describe('a tab that does not lead', () => {
  const frame = (offset: number, text: string): StreamFrame => ({
    t: 'stream',
    stream: S(1),
    kind: 'message',
    id: M(1),
    column: 'content',
    since: 20,
    offset,
    text,
    state: 'open',
  });

  it('asks for all streams when it has missed a frame, and stores none', async () => {
    const [asked, kept, posted] = [vi.fn(), vi.fn(), vi.fn()];
    const streaming = new Streaming({
      kinds: CHAT_KINDS,
      store: new MemoryStore(),
      clock: app.world.clock,
      leading: () => false,
      keep: kept,
      onChange: () => undefined,
      post: posted,
      ask: asked,
      onError: (error) => expect.fail(String(error)),
    });
    streaming.follow(frame(0, 'Hel'));
    expect(asked).not.toHaveBeenCalled();
    streaming.follow(frame(5, '!'));
    expect(asked).toHaveBeenCalledOnce();
    expect(streaming.now.get(S(1))?.text).toBe('Hel');
    const [held] = streaming.now.values();
    streaming.follow([{ ...(held as HeldStream), text: 'Hello!', length: 6 }]);
    streaming.follow(frame(6, '!'));
    expect(streaming.now.get(S(1))?.text).toBe('Hello!!');
    await pass(KEEP_EVERY);
    await streaming.close();
    expect([kept.mock.calls, posted.mock.calls]).toEqual([[], []]);
  });
});

describe('a stop', () => {
  it('says whether there was an open stream, of the column if it names one', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    await pass();
    const answers = Promise.all([
      sync.stop('message', M(2)),
      sync.stop('message', M(1), 'role'),
      sync.stop('message', M(1), 'content'),
      sync.stop('message', M(1)),
    ]);
    await pass();
    expect(await answers).toEqual([false, false, true, false]);
  });

  it('that no connection can take is asked on the next one', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    await pass();
    app.world.network.mode = 'down';
    app.world.network.cut();
    await pass();
    const stopped = sync.stop('message', M(1));
    await pass(1_000);
    expect(app.server.stops).toBe(0);
    app.world.network.mode = 'up';
    await pass(30_000);
    expect(await stopped).toBe(true);
  });

  it('that was not answered is repeated on the next connection', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    app.server.stopErrors.push(null);
    const stopped = sync.stop('message', M(1));
    await pass();
    app.world.network.cut();
    await pass(5_000);
    expect(await stopped).toBe(true);
    expect(app.server.stops).toBe(2);
  });

  it('that could not be answered is repeated when the server says', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.begin(S(1), M(1));
    app.server.stopErrors.push({ code: 'unavailable' }, { code: 'slow_down', retry_after: 5_000 });
    const stopped = sync.stop('message', M(1));
    await pass(999);
    expect(app.server.stops).toBe(1);
    await pass(1);
    expect(app.server.stops).toBe(2);
    await pass(4_999);
    expect(app.server.stops).toBe(2);
    await pass(1);
    expect(await stopped).toBe(true);
    expect((await sync.status.read()).state).toBe('live');
  });

  it('that could not be answered has nothing to do with a page of the same number', async () => {
    placeholder(1, '1');
    for (let n = 2; n <= 6; n++) placeholder(n, String(n));
    const sync = app.open({ window: { conversation: 1, message: 2 } });
    await pass();
    app.server.stopErrors.push({ code: 'refused', retryable: false });
    const stopped = sync.stop('message', M(1));
    const query = sync.messages(C(1), { limit: 2 });
    const older = query.loadOlder(2);
    await pass(1_000);
    expect([await stopped, await older]).toEqual([false, 'here']);
    expect(texts(query.value?.rows)).toEqual(['3', '4', '5', '6']);
  });

  it('at most eight are unanswered at once, and the others follow', async () => {
    placeholder();
    const sync = app.open();
    await pass();
    app.server.stopErrors.push(...Array.from({ length: 8 }, () => null));
    const answers = Array.from({ length: 10 }, (_, i) => sync.stop('message', M(i + 1)));
    await pass();
    expect(app.server.stops).toBe(8);
    const [peer] = app.server.peers;
    for (let n = 1; n <= 8; n++) peer?.say({ t: 'stopped', n, found: n % 2 === 0 });
    await pass();
    expect(await Promise.all(answers)).toEqual([false, true, false, true, false, true, false, true, false, false]);
  });

  it('ends at a server of an earlier version, which does not know it', async () => {
    const sync = app.open();
    await pass();
    app.server.stopErrors.push({ code: 'unknown_frame', answers: undefined, id: undefined, retryable: false });
    const stopped = sync.stop('message', M(1));
    await pass();
    expect(await stopped).toBe(false);
  });

  it('ends with the Sync, and one of an unknown kind is refused', async () => {
    app.world.network.mode = 'down';
    const sync = app.open();
    await pass();
    const stopped = sync.stop('message', M(1));
    stopped.catch(() => undefined);
    await quiet();
    await expect(sync.stop('thing' as never, M(1) as never)).rejects.toThrow(TypeError);
    await app.end(sync);
    await expect(stopped).rejects.toThrow('closed');
    await expect(sync.stop('message', M(1))).rejects.toThrow('closed');
  });
});

describe('at most once a frame', () => {
  /** A tab whose screen is drawn when the test says. */
  function screen(store: Store = new MemoryStore()): { readonly sync: ChatSync; readonly draw: () => Promise<void> } {
    const due: (() => void)[] = [];
    const sync = app.open({ store, environment: { ...app.world.tab().environment(), frame: (call) => due.push(call) } });
    const draw = async (): Promise<void> => {
      for (const call of due.splice(0)) call();
      await quiet();
    };
    return { sync, draw };
  }

  it('rows and texts are told in the next frame, once for all that came', async () => {
    placeholder();
    const { sync, draw } = screen();
    await pass();
    const { said, stop } = watch(sync);
    await pass();
    expect(said).toEqual([['']]); // what a component shows first does not wait
    await draw();
    said.splice(0);
    app.server.begin(S(1), M(1));
    for (const part of ['a', 'b', 'c']) {
      app.server.append(S(1), part);
      await pass(5);
    }
    app.server.message(C(1), M(2), 'row', now());
    await pass();
    app.server.message(C(1), M(3), 'row', now() + 1);
    await pass();
    expect(said).toEqual([]);
    await draw();
    expect(said).toHaveLength(1);
    await draw();
    expect(said).toHaveLength(2); // what came while the first was loaded
    expect(said.at(-1)).toEqual(['abc|open', 'row', 'row']);
    app.server.append(S(1), 'd');
    app.server.append(S(1), 'e');
    await pass();
    expect(said).toHaveLength(2);
    await draw();
    expect(said.slice(2)).toEqual([['abcde|open', 'row', 'row']]);
    await draw();
    expect(said).toHaveLength(3);
    stop();
  });

  it('a frame that comes while the row is loaded shows nothing that was there before', async () => {
    placeholder();
    const store = new MemoryStore();
    const read = store.read.bind(store);
    let gate: Promise<void> = Promise.resolve();
    store.read = async (work) => {
      await gate;
      return read(work);
    };
    const { sync, draw } = screen(store);
    await pass();
    const { said, stop } = watch(sync);
    await pass();
    app.server.begin(S(1), M(1));
    app.server.append(S(1), 'abc');
    await pass();
    await draw();
    expect(said.at(-1)).toEqual(['abc|open']);
    let open = (): void => undefined;
    gate = new Promise((resolve) => (open = resolve));
    app.server.append(S(1), 'd', 'done');
    commit('abcd');
    await pass();
    await draw();
    expect(said.at(-1)).toEqual(['abc|open']);
    open();
    await quiet();
    await draw();
    expect(said.at(-1)).toEqual(['abcd']);
    stop();
  });

  it('the status is told in the next frame, too', async () => {
    const { sync, draw } = screen();
    let calls = 0;
    const stop = sync.status.subscribe(() => calls++);
    await pass();
    const before = calls;
    expect(sync.status.value.state).not.toBe('live');
    await draw();
    await draw();
    expect(sync.status.value.state).toBe('live');
    expect(calls - before).toBeLessThanOrEqual(2);
    stop();
  });

  it('what the user writes is shown at once, also while something waits for the next frame', async () => {
    placeholder();
    const { sync } = screen();
    await pass();
    const { said, stop } = watch(sync);
    await pass();
    app.world.network.mode = 'dead';
    await sync.sendMessage(C(1), 'mine');
    await quiet();
    expect(said.at(-1)).toEqual(['mine', '']);
    stop();
    app.world.network.mode = 'up';
    const other = watch(sync);
    await pass();
    app.server.message(C(1), M(7), 'theirs', now());
    await pass();
    await sync.sendMessage(C(1), 'again');
    await quiet();
    expect(other.said.at(-1)).toHaveLength(4);
    other.stop();
  });
});

describe('the next frame of the platform', () => {
  afterEach(() => vi.unstubAllGlobals());
  const timers = () => {
    const calls: (() => void)[] = [];
    const at: number[] = [];
    const after = (ms: number, call: () => void): (() => void) => {
      at.push(ms);
      calls.push(call);
      return () => void calls.splice(calls.indexOf(call), 1);
    };
    return { at, run: () => calls.splice(0).forEach((call) => call()), left: () => calls.length, clock: { now: () => 0, after } as never };
  };

  it('is a timer where nothing is drawn', () => {
    const { at, run, clock } = timers();
    let calls = 0;
    environment({ clock }).frame(() => calls++);
    expect([at, calls]).toEqual([[16], 0]);
    run();
    expect(calls).toBe(1);
  });

  it('is the one that the browser draws, or a timer if the page is hidden, or is hidden meanwhile', () => {
    const frames: (() => void)[] = [];
    const page = { visibilityState: 'visible' };
    vi.stubGlobal('requestAnimationFrame', (call: () => void) => frames.push(call));
    vi.stubGlobal('document', page);
    const { at, run, left, clock } = timers();
    const { frame } = environment({ clock });
    let calls = 0;
    frame(() => calls++);
    frames.splice(0).forEach((call) => call());
    expect([calls, frames.length, left()]).toEqual([1, 0, 0]); // no timer is left
    frame(() => calls++);
    run();
    frames.splice(0).forEach((call) => call());
    expect([calls, at]).toEqual([2, [100, 100]]);
    page.visibilityState = 'hidden';
    frame(() => calls++);
    expect([at.at(-1), frames.length]).toEqual([16, 0]);
    run();
    expect(calls).toBe(3);
  });
});
