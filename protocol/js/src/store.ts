/**
 * The port to a device's database: transactions over rows, the cursor with its position, the outbox, the memories of
 * deletions, the floors of histories and the streams. A store keeps them, all or nothing; other modules give them their meaning.
 */

import type { Floor } from './holes.js';
import { FRAME_BYTES, type Bounds } from './mutation.js';
import type { Entry } from './outbox.js';
import type { Cursor, Instant, Row, Uuid } from './rows.js';
import type { Kind } from './schema.js';
import type { KeptStream } from './streams.js';

export interface Meta {
  /** The id of the user whose rows these are; empty before the first use. */
  readonly user: string;
  readonly clientId: Uuid;
  /** Of the last connection (SPEC.md, 8.7). It only grows, even if the clock is set back. */
  readonly generation: number;
  readonly cursor: Cursor | null;
  readonly position: number | null;
  readonly nextKey: number;
  readonly nextN: number;
  readonly bounds: Bounds;
  /** Grows with every new leader. A leader whose number is not this one was deposed, and may not write. */
  readonly lease: number;
  /** Whether this user's work stays on the device. */
  readonly local: boolean;
  /** Whether the app chose that: from a downgrade until an upgrade, whatever tokens there are. */
  readonly downgraded: boolean;
  /** By which the rows are stored (schema.ts); empty before the first use. */
  readonly shape: string;
  /** The hash of the server's schema, as the last welcome said. */
  readonly schema: string | null;
  /** What the last welcome said about the user; null if the server has no such thing. */
  readonly tier: string | null;
  /** Microseconds: the server's clock less ours, as the last welcome showed (clock.ts). */
  readonly ahead: number;
  /** The last instant given to a mutation. The next one is later. */
  readonly lastAt: Instant;
  /** Milliseconds by our clock: no push is sent before. */
  readonly notBefore: number;
  readonly lastLive: Instant | null;
  /** Local rows that were updated after they were made: kind, space, key. */
  readonly edited: readonly string[];
  /** How many mutations waited when local work was merged; 0 once none of them waits. */
  readonly merging: number;
  /** Names of the earlier app's databases that were adopted. */
  readonly adopted: readonly string[];
  /** Another one for each store: a database that was deleted and made again is another store. */
  readonly made: Uuid;
  /** `destroy` emptied it. */
  readonly destroyed: boolean;
  /** No row of the server that is held, and no memory of a deletion, has a greater seq, if that is known. */
  readonly newest: { readonly seq: number; readonly isKnown: boolean };
}

export const newMeta = (clientId: Uuid): Meta => ({
  user: '',
  clientId,
  generation: 0,
  cursor: null,
  position: null,
  nextKey: 1,
  nextN: 1,
  bounds: { frameBytes: FRAME_BYTES },
  lease: 0,
  local: false,
  downgraded: false,
  shape: '',
  schema: null,
  tier: null,
  ahead: 0,
  lastAt: 0,
  notBefore: 0,
  lastLive: null,
  edited: [],
  merging: 0,
  adopted: [],
  made: clientId,
  destroyed: false,
  newest: { seq: 0, isKnown: true },
});

/** The memory of a deletion (SPEC.md, 5.4). */
export interface Gone {
  /** The kind's name. */
  readonly kind: string;
  readonly key: string;
  readonly seq: number;
}

/**
 * Rows are found by kind and key. A kind's rows with the same parent form a history: `home` is the parent's key, empty
 * for a kind without parent, and `before` a text of `orderOf`. rows.ts makes these texts, which every database orders
 * rightly. A store keeps a row as it is: values may be bigint, Uint8Array, NaN and infinite.
 */
