/** The rows of a user's feed, as values (SPEC.md, section 5), and their order. */

/** In canonical form, lower case. */
export type Uuid = string;
/** Microseconds since 1970-01-01 UTC. */
export type Instant = number;
/** Base64 with padding; opaque. */
export type Cursor = string;

export interface Profile {
  readonly kind: 'p';
  readonly seq: number;
  readonly id: Uuid;
  readonly tier: string;
  readonly status: string | null;
}

export interface Conversation {
  readonly kind: 'c';
  readonly seq: number;
  readonly id: Uuid;
  readonly title: string | null;
  readonly createdAt: Instant;
  readonly updatedAt: Instant;
}

export interface Message {
  readonly kind: 'm';
  readonly seq: number;
  readonly id: Uuid;
  readonly conversationId: Uuid;
  readonly role: string;
  readonly content: string;
  readonly createdAt: Instant;
  readonly updatedAt: Instant;
}

export interface Deleted {
  readonly kind: '-p' | '-c' | '-m';
  readonly seq: number;
  readonly id: Uuid;
}

export type Row = Profile | Conversation | Message | Deleted;

/**
 * The `seq` of a local row: made on this device while it worked alone, and unknown to the server. It is below every
 * real seq, so a row of the server replaces it by rule 5.2.
 */
export const LOCAL = -1;

/** A row's place in its history: conversations by `updatedAt`, messages by `createdAt`, equal ones by id. */
export type Place = readonly [at: Instant, id: Uuid];

export const placeOf = (row: Conversation | Message): Place => [
  row.kind === 'c' ? row.updatedAt : row.createdAt,
  row.id,
];

export const compare = (a: Place, b: Place): number => a[0] - b[0] || (a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0);
