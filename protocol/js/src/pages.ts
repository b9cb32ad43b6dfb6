/** Pages of older history, as they are asked for (SPEC.md, 7.7). */

import type { Place } from './rows.js';
import type { Id } from './schema.js';

export interface PageRequest {
  /** The kind's name. */
  readonly kind: string;
  /** null: the kind has no parent. */
  readonly parent: Id | null;
  /** Rows older than this; null: the newest. */
  readonly before: Place | null;
}

/** A page did not come. `code` is a code of the protocol, `offline`, or `not_yet` while a snapshot is on its way. */
export class PageError extends Error {
  override name = 'PageError';
  constructor(readonly code: string) {
    super(code);
  }
}
