/**
 * Copies what was kept in IndexedDB before there were kinds, in a database of the store's own name. A database of
 * another name takes its place, so that no tab of the former version can hold up the upgrade, not even a frozen one.
 *
 * First the former database is read and marked as another user's, so that no tab of the former version writes to it any
 * more: its Sync ends. What was read is stored in one transaction, with the store's head. Only a store without a head is
 * copied into, so an interrupted upgrade starts again, and of several tabs that copy at once, each may complete it. Then
 * the former database is emptied. The mark stays in it until the store is destroyed: the former version must not begin
 * anew there, because nobody would send what is written to it.
 */

import type { Floor } from '../holes.js';
import type { Uuid } from '../rows.js';
import type { Writing } from '../store.js';
import {
  CONVERSATION,
  MESSAGE,
  putFormer,
  putFormerRows,
  type FormerEntry,
  type FormerMeta,
  type FormerRow,
} from './former.js';
import { asked, inDatabase } from './idb.js';
import { MOVED } from './indexeddb_upgrade.js';

const STORES = ['head', 'conversationRows', 'messageRows', 'outbox', 'floorRows', 'deletions'];
/** Keys in the object store `head`. */
const META = 0;
const SAVED = 1;

/** Marks the former database, and returns how to store what is in it; undefined if there is none, or it was emptied. */
export const takeFormer = (name: string): Promise<((tx: Writing) => Promise<void>) | undefined> =>
  inDatabase(name, STORES, async (...stores) => {
    const [head, conversationRows, messageRows, outbox, floorRows] = stores as [
      IDBObjectStore,
      IDBObjectStore,
      IDBObjectStore,
      IDBObjectStore,
      IDBObjectStore,
    ];
    const found = (await asked<FormerMeta | undefined>(head.get(SAVED))) ?? (await asked<FormerMeta>(head.get(META)));
    if (found === undefined || found.user === MOVED) return undefined;
    head.put({ user: MOVED }, META);
    head.put(found, SAVED);
    const [conversations, messages, entries, homes, floors] = await Promise.all([
      asked<FormerRow[]>(conversationRows.getAll()),
      asked<FormerRow[]>(messageRows.getAll()),
      asked<FormerEntry[]>(outbox.getAll()),
      asked<Uuid[]>(floorRows.getAllKeys()),
      asked<Floor[]>(floorRows.getAll()),
    ]);
    return async (tx) => {
      await putFormerRows(tx, CONVERSATION, conversations);
      await putFormerRows(tx, MESSAGE, messages);
      await putFormer(
        tx,
        found,
        entries,
        homes.map((home, i) => [home, floors[i] as Floor]),
      );
    };
  });

export async function emptyFormer(name: string): Promise<void> {
  await inDatabase(name, STORES, async (head, ...stores) => {
    for (const store of stores) store.clear();
    head?.delete(SAVED);
  });
}
