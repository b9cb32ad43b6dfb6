/**
 * How received frames change the store: the server's clock, generations, and databases that lost acknowledged writes.
 */

import { describe, expect, it } from 'vitest';

import type { Touched } from '../src/apply.js';
import { codecsFor } from '../src/codec.js';
import { addEntry } from '../src/entries.js';
import type { Limits } from '../src/frames.js';
import { Ingest } from '../src/ingest.js';
import { NUMBER_END } from '../src/mutation.js';
import type { Push } from '../src/outbox.js';
import type { Arrival } from '../src/rows.js';
import type { Event } from '../src/session.js';
import { Deposed, type Transactions, type Writing } from '../src/store.js';
import { MemoryStore } from '../src/store/memory.js';
import { C, CHAT_KINDS as kinds, conversation, M, message, MESSAGE, WITHOUT_STREAMS } from './support/rows.js';

const limits: Limits = {
  frameBytes: 20_000,
  pageRows: 7,
  pagesInFlight: 2,
  mutations: 3,
};

const ingestOf = (
  store: Transactions,
  now: () => number,
  onTouched: (touched: Touched) => void = () => undefined,
): Ingest =>
  new Ingest({
    store,
    codec: codecsFor(kinds).json,
    window: { conversation: 1, message: 1 },
    now,
    random: () => 1,
    onTouched,
    streams: WITHOUT_STREAMS,
  });

const welcome = (change: { readonly mode?: string; readonly why?: string; readonly time?: number } = {}): Event => ({
  t: 'welcome',
  session: 's',
  epoch: 'e',
  schema: 'h',
  tier: 'pro',
  mode: 'resumed',
  why: null,
  time: 0,
  expires: 1,
  keepalive: 1,
  limits,
  ...change,
});

/** Milliseconds that a device believes the server to be ahead, after a greeting that took from `begun` to `heard`. */
async function ahead(store: MemoryStore, begun: number, server: number, heard: number): Promise<number> {
  let time = begun;
  const ingest = ingestOf(store, () => time);
  await ingest.lead();
  await ingest.begin();
  time = heard;
  await ingest.apply(welcome({ time: server * 1000 }));
  return (await store.read((tx) => tx.meta())).ahead / 1000;
}

it('a clock that may be right is not corrected, however long the greeting took', async () => {
  expect(await ahead(new MemoryStore(), 10_000, 10_400, 10_900)).toBe(0);
});

it('a wrong clock is corrected by no more than it must be', async () => {
  expect(await ahead(new MemoryStore(), 10_000, 70_000, 10_300)).toBe(59_700);
  expect(await ahead(new MemoryStore(), 70_000, 10_100, 70_300)).toBe(-59_900);
});

it('a known offset stays as long as it is possible', async () => {
  const store = new MemoryStore();
  expect(await ahead(store, 10_000, 70_000, 10_010)).toBe(59_990);
  expect(await ahead(store, 20_000, 80_100, 20_900)).toBe(59_990);
  expect(await ahead(store, 30_000, 30_050, 30_100)).toBe(50);
});

it('the server is believed if the greeting took very long, or the clock was set meanwhile', async () => {
  expect(await ahead(new MemoryStore(), 600_000, 605_000, 1_200_000)).toBe(-595_000);
  expect(await ahead(new MemoryStore(), 3_610_000, 10_100, 10_200)).toBe(-100);
});

describe('the generation of a connection', () => {
  it('a generation is the clock, or the last one plus one, over tabs and a clock that is set back', async () => {
    const store = new MemoryStore();
    let time = 1_000_000;
    const first = ingestOf(store, () => time);
    await first.lead();
    expect((await first.begin()).generation).toBe(1_000_000_000);
    expect((await first.begin()).generation).toBe(1_000_000_001);
    time = 500;
    const second = ingestOf(store, () => time);
    await second.lead();
    await expect(first.begin()).rejects.toThrow(Deposed); // and has drawn none
    expect((await second.begin()).generation).toBe(1_000_000_002);
    expect((await store.read((tx) => tx.meta())).generation).toBe(1_000_000_002);
    time = 2_000_000;
    expect((await second.begin()).generation).toBe(2_000_000_000);
  });

  it('a generation is within the bounds of the protocol, whatever the clock says', async () => {
    const store = new MemoryStore();
    let time = -5;
    const ingest = ingestOf(store, () => time);
    await ingest.lead();
    expect((await ingest.begin()).generation).toBe(1);
    time = 8.64e15; // the last one that a Date has
    for (let i = 0; i < 2; i++) expect((await ingest.begin()).generation).toBe(NUMBER_END);
  });
});

