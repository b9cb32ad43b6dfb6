/** Pages of older history, as they are asked for (SPEC.md, 7.7). */

import type { Place, Uuid } from './rows.js';

export interface PageRequest {
  /** null: the list of conversations. */
  readonly conversation: Uuid | null;
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
