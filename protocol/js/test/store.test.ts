/** The contract of a store, checked with each of the three, with the chat schema and with one that is unlike it. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { applyPage, applyRows, applySnapshot, touchedNothing } from '../src/apply.js';
import type { Floor } from '../src/holes.js';
import type { Insert } from '../src/mutation.js';
import { homeOf, keyOf, LOCAL, orderOf, orderOfRow, type Arrival, type Row } from '../src/rows.js';
import { compile, type Id, type Kind } from '../src/schema.js';
import type { Store, Writing } from '../src/store.js';
import type { KeptStream } from '../src/streams.js';
import { IndexedDbStore } from '../src/store/indexeddb.js';
import { SqliteStore } from '../src/store/sqlite.js';
import { FORUM } from './support/forum.js';
import { C, CHAT_KINDS, conversation, CONVERSATION, entry, id, M, message, MESSAGE, PROFILE } from './support/rows.js';
import { KINDS, sqliteDriver } from './support/stores.js';

const FORUM_KINDS = compile(FORUM);
const of = (name: string): Kind => FORUM_KINDS.get(name) as Kind;
const [TOPIC, THREAD, POST, VOTE, EVERYTHING] = ['topic', 'thread', 'post', 'vote', 'everything'].map(of) as [
  Kind,
  Kind,
  Kind,
  Kind,
  Kind,
];

/** A kind and another one below it, with rows by number. A greater number is newer. */
interface Sample {
  readonly schema: string;
  readonly top: Kind;
  readonly below: Kind;
  readonly topRow: (n: number, seq: number) => Row;
  readonly belowRow: (n: number, home: number, seq: number) => Row;
  readonly insert: Insert;
  readonly floor: Floor;
}

const SAMPLES: readonly Sample[] = [
  {
    schema: 'chat',
    top: CONVERSATION,
    below: MESSAGE,
    topRow: (n, seq) => ({ ...conversation(n, seq, { title: n % 2 ? 'Grüezi 東京 🚲' : null }) }),
    belowRow: (n, home, seq) => ({ ...message(n, home, seq, { content: `m${n} \u0001` }) }),
    insert: {
      op: '+',
      kind: 'message',
      id: M(9),
      columns: { conversationId: C(1), role: 'user', content: '\u0001i5' },
      at: 2 ** 52,
    },
    floor: [7, M(3)],
  },
  {
    schema: 'forum',
    top: THREAD,
    below: POST,
    topRow: (n, seq) => ({
      kind: 'thread',
      seq,
      id: 2n ** 62n + BigInt(n),
      topicId: 'té/\u0001',
      name: `t${n}`,
      last: n,
    }),
    belowRow: (n, home, seq) => ({
      kind: 'post',
      seq,
      id: `p ${n} 🚲`,
      threadId: 2n ** 62n + BigInt(home),
      parts: [{ __proto__: null, n: [n, null, true, '\u0001'] }, 'x'],
      state: null,
      rank: n < 1000 ? -(2n ** 63n) + BigInt(n) : n,
      madeAt: n,
    }),
    insert: {
      op: '+',
      kind: 'post',
      id: 'p',
      columns: { threadId: 2n ** 62n, parts: { '\u0001': ['\u0001s'] }, rank: -(2n ** 63n) },
      at: 5,
    },
    floor: [-(2n ** 63n), 'p 3'],
  },
];

