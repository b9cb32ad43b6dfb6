/** The outbox's decisions, one by one. */

import { describe, expect, it } from 'vitest';

import { mergeLocal } from '../src/merge.js';
import { NUMBER_END, type Mutation, WriteError } from '../src/mutation.js';
import {
  acknowledge,
  add,
  corrected,
  doubt,
  type Entry,
  type Head,
  isDue,
  nextPush,
  reach,
  renew,
  renumber,
} from '../src/outbox.js';
import { LOCAL } from '../src/rows.js';
import { MemoryStore } from '../src/store/memory.js';
import { CODECS, type Limits } from '../src/wire.js';
import { C, conversation, M, message } from './support/rows.js';

const LIMITS: Limits = {
  frameBytes: 10_000,
  pageRows: 1,
  pagesInFlight: 1,
  mutations: 3,
  titleBytes: 10,
  contentBytes: 10,
};
const HEAD: Head = { nextKey: 9, nextN: 9, bounds: { frameBytes: 1000 } };
const entry = (n: number, change: Partial<Entry> = {}): Entry => ({
  key: n,
  n,
  mutation: { kind: '-c', id: C(n) },
  state: 'pending',
  seq: null,
  code: null,
  message: null,
  ...change,
});
const big = (n: number, length: number): Entry =>
  entry(n, { mutation: { kind: '~m', id: M(n), createdAt: 1, content: 'x'.repeat(length), at: 1 } });

describe('the next push', () => {
  const next = (entries: Entry[], limits: Partial<Limits> = {}) =>
    nextPush(HEAD, entries, { ...LIMITS, ...limits }, CODECS.json);
  it('has the lowest ones, as many as are permitted and fit', () => {
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
  it('gives away the number of one that fits no frame any more', () => {
    const outgrown = big(1, 2000);
    const push = next([outgrown, entry(2)], { frameBytes: 1000 });
    expect(push?.mutations).toEqual([null, entry(2).mutation]);
    const results = [
      { kind: 'rejected' as const, n: 1, code: 'malformed', message: '?' },
      { kind: 'applied' as const, n: 2, seq: 5 },
    ];
    const { put, drop } = acknowledge([outgrown, entry(2)], push!, results, 4);
    expect(put).toMatchObject([
      { key: 1, state: 'rejected', code: 'too_long' },
      { key: 2, state: 'acked', seq: 5 },
    ]);
    expect(drop).toEqual([]);
  });
  it('is empty if all that is left to learn is whether the server has what it acknowledged', () => {
    const [doubtful] = doubt([entry(3, { state: 'acked', seq: 7 }), entry(4)]).put;
    expect(doubtful).toMatchObject({ key: 3, seq: null });
    expect(isDue([doubtful!])).toBe(true);
    expect(isDue([entry(3, { state: 'acked', seq: 7 })])).toBe(false);
    expect(next([doubtful!])).toEqual({ n: 9, mutations: [] });
    expect(reach([doubtful!], 99).drop).toEqual([]);
    expect(acknowledge([doubtful!], { n: 9, mutations: [] }, [], 1).drop).toEqual([3]);
  });
});

describe('numbers', () => {
  it('are given once, until there are none left', () => {
    const mutation: Mutation = { kind: '-c', id: C(1) };
    expect(add(HEAD, mutation)).toMatchObject({ key: 9, n: 9, state: 'pending' });
    expect(() => add({ ...HEAD, nextN: NUMBER_END + 1 }, mutation)).toThrow(WriteError);
    expect(() => add(HEAD, big(1, 1000).mutation)).toThrow('fits in no frame');
  });
  it('are given anew from what the server awaits, to all that it does not have', () => {
    const entries = [
      entry(1, { state: 'acked', seq: 1 }),
      entry(2, { state: 'acked', seq: 2 }),
      entry(3, { state: 'rejected' }),
      entry(4),
      entry(5),
    ];
    const { put, nextN } = renumber(entries, 2);
    expect(put.map((e) => [e.key, e.n, e.state])).toEqual([
      [2, 2, 'pending'],
      [4, 3, 'pending'],
      [5, 4, 'pending'],
    ]);
    expect(nextN).toBe(5);
  });
  it('start at 1 for another client_id', () => {
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

it('a retry changes what the rejection asks for', () => {
  const rejected = (code: string): Entry =>
    entry(1, { state: 'rejected', code, mutation: { kind: '+c', id: C(1), title: 'a', at: 1 } });
  expect(corrected(rejected('refused'), undefined, 5, C(9))).toEqual({ kind: '+c', id: C(1), title: 'a', at: 1 });
  expect(corrected(rejected('bad_time'), 'b', 5, C(9))).toEqual({ kind: '+c', id: C(1), title: 'b', at: 5 });
  expect(corrected(rejected('bad_id'), undefined, 5, C(9))).toMatchObject({ id: C(9) });
});

it('local work that the server would not take goes to quarantine, not up and not away', async () => {
  const store = new MemoryStore();
  await store.write(async (tx) => {
    await tx.putConversations([conversation(1, LOCAL)]);
    await tx.putMessages([
      message(1, 1, LOCAL, { content: 'far too long' }),
      message(2, 1, LOCAL, { content: 'ok', updatedAt: 2001 }),
      message(3, 1, LOCAL, { content: '\ud800' }),
    ]);
    await tx.setMeta({ bounds: { frameBytes: 1000, contentBytes: 5 } });
    await mergeLocal(tx);
    expect(await tx.localConversations()).toEqual([]);
    expect(await tx.localMessages()).toEqual([]);
  });
  const entries = await store.read((tx) => tx.entries());
  expect(entries.map((e) => [e.n, e.mutation.kind, e.state])).toEqual([
    [1, '+c', 'pending'],
    [0, '+m', 'rejected'],
    [2, '+m', 'pending'],
    [3, '~m', 'pending'],
    [0, '+m', 'rejected'],
  ]);
  expect(entries.map((e) => e.code)).toEqual([null, 'too_long', null, null, 'bad_text']);
  expect(await store.read((tx) => tx.meta())).toMatchObject({ nextKey: 6, nextN: 4, merging: 3 });
});