describe('on another connection', () => {
  /** A device whose mutations 1 … count were acknowledged at `seq`, and have not been seen in the feed. */
  async function acked(count: number, seq: number): Promise<{ store: MemoryStore; ingest: Ingest }> {
    const store = new MemoryStore();
    await store.write(async (tx) => {
      for (let n = 1; n <= count; n++) {
        await tx.putEntries([
          { ...(await addEntry(tx, kinds, { op: '-', kind: 'conversation', id: C(n) })), state: 'acked', seq },
        ]);
      }
      await tx.setMeta({ cursor: 'AAAA', position: seq - 1 });
    });
    const ingest = ingestOf(store, () => 0);
    await ingest.lead();
    await ingest.begin();
    return { store, ingest };
  }
  const push = async (ingest: Ingest): Promise<Push> => {
    const push = await ingest.nextPush(limits);
    expect(push).toMatchObject({ n: expect.any(Number) });
    return push as Push;
  };
  const ack = (kind: 'applied' | 'repeated', seq: number, ...ns: number[]): Event => ({
    t: 'ack',
    results: ns.map((n) => ({ kind, n, seq })),
  });
  const gap = (expected: number): Event => ({
    t: 'error',
    code: 'gap',
    message: '',
    retryable: true,
    answers: 'push',
    id: null,
    retryAfter: null,
    expected,
  });
  const held = async (store: MemoryStore): Promise<unknown[]> =>
    (await store.read((tx) => tx.entries())).map(({ n, state, seq }) => [n, state, seq]);

  it.each([
    ['resumed', null],
    ['snapshot', 'new'],
    ['snapshot', 'unreadable'],
    ['snapshot', 'foreign'],
    ['snapshot', 'epoch'],
    ['snapshot', 'ahead'],
    ['snapshot', 'too_old'],
  ])('an acknowledged mutation is pushed again, and stays acked meanwhile: %s, %s', async (mode, why) => {
    const { store, ingest } = await acked(4, 9);
    await store.write((tx) => addEntry(tx, kinds, { op: '-', kind: 'conversation', id: C(5) }));
    await ingest.apply(welcome({ mode, ...(why !== null && { why }) }));
    expect(await held(store)).toEqual([...[1, 2, 3, 4].map((n) => [n, 'acked', null]), [5, 'pending', null]]);
    expect(await push(ingest)).toMatchObject({ n: 1, held: 1, mutations: [1, 2, 3].map((n) => ({ id: C(n) })) });
    await ingest.apply(ack('repeated', 20, 1, 2, 3));
    expect(await push(ingest)).toMatchObject({ n: 4, held: 1, mutations: [4, 5].map((n) => ({ id: C(n) })) });
    await ingest.apply(ack('applied', 21, 4, 5));
    expect(await ingest.nextPush(limits)).toBeNull();
    expect(await held(store)).toEqual([
      ...[1, 2, 3].map((n) => [n, 'acked', 20]),
      ...[4, 5].map((n) => [n, 'acked', 21]),
    ]);
    await ingest.apply({ t: 'live', cursor: 'AAAA', seq: 20 });
    expect(await held(store)).toEqual([4, 5].map((n) => [n, 'acked', 21]));
  });

  it('the position of another history completes no entry', async () => {
    const { store, ingest } = await acked(1, 101);
    await ingest.apply(welcome({ mode: 'snapshot', why: 'epoch' }));
    await push(ingest);
    await ingest.apply(ack('applied', 50, 1));
    expect(await held(store)).toEqual([[1, 'acked', 50]]);
    await ingest.apply({ t: 'snapshot', rows: [], cursor: 'AAAB', first: true });
    await ingest.apply({ t: 'live', cursor: 'AAAB', seq: 50 });
    expect(await held(store)).toEqual([]);
  });

  it('a gap leads to new numbers at once, a second gap in a row to a pause', async () => {
    const { store, ingest } = await acked(2, 9);
    await ingest.apply(welcome());
    await push(ingest);
    await ingest.apply(gap(7));
    expect(await push(ingest)).toMatchObject({ n: 7, held: 7, mutations: { length: 2 } });
    await ingest.apply(gap(3));
    expect(await held(store)).toEqual([3, 4].map((n) => [n, 'pending', null]));
    expect((await store.read((tx) => tx.meta())).nextN).toBe(5);
    expect(await ingest.nextPush(limits)).toBeTypeOf('number');
  });
});

it('a rejection lasts before the next push, with which the server forgets it; what was applied need not', async () => {
  const store = new MemoryStore();
  const levels: unknown[] = [];
  const watched: Transactions = {
    read: (work) => store.read(work),
    write: (work, durability) => {
      levels.push(durability);
      return store.write(work);
    },
  };
  for (const n of [1, 2, 3]) await store.write((tx) => addEntry(tx, kinds, { op: '-', kind: 'conversation', id: C(n) }));
  const ingest = ingestOf(watched, () => 0);
  await ingest.lead();
  await ingest.begin();
  await ingest.apply(welcome());
  levels.length = 0;
  await ingest.nextPush({ ...limits, mutations: 1 });
  await ingest.apply({ t: 'ack', results: [{ kind: 'applied', n: 1, seq: 5 }] });
  await ingest.nextPush({ ...limits, mutations: 2 });
  const rejected = { kind: 'rejected', n: 2, code: 'refused', message: '', column: null } as const;
  await ingest.apply({ t: 'ack', results: [rejected, { kind: 'applied', n: 3, seq: 6 }] });
  expect(levels).toEqual(['relaxed', 'strict']);
});

