/** Removes everything of a user from a store, as when they sign out. */

import type { Kinds } from './schema.js';
import { newMeta, type Writing } from './store.js';
import { unconfirmed } from './unsent.js';
import { newId } from './uuid.js';

/** `count` writes would be lost: neither the server nor another device has them. */
export class UnsentError extends Error {
  override name = 'UnsentError';

  constructor(readonly count: number) {
    super(`writes on this device only: ${count}; let them be sent, or set discardUnsent`);
  }
}

/**
 * Removes everything of this user, and takes the lease from the tab that leads. Throws UnsentError if there are writes
 * that wait, were rejected, may be lost on the server, or never left the device.
 */
export async function wipe(tx: Writing, kinds: Kinds, discardUnsent: boolean): Promise<void> {
  const entries = await tx.entries();
  let count = unconfirmed(entries).length;
  for (const kind of kinds.values()) count += (await tx.local(kind)).length;
  if (count > 0 && !discardUnsent) throw new UnsentError(count);
  await tx.dropEntries(entries.map((entry) => entry.key));
  await tx.clear(true);
  const { lease, adopted } = await tx.meta();
  await tx.setMeta({ ...newMeta(newId()), lease: lease + 1, adopted, destroyed: true });
}