describe.each(KINDS)('$name', ({ make }) => {
  let made: ReturnType<typeof make>;
  let store: Store;
  const write = <T>(work: (tx: Writing) => Promise<T>): Promise<T> => store.write(work);
  const idsOf = (rows: readonly Row[]): Id[] => rows.map((row) => row.id);

  beforeEach(() => {
    made = make();
    store = made.store;
  });
  afterEach(() => made.end());

  it('a new store is empty, and its client_id stays', async () => {
    const meta = await store.read((tx) => tx.meta());
    expect(meta).toMatchObject({ cursor: null, position: null, nextKey: 1, nextN: 1, lease: 0, shape: '' });
    expect(meta.clientId).toMatch(/^[0-9a-f-]{36}$/);
    store = await made.reopen();
    expect((await store.read((tx) => tx.meta())).clientId).toBe(meta.clientId);
  });

  it('transactions run one after the other', async () => {
    await Promise.all(
      Array.from({ length: 20 }, () => write(async (tx) => tx.setMeta({ nextN: (await tx.meta()).nextN + 1 }))),
    );
    expect((await store.read((tx) => tx.meta())).nextN).toBe(21);
  });

  describe.each(SAMPLES)('schema $schema', ({ top, below, topRow, belowRow, insert, floor }) => {
    const topKey = (n: number): string => keyOf(top, topRow(n, 0).id);
    const belowKey = (n: number): string => keyOf(below, belowRow(n, 0, 0).id);

    it('a transaction is kept as a whole, also when the store is opened again', async () => {
      await write(async (tx) => {
        await tx.put(top, [topRow(1, 5), topRow(2, 5)]);
        await tx.put(below, [belowRow(1, 1, 5), belowRow(2, 1, 6)]);
        await tx.putEntries([entry(1, { mutation: insert })]);
        await tx.putFloors(below, [
          [topKey(1), 'start'],
          [topKey(2), floor],
        ]);
        await tx.putFloors(top, [[topKey(1), floor]]);
        await tx.remember([{ kind: below.name, key: belowKey(7), seq: 9 }]);
        await tx.setMeta({ cursor: 'AAEC/w==', position: 2 ** 52, bounds: { frameBytes: 9 }, edited: ['\u0001'] });
      });
      store = await made.reopen();
      await store.read(async (tx) => {
        expect(await tx.get(top, [topKey(2), topKey(9), topKey(1)])).toEqual([topRow(2, 5), undefined, topRow(1, 5)]);
        expect(await tx.get(below, [belowKey(2)])).toEqual([belowRow(2, 1, 6)]);
        expect(await tx.get(top, [belowKey(2)])).toEqual([undefined]);
        expect((await tx.entries())[0]?.mutation).toEqual(insert);
        expect(Object.keys(((await tx.entries())[0]?.mutation as Insert).columns)).toEqual(Object.keys(insert.columns));
        expect(await tx.floors(below, [topKey(2), topKey(3), topKey(1)])).toEqual([floor, undefined, 'start']);
        expect(await tx.floors(top, [topKey(1)])).toEqual([floor]);
        expect(await tx.gone()).toEqual([{ kind: below.name, key: belowKey(7), seq: 9 }]);
        expect(await tx.meta()).toMatchObject({
          cursor: 'AAEC/w==',
          position: 2 ** 52,
          bounds: { frameBytes: 9 },
          edited: ['\u0001'],
        });
      });
    });

    it('nothing is kept of a transaction that throws', async () => {
      await write((tx) => tx.put(top, [topRow(1, 1)]));
      const broken = write(async (tx) => {
        await tx.put(top, [topRow(1, 9), topRow(2, 9)]);
        await tx.drop(top, [topKey(1)]);
        await tx.put(below, [belowRow(1, 1, 9)]);
        await tx.putEntries([entry(1)]);
        await tx.putFloors(below, [[topKey(1), 'start']]);
        await tx.setMeta({ nextN: 99 });
        throw new Error('the tab was closed');
      });
      await expect(broken).rejects.toThrow('the tab was closed');
      await store.read(async (tx) => {
        expect(await tx.get(top, [topKey(1), topKey(2)])).toEqual([topRow(1, 1), undefined]);
        expect(await tx.get(below, [belowKey(1)])).toEqual([undefined]);
        expect(await tx.entries()).toEqual([]);
        expect(await tx.floors(below, [topKey(1)])).toEqual([undefined]);
        expect((await tx.meta()).nextN).toBe(1);
      });
    });

    it('rows are found newest first, before a place, in their home', async () => {
      await write(async (tx) => {
        await tx.put(
          below,
          [3, 1, 4, 2].map((n) => belowRow(n, 1, 1)),
        );
        await tx.put(below, [belowRow(5, 2, 1)]);
      });
      const [one, two] = [1, 2].map(topKey) as [string, string];
      await store.read(async (tx) => {
        const ids = [4, 3, 2, 1].map((n) => belowRow(n, 1, 1).id);
        expect(idsOf(await tx.newest(below, one, null, 9))).toEqual(ids);
        expect(idsOf(await tx.newest(below, one, null, Infinity))).toEqual(ids);
        expect(idsOf(await tx.newest(below, one, null, 2))).toEqual(ids.slice(0, 2));
        expect(idsOf(await tx.newest(below, one, orderOfRow(below, belowRow(3, 1, 1)), 1))).toEqual([ids[2]]);
        expect(await tx.newest(top, one, null, 9)).toEqual([]);
        expect(await tx.of(below, two)).toEqual([belowRow(5, 2, 1)]);
        expect(new Set(idsOf(await tx.of(below, one)))).toEqual(new Set(ids));
        expect(await tx.all(below)).toHaveLength(5);
        expect(await tx.all(top)).toEqual([]);
      });
      // A row that changes its home is found in the new one only.
      await write((tx) => tx.put(below, [belowRow(4, 2, 2)]));
      await store.read(async (tx) => {
        expect(await tx.newest(below, one, null, 9)).toHaveLength(3);
        expect(await tx.newest(below, two, null, 1)).toEqual([belowRow(5, 2, 1)]);
      });
    });

    it('local rows are found by kind; clear keeps them, or deletes them, too', async () => {
      await write(async (tx) => {
        await tx.put(top, [topRow(1, 0), topRow(2, LOCAL)]);
        await tx.put(below, [belowRow(2, 2, LOCAL), belowRow(1, 2, LOCAL), belowRow(3, 1, 4)]);
        await tx.putFloors(below, [[topKey(1), 'start']]);
        await tx.putFloors(top, [['', 'start']]);
        await tx.remember([{ kind: top.name, key: topKey(4), seq: 1 }]);
        await tx.setMeta({ cursor: 'AA==' });
        await tx.clear(false);
      });
      await store.read(async (tx) => {
        expect(await tx.all(top)).toEqual([topRow(2, LOCAL)]);
        expect(await tx.local(top)).toEqual([topRow(2, LOCAL)]);
        expect(new Set(idsOf(await tx.local(below)))).toEqual(new Set([1, 2].map((n) => belowRow(n, 2, 0).id)));
        expect(await tx.all(below)).toHaveLength(2);
        expect(await tx.newest(below, topKey(2), null, 9)).toHaveLength(2);
        expect(await tx.floors(below, [topKey(1)])).toEqual([undefined]);
        expect(await tx.floors(top, [''])).toEqual([undefined]);
        expect(await tx.gone()).toEqual([]);
        expect((await tx.meta()).cursor).toBe('AA==');
      });
      await write((tx) => tx.put(below, [belowRow(1, 2, 8)]));
      expect(await store.read((tx) => tx.local(below))).toEqual([belowRow(2, 2, LOCAL)]);
      await write((tx) => tx.clear(true));
      expect(await store.read(async (tx) => [...(await tx.all(top)), ...(await tx.all(below))])).toEqual([]);
    });

    it('many rows can be stored at once', async () => {
      const rows = Array.from({ length: 1500 }, (_, n) => belowRow(n, 1, n));
      const keys = rows.map((row) => keyOf(below, row.id));
      await write((tx) => tx.put(below, rows));
      expect(await store.read((tx) => tx.get(below, keys))).toEqual(rows);
      await write((tx) => tx.drop(below, keys.slice(1)));
      expect(await store.read((tx) => tx.all(below))).toEqual(rows.slice(0, 1));
    });

    it('floors can be dropped', async () => {
      await write(async (tx) => {
        await tx.putFloors(
          below,
          [1, 2].map((n) => [topKey(n), floor]),
        );
        await tx.putFloors(top, [[topKey(1), 'start']]);
        await tx.dropFloors(below, [topKey(1), topKey(3)]);
      });
      await store.read(async (tx) => {
        expect(await tx.floors(below, [topKey(1), topKey(2)])).toEqual([undefined, floor]);
        expect(await tx.floors(top, [topKey(1)])).toEqual(['start']);
      });
    });
  });

  it('streams stay, are replaced by their ids and dropped, and go only with everything else', async () => {
    const stream = (n: number, text: string): KeptStream => ({
      stream: id(n),
      kind: 'vote',
      id: [2n ** 62n, '\u0001🚲'],
      key: 'k',
      column: 'body',
      since: 2 ** 52,
      text,
      state: 'open',
      base: null,
      over: false,
    });
    const streams = async (): Promise<KeptStream[]> => {
      const found = await store.read((tx) => tx.streams());
      return found.sort((a, b) => (a.stream < b.stream ? -1 : 1));
    };
    const [one, two, three] = [stream(1, 'a'), stream(2, '\u0001i5 🙂'), stream(3, '')];
    await write((tx) => tx.putStreams([one, two, three]));
    await write(async (tx) => {
      await tx.putStreams([{ ...one, text: 'ab', state: 'done', base: 'old' }]);
      await tx.dropStreams([three.stream, id(9)]);
    });
    const left = [{ ...one, text: 'ab', state: 'done', base: 'old' }, two];
    expect(await streams()).toEqual(left);
    const failed = write(async (tx) => {
      await tx.dropStreams([one.stream]);
      await tx.putStreams([three]);
      throw new Error('no');
    });
    await expect(failed).rejects.toThrow('no');
    await write((tx) => tx.clear(false));
    store = await made.reopen();
    expect(await streams()).toEqual(left);
    expect(await store.read((tx) => tx.meta())).toMatchObject({ cursor: null });
    await write((tx) => tx.clear(true));
    expect(await streams()).toEqual([]);
    expect((await store.read((tx) => tx.meta())).clientId).toMatch(/-/);
  });

  it('no arguments change nothing', async () => {
    await write(async (tx) => {
      await tx.put(MESSAGE, []);
      await tx.drop(MESSAGE, []);
      await tx.putEntries([]);
      await tx.dropEntries([]);
      await tx.putFloors(MESSAGE, []);
      await tx.dropFloors(MESSAGE, []);
      await tx.remember([]);
      await tx.putStreams([]);
      await tx.dropStreams([]);
      expect(await tx.get(MESSAGE, [])).toEqual([]);
      expect(await tx.floors(MESSAGE, [])).toEqual([]);
    });
  });

  it('the outbox can be read by key and by state', async () => {
    await write((tx) =>
      tx.putEntries([
        entry(3, { state: 'acked', seq: 7 }),
        entry(10),
        entry(2),
        entry(1, { state: 'rejected', code: 'refused', message: 'No.' }),
      ]),
    );
    await store.read(async (tx) => {
      expect((await tx.entries()).map((e) => e.key)).toEqual([1, 2, 3, 10]);
      expect((await tx.pending(1)).map((e) => e.key)).toEqual([2]);
      expect((await tx.pending(9)).map((e) => e.key)).toEqual([2, 10]);
      expect(await tx.acked()).toEqual([entry(3, { state: 'acked', seq: 7 })]);
      expect(await tx.counts()).toEqual({ pending: 2, rejected: 1 });
    });
    await write(async (tx) => {
      await tx.putEntries([entry(2, { state: 'acked' })]);
      await tx.dropEntries([10, 1]);
    });
    expect(await store.read((tx) => tx.counts())).toEqual({ pending: 0, rejected: 0 });
  });

  it('the outbox is as the last transaction left it: one that failed left nothing', async () => {
    const keys = (): Promise<number[]> => store.read(async (tx) => (await tx.entries()).map((e) => e.key));
    await write((tx) => tx.putEntries([entry(2)]));
    expect(await keys()).toEqual([2]);
    const broken = write(async (tx) => {
      await tx.putEntries([entry(1)]);
      await tx.dropEntries([2]);
      expect((await tx.entries()).map((e) => e.key)).toEqual([1]);
      throw new Error('stop');
    });
    await expect(broken).rejects.toThrow('stop');
    expect(await keys()).toEqual([2]);
    await write(async (tx) => {
      await tx.putEntries([entry(5), entry(1)]);
      expect((await tx.entries()).map((e) => e.key)).toEqual([1, 2, 5]);
      await tx.dropEntries([2]);
      expect(await tx.counts()).toEqual({ pending: 2, rejected: 0 });
    });
    expect(await keys()).toEqual([1, 5]);
    store = await made.reopen();
    expect(await keys()).toEqual([1, 5]);
  });

  it('every value of every type is kept', async () => {
    const rows: Row[] = [
      [
        0,
        'a',
        id(1),
        true,
        -5,
        2n ** 62n,
        1.5,
        '1.50',
        7,
        '2024-02-29',
        { a: [1n < 2n, null, '🚲'] },
        ['1'],
        [0, 1, 255],
      ],
      [-1, '', id(2), false, 0, -7, NaN, 'NaN', -(2 ** 52), 'infinity', null, [], []],
      [1, '\u0001i1', null, null, null, null, -Infinity, '-0.1', 0, null, '\u0001nNaN', [[]], Array(300).fill(7)],
      [2, '\u0000\u0001', null, null, null, null, Infinity, null, null, null, { '\u0001': { __proto: 1 } }, null, null],
      [3, null, null, null, null, null, -0, null, null, null, JSON.parse('{"__proto__":"x"}'), null, null],
    ].map(([key, ...values]) => {
      const columns = 'abcdefghijkl'.split('').map((name, i) => [name, values[i]] as const);
      const bytes = columns.pop()?.[1];
      return {
        kind: 'everything',
        seq: 1,
        id: key as number,
        ...Object.fromEntries(columns),
        l: bytes && Uint8Array.from(bytes as number[]),
      };
    });
    await write((tx) => tx.put(EVERYTHING, rows));
    store = await made.reopen();
    const kept = await store.read((tx) =>
      tx.get(
        EVERYTHING,
        rows.map((row) => keyOf(EVERYTHING, row.id)),
      ),
    );
    expect(kept).toEqual(rows);
    expect(Object.keys(kept[4]?.['j'] as object)).toEqual(['__proto__']);
  });

  it('texts are ordered by code points, and keys of two columns by both', async () => {
    const texts = [
      '',
      '\u0001',
      '\u0001\u0001',
      'A',
      'a',
      'a\u0001',
      'aa',
      'é',
      '\uE000',
      '\uFFFD',
      '\uFFFF',
      '😀',
      '😀a',
    ];
    const votes = texts.flatMap((text) =>
      [-(2n ** 63n), -1, 0, 5, 2n ** 63n - 1n].map((n): Row => ({
        kind: 'vote',
        seq: 1,
        id: [text, n],
        threadId: 1,
        topicId: 't',
        isUp: true,
      })),
    );
    const topics = texts.map((text): Row => ({ kind: 'topic', seq: 1, id: text, titleText: text, _hiddenFlag: null }));
    await write(async (tx) => {
      await tx.put(VOTE, [...votes].reverse());
      await tx.put(TOPIC, topics);
    });
    await store.read(async (tx) => {
      expect(idsOf(await tx.newest(TOPIC, '', null, 99))).toEqual([...texts].reverse());
      expect(idsOf(await tx.newest(VOTE, keyOf(THREAD, 1), null, 99))).toEqual(idsOf(votes).reverse());
      for (const [i, row] of votes.entries()) {
        const before = orderOf(VOTE, [null, row.id]);
        expect(idsOf(await tx.newest(VOTE, keyOf(THREAD, 1), before, 1))).toEqual(idsOf(votes.slice(0, i)).slice(-1));
      }
      expect(await tx.all(VOTE)).toHaveLength(votes.length);
      expect(await tx.all(TOPIC)).toHaveLength(texts.length);
    });
  });

  it('rows are found by the parent of their parent', async () => {
    const post = (id: string, thread: number, topic: string | null): Row => ({
      kind: 'post',
      seq: id === 'local' ? LOCAL : 1,
      id,
      threadId: thread,
      topicId: topic,
    });
    const vote: Row = { kind: 'vote', seq: 1, id: ['p', 1], threadId: 1, topicId: 't', isUp: true };
    await write(async (tx) => {
      await tx.put(POST, [post('p', 1, 't'), post('q', 2, 't'), post('moved', 2, 't'), post('unknown', 1, null)]);
      await tx.put(POST, [post('moved', 2, 'ü'), post('local', 1, 't')]);
      await tx.put(VOTE, [vote]);
    });
    await store.read(async (tx) => {
      expect(idsOf(await tx.under(POST, keyOf(TOPIC, 't'))).sort()).toEqual(['local', 'p', 'q']);
      expect(await tx.under(POST, keyOf(TOPIC, 'ü'))).toEqual([post('moved', 2, 'ü')]);
      expect(await tx.under(VOTE, keyOf(TOPIC, 't'))).toEqual([vote]);
      expect(await tx.under(POST, '')).toEqual([]);
    });
    await write((tx) => tx.clear(false));
    await store.read(async (tx) => expect(idsOf(await tx.under(POST, keyOf(TOPIC, 't')))).toEqual(['local']));
  });

  it('nil in the column that orders is the oldest, equal values go by key', async () => {
    const post = (key: string, rank: bigint | number | null): Row => ({
      kind: 'post',
      seq: 1,
      id: key,
      threadId: 1,
      parts: null,
      state: null,
      rank,
      madeAt: null,
    });
    const rows = [
      post('a', null),
      post('b', null),
      post('z', -(2n ** 63n)),
      post('c', -1),
      post('d', -1),
      post('a2', 7n),
    ];
    await write((tx) => tx.put(POST, rows));
    const home = homeOf(POST, rows[0] as Row);
    await store.read(async (tx) => {
      expect(idsOf(await tx.newest(POST, home, null, 9))).toEqual(idsOf(rows).reverse());
      expect(idsOf(await tx.newest(POST, home, orderOf(POST, [null, 'b']), 9))).toEqual(['a']);
      expect(idsOf(await tx.newest(POST, home, orderOf(POST, [-1n, 'd']), 2))).toEqual(['c', 'z']);
    });
  });

  // ---- What SPEC.md says about rows, on a real store ----

  const apply = (rows: readonly Arrival[], remember = false): Promise<void> =>
    write((tx) => applyRows(tx, CHAT_KINDS, rows, remember, touchedNothing()));
  const goneMessage = (seq: number, n: number): Arrival => ({ kind: '-message', seq, id: M(n) });
  const goneConversation = (seq: number, n: number): Arrival => ({ kind: '-conversation', seq, id: C(n) });
  const messagesIn = async (n: number): Promise<unknown[]> =>
    (await store.read((tx) => tx.newest(MESSAGE, C(n), null, 100))).map((row) => row['content']);

  it('5.2: a row does not replace a newer one; of equals, the later one counts', async () => {
    await apply([conversation(1, 5), message(1, 1, 5)]);
    await apply([message(1, 1, 4, { content: 'older' })]);
    await apply([goneMessage(4, 1)]);
    expect(await messagesIn(1)).toEqual(['m1']);
    await apply([message(1, 1, 5, { content: 'again' })]);
    expect(await messagesIn(1)).toEqual(['again']);
    await apply([goneMessage(5, 1)]);
    expect(await messagesIn(1)).toEqual([]);
  });

  it('5.3: a deletion of a conversation deletes its messages, also if the conversation was made anew', async () => {
    await apply([conversation(1, 5), message(1, 1, 5), message(2, 1, 9)]);
    await apply([conversation(1, 8)]);
    await apply([goneConversation(6, 1)]);
    expect(await messagesIn(1)).toEqual(['m2']);
    expect(await store.read((tx) => tx.get(CONVERSATION, [C(1)]))).toEqual([conversation(1, 8)]);
    // Within one frame, too: a row that stands before the deletion goes, one behind it stays.
    await apply([message(3, 1, 10), goneConversation(10, 1), conversation(1, 11), message(4, 1, 11)]);
    expect(await messagesIn(1)).toEqual(['m4']);
  });

  it('5.3: a message that moves arrives as -m and m', async () => {
    await apply([message(1, 1, 5)]);
    await apply([goneMessage(6, 1), message(1, 2, 6)]);
    expect([await messagesIn(1), await messagesIn(2)]).toEqual([[], ['m1']]);
  });

  it('5.4: a page does not bring back a row that was deleted after the page was read', async () => {
    await apply([conversation(1, 5), message(1, 1, 5)]);
    await apply([goneMessage(7, 1), goneConversation(8, 2)], true);
    await write((tx) =>
      applyPage(
        tx,
        CHAT_KINDS,
        { kind: 'message', parent: C(1), before: null },
        { rows: [message(1, 1, 6), message(2, 1, 6), message(3, 2, 6)], more: false },
        touchedNothing(),
      ),
    );
    expect([await messagesIn(1), await messagesIn(2)]).toEqual([['m2'], []]);
    await write((tx) => tx.forget());
    await apply([message(1, 1, 9)]);
    expect(await messagesIn(1)).toEqual(['m2', 'm1']);
  });

  it('7.3: a snapshot replaces the synced rows, and sets the floors', async () => {
    await apply([conversation(1, 5), message(1, 1, 5), message(9, 4, 5)]);
    await write((tx) => tx.putEntries([entry(1)]));
    await write((tx) =>
      applySnapshot(
        tx,
        CHAT_KINDS,
        [
          [{ kind: 'profile', seq: 7, id: id(1), tier: 'pro', status: null }, conversation(2, 7), conversation(3, 7)],
          [message(2, 2, 8), message(3, 2, 8), message(4, 3, 8)],
        ],
        (kind) => (kind === PROFILE ? Infinity : 2),
        touchedNothing(),
      ),
    );
    await store.read(async (tx) => {
      expect(idsOf(await tx.newest(CONVERSATION, '', null, 9))).toEqual([C(3), C(2)]);
      expect(await tx.get(MESSAGE, [M(1), M(9)])).toEqual([undefined, undefined]);
      expect(await tx.floors(MESSAGE, [C(2), C(3)])).toEqual([[2000, M(2)], 'start']);
      expect(await tx.floors(CONVERSATION, [''])).toEqual([[2000, C(2)]]);
      expect((await tx.get(PROFILE, [id(1)]))[0]?.['tier']).toBe('pro');
      expect(await tx.entries()).toHaveLength(1);
    });
    // Made after the snapshot: whole. Older than the list goes: nothing is known about what lies between.
    await apply([conversation(7, 9, { createdAt: 2001 }), conversation(1, 9, { updatedAt: 9000 })]);
    expect(await store.read((tx) => tx.floors(MESSAGE, [C(7), C(1)]))).toEqual(['start', undefined]);
  });

  it('7.3: a row that moves while a snapshot is read leaves no history that seems whole', async () => {
    const parts = [
      [conversation(1, 7), conversation(2, 7)],
      [message(9, 1, 8), message(8, 1, 8)], // the window is full: there may be older ones
      [message(9, 2, 9), message(7, 2, 9)],
    ];
    await write((tx) => applySnapshot(tx, CHAT_KINDS, parts, (kind) => (kind === PROFILE ? 9 : 2), touchedNothing()));
    await store.read(async (tx) => {
      expect(idsOf(await tx.newest(MESSAGE, C(1), null, 9))).toEqual([M(8)]);
      expect(await tx.floors(MESSAGE, [C(1), C(2)])).toEqual([
        [8000, M(8)],
        [7000, M(7)],
      ]);
    });
  });

  it('7.7: a page moves the floor only if it begins there', async () => {
    const page = (before: [number, string] | null, ns: number[], more: boolean): Promise<void> =>
      write((tx) =>
        applyPage(
          tx,
          CHAT_KINDS,
          { kind: 'message', parent: C(1), before },
          { rows: ns.map((n) => message(n, 1, 50)), more },
          touchedNothing(),
        ),
      );
    const floor = async (): Promise<unknown> => (await store.read((tx) => tx.floors(MESSAGE, [C(1)])))[0];
    await apply([message(90, 1, 40)]);
    expect(await floor()).toBeUndefined();
    await page(null, [90, 80], true);
    expect(await floor()).toEqual([80_000, M(80)]);
    await page([30_000, M(30)], [20], true); // from beyond a hole
    expect(await floor()).toEqual([80_000, M(80)]);
    await page([80_000, M(80)], [], true); // fewer rows than asked for do not mean the end
    expect(await floor()).toEqual([80_000, M(80)]);
    await page([80_000, M(80)], [30, 20], false);
    expect(await floor()).toBe('start');
  });
});

