/** Mutations, which a device asks the server to apply, and their results (SPEC.md, 8.3, 8.4). */

import type { Instant } from './rows.js';
import type { Id } from './schema.js';
import { unstorable, utf8Bytes } from './text.js';
import { isUuid } from './uuid.js';

/** Columns by the names of their properties. */
export type Columns = Readonly<Record<string, unknown>>;

/** `at`: the instant of the write. */
export interface Insert {
  readonly op: '+';
  /** The kind's name. */
  readonly kind: string;
  readonly id: Id;
  /** With the parent's id, if the kind has a parent. */
  readonly columns: Columns;
  readonly at: Instant;
}
export interface Update {
  readonly op: '~';
  readonly kind: string;
  readonly id: Id;
  /** The value of the column by which the table is partitioned, if it is. */
  readonly dated?: Instant;
  readonly columns: Columns;
  readonly at: Instant;
}
export interface Delete {
  readonly op: '-';
  readonly kind: string;
  readonly id: Id;
  readonly dated?: Instant;
}
export type Mutation = Insert | Update | Delete;

export type Result =
  | { readonly kind: 'applied' | 'repeated'; readonly n: number; readonly seq: number }
  | {
      readonly kind: 'rejected';
      readonly n: number;
      readonly code: string;
      readonly message: string;
      /** Whose value it is, on the wire. */
      readonly column: string | null;
    };

/** The last number of a mutation: JavaScript's integers are not exact beyond it. */
export const NUMBER_END = Number.MAX_SAFE_INTEGER;
/** `limits.frame_bytes` before a server has said its own. */
export const FRAME_BYTES = 262_144;

/** How large a mutation may be. */
export interface Bounds {
  readonly frameBytes: number;
}

/** The write is invalid, and nothing was written. The message names the field, never its content. */
export class WriteError extends Error {
  override name = 'WriteError';

  constructor(
    message: string,
    /** The code with which the server would reject it (SPEC.md, 8.4); null if it would not get there. */
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** Throws WriteError for a mutation that every server would reject. */
export function check(mutation: Mutation, bounds: Bounds): void {
  for (const [name, value] of Object.entries(mutation)) {
    if (name === 'id' || name === 'conversationId') {
      if (!isUuid(value)) throw new WriteError(`${name} must be a UUID in lower case`, 'malformed');
    } else if (name === 'at' || name === 'createdAt') {
      if (!Number.isSafeInteger(value)) throw new WriteError(`${name} must be an integer of microseconds`, 'malformed');
    } else if (name !== 'title' || value !== null) {
      text(name, value, name === 'title' ? bounds.titleBytes : name === 'content' ? bounds.contentBytes : undefined);
    }
  }
}

function text(name: string, value: unknown, atMost: number | undefined): void {
  if (typeof value !== 'string') throw new WriteError(`${name} must be a string`, 'malformed');
  const bad = unstorable(value);
  if (bad !== null) {
    throw new WriteError(`${name} contains ${bad}, which the server cannot keep: leave it out`, 'bad_text');
  }
  const size = utf8Bytes(value);
  if (atMost !== undefined && size > atMost) {
    throw new WriteError(
      `${name} has ${size} bytes of UTF-8, and the server accepts ${atMost}: shorten it`,
      'too_long',
    );
  }
}
