/** Turns the rows that a device made while it worked locally into mutations in the outbox, once it syncs. */

import { WriteError, type Mutation } from './mutation.js';
import { add, type Entry } from './outbox.js';
import type { Uuid } from './rows.js';
import type { Writing } from './store.js';

/**
 * Merges all local work, in the transaction in which the device begins to sync: nothing that is written or received
 * later finds local rows. The number of mutations that wait is stored, for `status.progress`.
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
 * A mutation that exceeds the server's limits goes to quarantine. An edit follows its creation because the server may
 * have the row already, as it was before it was changed here.
 */
async function addOrQuarantine(tx: Writing, mutations: readonly Mutation[]): Promise<void> {
  let { nextKey, nextN } = await tx.meta();
  const { bounds } = await tx.meta();
  const entries: Entry[] = [];
  const outgrown = new Set<Uuid>();
  for (const mutation of mutations) {
    if (outgrown.has(mutation.id)) continue; // its creation is in quarantine with the same text
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
