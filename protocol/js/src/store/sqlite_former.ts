/**
 * Moves what version 1 kept in SQLite: conversations and messages in tables of their own. All of it happens in the
 * transaction that opens the store, so an interrupted upgrade starts again.
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
import type { SqlDriver, SqlRow } from './sqlite.js';

const AT_ONCE = 500;

/** The names of columns in version 1's tables. */
const COLUMNS: Readonly<Record<string, string>> = {
  conversation_id: 'conversationId',
  created_at: 'createdAt',
  updated_at: 'updatedAt',
};
const TEXTS = ['id', 'conversation_id', 'role', 'content', 'title'];

/** Some drivers return integers as bigint. */
const rowFrom = (row: SqlRow): FormerRow =>
  Object.fromEntries(
    Object.entries(row).map(([name, value]) => [COLUMNS[name] ?? name, TEXTS.includes(name) ? value : Number(value)]),
  ) as FormerRow;

/** `meta`, `entries`: of version 1. `tx` writes version 2. */
export async function moveFormer(
  driver: SqlDriver,
  tx: Writing,
  meta: FormerMeta,
  entries: readonly FormerEntry[],
): Promise<void> {
  const tables = [
    ['atlas_conversations', CONVERSATION],
    ['atlas_messages', MESSAGE],
  ] as const;
  for (const [table, kind] of tables) {
    for (let last = ''; ;) {
      const rows = await driver.all(`SELECT * FROM ${table} WHERE id > ? ORDER BY id LIMIT ${AT_ONCE}`, [last]);
      if (rows.length === 0) break;
      await putFormerRows(tx, kind, rows.map(rowFrom));
      last = rows.at(-1)?.['id'] as string;
    }
  }
  const floors = (await driver.all('SELECT conversation_id, floor FROM atlas_floors', [])).map((row): [Uuid, Floor] => [
    row['conversation_id'] as Uuid,
    JSON.parse(row['floor'] as string) as Floor,
  ]);
  await putFormer(tx, meta, entries, floors);
  for (const table of ['conversations', 'messages', 'floors', 'gone'])
    await driver.run(`DROP TABLE atlas_${table}`, []);
}