describe('an outbox that somebody else changes', () => {
  const keys = (store: Store): Promise<number[]> => store.read(async (tx) => (await tx.entries()).map((e) => e.key));

  it('in another tab', async () => {
    const [mine, theirs] = [new IndexedDbStore({ name: 'two tabs' }), new IndexedDbStore({ name: 'two tabs' })];
    await mine.write((tx) => tx.putEntries([entry(1)]));
    expect([await keys(mine), await keys(theirs)]).toEqual([[1], [1]]);
    await theirs.write((tx) => tx.putEntries([entry(2)]));
    expect([await keys(mine), await keys(theirs)]).toEqual([
      [1, 2],
      [1, 2],
    ]);
    await mine.write((tx) => tx.dropEntries([1]));
    await theirs.write((tx) => tx.putEntries([entry(3)]));
    expect([await keys(mine), await keys(theirs)]).toEqual([
      [2, 3],
      [2, 3],
    ]);
    for (const store of [mine, theirs]) await store.close();
  });

  it('on another connection to SQLite, which tells so by its data_version', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'atlas-sqlite-'));
    const driver = sqliteDriver(join(folder, 'device.sqlite'));
    let version = 1;
    const store = new SqliteStore({
      ...driver,
      all: async (sql, params) => (/data_version/.test(sql) ? [{ data_version: version }] : driver.all(sql, params)),
    });
    await store.write((tx) => tx.putEntries([entry(1), entry(2)]));
    await driver.run('DELETE FROM atlas_outbox WHERE key = 1', []);
    version++;
    expect(await keys(store)).toEqual([2]);
    await store.close();
    rmSync(folder, { recursive: true });
  });
});

it('SQLite flushes what must last, and not what the server sends again', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'atlas-sqlite-'));
  const driver = sqliteDriver(join(folder, 'device.sqlite'));
  const store = new SqliteStore(driver);
  const level = async (): Promise<unknown> => (await driver.all('PRAGMA synchronous', []))[0]?.['synchronous'];
  const [NORMAL, FULL] = [1, 2];
  const within: unknown[] = [];
  const note = async (): Promise<void> => void within.push(await level());
  await store.write(note);
  await store.write(note, 'relaxed');
  await store.write(note, 'strict');
  expect(within).toEqual([FULL, NORMAL, FULL]);
  await store.close();
  rmSync(folder, { recursive: true });
});
