/** The store in IndexedDB against the one in memory, under random transactions over rows with a parent. */

import 'fake-indexeddb/auto';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { keyOf, LOCAL, orderOfRow, type Row } from '../src/rows.js';
import { compile, shapeOf, type Kind } from '../src/schema.js';
import { newMeta, type Reading, type Store, type Writing } from '../src/store.js';
import { asked } from '../src/store/idb.js';
import { IndexedDbStore } from '../src/store/indexeddb.js';
import { LEAVES } from '../src/store/leaves.js';
import { MemoryStore } from '../src/store/memory.js';
import { singleOf } from '../src/store/singles.js';
import { database, DEXIE_FIRST, put, WITH_DEXIE } from './support/databases.js';
import { FORUM } from './support/forum.js';
import { CLIENT } from './support/former.js';
import { C, CHAT_KINDS, entry, M, message, MESSAGE } from './support/rows.js';

const FORUM_KINDS = compile(FORUM);
const [TOPIC, THREAD, POST] = ['topic', 'thread', 'post'].map((name) => FORUM_KINDS.get(name)) as [Kind, Kind, Kind];

/** Sizes around what a leaf holds, and one that is a leaf by itself. */
const TEXTS = ['', 'short', 'x'.repeat(500), 'y'.repeat(9_000), 'z'.repeat(70_000)];

/** A message, by numbers: the same number is the same message, wherever and whenever it is. */
const chat = fc.record({ n: fc.nat(120), home: fc.nat(2), at: fc.nat(60), local: fc.nat(9), text: fc.nat(TEXTS.length - 1) }).map(
  ({ n, home, at, local, text }): Row => ({
    kind: 'message',
    seq: local === 0 ? LOCAL : at,
    id: M(n),
    conversationId: C(home),
    role: 'user',
    content: TEXTS[text],
    createdAt: at,
    updatedAt: at,
  }),
);
const forum = fc.record({ n: fc.nat(120), home: fc.nat(2), at: fc.nat(60), topic: fc.nat(3), text: fc.nat(2) }).map(
  ({ n, home, at, topic, text }): Row => ({
    kind: 'post',
    seq: at % 9 === 0 ? LOCAL : at,
    id: `${n}`,
    threadId: home,
    topicId: topic === 0 ? null : `t${topic}`,
    parts: { text: TEXTS[text] },
    rank: at < 5 ? null : BigInt(at),
  }),
);

interface Sample {
  readonly kind: Kind;
  readonly row: fc.Arbitrary<Row>;
  readonly homes: readonly string[];
  readonly aboves: readonly string[];
}
const SAMPLES: Readonly<Record<string, Sample>> = {
  chat: { kind: MESSAGE, row: chat, homes: [0, 1, 2].map(C), aboves: [] },
  forum: {
    kind: POST,
    row: forum,
    homes: [0, 1, 2].map((n) => keyOf(THREAD, n)),
    aboves: [1, 2, 3].map((n) => keyOf(TOPIC, `t${n}`)),
  },
};

const steps = (row: fc.Arbitrary<Row>) =>
  fc.oneof(
    { weight: 5, arbitrary: fc.record({ do: fc.constant('put' as const), rows: fc.array(row, { maxLength: 90, size: 'max' }) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('put' as const), rows: fc.array(row, { maxLength: 2 }) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('drop' as const), rows: fc.array(row, { maxLength: 20 }) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('clear' as const), rows: fc.constant([] as Row[]) }) },
  );
const transactions = (row: fc.Arbitrary<Row>) =>
  fc.array(fc.record({ steps: fc.array(steps(row), { minLength: 1, maxLength: 4 }), fails: fc.nat(5) }), { maxLength: 10 });
type Plan = ReturnType<typeof transactions> extends fc.Arbitrary<infer T> ? T : never;

