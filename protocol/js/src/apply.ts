/**
 * Applies rows of the server within a transaction of a store, by rules 5.2–5.5, 7.3 and 7.7 of SPEC.md, and updates the
 * floors. Knows neither connections nor the outbox.
 */

import { afterPage, afterSnapshot, isNew, type Floor } from './holes.js';
import type { PageRequest } from './pages.js';
import { aboveOf, homeKey, homeOf, isDeleted, keyOf, nameOf, placeOf, type Arrival, type Row } from './rows.js';
import type { Kind, Kinds } from './schema.js';
import type { Gone, Reading, Writing } from './store.js';

/** The part of the store that a transaction changed, so that queries over it are read again. */
export interface Touched {
  /** Histories of which rows changed, by `nameOf`. */
  readonly histories: Set<string>;
  /** Anything may have changed. */
  all: boolean;
}

export const touchedNothing = (): Touched => ({ histories: new Set(), all: false });
export const touchedAll = (): Touched => ({ histories: new Set(), all: true });

interface Held {
  readonly row: Row;
  readonly home: string;
  readonly above: string | null;
}

const heldAs = (kind: Kind, row: Row): Held => ({ row, home: homeOf(kind, row), above: aboveOf(kind, row) });

/** The rows of a kind that a batch may change. */
class Work {
  readonly rows = new Map<string, Held>();
  /** The keys of rows that the store has. */
  readonly stored = new Set<string>();
  readonly wanted = new Set<string>();
  readonly changed = new Set<string>();
  /** Keys of rows whose histories below begin here, or ended. */
  readonly begun = new Set<string>();
  readonly ended = new Set<string>();
  readonly floors = new Map<string, Floor | undefined>();

  constructor(readonly kind: Kind) {}

  hold(rows: readonly (Row | undefined)[]): void {
    for (const row of rows) {
      if (row === undefined) continue;
      const key = keyOf(this.kind, row.id);
      this.rows.set(key, heldAs(this.kind, row));
      this.stored.add(key);
    }
  }
}

/** One batch: what it needs of the store is read first, its rows are applied in memory, and what changed is written. */
class Batch {
  private readonly works = new Map<Kind, Work>();
  private readonly memories = new Map<string, number>();
  private readonly remembered = new Map<string, Gone>();

  constructor(
    private readonly tx: Writing,
    kinds: Kinds,
    private readonly remember: boolean,
    private readonly touched: Touched,
  ) {
    for (const kind of kinds.values()) this.works.set(kind, new Work(kind));
  }

  async read(arrivals: readonly (readonly [Kind, Arrival])[]): Promise<void> {
    const { tx, works } = this;
    if (this.remember) for (const { kind, key, seq } of await tx.gone()) this.memories.set(`${kind} ${key}`, seq);
    const { newest } = await tx.meta();
    for (const [kind, arrival] of arrivals) {
      const work = this.work(kind);
      // What is as new as anything that is held wins by rule 5.2, and moves only together with a deletion.
      const isNewest = newest.isKnown && arrival.seq >= newest.seq;
      if (isDeleted(arrival) || kind.children.length > 0 || !isNewest) work.wanted.add(keyOf(kind, arrival.id));
      if (isDeleted(arrival)) continue;
      if (kind.children.length > 0) work.floors.set(homeOf(kind, arrival), undefined);
    }
    for (const work of works.values()) {
      if (work.wanted.size > 0) work.hold(await tx.get(work.kind, [...work.wanted]));
      const homes = [...work.floors.keys()];
      (await tx.floors(work.kind, homes)).forEach((floor, i) => work.floors.set(homes[i] as string, floor));
    }
    for (const [kind, arrival] of arrivals) {
      if (!isDeleted(arrival)) continue;
      const key = keyOf(kind, arrival.id);
      for (const child of kind.children) {
        this.work(child).hold(await tx.of(child, key));
        for (const lower of child.children) this.work(lower).hold(await tx.under(lower, key));
      }
    }
  }

