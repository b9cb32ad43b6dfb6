/**
 * Work done on a device that sent nothing becomes mutations in the outbox, once it syncs. Knows nothing of
 * connections.
 */

import { add, type Entry } from './outbox.js';
import { WriteError, type Mutation } from './mutation.js';
import type { Uuid } from './rows.js';
import type { Writing } from './store.js';

/**
 * Adds to the outbox and numbers for good, in the caller's transaction. Throws WriteError, and has added nothing
 * then.
 */
export async function addEntry(tx: Writing, mutation: Mutation): Promise<Entry> {
  const { nextKey, nextN, bounds } = await tx.meta();
  const entry = add({ nextKey, nextN, bounds }, mutation);
  await tx.setMeta({ nextKey: nextKey + 1, nextN: nextN + 1 });
  await tx.putEntries([entry]);
  return entry;
}

/**
 * All of it, in the transaction in which the device begins to sync: whatever is written or comes from the feed after it
 * finds none. How many mutations wait then is remembered for progress.
 */
export async function mergeLocal(tx: Writing): Promise<void> {
  const conversations = await tx.localConversations();
  const messages = await tx.localMessages();
  if (conversations.length + messages.length === 0) return;
  const { renamed } = await tx.meta();
  await addOrQuarantine(tx, [
    ...conversations.flatMap(({ id, title, createdAt, updatedAt }): Mutation[] => {
      const made: Mutation = { kind: '+c', id, title, at: createdAt };
      return renamed.includes(id) ? [made, { kind: '~c', id, title, at: updatedAt }] : [made];
    }),
    ...messages.flatMap(({ id, conversationId, role, content, createdAt, updatedAt }): Mutation[] => {
      const made: Mutation = { kind: '+m', id, conversationId, role, content, at: createdAt };
      return updatedAt > createdAt ? [made, { kind: '~m', id, createdAt, content, at: updatedAt }] : [made];
    }),
  ]);
  await tx.dropConversations(conversations.map((row) => row.id));
  await tx.dropMessages(messages.map((row) => row.id));
  await tx.setMeta({ renamed: [], merging: (await tx.counts()).pending });
}

/**
 * What outgrew the limits of the server while it was local is not lost: it waits in quarantine. The edits beside the
 * creations are for what the server may have already, as it was before it was changed here.
 */
async function addOrQuarantine(tx: Writing, mutations: readonly Mutation[]): Promise<void> {
  let { nextKey, nextN } = await tx.meta();
  const { bounds } = await tx.meta();
  const entries: Entry[] = [];
  const outgrown = new Set<Uuid>();
  for (const mutation of mutations) {
    if (outgrown.has(mutation.id)) continue; // its creation says the same
    const key = nextKey++;
    try {
      entries.push(add({ nextKey: key, nextN, bounds }, mutation));
      nextN++;
    } catch (error) {
      if (!(error instanceof WriteError)) throw error;
      outgrown.add(mutation.id);
      entries.push({ key, n: 0, mutation, state: 'rejected', seq: null, code: error.code, message: error.message });
    }
  }
  await tx.putEntries(entries);
  await tx.setMeta({ nextKey, nextN });
}