async function perform(store: Store, kind: Kind, plan: Plan): Promise<void> {
  for (const { steps, fails } of plan) {
    const work = async (tx: Writing): Promise<void> => {
      for (const { do: what, rows } of steps) {
        if (what === 'put') await tx.put(kind, rows);
        else if (what === 'clear') await tx.clear(false);
        else
          await tx.drop(
            kind,
            rows.map((row) => keyOf(kind, row.id)),
          );
      }
      if (fails === 0) throw new Error('interrupted');
    };
    await store.write(work, fails % 2 ? 'relaxed' : 'strict').catch((error: Error) => {
      expect(error.message).toBe('interrupted');
    });
  }
}

const sorted = (kind: Kind, rows: readonly Row[]): Row[] =>
  [...rows].sort((a, b) => (keyOf(kind, a.id) < keyOf(kind, b.id) ? -1 : 1));

/** Everything that a store says about a kind's rows. */
const told = (store: Store, { kind, homes, aboves }: Sample): Promise<unknown> =>
  store.read(async (tx: Reading) => {
    const places = (await tx.all(kind)).map((row) => orderOfRow(kind, row)).sort();
    const middle = places[places.length >> 1] ?? '';
    const keys = Array.from({ length: 121 }, (_, n) => keyOf(kind, kind === POST ? `${n}` : M(n)));
    return {
      all: sorted(kind, await tx.all(kind)),
      local: sorted(kind, await tx.local(kind)),
      one: await tx.get(kind, keys.slice(7, 8)),
      got: await tx.get(kind, keys),
      of: await Promise.all(homes.map(async (home) => sorted(kind, await tx.of(kind, home)))),
      under: await Promise.all(aboves.map(async (above) => sorted(kind, await tx.under(kind, above)))),
      newest: await Promise.all(
        homes.flatMap((home) =>
          [null, middle, places[0] ?? ''].flatMap((before) =>
            [1, 20, Infinity].map((limit) => tx.newest(kind, home, before, limit)),
          ),
        ),
      ),
    };
  });

let count = 0;

describe.each(Object.entries(SAMPLES))('%s', (_, sample) => {
  const { kind, row } = sample;

  it.each(['', ' where the browser reads records one by one'])('leaves keep what a store in memory keeps%s', async (how) => {
    const { getAllRecords } = IDBObjectStore.prototype as { getAllRecords?: unknown };
    if (how !== '') delete (IDBObjectStore.prototype as { getAllRecords?: unknown }).getAllRecords;
    try {
      await fc.assert(
        fc.asyncProperty(transactions(row), async (plan) => {
          const [leaves, memory] = [new IndexedDbStore({ name: `leaves-${++count}` }), new MemoryStore()];
          for (const store of [leaves, memory]) await perform(store, kind, plan);
          expect(await told(leaves, sample)).toEqual(await told(memory, sample));
          await leaves.close();
        }),
        { numRuns: how === '' ? 60 : 10 },
      );
    } finally {
      Object.assign(IDBObjectStore.prototype, { getAllRecords });
    }
  });

  it('rows of the layout with Dexie are kept, whatever happens while they are poured into leaves', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(row, { maxLength: 1200, size: 'max' }), transactions(row), async (rows, plan) => {
        const name = `leaves-${++count}`;
        const memory = new MemoryStore();
        await memory.write((tx) => tx.put(kind, rows));
        const held = await memory.read((tx) => tx.all(kind));
        await makeWithDexie(name, kind, held);
        const store = new IndexedDbStore({ name });
        for (const each of [store, memory]) await perform(each, kind, plan);
        expect(await told(store, sample)).toEqual(await told(memory, sample));
        await poured(name);
        expect(await told(store, sample)).toEqual(await told(memory, sample));
        const { newest } = await store.read((tx) => tx.meta());
        expect(newest.isKnown).toBe(true);
        expect(newest.seq).toBeGreaterThanOrEqual(Math.max(0, ...held.map(({ seq }) => seq)));
        await store.close();
      }),
      { numRuns: 15 },
    );
  });
});

