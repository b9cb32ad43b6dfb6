/**
 * Removes old synced conversations from a device whose storage runs low. Paging brings them back. Conversations with
 * unsent work stay.
 */

import type { Clock } from './clock.js';
import { conversationsOf } from './entries.js';
import { compare, LOCAL, type Conversation, type Place } from './rows.js';
import type { Transactions, Writing } from './store.js';

export interface Estimate {
  readonly usage?: number;
  readonly quota?: number;
}

/** Storage runs low above this fraction of the quota. */
const LOW = 0.8;
/** A conversation that was not changed for so long may be removed: half a year, in microseconds. */
export const UNTOUCHED = 183 * 86_400_000_000;
/** Conversations in one transaction. */
const AT_ONCE = 100;
/** Milliseconds. */
const CLEAN_EVERY = 3_600_000;

const runsLow = ({ usage, quota }: Estimate): boolean =>
  usage !== undefined && quota !== undefined && quota > 0 && usage / quota > LOW;

/** Removes some of the conversations older than `cutoff`. Returns how many; 0: none is left. */
async function cleanSome(tx: Writing, cutoff: Place): Promise<number> {
  const { local, list } = await tx.meta();
  if (local || list === null) return 0;
  // Conversations with entries (unsent, acknowledged but not in the feed yet, or rejected), or with local messages.
  const keep = await conversationsOf(tx, await tx.entries());
  for (const row of await tx.localMessages()) keep.add(row.conversationId);
  const going: Conversation[] = [];
  for (let before: Place = cutoff; going.length < AT_ONCE;) {
    const rows = await tx.newestConversations(before, AT_ONCE);
    const last = rows.at(-1);
    if (last === undefined) break;
    before = [last.updatedAt, last.id];
    going.push(...rows.filter((row) => row.seq !== LOCAL && !keep.has(row.id)));
  }
  if (going.length === 0) return 0;
  const ids = going.map((row) => row.id);
  for (const id of ids) {
    const messages = await tx.messagesOf(id);
    await tx.dropMessages(messages.map((message) => message.id));
  }
  await tx.dropConversations(ids);
  await tx.dropFloors(ids);
  if (list === 'start' || compare(list, cutoff) < 0) await tx.setMeta({ list: cutoff });
  return ids.length;
}

/** Whether the browser had no room for a write. Dexie wraps the browser's error. */
export const isQuotaError = (error: unknown): boolean => /Quota/.test(String(error) + String(Object(error).inner));

export interface CleanerOptions {
  readonly store: Transactions;
  readonly clock: Clock;
  readonly estimate: () => Promise<Estimate>;
  /** Whether this tab may clean. Rejects if the store cannot be used. */
  readonly permitted: () => Promise<boolean>;
  readonly onCleaned: () => void;
  readonly onError: (error: unknown) => void;
}

/** Cleans when storage runs low: at the start, every hour, and when a write found no room. */
export class Cleaner {
  private cleaning = false;
  private cancel: (() => void) | null = null;

  constructor(private readonly options: CleanerOptions) {}

  start(): void {
    this.cancel = this.options.clock.after(CLEAN_EVERY, () => {
      void this.clean(false).finally(() => this.cancel && this.start());
    });
  }

  stop(): void {
    this.cancel?.();
    this.cancel = null;
  }

  /** Returns how many conversations were removed. `full`: storage is known to be full. */
  async clean(full: boolean): Promise<number> {
    if (this.cleaning) return 0;
    this.cleaning = true; // deletions need room, too: where the disk is full, they must not start another cleaning
    const { store, clock, estimate, permitted, onCleaned, onError } = this.options;
    let count = 0;
    try {
      if (!(await permitted()) || !(full || runsLow(await estimate()))) return 0;
      const cutoff: Place = [clock.now() * 1000 - UNTOUCHED, '00000000-0000-0000-0000-000000000000'];
      for (let some = 1; some > 0; count += some) some = await store.write((tx) => cleanSome(tx, cutoff));
    } catch (error) {
      onError(error);
    } finally {
      this.cleaning = false;
    }
    if (count > 0) onCleaned();
    return count;
  }
}
