/** The functions of the outbox, one by one. */

import { describe, expect, it } from 'vitest';

import { byteLength, codecsFor } from '../src/codec.js';
import type { Limits } from '../src/frames.js';
import { mergeLocal } from '../src/merge.js';
import { NUMBER_END, type Mutation, WriteError } from '../src/mutation.js';
import {
  acknowledge,
  add,
  corrected,
  distrustAcks,
  type Entry,
  type Head,
  nextPush,
  advance,
  renew,
  renumber,
} from '../src/outbox.js';
import { LOCAL } from '../src/rows.js';
import { MemoryStore } from '../src/store/memory.js';
import { C, CHAT_KINDS as kinds, conversation, CONVERSATION, M, message, MESSAGE } from './support/rows.js';

const CODECS = codecsFor(kinds);

const LIMITS: Limits = {
  frameBytes: 10_000,
  pageRows: 1,
  pagesInFlight: 1,
  mutations: 3,
};
const HEAD: Head = { nextKey: 9, nextN: 9, bounds: { frameBytes: 1000 } };
const entry = (n: number, change: Partial<Entry> = {}): Entry => ({
  key: n,
  n,
  mutation: { op: '-', kind: 'conversation', id: C(n) },
  state: 'pending',
  seq: null,
  code: null,
  message: null,
  ...change,
});
const big = (n: number, length: number): Entry =>
  entry(n, {
    mutation: { op: '~', kind: 'message', id: M(n), dated: 1, columns: { content: 'x'.repeat(length) }, at: 1 },
  });

describe('the next push', () => {
  const next = (entries: readonly Entry[], limits: Partial<Limits> = {}) =>
    nextPush(entries, { ...LIMITS, ...limits }, CODECS.json);
  it('a push has the mutations with the lowest numbers, as many as are permitted and fit', () => {
    expect(next([])).toBeNull();
    expect(next([entry(5), entry(6)])).toMatchObject({ n: 5, mutations: { length: 2 } });
    expect(next([1, 2, 3, 4].map((n) => entry(n)))?.mutations).toHaveLength(3);
    expect(
      next(
        [1, 2, 3].map((n) => big(n, 300)),
        { frameBytes: 1000 },
      )?.mutations,
    ).toHaveLength(2);
    expect(next([entry(1)], { mutations: 0 })).toBeNull();
  });
  it('the number of a mutation that fits no frame any more is given up', () => {
    const outgrown = big(1, 2000);
    const push = next([outgrown, entry(2)], { frameBytes: 1000 });
    expect(push?.mutations).toEqual([null, entry(2).mutation]);
    const results = [
      { kind: 'rejected' as const, n: 1, code: 'malformed', message: '?', column: null },
      { kind: 'applied' as const, n: 2, seq: 5 },
    ];
    const { put, drop } = acknowledge([outgrown, entry(2)], push!, results, 4);
    expect(put).toMatchObject([
      { key: 1, state: 'rejected', code: 'too_long' },
      { key: 2, state: 'acked', seq: 5 },
    ]);
    expect(drop).toEqual([]);
  });
  it('a push begins with the lowest entry in doubt, and has null for each number whose mutation is gone', () => {
    const held = [...distrustAcks([entry(3, { state: 'acked', seq: 7 })]).put, entry(5), entry(6)];
    const [three, five] = held.map(({ mutation }) => mutation);
    expect(next(held)).toEqual({ n: 3, held: 3, mutations: [three, null, five] });
    expect(next(held, { mutations: 2 })).toEqual({ n: 3, held: 3, mutations: [three] });
    expect(next(held.slice(0, 1))).toEqual({ n: 3, held: 3, mutations: [three] });
  });
  it('`held` is the lowest number whose mutation is held, acknowledged or not', () => {
    const acked = [entry(0, { state: 'acked', seq: 1 }), entry(2, { state: 'acked', seq: 7 })];
    expect(next([...acked, entry(4)])).toMatchObject({ n: 4, held: 2, mutations: { length: 1 } });
    expect(next([entry(4)])).toMatchObject({ n: 4, held: 4 });
    expect(next(acked)).toBeNull();
  });
  it.each(['json', 'msgpack'] as const)('a push fits the frame, whatever numbers it has or skips: %s', (encoding) => {
    const codec = CODECS[encoding];
    for (let frameBytes = 400; frameBytes < 420; frameBytes++) {
      const held = [0, 70, 71, 72].map((more) => entry(NUMBER_END - 72 + more));
      const push = nextPush(held, { ...LIMITS, frameBytes, mutations: 100 }, codec);
      expect(push?.mutations.length).toBeGreaterThan(70);
      expect(byteLength(codec.encode({ t: 'push', ...push! }))).toBeLessThanOrEqual(frameBytes);
    }
  });
});

