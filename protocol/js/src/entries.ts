/** The outbox within a transaction of a store. outbox.ts decides what becomes of its entries. */

import type { Mutation } from './mutation.js';
import { add, type Change, type Entry } from './outbox.js';
import type { Uuid } from './rows.js';
import type { Reading, Writing } from './store.js';

/** Adds a mutation to the outbox and numbers it for good. Throws WriteError, and then nothing is added. */
export async function addEntry(tx: Writing, mutation: Mutation): Promise<Entry> {
  const { nextKey, nextN, bounds } = await tx.meta();
  const entry = add({ nextKey, nextN, bounds }, mutation);
  await tx.setMeta({ nextKey: nextKey + 1, nextN: nextN + 1 });
  await tx.putEntries([entry]);
  return entry;
}

export async function changeEntries(tx: Writing, { put, drop }: Change): Promise<void> {
  await tx.putEntries(put);
  await tx.dropEntries(drop);
}

/** The conversations that these entries are about, as far as this device knows. */
export async function conversationsOf(tx: Reading, entries: readonly Entry[]): Promise<Set<Uuid>> {
  const ids = new Set<Uuid>();
  const messages: Uuid[] = [];
  for (const { mutation } of entries) {
    if (mutation.kind === '+m') ids.add(mutation.conversationId);
    else if (mutation.kind.endsWith('c')) ids.add(mutation.id);
    else messages.push(mutation.id);
  }
  for (const row of await tx.messages(messages)) if (row) ids.add(row.conversationId);
  return ids;
}
