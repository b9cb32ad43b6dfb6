/**
 * Copies what was kept in IndexedDB before there were kinds, in a database of the store's own name. A database of
 * another name takes its place, so that no tab of the former version can hold up the upgrade, not even a frozen one.
 *
 * First the former database is marked as another user's, so that no tab of the former version writes to it any more:
 * its Sync ends. Then the rows are copied, some at a time, and at the end everything else with the store's head. Only a
 * store without a head is copied into, so an interrupted upgrade starts again, and of several tabs that copy at once,
 * each may complete it. Then the former database is emptied. The mark stays in it until the store is destroyed: the
 * former version must not begin anew there, because nobody would send what is written to it.
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

const TABLES = ['head', 'conversationRows', 'messageRows', 'outbox', 'floorRows', 'deletions'];
/** Keys in the object store `head`. */
const META = 0;
const SAVED = 1;
const AT_ONCE = 1000;

/** Marks the former database. Undefined if there is none, or if it was upgraded and emptied. */
const take = (name: string): Promise<FormerMeta | undefined> =>
  inDatabase(name, TABLES, async (head) => {
    if (head === undefined) return undefined;
    const found = ((await asked(head.get(SAVED))) ?? (await asked(head.get(META)))) as FormerMeta | undefined;
    if (found === undefined || found.user === MOVED) return undefined;
    head.put({ user: MOVED }, META);
    head.put(found, SAVED);
    return found;
  });

/** What to store, each part in a transaction. */
export async function* partsOfFormer(name: string): AsyncGenerator<(tx: Writing) => Promise<void>> {
  const meta = await take(name);
  if (meta === undefined) return;
  const tables = [
    ['conversationRows', CONVERSATION],
    ['messageRows', MESSAGE],
  ] as const;
  for (const [table, kind] of tables) {
    for (let last = ''; ;) {
      const range = IDBKeyRange.lowerBound(last, true);
      const read = async (from?: IDBObjectStore): Promise<FormerRow[]> => asked(from!.getAll(range, AT_ONCE));
      const rows = (await inDatabase(name, [table], read)) ?? [];
      if (rows.length === 0) break;
      yield (tx) => putFormerRows(tx, kind, rows);
      last = rows.at(-1)?.id ?? '';
    }
  }
  const rest = await inDatabase(name, ['outbox', 'floorRows'], async (outbox, floorRows) => {
    const homes = await asked<Uuid[]>(floorRows!.getAllKeys());
    const floors = await asked<Floor[]>(floorRows!.getAll());
    return [
      await asked<FormerEntry[]>(outbox!.getAll()),
      homes.map((home, i): [Uuid, Floor] => [home, floors[i] as Floor]),
    ] as const;
  });
  if (rest !== undefined) yield (tx) => putFormer(tx, meta, ...rest);
}

export async function emptyFormer(name: string): Promise<void> {
  await inDatabase(name, TABLES, async (head, ...tables) => {
    for (const table of tables) table.clear();
    head!.delete(SAVED);
  });
}
