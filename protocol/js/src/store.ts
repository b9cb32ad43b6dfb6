/**
 * The port to a device's database: transactions over rows, the cursor with its position, the outbox, the memories of
 * deletions and the floors of histories. A store keeps them, all or nothing; other modules give them their meaning.
 */

import type { Floor } from './holes.js';
import { FRAME_BYTES, type Bounds } from './mutation.js';
import type { Entry } from './outbox.js';
import type { Conversation, Cursor, Instant, Message, Place, Profile, Uuid } from './rows.js';

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
  readonly profile: Profile | null;
  /** The floor of the list of conversations. */
  readonly list: Floor | null;
  /** Microseconds: the server's clock less ours, as the last welcome showed (clock.ts). */
  readonly ahead: number;
  /** The last instant given to a mutation. The next one is later. */
  readonly lastAt: Instant;
  /** Milliseconds by our clock: no push is sent before. */
  readonly notBefore: number;
  readonly lastLive: Instant | null;
  /** Local conversations that were renamed after they were made. */
  readonly renamed: readonly Uuid[];
  /** How many mutations waited when local work was merged; 0 once none of them waits. */
  readonly merging: number;
  /** Names of the earlier app's databases that were adopted. */
  readonly adopted: readonly string[];
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
  profile: null,
  list: null,
  ahead: 0,
  lastAt: 0,
  notBefore: 0,
  lastLive: null,
  renamed: [],
  merging: 0,
  adopted: [],
});

/** The memory of a deletion (SPEC.md, 5.4). */
export interface Gone {
  readonly kind: 'c' | 'm';
  readonly id: Uuid;
  readonly seq: number;
}

export interface Reading {
  meta(): Promise<Meta>;
  /** In the order of `ids`; undefined for a row that is not held. */
  conversations(ids: readonly Uuid[]): Promise<(Conversation | undefined)[]>;
  messages(ids: readonly Uuid[]): Promise<(Message | undefined)[]>;
  /** Newest first, older than `before`; null: from the newest on. */
  newestConversations(before: Place | null, limit: number): Promise<Conversation[]>;
  newestMessages(conversation: Uuid, before: Place | null, limit: number): Promise<Message[]>;
  messagesOf(conversation: Uuid): Promise<Message[]>;
  /** Rows with the seq LOCAL, oldest first. */
  localConversations(): Promise<Conversation[]>;
  localMessages(): Promise<Message[]>;
  /** All entries of the outbox, by key; so are the pending and the acked ones. */
  entries(): Promise<Entry[]>;
  pending(limit: number): Promise<Entry[]>;
  acked(): Promise<Entry[]>;
  counts(): Promise<{ readonly pending: number; readonly rejected: number }>;
  floors(conversations: readonly Uuid[]): Promise<(Floor | undefined)[]>;
  gone(): Promise<Gone[]>;
}

export interface Writing extends Reading {
  setMeta(change: Partial<Meta>): Promise<void>;
  putConversations(rows: readonly Conversation[]): Promise<void>;
  putMessages(rows: readonly Message[]): Promise<void>;
  dropConversations(ids: readonly Uuid[]): Promise<void>;
  dropMessages(ids: readonly Uuid[]): Promise<void>;
  /** Deletes all rows but the local ones, all floors and all memories of deletions. Cursor and position stay. */
  dropSynced(): Promise<void>;
  putEntries(entries: readonly Entry[]): Promise<void>;
  dropEntries(keys: readonly number[]): Promise<void>;
  putFloors(floors: readonly (readonly [Uuid, Floor])[]): Promise<void>;
  dropFloors(conversations: readonly Uuid[]): Promise<void>;
  /** Adds memories of deletions. */
  remember(deletions: readonly Gone[]): Promise<void>;
  /** Deletes all memories of deletions. */
  forget(): Promise<void>;
}

export interface Transactions {
  /** `work` sees one state of the store. It must await nothing but the transaction's own promises. */
  read<T>(work: (tx: Reading) => Promise<T>): Promise<T>;
  /** The same, and its changes are durable when the promise resolves. If `work` throws, nothing is changed. */
  write<T>(work: (tx: Writing) => Promise<T>): Promise<T>;
}

export interface Store extends Transactions {
  /** The same for all stores that share their data, as those in the tabs of a browser do. */
  readonly name: string;
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

/** This tab or another one has destroyed the store. */
export class Destroyed extends StoreError {
  constructor() {
    super('this store was destroyed: make another store and another Sync');
  }
}

/** Another tab leads now: the transaction changed nothing. */
export class Deposed extends Error {
  override name = 'Deposed';
}
