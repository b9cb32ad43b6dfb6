/** The contract of a store, checked with each of the three. */

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { applyPage, applyRows, applySnapshot, touchedNothing } from '../src/apply.js';
import type { Entry } from '../src/outbox.js';
import { LOCAL } from '../src/rows.js';
import type { Store, Writing } from '../src/store.js';
import { C, conversation, id, M, message } from './support/rows.js';
import { KINDS } from './support/stores.js';

const entry = (key: number, change: Partial<Entry> = {}): Entry => ({
  key,
  n: key,
  mutation: { kind: '-c', id: C(key) },
  state: 'pending',
  seq: null,
  code: null,
  message: null,
  ...change,
});

describe.each(KINDS)('$name', ({ make }) => {
  let made: ReturnType<typeof make>;
  let store: Store;
  const write = <T>(work: (tx: Writing) => Promise<T>): Promise<T> => store.write(work);
  const apply = (rows: Parameters<typeof applyRows>[1], remember = false): Promise<void> =>
    write((tx) => applyRows(tx, rows, remember, touchedNothing()));
  const messagesIn = async (n: number): Promise<string[]> =>
    (await store.read((tx) => tx.newestMessages(C(n), null, 100))).map((row) => row.content);

  beforeEach(() => {
    made = make();
    store = made.store;
  });
  afterEach(() => made.end());

  it('a new store is empty, and its client_id stays', async () => {
    const meta = await store.read((tx) => tx.meta());
    expect(meta).toMatchObject({ cursor: null, position: null, nextKey: 1, nextN: 1, lease: 0 });
    expect(meta.clientId).toMatch(/^[0-9a-f-]{36}$/);
    store = await made.reopen();
    expect((await store.read((tx) => tx.meta())).clientId).toBe(meta.clientId);
  });

  it('a transaction is kept as a whole, also when the store is opened again', async () => {
    await write(async (tx) => {
      await tx.putConversations([conversation(1, 5), conversation(2, 5, { title: null })]);
      await tx.putMessages([message(1, 1, 5), message(2, 1, 6, { content: 'Grüezi 東京 🚲' })]);
      await tx.putEntries([
        entry(1, { mutation: { kind: '+m', id: M(9), conversationId: C(1), role: 'user', content: 'ü', at: 2 ** 52 } }),
      ]);
      await tx.putFloors([
        [C(1), 'start'],
        [C(2), [7, M(3)]],
      ]);
      await tx.remember([{ kind: 'm', id: M(7), seq: 9 }]);
      await tx.setMeta({
        cursor: 'AAEC/w==',
        position: 2 ** 52,
        bounds: { frameBytes: 9, titleBytes: 8, contentBytes: 7 },
      });
    });
    store = await made.reopen();
    await store.read(async (tx) => {
      expect(await tx.conversations([C(2), C(9), C(1)])).toEqual([
        conversation(2, 5, { title: null }),
        undefined,
        conversation(1, 5),
      ]);
      expect(await tx.messages([M(2)])).toEqual([message(2, 1, 6, { content: 'Grüezi 東京 🚲' })]);
      expect((await tx.entries())[0]?.mutation).toEqual({
        kind: '+m',
        id: M(9),
        conversationId: C(1),
        role: 'user',
        content: 'ü',
        at: 2 ** 52,
      });
      expect(await tx.floors([C(2), C(3), C(1)])).toEqual([[7, M(3)], undefined, 'start']);
      expect(await tx.gone()).toEqual([{ kind: 'm', id: M(7), seq: 9 }]);
      expect(await tx.meta()).toMatchObject({ cursor: 'AAEC/w==', position: 2 ** 52, bounds: { titleBytes: 8 } });
    });
  });

  it('nothing is kept of a transaction that throws', async () => {
    await write((tx) => tx.putConversations([conversation(1, 1)]));
    const broken = write(async (tx) => {
      await tx.putConversations([conversation(1, 9), conversation(2, 9)]);
      await tx.dropConversations([C(1)]);
      await tx.putMessages([message(1, 1, 9)]);
      await tx.putEntries([entry(1)]);
      await tx.setMeta({ nextN: 99 });
      throw new Error('the tab was closed');
    });
    await expect(broken).rejects.toThrow('the tab was closed');
    await store.read(async (tx) => {
      expect(await tx.conversations([C(1), C(2)])).toEqual([conversation(1, 1), undefined]);
      expect(await tx.messages([M(1)])).toEqual([undefined]);
      expect(await tx.entries()).toEqual([]);
      expect((await tx.meta()).nextN).toBe(1);
    });
  });

  it('transactions run one after the other', async () => {
    await Promise.all(
      Array.from({ length: 20 }, () => write(async (tx) => tx.setMeta({ nextN: (await tx.meta()).nextN + 1 }))),
    );
    expect((await store.read((tx) => tx.meta())).nextN).toBe(21);
  });

  it('rows are found newest first, before a place, equal instants by id', async () => {
    await write(async (tx) => {
      await tx.putConversations([1, 2, 3, 4].map((n) => conversation(n, 1, { updatedAt: n === 3 ? 2000 : n * 1000 })));
      await tx.putMessages([1, 2, 3, 4].map((n) => message(n, 1, 1, { createdAt: n === 2 ? -5 : 10 })));
      await tx.putMessages([message(5, 2, 1)]);
    });
    await store.read(async (tx) => {
      const ids = (rows: readonly { id: string }[]): string[] => rows.map((row) => row.id);
      expect(ids(await tx.newestConversations(null, 3))).toEqual([C(4), C(3), C(2)]);
      expect(ids(await tx.newestConversations([2000, C(3)], 9))).toEqual([C(2), C(1)]);
      expect(ids(await tx.newestMessages(C(1), null, 9))).toEqual([M(4), M(3), M(1), M(2)]);
      expect(ids(await tx.newestMessages(C(1), [10, M(3)], 1))).toEqual([M(1)]);
      expect(ids(await tx.messagesOf(C(2)))).toEqual([M(5)]);
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

  it('dropSynced deletes synced rows and keeps local ones', async () => {
    await write(async (tx) => {
      await tx.putConversations([conversation(1, 0), conversation(2, LOCAL)]);
      await tx.putMessages([message(2, 2, LOCAL), message(1, 2, LOCAL), message(3, 1, 4)]);
      await tx.putFloors([[C(1), 'start']]);
      await tx.remember([{ kind: 'c', id: C(4), seq: 1 }]);
      await tx.dropSynced();
    });
    await store.read(async (tx) => {
      expect(await tx.localConversations()).toEqual([conversation(2, LOCAL)]);
      expect((await tx.localMessages()).map((row) => row.id)).toEqual([M(1), M(2)]);
      expect(await tx.messages([M(3)])).toEqual([undefined]);
      expect(await tx.floors([C(1)])).toEqual([undefined]);
      expect(await tx.gone()).toEqual([]);
    });
    await write((tx) => tx.putMessages([message(1, 2, 8)]));
    expect((await store.read((tx) => tx.localMessages())).map((row) => row.id)).toEqual([M(2)]);
  });

  it('many rows can be stored at once', async () => {
    const rows = Array.from({ length: 1500 }, (_, n) => message(n, 1, n));
    await write((tx) => tx.putMessages(rows));
    const found = await store.read((tx) => tx.messages(rows.map((row) => row.id)));
    expect(found).toEqual(rows);
    await write((tx) => tx.dropMessages(rows.slice(1).map((row) => row.id)));
    expect(await messagesIn(1)).toEqual(['m0']);
  });

  // ---- What SPEC.md says about rows, on a real store ----

  it('5.2: a row does not replace a newer one; of equals, the later one counts', async () => {
    await apply([conversation(1, 5), message(1, 1, 5)]);
    await apply([message(1, 1, 4, { content: 'older' })]);
    await apply([{ kind: '-m', seq: 4, id: M(1) }]);
    expect(await messagesIn(1)).toEqual(['m1']);
    await apply([message(1, 1, 5, { content: 'again' })]);
    expect(await messagesIn(1)).toEqual(['again']);
    await apply([{ kind: '-m', seq: 5, id: M(1) }]);
    expect(await messagesIn(1)).toEqual([]);
  });

  it('5.3: a deletion of a conversation deletes its messages, also if the conversation was made anew', async () => {
    await apply([conversation(1, 5), message(1, 1, 5), message(2, 1, 9)]);
    await apply([conversation(1, 8)]);
    await apply([{ kind: '-c', seq: 6, id: C(1) }]);
    expect(await messagesIn(1)).toEqual(['m2']);
    expect(await store.read((tx) => tx.conversations([C(1)]))).toEqual([conversation(1, 8)]);
    // Within one frame, too: a row that stands before the deletion goes, one behind it stays.
    await apply([message(3, 1, 10), { kind: '-c', seq: 10, id: C(1) }, conversation(1, 11), message(4, 1, 11)]);
    expect(await messagesIn(1)).toEqual(['m4']);
  });

  it('5.3: a message that moves arrives as -m and m', async () => {
    await apply([message(1, 1, 5)]);
    await apply([{ kind: '-m', seq: 6, id: M(1) }, message(1, 2, 6)]);
    expect([await messagesIn(1), await messagesIn(2)]).toEqual([[], ['m1']]);
  });

  it('5.4: a page does not bring back a row that was deleted after the page was read', async () => {
    await apply([conversation(1, 5), message(1, 1, 5)]);
    await apply(
      [
        { kind: '-m', seq: 7, id: M(1) },
        { kind: '-c', seq: 8, id: C(2) },
      ],
      true,
    );
    await write((tx) =>
      applyPage(
        tx,
        { conversation: C(1), before: null },
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
        [
          [{ kind: 'p', seq: 7, id: id(1), tier: 'pro', status: null }, conversation(2, 7), conversation(3, 7)],
          [message(2, 2, 8), message(3, 2, 8), message(4, 3, 8)],
        ],
        { conversations: 2, messages: 2 },
        touchedNothing(),
      ),
    );
    await store.read(async (tx) => {
      expect((await tx.newestConversations(null, 9)).map((row) => row.id)).toEqual([C(3), C(2)]);
      expect(await tx.messages([M(1), M(9)])).toEqual([undefined, undefined]);
      expect(await tx.floors([C(2), C(3)])).toEqual([[2000, M(2)], 'start']);
      expect((await tx.meta()).list).toEqual([2000, C(2)]);
      expect((await tx.meta()).profile?.tier).toBe('pro');
      expect(await tx.entries()).toHaveLength(1);
    });
    // Made after the snapshot: whole. Older than the list goes: nothing is known about what lies between.
    await apply([conversation(7, 9, { createdAt: 2001 }), conversation(1, 9, { updatedAt: 9000 })]);
    expect(await store.read((tx) => tx.floors([C(7), C(1)]))).toEqual(['start', undefined]);
  });

  it('7.7: a page moves the floor only if it begins there', async () => {
    const page = (before: [number, string] | null, ns: number[], more: boolean): Promise<void> =>
      write((tx) =>
        applyPage(
          tx,
          { conversation: C(1), before },
          { rows: ns.map((n) => message(n, 1, 50)), more },
          touchedNothing(),
        ),
      );
    const floor = async (): Promise<unknown> => (await store.read((tx) => tx.floors([C(1)])))[0];
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