it('a history that begins with a row above it is read again', async () => {
  const told: Touched[] = [];
  const ingest = ingestOf(new MemoryStore(), () => 1000, (touched) => told.push(touched));
  await ingest.lead();
  await ingest.begin();
  await ingest.apply(welcome({ mode: 'snapshot' }));
  await ingest.apply({ t: 'snapshot', rows: [], cursor: '5', first: true });
  told.length = 0;
  await ingest.apply({ t: 'changes', rows: [conversation(1, 6)], cursor: '6', seq: 6 });
  expect(told.map(({ histories }) => histories.has(`message ${C(1)}`))).toEqual([true]);
});

describe('rows that are newer than all that is held', () => {
  /** Counts the messages that are looked up. */
  class Counting extends MemoryStore {
    count = 0;
    override write: MemoryStore['write'] = (work) =>
      super.write((tx) => {
        const get: Writing['get'] = (kind, keys) => {
          if (kind.name === MESSAGE.name) this.count += keys.length;
          return tx.get(kind, keys);
        };
        return work(Object.assign(Object.create(tx) as Writing, { get }));
      });
  }
  const changes = (seq: number, ...rows: Parameters<typeof message>[]): Event => ({
    t: 'changes',
    rows: rows.map((row) => message(...row)),
    cursor: `${seq}`,
    seq,
  });
  const content = async (store: MemoryStore, n: number): Promise<unknown> =>
    (await store.read((tx) => tx.get(MESSAGE, [M(n)])))[0]?.['content'];
  async function begun(): Promise<{ readonly store: Counting; readonly ingest: Ingest }> {
    const store = new Counting();
    const ingest = ingestOf(store, () => 1000);
    await ingest.lead();
    await ingest.begin();
    await ingest.apply(welcome({ mode: 'snapshot' }));
    await ingest.apply({ t: 'snapshot', rows: [conversation(1, 5), message(1, 1, 5)], cursor: '5', first: true });
    store.count = 0;
    return { store, ingest };
  }

  it('are not looked up', async () => {
    const { store, ingest } = await begun();
    await ingest.apply(changes(7, [1, 1, 6, { content: 'edited' }], [2, 1, 7]));
    expect(store.count).toBe(0);
    expect([await content(store, 1), await content(store, 2)]).toEqual(['edited', 'm2']);
  });

  it('a page that brings a row before its move does: once the deletion comes, all lists are read again', async () => {
    const { store } = await begun();
    const told: Touched[] = [];
    const ingest = ingestOf(store, () => 1000, (touched) => told.push(touched));
    await ingest.lead();
    await ingest.begin();
    await ingest.apply(changes(6, [2, 1, 6]));
    ingest.expectPage(1, { kind: 'message', parent: C(2), before: null });
    await ingest.apply({ t: 'page', id: 1, asOf: 9, rows: [message(1, 2, 9)], more: false } as Event);
    told.length = 0;
    const rows: Arrival[] = [{ kind: '-message', seq: 8, id: M(1) }, message(1, 2, 8)];
    await ingest.apply({ t: 'changes', rows, cursor: '8', seq: 8 });
    expect(told.map(({ all }) => all)).toEqual([true]);
    expect((await store.read((tx) => tx.of(MESSAGE, C(1)))).map((row) => row.id)).toEqual([M(2)]);
  });

  it('and rows that are not, because a page was read later, are', async () => {
    const { store, ingest } = await begun();
    ingest.expectPage(1, { kind: 'message', parent: C(1), before: null });
    const rows = [message(1, 1, 9, { content: 'as of 9' })];
    await ingest.apply({ t: 'page', id: 1, asOf: 9, rows, more: false } as Event);
    await ingest.apply(changes(8, [1, 1, 7, { content: 'as of 7' }], [2, 1, 8]));
    expect([await content(store, 1), await content(store, 2)]).toEqual(['as of 9', 'm2']);
    store.count = 0;
    await ingest.apply(changes(10, [1, 1, 10, { content: 'as of 10' }]));
    expect([store.count, await content(store, 1)]).toEqual([0, 'as of 10']);
  });

  it('nor while it is not known how new the rows are', async () => {
    const { store, ingest } = await begun();
    await store.write((tx) => tx.setMeta({ newest: { seq: 0, isKnown: false } }));
    await ingest.apply(changes(6, [1, 1, 4, { content: 'older' }]));
    expect([store.count, await content(store, 1)]).toEqual([1, 'm1']);
  });
});