export interface Reading {
  meta(): Promise<Meta>;
  /** In the order of `keys`; undefined for a row that is not held. */
  get(kind: Kind, keys: readonly string[]): Promise<(Row | undefined)[]>;
  /** The newest rows of a history, in descending order, before a place; null: from the newest on. */
  newest(kind: Kind, home: string, before: string | null, limit: number): Promise<Row[]>;
  /** All rows of a history, and of a kind, in any order; so are the local ones: those with the seq LOCAL. */
  of(kind: Kind, home: string): Promise<Row[]>;
  /** All rows with this parent of their parent, in any order: `above` is a text of `aboveOf`. */
  under(kind: Kind, above: string): Promise<Row[]>;
  all(kind: Kind): Promise<Row[]>;
  local(kind: Kind): Promise<Row[]>;
  /** All entries of the outbox, by key; so are the pending and the acked ones. */
  entries(): Promise<Entry[]>;
  pending(limit: number): Promise<Entry[]>;
  acked(): Promise<Entry[]>;
  counts(): Promise<{ readonly pending: number; readonly rejected: number }>;
  /** The floors of histories, in the order of `homes`. */
  floors(kind: Kind, homes: readonly string[]): Promise<(Floor | undefined)[]>;
  gone(): Promise<Gone[]>;
  /** In any order. */
  streams(): Promise<KeptStream[]>;
}

export interface Writing extends Reading {
  setMeta(change: Partial<Meta>): Promise<void>;
  put(kind: Kind, rows: readonly Row[]): Promise<void>;
  drop(kind: Kind, keys: readonly string[]): Promise<void>;
  /**
   * Deletes the rows of all kinds, also of kinds that no schema names any more, but the local ones unless `localToo`;
   * all floors, and all memories of deletions. Cursor and position stay, and the streams, too, unless `localToo`.
   */
  clear(localToo: boolean): Promise<void>;
  putEntries(entries: readonly Entry[]): Promise<void>;
  dropEntries(keys: readonly number[]): Promise<void>;
  putFloors(kind: Kind, floors: readonly (readonly [home: string, floor: Floor])[]): Promise<void>;
  dropFloors(kind: Kind, homes: readonly string[]): Promise<void>;
  /** Adds memories of deletions. */
  remember(deletions: readonly Gone[]): Promise<void>;
  /** Deletes all memories of deletions. */
  forget(): Promise<void>;
  putStreams(streams: readonly KeptStream[]): Promise<void>;
  dropStreams(ids: readonly Uuid[]): Promise<void>;
}

/**
 * strict, the default: what was written is durable when the promise resolves. relaxed: a power cut may undo it, with what
 * was written after it, but nothing that was written before. So it is for what the server sends again.
 */
export type Durability = 'strict' | 'relaxed';

export interface Transactions {
  /** `work` sees one state of the store. It must await nothing but the transaction's own promises. */
  read<T>(work: (tx: Reading) => Promise<T>): Promise<T>;
  /** The same, and its changes are kept. If `work` throws, nothing is changed. `work` may be called twice. */
  write<T>(work: (tx: Writing) => Promise<T>, durability?: Durability): Promise<T>;
}

export interface Store extends Transactions {
  /** The same for all stores that share their data, as those in the tabs of a browser do. */
  readonly name: string;
  /** Called when the data was taken away from outside, or may have been: read the store to see what is left. */
  onClosed?: () => void;
  /** Resolves if the store does not open, because another tab that does not answer has it open. It opens after that. */
  readonly blocked?: Promise<void>;
  /** Adopts the rows that an earlier app kept for this user, once. */
  adopt?(user: string): Promise<void>;
  close(): Promise<void>;
  /** Deletes the database itself. Called after its content was deleted and it was closed. */
  destroy?(): Promise<void>;
}

/** This store cannot be used. The message says what to do. */
export class StoreError extends Error {
  override name = 'StoreError';
}

/** This tab or another one has destroyed the store, or another one has stored its rows by another schema. */
export class Destroyed extends StoreError {
  constructor() {
    super('this store was destroyed: make another store and another Sync');
  }
}

/** The database was deleted meanwhile, and made again: the transaction changed nothing. */
export class Emptied extends Error {
  override name = 'Emptied';
}

/** Another tab leads now: the transaction changed nothing. */
export class Deposed extends Error {
  override name = 'Deposed';
}
