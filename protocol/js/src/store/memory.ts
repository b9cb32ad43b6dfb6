/** A store in memory, for tests and for devices that keep nothing. One transaction at a time, undone if it throws. */

import type { Floor } from '../holes.js';
import type { Entry } from '../outbox.js';
import { aboveOf, homeOf, keyOf, LOCAL, orderOfRow, type Row, type Uuid } from '../rows.js';
import type { Kind } from '../schema.js';
import type { KeptStream } from '../streams.js';
import { newMeta, type Gone, type Meta, type Reading, type Store, type Writing } from '../store.js';
import { newId } from '../uuid.js';

interface Kept {
  readonly row: Row;
  readonly home: string;
  readonly order: string;
}

interface Tables {
  meta: Meta;
  /** By kind, then by key. */
  readonly rows: Map<string, Map<string, Kept>>;
  readonly entries: Map<number, Entry>;
  /** By kind, then by home. */
  readonly floors: Map<string, Map<string, Floor>>;
  readonly gone: Map<string, Gone>;
  readonly streams: Map<Uuid, KeptStream>;
}

function table<V>(tables: Map<string, Map<string, V>>, { name }: Kind): Map<string, V> {
  const found = tables.get(name) ?? new Map<string, V>();
  tables.set(name, found);
  return found;
}

class Transaction implements Writing {
  private readonly undo: (() => void)[] = [];

  constructor(private readonly t: Tables) {}

  rollback(): void {
    for (const step of this.undo.reverse()) step();
  }

  meta = async () => this.t.meta;
  get = async (kind: Kind, keys: readonly string[]) => keys.map((key) => table(this.t.rows, kind).get(key)?.row);
  newest = async (kind: Kind, home: string, before: string | null, limit: number) =>
    [...table(this.t.rows, kind).values()]
      .filter((kept) => kept.home === home && (before === null || kept.order < before))
      .sort((a, b) => (a.order < b.order ? 1 : -1))
      .slice(0, limit)
      .map(({ row }) => row);
  of = (kind: Kind, home: string) => this.newest(kind, home, null, Infinity);
  under = async (kind: Kind, above: string) => (await this.all(kind)).filter((row) => aboveOf(kind, row) === above);
  all = async (kind: Kind) => [...table(this.t.rows, kind).values()].map(({ row }) => row);
  local = async (kind: Kind) => (await this.all(kind)).filter((row) => row.seq === LOCAL);
  entries = async () => [...this.t.entries.values()].sort((a, b) => a.key - b.key);
  pending = async (limit: number) =>
    (await this.entries()).filter((entry) => entry.state === 'pending').slice(0, limit);
  acked = async () => (await this.entries()).filter((entry) => entry.state === 'acked');
  counts = async () => {
    const all = [...this.t.entries.values()];
    const count = (state: Entry['state']): number => all.filter((entry) => entry.state === state).length;
    return { pending: count('pending'), rejected: count('rejected') };
  };
  floors = async (kind: Kind, homes: readonly string[]) => homes.map((home) => table(this.t.floors, kind).get(home));
  gone = async () => [...this.t.gone.values()];
  streams = async () => [...this.t.streams.values()];

  async setMeta(change: Partial<Meta>): Promise<void> {
    const before = this.t.meta;
    this.undo.push(() => void (this.t.meta = before));
    this.t.meta = { ...before, ...change };
  }
  put = async (kind: Kind, rows: readonly Row[]) =>
    rows.forEach((row) =>
      this.set(table(this.t.rows, kind), keyOf(kind, row.id), {
        row,
        home: homeOf(kind, row),
        order: orderOfRow(kind, row),
      }),
    );
  drop = async (kind: Kind, keys: readonly string[]) =>
    keys.forEach((key) => this.set(table(this.t.rows, kind), key, undefined));
  async clear(localToo: boolean): Promise<void> {
    for (const rows of this.t.rows.values()) {
      for (const [key, { row }] of [...rows]) if (localToo || row.seq !== LOCAL) this.set(rows, key, undefined);
    }
    for (const floors of this.t.floors.values())
      for (const home of [...floors.keys()]) this.set(floors, home, undefined);
    if (localToo) await this.dropStreams([...this.t.streams.keys()]);
    await this.forget();
  }
  putEntries = async (entries: readonly Entry[]) =>
    entries.forEach((entry) => this.set(this.t.entries, entry.key, entry));
  dropEntries = async (keys: readonly number[]) => keys.forEach((key) => this.set(this.t.entries, key, undefined));
  putFloors = async (kind: Kind, floors: readonly (readonly [string, Floor])[]) =>
    floors.forEach(([home, floor]) => this.set(table(this.t.floors, kind), home, floor));
  dropFloors = async (kind: Kind, homes: readonly string[]) =>
    homes.forEach((home) => this.set(table(this.t.floors, kind), home, undefined));
  remember = async (deletions: readonly Gone[]) =>
    deletions.forEach((gone) => this.set(this.t.gone, `${gone.kind} ${gone.key}`, gone));
  forget = async () => [...this.t.gone.keys()].forEach((key) => this.set(this.t.gone, key, undefined));

  putStreams = async (streams: readonly KeptStream[]) =>
    streams.forEach((stream) => this.set(this.t.streams, stream.stream, stream));
  dropStreams = async (ids: readonly Uuid[]) => ids.forEach((id) => this.set(this.t.streams, id, undefined));

  private set<K, V>(table: Map<K, V>, key: K, value: V | undefined): void {
    const before = table.get(key);
    this.undo.push(() => (before === undefined ? table.delete(key) : table.set(key, before)));
    if (value === undefined) table.delete(key);
    else table.set(key, value);
  }
}

export class MemoryStore implements Store {
  readonly name = newId();
  private readonly tables: Tables = {
    meta: newMeta(newId()),
    rows: new Map(),
    entries: new Map(),
    floors: new Map(),
    gone: new Map(),
    streams: new Map(),
  };
  private queue: Promise<unknown> = Promise.resolve();

  read<T>(work: (tx: Reading) => Promise<T>): Promise<T> {
    return this.write(work);
  }

  write<T>(work: (tx: Writing) => Promise<T>): Promise<T> {
    const mine = this.queue.then(async () => {
      const tx = new Transaction(this.tables);
      try {
        return await work(tx);
      } catch (error) {
        tx.rollback();
        throw error;
      }
    });
    this.queue = mine.catch(() => undefined);
    return mine;
  }

  async close(): Promise<void> {
    await this.queue;
  }
}