  upsert(kind: Kind, row: Row): void {
    const work = this.work(kind);
    const key = keyOf(kind, row.id);
    const arrived = heldAs(kind, row);
    const { home } = arrived;
    const held = work.rows.get(key);
    if (row.seq < Math.max(held?.row.seq ?? -1, this.memory(kind, key), this.memoryAbove(kind, arrived))) return;
    if (held) this.touch(kind, held.home);
    this.touch(kind, home);
    if (!held && kind.children.length > 0 && isNew(kind, this.floor(kind, home), row)) work.begun.add(key);
    work.rows.set(key, arrived);
    work.changed.add(key);
  }

  /** The rows below go, too, also if a newer row of this key is held: it was made anew, and they were not (5.3). */
  remove(kind: Kind, key: string, seq: number): void {
    this.drop(kind, key, seq);
    for (const child of kind.children) {
      for (const [below, { home }] of this.work(child).rows) if (home === key) this.drop(child, below, seq);
      for (const lower of child.children)
        for (const [below, { above }] of this.work(lower).rows) if (above === key) this.drop(lower, below, seq);
    }
  }

  /** A later page may still bring what was deleted (5.4). */
  memorize(kind: Kind, key: string, seq: number): void {
    if (!this.remember) return;
    const newest = Math.max(seq, this.memory(kind, key));
    this.memories.set(nameOf(kind, key), newest);
    this.remembered.set(nameOf(kind, key), { kind: kind.name, key, seq: newest });
  }

  async write(): Promise<void> {
    const { tx } = this;
    for (const { kind, rows, stored, changed, begun, ended } of this.works.values()) {
      if (changed.size > 0) {
        const keys = [...changed];
        await tx.put(
          kind,
          keys.flatMap((key) => rows.get(key)?.row ?? []),
        );
        await tx.drop(
          kind,
          keys.filter((key) => stored.has(key) && !rows.has(key)),
        );
      }
      for (const child of kind.children) {
        if (ended.size > 0) await tx.dropFloors(child, [...ended]);
        const fresh = [...begun];
        if (fresh.length === 0) continue;
        for (const home of fresh) this.touch(child, home);
        const known = await tx.floors(child, fresh);
        await tx.putFloors(
          child,
          fresh.flatMap((home, i): [string, Floor][] => (known[i] ? [] : [[home, 'start']])),
        );
      }
    }
    if (this.remembered.size > 0) await tx.remember([...this.remembered.values()]);
  }

  /** Rows and memories up to this seq may be held from now on. */
  async raiseNewest(seq: number): Promise<void> {
    const { newest } = await this.tx.meta();
    if (seq > newest.seq) await this.tx.setMeta({ newest: { ...newest, seq } });
  }

  /** Removes one row, unless it is newer. */
  private drop(kind: Kind, key: string, seq: number): void {
    const work = this.work(kind);
    const held = work.rows.get(key);
    if (held) this.touch(kind, held.home);
    for (const child of kind.children) this.touch(child, key);
    if (seq < (held?.row.seq ?? -1)) {
      // A page may have brought it with another parent, and did not read with which one it was held.
      this.touched.all = true;
      return;
    }
    work.rows.delete(key);
    work.changed.add(key);
    work.begun.delete(key);
    work.ended.add(key);
  }

  private work(kind: Kind): Work {
    return this.works.get(kind) as Work;
  }

  /** The floor of a history, with what this batch did above it. */
  private floor(kind: Kind, home: string): Floor | undefined {
    const above = kind.parent && this.work(kind.parent);
    if (above?.begun.has(home)) return 'start';
    return above?.ended.has(home) ? undefined : this.work(kind).floors.get(home);
  }

  private memory(kind: Kind, key: string): number {
    return this.memories.get(nameOf(kind, key)) ?? -1;
  }

  /** Of the deletions of the parent and of its parent, the newest. */
  private memoryAbove({ parent }: Kind, { home, above }: Held): number {
    if (parent === null) return -1;
    const higher = parent.parent === null || above === null ? -1 : this.memory(parent.parent, above);
    return Math.max(this.memory(parent, home), higher);
  }

