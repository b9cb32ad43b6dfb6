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

import { Dexie, type Table } from 'dexie';

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

const TABLES = ['head', 'conversationRows', 'messageRows', 'outbox', 'floorRows', 'deletions'];
/** Keys in the table `head`. */
const META = 0;
const SAVED = 1;
/** The user of a database that was upgraded. */
const MOVED = 'a newer version of this app';
const AT_ONCE = 1000;

/** Does `work` in one transaction of a database; undefined if it does not exist or lacks a table. */
export async function inDatabase<T>(
  name: string,
  tables: readonly string[],
  work: (...tables: Table[]) => Promise<T>,
): Promise<T | undefined> {
  if (!(await Dexie.exists(name))) return undefined;
  const db = new Dexie(name);
  try {
    await db.open();
    const names = db.tables.map((table) => table.name);
    if (!tables.every((table) => names.includes(table))) return undefined;
    return await db.transaction('rw', [...tables], (tx) => work(...tables.map((table) => tx.table(table))));
  } finally {
    db.close();
  }
}

/** Marks the former database. Undefined if there is none, or if it was upgraded and emptied. */
const take = (name: string): Promise<FormerMeta | undefined> =>
  inDatabase(name, TABLES, async (head) => {
    const found = ((await head.get(SAVED)) ?? (await head.get(META))) as FormerMeta | undefined;
    if (found === undefined || found.user === MOVED) return undefined;
    await head.bulkPut([{ user: MOVED }, found], [META, SAVED]);
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
      const rows = ((await inDatabase(name, [table], (from) =>
        from.where(':id').above(last).limit(AT_ONCE).toArray(),
      )) ?? []) as FormerRow[];
      if (rows.length === 0) break;
      yield (tx) => putFormerRows(tx, kind, rows);
      last = rows.at(-1)?.id ?? '';
    }
  }
  const rest = await inDatabase(name, ['outbox', 'floorRows'], async (outbox, floorRows) => {
    const homes = (await floorRows?.toCollection().primaryKeys()) as Uuid[];
    const floors = (await floorRows?.toArray()) as Floor[];
    return [
      (await outbox?.toArray()) as FormerEntry[],
      homes.map((home, i): [Uuid, Floor] => [home, floors[i] as Floor]),
    ] as const;
  });
  if (rest !== undefined) yield (tx) => putFormer(tx, meta, ...rest);
}

export async function emptyFormer(name: string): Promise<void> {
  await inDatabase(name, TABLES, async (head, ...tables) => {
    for (const table of tables) await table.clear();
    await head?.delete(SAVED);
  });
}
