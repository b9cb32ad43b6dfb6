/**
 * The port to a device's database: transactions over rows, the cursor with its position, the outbox, memories of
 * deletions and the floors of histories. What they mean is decided above it; a store only keeps them, all or nothing.
 */

import type { Floor } from './holes.js';
import { FRAME_BYTES, type Bounds } from './mutation.js';
import type { Entry } from './outbox.js';
import type { Conversation, Cursor, Instant, Message, Place, Profile, Uuid } from './rows.js';

export interface Meta {
  /** Whose rows these are; empty until somebody opened the store. */
  readonly user: string;
  readonly clientId: Uuid;
  /** The last one drawn for a connection: it never falls, also where the clock does. */
  readonly generation: number;
  readonly cursor: Cursor | null;
  readonly position: number | null;
  readonly nextKey: number;
  readonly nextN: number;
  readonly bounds: Bounds;
  /** Who may settle what the server says: it grows with every new leader, so that a deposed one is noticed. */
  readonly lease: number;
  /** Whether this user works on the device alone. */
  readonly local: boolean;
  /** Whether that is by the user's own choice, whatever tokens there are: since a downgrade, until an upgrade. */
  readonly downgraded: boolean;
  readonly profile: Profile | null;
  /** How far the list of conversations is held without a hole. */
  readonly list: Floor | null;
  /** Microseconds: the server's clock less ours, as far as welcomes could tell. */
  readonly ahead: number;
  /** The last instant given to a mutation, so that the next one comes after it. */
  readonly lastAt: Instant;
  /** Milliseconds by our clock: no push before. */
  readonly notBefore: number;
  readonly lastLive: Instant | null;
  /** Local conversations that got another title than the one they came with. */
  readonly renamed: readonly Uuid[];
  /** How many mutations waited when local work was merged, as long as some of them do; 0: none. */
  readonly merging: number;
  /** Which databases of an earlier app were taken over. */
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
  /** In the order of `ids`; undefined where none is held. */
  conversations(ids: readonly Uuid[]): Promise<(Conversation | undefined)[]>;
  messages(ids: readonly Uuid[]): Promise<(Message | undefined)[]>;
  /** Newest first, older than `before` (null: from the newest on). */
  newestConversations(before: Place | null, limit: number): Promise<Conversation[]>;
  newestMessages(conversation: Uuid, before: Place | null, limit: number): Promise<Message[]>;
  messagesOf(conversation: Uuid): Promise<Message[]>;
  /** Rows that no server knows yet, oldest first. */
  localConversations(): Promise<Conversation[]>;
  localMessages(): Promise<Message[]>;
  /** In the order of keys. */
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
  /** All rows that a server knows, with floors and memories; cursor and position stay. */
  dropSynced(): Promise<void>;
  putEntries(entries: readonly Entry[]): Promise<void>;
  dropEntries(keys: readonly number[]): Promise<void>;
  putFloors(floors: readonly (readonly [Uuid, Floor])[]): Promise<void>;
  dropFloors(conversations: readonly Uuid[]): Promise<void>;
  remember(deletions: readonly Gone[]): Promise<void>;
  forget(): Promise<void>;
}

export interface Transactions {
  /** What `work` sees belongs together. Await in it nothing but the transaction's own promises. */
  read<T>(work: (tx: Reading) => Promise<T>): Promise<T>;
  /** All is kept, or nothing if `work` throws; durable when it returns. Await nothing else in it, either. */
  write<T>(work: (tx: Writing) => Promise<T>): Promise<T>;
}

export interface Store extends Transactions {
  /** The same for all that share what is kept, as the tabs of a browser do. */
  readonly name: string;
  /** Takes over what an earlier app kept for this user, whose store this is, if there is anything. */
  adopt?(user: string): Promise<void>;
  close(): Promise<void>;
  /** Deletes the database itself, once there is nothing in it and it was closed. */
  destroy?(): Promise<void>;
}

/** This store cannot be used. The message says what to do. */
export class StoreError extends Error {
  override name = 'StoreError';
}

/** This tab or another one has destroyed the store. */
export class Destroyed extends StoreError {
  constructor() {
    super('this store was destroyed: make another one, and another Sync');
  }
}

/** Another tab leads now: the transaction changed nothing. */
export class Deposed extends Error {
  override name = 'Deposed';
}
