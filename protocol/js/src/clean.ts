/**
 * What leaves the device: conversations that are synced, when its storage runs low, which come back by paging; and all
 * that is a user's, when they sign out. Unsent work never goes unasked.
 */

import { compare, LOCAL, type Conversation, type Place, type Uuid } from './rows.js';
import type { Entry } from './outbox.js';
import { newMeta, type Reading, type Transactions, type Writing } from './store.js';
import { newId } from './uuid.js';

export interface Estimate {
  readonly usage?: number;
  readonly quota?: number;
}

/** A share of the quota from which on storage runs low. */
const LOW = 0.8;
/** Half a year, in microseconds. */
export const UNTOUCHED = 183 * 86_400_000_000;
const AT_ONCE = 100;

export const runsLow = ({ usage, quota }: Estimate): boolean =>
  usage !== undefined && quota !== undefined && quota > 0 && usage / quota > LOW;

/** The conversations that entries of the outbox are about, as far as that is known. */
export async function homesOf(tx: Reading, entries: readonly Entry[]): Promise<Set<Uuid>> {
  const homes = new Set<Uuid>();
  const messages: Uuid[] = [];
  for (const { mutation } of entries) {
    if (mutation.kind === '+m') homes.add(mutation.conversationId);
    else if (mutation.kind.endsWith('c')) homes.add(mutation.id);
    else messages.push(mutation.id);
  }
  for (const row of await tx.messages(messages)) if (row) homes.add(row.conversationId);
  return homes;
}

/** Some of the conversations older than `cutoff`; returns their ids, none when there are none left. */
async function cleanSome(tx: Writing, cutoff: Place): Promise<Uuid[]> {
  const { local, list } = await tx.meta();
  if (local || list === null) return [];
  // What is unsent, acknowledged but not seen, or rejected, and local work that has not gone up yet.
  const keep = await homesOf(tx, await tx.entries());
  for (const row of await tx.localMessages()) keep.add(row.conversationId);
  const going: Conversation[] = [];
  for (let before: Place = cutoff; going.length < AT_ONCE;) {
    const rows = await tx.newestConversations(before, AT_ONCE);
    const last = rows.at(-1);
    if (last === undefined) break;
    before = [last.updatedAt, last.id];
    going.push(...rows.filter((row) => row.seq !== LOCAL && !keep.has(row.id)));
  }
  if (going.length === 0) return [];
  const ids = going.map((row) => row.id);
  for (const id of ids) {
    const messages = await tx.messagesOf(id);
    await tx.dropMessages(messages.map((message) => message.id));
  }
  await tx.dropConversations(ids);
  await tx.dropFloors(ids);
  if (list === 'start' || compare(list, cutoff) < 0) await tx.setMeta({ list: cutoff });
  return ids;
}

/** Returns how many conversations left. `now` in microseconds. */
export async function clean(store: Transactions, now: number): Promise<number> {
  const cutoff: Place = [now - UNTOUCHED, '00000000-0000-0000-0000-000000000000'];
  let count = 0;
  for (;;) {
    const ids = await store.write((tx) => cleanSome(tx, cutoff));
    if (ids.length === 0) return count;
    count += ids.length;
  }
}

/** Writes would be lost, `count` of them: no other device has them, nor the server. */
export class UnsentError extends Error {
  override name = 'UnsentError';

  constructor(readonly count: number) {
    super(`writes on this device only: ${count}; let them be sent, or set discardUnsent`);
  }
}

/**
 * Nothing remains that is of this user, and whoever led settles nothing any more. Throws UnsentError for writes that
 * wait, were rejected, may be lost on the server, or never left the device.
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
