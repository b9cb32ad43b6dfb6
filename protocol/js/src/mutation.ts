/** Mutations, which a device asks the server to apply, and their results (SPEC.md, 8.3, 8.4). */

import type { Instant, Uuid } from './rows.js';
import { unstorable, utf8Bytes } from './text.js';
import { isUuid } from './uuid.js';

export type Mutation =
  | { readonly kind: '+c'; readonly id: Uuid; readonly title: string | null; readonly at: Instant }
  | { readonly kind: '~c'; readonly id: Uuid; readonly title: string | null; readonly at: Instant }
  | { readonly kind: '-c'; readonly id: Uuid }
  | {
      readonly kind: '+m';
      readonly id: Uuid;
      readonly conversationId: Uuid;
      readonly role: string;
      readonly content: string;
      readonly at: Instant;
    }
  | {
      readonly kind: '~m';
      readonly id: Uuid;
      readonly createdAt: Instant;
      readonly content: string;
      readonly at: Instant;
    }
  | { readonly kind: '-m'; readonly id: Uuid; readonly createdAt: Instant };

export type Result =
  | { readonly kind: 'applied' | 'repeated'; readonly n: number; readonly seq: number }
  | { readonly kind: 'rejected'; readonly n: number; readonly code: string; readonly message: string };

/** The last number of a mutation: JavaScript's integers are not exact beyond it. */
export const NUMBER_END = Number.MAX_SAFE_INTEGER;
/** `limits.frame_bytes` before a server has said its own. */
export const FRAME_BYTES = 262_144;

/** How large a mutation may be. Fields that no server has said yet are absent. */
export interface Bounds {
  readonly frameBytes: number;
  readonly titleBytes?: number;
  readonly contentBytes?: number;
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
