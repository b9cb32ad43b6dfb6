/**
 * What an app shows: synced rows with the texts of their streams (SPEC.md, 13.4), and the outbox's effects over them (8.8).
 * Pure.
 */

import { homeOfInsert, keyOfMutation } from './keys.js';
import type { Insert } from './mutation.js';
import type { Entry } from './outbox.js';
import { keyOf, LOCAL, nameOf, orderOfRow, rowFrom, type Row } from './rows.js';
import type { Id, Kind, RowOf, Schema } from './schema.js';
import { NO_PLACES, streamed, type Places, type StreamMarks } from './streams.js';

/**
 * How certain a shown row is. synced: as the server sent it · acked: durable on the server, but not in the feed yet ·
 * pending: the server has not answered · rejected: made here, and the server did not accept it · local: made here, and
 * not to be sent before an upgrade.
 */
export type Certainty = 'synced' | 'local' | 'acked' | 'pending' | 'rejected';

/** How an app marks a row. */
export interface Marks extends StreamMarks {
  readonly state: Certainty;
  /** The last entry of the outbox that changed the row: the argument of `retry` and `discard`. */
  readonly key?: number;
  /** Why it was rejected: a code of SPEC.md, 8.4, and a sentence to show. */
  readonly code?: string;
  readonly reason?: string;
  /** Rows may be missing between this row and the next older one. */
  readonly hole: boolean;
}

export type Shown = Row & Marks;
/** A row of a schema's kind, as an app shows it. */
export type ShownOf<S extends Schema, K extends string> = RowOf<S, K> & Marks;

/** A row above others: their parent, its parent. */
export interface Ancestor {
  readonly kind: Kind;
  readonly key: string;
  /** null for a parent: rows have its id. */
  readonly id: Id | null;
}

const RANK: readonly Certainty[] = ['synced', 'local', 'acked', 'pending', 'rejected'];

interface Cell {
  readonly row: Row;
  readonly state: Certainty;
  readonly entry?: Entry;
  readonly stream?: StreamMarks;
}

function touch(shown: Cell, row: Row, entry: Entry): Cell {
  const state = entry.state as Certainty;
  return { ...shown, row, state: RANK.indexOf(state) > RANK.indexOf(shown.state) ? state : shown.state, entry };
}

const marks = ({ state, entry, stream }: Cell): Omit<Marks, 'hole'> => ({
  state,
  ...stream,
  ...(entry === undefined ? {} : { key: entry.key }),
  ...(entry?.code === null || entry?.code === undefined ? {} : { code: entry.code, reason: entry.message ?? '' }),
});

/** In the order in which they take effect: rejected creations last, other rejected mutations not at all. */
const inEffect = (entries: readonly Entry[]): Entry[] => [
  ...entries.filter((entry) => entry.state !== 'rejected'),
  ...entries.filter((entry) => entry.state === 'rejected' && entry.mutation.op === '+'),
];

/** A row as an update leaves it. */
export const updated = (kind: Kind, row: Row, { columns, at }: Pick<Insert, 'columns' | 'at'>): Row => ({
  ...row,
  ...columns,
  ...raised(row, kind.updated, at),
});

/** The change of a column that takes the latest instant. */
export const raised = (row: Row, column: string | null, at: number): Record<string, unknown> =>
  column === null ? {} : { [column]: Math.max(at, (row[column] as number | null) ?? at) };

/**
 * Rows of a history with the outbox's mutations applied, one after the other, as the server would apply them. A rejected
 * creation stays visible, so that nothing disappears that the user wrote.
 */
class Overlay {
  readonly cells: Map<string, Cell>;
  private readonly gone = new Set<string>();

  constructor(
    private readonly kind: Kind,
    /** null: rows of any home. */
    private readonly home: string | null,
    /** From the parent upwards. */
    private readonly above: readonly Ancestor[],
    held: readonly Row[],
    streams: Places,
  ) {
    this.cells = new Map(
      held.map((row) => {
        const key = keyOf(kind, row.id);
        const state: Certainty = row.seq === LOCAL ? 'local' : 'synced';
        const here = streams.get(nameOf(kind, key));
        if (here === undefined) return [key, { row, state }];
        const [shown, stream] = streamed(row, here);
        return [key, { row: shown, state, stream }];
      }),
    );
  }

  apply(entry: Entry): void {
    const { kind } = this;
    const { mutation } = entry;
    if (mutation.kind === kind.name) return this.own(entry, keyOfMutation(kind, mutation));
    const at = this.above.findIndex(
      (row) => row.kind.name === mutation.kind && row.key === keyOfMutation(row.kind, mutation),
    );
    if (at >= 0) return this.ancestor(entry, at);
    const child = kind.children.find(({ name }) => name === mutation.kind);
    if (child?.touches && mutation.op === '+' && entry.state !== 'rejected') this.raise(child, mutation);
  }

  private own(entry: Entry, key: string): void {
    const { kind, cells, gone } = this;
    const { mutation } = entry;
    const shown = cells.get(key);
    const names = mutation.op !== '+' && (kind.dated === null || shown?.row[kind.dated] === mutation.dated);
    switch (mutation.op) {
      case '+': {
        if (shown || (gone.has(key) && entry.state === 'rejected')) return;
        const home = homeOfInsert(kind, mutation);
        // A parent that is not held may be outside of the window. Only a deleted one hides its rows.
        if ((this.home !== null && home !== this.home) || (kind.parent && gone.has(nameOf(kind.parent, home)))) return;
        gone.delete(key);
        cells.set(key, { row: rowFrom(kind, mutation, 0, this.above[1]?.id ?? null), state: entry.state, entry });
        return;
      }
      case '~':
        if (shown && names) cells.set(key, touch(shown, updated(kind, shown.row, mutation), entry));
        return;
      case '-':
        gone.add(key);
        if (shown && names) cells.delete(key);
    }
  }

  private ancestor({ mutation, state }: Entry, at: number): void {
    const name = ({ kind, key }: Ancestor): string => nameOf(kind, key);
    if (mutation.op === '-') {
      for (const below of this.above.slice(0, at + 1)) this.gone.add(name(below));
      this.cells.clear();
    } else if (mutation.op === '+' && state !== 'rejected') {
      this.gone.delete(name(this.above[at] as Ancestor));
    }
  }

  private raise(child: Kind, mutation: Insert): void {
    const key = homeOfInsert(child, mutation);
    const shown = this.cells.get(key);
    if (shown)
      this.cells.set(key, { ...shown, row: { ...shown.row, ...raised(shown.row, child.touches, mutation.at) } });
  }
}

/**
 * Rows of one history (of any, if `home` is null), newest first. `held`: the rows to show, and those that the outbox
 * changes. `above`: the rows above them, from the parent upwards. `holed`: rows may be missing between those held.
 */
export function show(
  kind: Kind,
  home: string | null,
  above: readonly Ancestor[],
  held: readonly Row[],
  entries: readonly Entry[],
  holed: boolean,
  streams: Places = NO_PLACES,
): Shown[] {
  const overlay = new Overlay(kind, home, above, held, streams);
  for (const entry of inEffect(entries)) overlay.apply(entry);
  return [...overlay.cells.values()]
    .map((cell) => ({ cell, order: orderOfRow(kind, cell.row) }))
    .sort((a, b) => (a.order < b.order ? 1 : -1))
    .map(({ cell }): Shown => ({ ...cell.row, ...marks(cell), hole: holed && cell.row.seq > 0 }));
}