/** A store as the version with Dexie left it. */
async function makeWithDexie(name: string, kind: Kind, rows: readonly Row[]): Promise<void> {
  const db = await database(`${name}/kinds`, DEXIE_FIRST, WITH_DEXIE);
  const { made: _, destroyed: _d, newest: _n, ...meta } = newMeta(CLIENT);
  const shape = shapeOf(kind === POST ? FORUM_KINDS : CHAT_KINDS);
  await put(db, 'head', [{ ...meta, user: 'u', shape, nextN: 7 }], [0]);
  await put(
    db,
    'rows',
    rows.map((row) => singleOf(kind, row)),
  );
  db.close();
}

const inStore = async <T>(name: string, store: string, ask: (from: IDBObjectStore) => IDBRequest<T>): Promise<T> => {
  const db = await asked<IDBDatabase>(indexedDB.open(`${name}/kinds`));
  const found = await asked<T>(ask(db.transaction(store).objectStore(store)));
  db.close();
  return found;
};

async function poured(name: string): Promise<void> {
  while ((await inStore(name, 'head', (head) => head.get('pour'))) !== undefined);
  expect(await inStore(name, 'rows', (rows) => rows.count())).toBe(0);
}

it('what waits in an outbox of the layout with Dexie is read, and stays with what is written then', async () => {
  const name = `leaves-${++count}`;
  await makeWithDexie(name, MESSAGE, []);
  const db = await asked<IDBDatabase>(indexedDB.open(`${name}/kinds`));
  await put(db, 'outbox', [entry(1), entry(2)]);
  db.close();
  const store = new IndexedDbStore({ name });
  const keys = (): Promise<number[]> => store.read(async (tx) => (await tx.entries()).map(({ key }) => key));
  expect(await keys()).toEqual([1, 2]);
  await store.write((tx) => tx.putEntries([entry(3)]));
  expect(await keys()).toEqual([1, 2, 3]);
  await store.close();
});

it('what the version with Dexie had copied only in part is not taken for its own', async () => {
  const name = `leaves-${++count}`;
  const db = await database(`${name}/kinds`, DEXIE_FIRST, WITH_DEXIE);
  await put(db, 'head', [true], [1]);
  await put(db, 'rows', [singleOf(MESSAGE, { ...message(1, 1, 5), seq: LOCAL })]);
  db.close();
  const store = new IndexedDbStore({ name });
  await store.read(async (tx) => {
    expect((await tx.meta()).user).toBe('');
    expect(await tx.local(MESSAGE)).toEqual([]);
  });
  await store.close();
});

it('a history takes few records, whether its rows came at once, page by page or one by one', async () => {
  const numbered = (n: number): Row => ({
    kind: 'message',
    seq: n,
    id: M(n),
    conversationId: C(1),
    role: 'user',
    content: 'x'.repeat(500),
    createdAt: n,
    updatedAt: n,
  });
  const rows = (from: number, to: number): Row[] => Array.from({ length: to - from }, (_, i) => numbered(from + i));
  const name = `leaves-${++count}`;
  const store = new IndexedDbStore({ name });
  const leaves = (): Promise<number> => inStore(name, LEAVES, (from) => from.count());
  await store.write((tx) => tx.put(MESSAGE, rows(2000, 3000)));
  expect(await leaves()).toBeLessThanOrEqual(32);
  for (let n = 2000; n > 1000; n -= 50) await store.write((tx) => tx.put(MESSAGE, rows(n - 50, n)));
  expect(await leaves()).toBeLessThanOrEqual(32 + 60);
  for (let n = 3000; n < 3160; n++) await store.write((tx) => tx.put(MESSAGE, [numbered(n)]));
  expect(await leaves()).toBeLessThanOrEqual(32 + 60 + 11);
  expect((await store.read((tx) => tx.newest(MESSAGE, C(1), null, Infinity))).map((row) => row.seq)).toEqual(
    rows(1000, 3160)
      .map((row) => row.seq)
      .reverse(),
  );
  await store.close();
});
