/**
 * Work done on a device that sent nothing becomes mutations in the outbox, once it syncs. Knows nothing of
 * connections.
 */

import { add, type Entry } from './outbox.js';
import { WriteError, type Mutation } from './mutation.js';
import type { Message } from './rows.js';
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

/** What outgrew the limits of the server while it was local is not lost: it waits in quarantine. */
async function addOrQuarantine(tx: Writing, mutations: readonly Mutation[]): Promise<void> {
  let { nextKey, nextN } = await tx.meta();
  const { bounds } = await tx.meta();
  const entries = mutations.map((mutation): Entry => {
    const key = nextKey++;
    try {
      return add({ nextKey: key, nextN: nextN++, bounds }, mutation);
    } catch (error) {
      if (!(error instanceof WriteError)) throw error;
      nextN--;
      return { key, n: 0, mutation, state: 'rejected', seq: null, code: 'too_long', message: error.message };
    }
  });
  await tx.putEntries(entries);
  await tx.setMeta({ nextKey, nextN });
}

/**
 * The conversations at once, in the transaction in which the device begins to sync: whatever is written from then on
 * comes behind them. Their number, with that of the messages that wait for `mergeMessages`, is remembered for progress.
 */
export async function mergeConversations(tx: Writing): Promise<void> {
  const waiting = await tx.countLocal();
  if (waiting === 0) return;
  const rows = await tx.localConversations();
  await tx.setMeta({ merging: waiting + (await tx.counts()).pending });
  await addOrQuarantine(
    tx,
    rows.map(({ id, title, createdAt }): Mutation => ({ kind: '+c', id, title, at: createdAt })),
  );
  await tx.dropConversations(rows.map((row) => row.id));
}

/** Some of the messages, oldest first. False when there are none left. */
export async function mergeMessages(tx: Writing, limit: number): Promise<boolean> {
  const rows = await tx.localMessages(limit);
  if (rows.length === 0) return false;
  await addOrQuarantine(tx, rows.flatMap(mutationsOf));
  await tx.dropMessages(rows.map((row) => row.id));
  return true;
}

/** The second one is for a message that the server may have already, as it was before it was edited here. */
function mutationsOf({ id, conversationId, role, content, createdAt, updatedAt }: Message): Mutation[] {
  const made: Mutation = { kind: '+m', id, conversationId, role, content, at: createdAt };
  return updatedAt > createdAt ? [made, { kind: '~m', id, createdAt, content, at: updatedAt }] : [made];
}