  private touch(kind: Kind, home: string): void {
    this.touched.histories.add(nameOf(kind, home));
  }
}

/**
 * Applies rows in their order; a repeat is harmless. `remember`: a page is unanswered, so deletions are remembered, and
 * the memories of earlier ones count (5.4).
 */
export async function applyRows(
  tx: Writing,
  kinds: Kinds,
  rows: readonly Arrival[],
  remember: boolean,
  touched: Touched,
): Promise<void> {
  const arrivals = rows.flatMap((row): [Kind, Arrival][] => {
    const kind = kinds.get(isDeleted(row) ? row.kind.slice(1) : row.kind);
    return kind === undefined ? [] : [[kind, row]];
  });
  if (arrivals.length === 0) return;
  const batch = new Batch(tx, kinds, remember, touched);
  await batch.read(arrivals);
  for (const [kind, row] of arrivals) {
    if (isDeleted(row)) {
      const key = keyOf(kind, row.id);
      batch.remove(kind, key, row.seq);
      batch.memorize(kind, key, row.seq);
    } else {
      batch.upsert(kind, row);
    }
  }
  await batch.write();
  await batch.raiseNewest(arrivals.reduce((most, [, { seq }]) => Math.max(most, seq), 0));
}

/**
 * Replaces all synced rows by those of a snapshot, in all its parts. The outbox and local rows stay. `window`: how many
 * rows of a history the snapshot has, if there are as many.
 */
export async function applySnapshot(
  tx: Writing,
  kinds: Kinds,
  parts: readonly (readonly Arrival[])[],
  window: (kind: Kind) => number,
  touched: Touched,
): Promise<void> {
  const received = new Map<Kind, Row[]>([...kinds.values()].map((kind) => [kind, []]));
  await tx.clear(false);
  await tx.setMeta({ newest: { seq: 0, isKnown: true } });
  for (const rows of parts) {
    await applyRows(tx, kinds, rows, false, touched);
    for (const row of rows) {
      const kind = kinds.get(row.kind);
      if (kind && !isDeleted(row)) received.get(kind)?.push(row);
    }
  }
  for (const [kind, home, floor] of afterSnapshot(kinds, received, window)) await tx.putFloors(kind, [[home, floor]]);
  for (const kind of kinds.values()) {
    if (kind.children.length === 0) continue;
    const came = new Set(received.get(kind)?.map((row) => keyOf(kind, row.id)));
    const made = (await madeHere(tx, kind)).filter((key) => !came.has(key));
    for (const child of kind.children)
      await tx.putFloors(
        child,
        made.map((key) => [key, 'start']),
      );
  }
  touched.all = true;
}

/** The keys of rows that were made on this device, and may be unknown to the server. */
async function madeHere(tx: Reading, kind: Kind): Promise<string[]> {
  const unsent = (await tx.entries()).flatMap(({ mutation }) =>
    mutation.op === '+' && mutation.kind === kind.name ? [mutation.id] : [],
  );
  return [...(await tx.local(kind)).map((row) => row.id), ...unsent].map((id) => keyOf(kind, id));
}

/** Applies a page, and moves the floor of the history that it belongs to. */
export async function applyPage(
  tx: Writing,
  kinds: Kinds,
  { kind: name, parent, before }: PageRequest,
  page: { readonly rows: readonly Arrival[]; readonly more: boolean },
  touched: Touched,
): Promise<void> {
  const kind = kinds.get(name) as Kind;
  const home = homeKey(kind, parent);
  const last = page.rows.filter((row): row is Row => row.kind === name).at(-1);
  await applyRows(tx, kinds, page.rows, true, touched);
  const [floor] = await tx.floors(kind, [home]);
  const now = afterPage(kind, floor, before, last && placeOf(kind, last), page.more);
  if (now !== undefined) await tx.putFloors(kind, [[home, now]]);
  touched.histories.add(nameOf(kind, home));
}
