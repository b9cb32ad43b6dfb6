/** Removes everything of a user from a store, as when they sign out. */

import { newMeta, type Writing } from './store.js';
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
export async function wipe(tx: Writing, discardUnsent: boolean): Promise<void> {
  const entries = await tx.entries();
  const conversations = await tx.localConversations();
  const messages = await tx.localMessages();
  const unsent = entries.filter(({ state, seq }) => state !== 'acked' || seq === null);
  const count = unsent.length + conversations.length + messages.length;
  if (count > 0 && !discardUnsent) throw new UnsentError(count);
  await tx.dropEntries(entries.map((entry) => entry.key));
  await tx.dropConversations(conversations.map((row) => row.id));
  await tx.dropMessages(messages.map((row) => row.id));
  await tx.dropSynced();
  const { lease, adopted } = await tx.meta();
  await tx.setMeta({ ...newMeta(newId()), lease: lease + 1, adopted });
}