describe('what was acknowledged', () => {
  const acked = (n: number, seq: number | null = null): Entry => entry(n, { state: 'acked', seq });
  const push = { n: 3, held: 3, mutations: [acked(3).mutation, null, acked(5).mutation] };

  it('an acked entry is in doubt on a new connection, stays acked, and no position completes it', () => {
    const { put, drop } = distrustAcks([acked(3, 7), acked(5)]);
    expect(put).toEqual([acked(3), acked(5)]);
    expect(drop).toEqual([]);
    expect(advance(put, 99).drop).toEqual([]);
  });
  it('a result of this connection acknowledges an entry in doubt again, or completes it', () => {
    const results = [
      { kind: 'repeated' as const, n: 3, seq: 8 },
      { kind: 'repeated' as const, n: 4, seq: 8 },
      { kind: 'applied' as const, n: 5, seq: 9 },
    ];
    const entries = [acked(3), entry(4, { state: 'rejected' }), acked(5)];
    expect(acknowledge(entries, push, results, 8)).toEqual({ put: [acked(5, 9)], drop: [3] });
    expect(acknowledge(entries, push, results, null)).toEqual({ put: [acked(3, 8), acked(5, 9)], drop: [] });
    expect(advance([acked(3, 8), acked(5, 9)], 8).drop).toEqual([3]);
  });
  it('an acked entry goes to quarantine if this database rejects it', () => {
    const results = [3, 4, 5].map((n) => ({
      kind: 'rejected' as const,
      n,
      code: 'refused',
      message: 'No.',
      column: null,
    }));
    const { put, drop } = acknowledge([acked(3), acked(5, 9)], push, results, 8);
    expect(put).toMatchObject([{ key: 3, state: 'rejected', code: 'refused', message: 'No.' }]);
    expect(drop).toEqual([]);
  });
  it('an acked entry without a number is not pushed again: a position completes it', () => {
    const { put } = distrustAcks(renew([acked(3, 7), acked(5)]).put);
    expect(put.map((each) => [each.n, each.seq])).toEqual([
      [0, 7],
      [0, 0],
    ]);
    expect(nextPush(put, LIMITS, CODECS.json)).toBeNull();
    expect(advance(put, 7).drop).toEqual([3, 5]);
    expect(renumber(put, 1, 4)).toEqual({ put: [], drop: [], nextN: 4 });
  });
});

describe('numbers', () => {
  it('each number is given once, until there are none left', () => {
    const mutation: Mutation = { op: '-', kind: 'conversation', id: C(1) };
    expect(add(HEAD, kinds, mutation)).toMatchObject({ key: 9, n: 9, state: 'pending' });
    expect(() => add({ ...HEAD, nextN: NUMBER_END + 1 }, kinds, mutation)).toThrow(WriteError);
    expect(() => add(HEAD, kinds, big(1, 1000).mutation)).toThrow('fits in no frame');
  });
  const entries = [
    entry(1, { state: 'acked', seq: 1 }),
    entry(2, { state: 'acked', seq: 2 }),
    entry(3, { state: 'rejected' }),
    entry(4),
    entry(5),
  ];
  it('a database that lost its tail gets new numbers for all that it does not have', () => {
    const { put, nextN } = renumber(entries, 4, 2);
    expect(put.map((e) => [e.key, e.n, e.state])).toEqual([
      [2, 2, 'pending'],
      [4, 3, 'pending'],
      [5, 4, 'pending'],
    ]);
    expect(nextN).toBe(5);
  });
  it('a database with other mutations under these numbers gets new numbers for all that is held', () => {
    const { put, nextN } = renumber(entries, 1, 7);
    expect(put.map((e) => [e.key, e.n, e.state, e.seq])).toEqual([
      [1, 7, 'pending', null],
      [2, 8, 'pending', null],
      [4, 9, 'pending', null],
      [5, 10, 'pending', null],
    ]);
    expect(nextN).toBe(11);
  });
  it('numbers start at 1 under another client_id', () => {
    const { put, nextN } = renew([
      entry(4, { state: 'acked', seq: 1 }),
      entry(5),
      entry(6, { state: 'rejected' }),
      entry(7),
    ]);
    expect(put.map((e) => e.n)).toEqual([0, 1, 0, 2]);
    expect(nextN).toBe(3);
  });
});

it('a retry changes the time or id if the rejection asks for it', () => {
  const made = (title: string, at: number): Mutation => ({
    op: '+',
    kind: 'conversation',
    id: C(1),
    columns: { title },
    at,
  });
  const rejected = (code: string): Entry => entry(1, { state: 'rejected', code, mutation: made('a', 1) });
  expect(corrected(rejected('refused'), {}, 5, C(9))).toEqual(made('a', 1));
  expect(corrected(rejected('bad_time'), { title: 'b' }, 5, C(9))).toEqual(made('b', 5));
  expect(corrected(rejected('bad_id'), {}, 5, C(9))).toMatchObject({ id: C(9) });
});

it('local work that exceeds the limits goes to quarantine: it is neither pushed nor lost', async () => {
  const store = new MemoryStore();
  await store.write(async (tx) => {
    await tx.put(CONVERSATION, [conversation(1, LOCAL)]);
    await tx.put(MESSAGE, [
      message(1, 1, LOCAL, { content: 'x'.repeat(100_001) }),
      message(2, 1, LOCAL, { content: 'ok', updatedAt: 2001 }),
      message(3, 1, LOCAL, { content: '\ud800' }),
    ]);
    await mergeLocal(tx, kinds, 1);
    expect(await tx.local(CONVERSATION)).toEqual([]);
    expect(await tx.local(MESSAGE)).toEqual([]);
  });
  const entries = await store.read((tx) => tx.entries());
  expect(entries.map((e) => [e.n, e.mutation.op, e.mutation.kind, e.state])).toEqual([
    [1, '+', 'conversation', 'pending'],
    [0, '+', 'message', 'rejected'],
    [2, '+', 'message', 'pending'],
    [3, '~', 'message', 'pending'],
    [0, '+', 'message', 'rejected'],
  ]);
  expect(entries.map((e) => e.code)).toEqual([null, 'too_long', null, null, 'bad_text']);
  expect(await store.read((tx) => tx.meta())).toMatchObject({ nextKey: 6, nextN: 4, merging: 3 });
});
