/**
 * Stores as versions before kinds left them, made with their own statements: a profile, a synced and a renamed
 * conversation, local work, an outbox with each form of a mutation in each state, floors, and memories of deletions.
 */

import sqlite from 'node-sqlite3-wasm';

import { BEFORE_KINDS, database, DEXIE_FIRST, put } from './databases.js';
import { C, id, M } from './rows.js';

export const CLIENT = id(77);
export const OLD_ROWS = {
  conversations: [
    { kind: 'c', seq: 11, id: C(1), title: 'Synced', createdAt: 1000, updatedAt: 9000 },
    { kind: 'c', seq: 12, id: C(2), title: null, createdAt: 2000, updatedAt: 8000 },
    { kind: 'c', seq: -1, id: C(3), title: 'Local, renamed', createdAt: 3000, updatedAt: 7000 },
    { kind: 'c', seq: -1, id: C(4), title: 'Local', createdAt: 4000, updatedAt: 7000 },
  ],
  messages: [
    ...[1, 2, 3].map((n) => ({
      kind: 'm',
      seq: 20 + n,
      id: M(n),
      conversationId: C(1),
      role: n === 2 ? 'assistant' : 'user',
      content: n === 3 ? '\x01i5 Grüezi 🚲' : `m${n}`,
      createdAt: n === 1 ? -5 : 10,
      updatedAt: 10,
    })),
    { kind: 'm', seq: -1, id: M(4), conversationId: C(3), role: 'user', content: 'edited', createdAt: 5, updatedAt: 6 },
    { kind: 'm', seq: -1, id: M(5), conversationId: C(3), role: 'user', content: 'local', createdAt: 6, updatedAt: 6 },
  ],
};
const at = 2 ** 52;
const state = { state: 'pending', seq: null, code: null, message: null };
export const OLD_ENTRIES = [
  { key: 3, n: 2, ...state, state: 'acked', seq: 30, mutation: { kind: '+c', id: C(6), title: null, at } },
  { key: 4, n: 3, ...state, mutation: { kind: '~c', id: C(1), title: '\x01s', at } },
  { key: 5, n: 4, ...state, mutation: { kind: '+m', id: M(6), conversationId: C(1), role: 'user', content: 'ü', at } },
  { key: 6, n: 5, ...state, mutation: { kind: '~m', id: M(1), createdAt: -5, content: 'new', at } },
  { key: 7, n: 6, ...state, mutation: { kind: '-m', id: M(3), createdAt: 10 } },
  { key: 8, n: 7, ...state, mutation: { kind: '-c', id: C(2) } },
  {
    key: 9,
    n: 1,
    ...state,
    state: 'rejected',
    code: 'unknown_conversation',
    message: 'No.',
    mutation: { kind: '+m', id: M(8), conversationId: C(9), role: 'user', content: 'kept', at },
  },
];
export const OLD_FLOORS: [string, 'start' | [number, string]][] = [
  [C(1), [-5, M(1)]],
  [C(3), 'start'],
];
const GONE = { kind: 'm', id: M(9), seq: 5 };

/** `full`: as the last version wrote it; else as the first one did. */
export const oldMeta = (user: string, full = true): object => ({
  user,
  clientId: CLIENT,
  ...(full && { generation: 123, downgraded: false, renamed: [C(3)] }),
  cursor: 'AAEC/w==',
  position: 29,
  nextKey: 10,
  nextN: 8,
  bounds: full ? { frameBytes: 20_000, titleBytes: 1000, contentBytes: 100_000 } : { frameBytes: 20_000 },
  lease: 4,
  local: false,
  profile: { kind: 'p', seq: 10, id: id(1), tier: 'pro', status: null },
  list: [2000, C(2)],
  ahead: -7,
  lastAt: at,
  notBefore: 0,
  lastLive: 5,
  merging: 0,
  adopted: ['AtlasDB_v3'],
});

/** As the store in IndexedDB declared it, with Dexie. */
export const oldDatabase = (name: string): Promise<IDBDatabase> => database(name, DEXIE_FIRST, BEFORE_KINDS);

const marked = <R extends { readonly seq: number }>(row: R): R => (row.seq === -1 ? { ...row, local: 1 } : row);

export async function makeOldIndexedDb(
  name: string,
  meta: object,
  more: readonly object[] = [],
): Promise<IDBDatabase> {
  const db = await oldDatabase(name);
  await put(db, 'head', [meta], [0]);
  await put(db, 'conversationRows', OLD_ROWS.conversations.map(marked));
  await put(db, 'messageRows', [...OLD_ROWS.messages.map(marked), ...more]);
  await put(db, 'outbox', OLD_ENTRIES);
  await put(
    db,
    'floorRows',
    OLD_FLOORS.map(([, floor]) => floor),
    OLD_FLOORS.map(([home]) => home),
  );
  await put(db, 'deletions', [GONE]);
  return db;
}

const OLD_TABLES = [
  'CREATE TABLE IF NOT EXISTS atlas_meta (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, meta TEXT NOT NULL)',
  `CREATE TABLE IF NOT EXISTS atlas_conversations (
     id TEXT PRIMARY KEY, seq INTEGER NOT NULL, title TEXT, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
   ) WITHOUT ROWID`,
  'CREATE INDEX IF NOT EXISTS atlas_conversations_order ON atlas_conversations (updated_at, id)',
  `CREATE TABLE IF NOT EXISTS atlas_messages (
     id TEXT PRIMARY KEY, seq INTEGER NOT NULL, conversation_id TEXT NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
     created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
   )`,
  'CREATE INDEX IF NOT EXISTS atlas_messages_order ON atlas_messages (conversation_id, created_at, id)',
  'CREATE INDEX IF NOT EXISTS atlas_messages_local ON atlas_messages (created_at, id) WHERE seq < 0',
  `CREATE TABLE IF NOT EXISTS atlas_outbox (
     key INTEGER PRIMARY KEY, n INTEGER NOT NULL, state TEXT NOT NULL, mutation TEXT NOT NULL,
     seq INTEGER, code TEXT, message TEXT
   )`,
  'CREATE INDEX IF NOT EXISTS atlas_outbox_state ON atlas_outbox (state, key)',
  'CREATE TABLE IF NOT EXISTS atlas_floors (conversation_id TEXT PRIMARY KEY, floor TEXT NOT NULL) WITHOUT ROWID',
  'CREATE TABLE IF NOT EXISTS atlas_gone (kind TEXT NOT NULL, id TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID',
];

/** As SqliteStore made it. */
export function makeOldSqlite(path: string, meta: object, more: typeof OLD_ROWS.messages = []): void {
  const db = new sqlite.Database(path);
  db.run('PRAGMA journal_mode = WAL');
  db.run('BEGIN IMMEDIATE');
  for (const table of OLD_TABLES) db.run(table);
  db.run('INSERT INTO atlas_meta VALUES (1, ?, ?)', [1, JSON.stringify(meta)]);
  for (const row of OLD_ROWS.conversations) {
    db.run('INSERT INTO atlas_conversations VALUES (?, ?, ?, ?, ?)', [
      row.id,
      row.seq,
      row.title,
      row.createdAt,
      row.updatedAt,
    ]);
  }
  for (const row of [...OLD_ROWS.messages, ...more]) {
    db.run('INSERT INTO atlas_messages VALUES (?, ?, ?, ?, ?, ?, ?)', [
      row.id,
      row.seq,
      row.conversationId,
      row.role,
      row.content,
      row.createdAt,
      row.updatedAt,
    ]);
  }
  for (const e of OLD_ENTRIES) {
    db.run('INSERT INTO atlas_outbox VALUES (?, ?, ?, ?, ?, ?, ?)', [
      e.key,
      e.n,
      e.state,
      JSON.stringify(e.mutation),
      e.seq,
      e.code,
      e.message,
    ]);
  }
  for (const [home, floor] of OLD_FLOORS)
    db.run('INSERT INTO atlas_floors VALUES (?, ?)', [home, JSON.stringify(floor)]);
  db.run('INSERT INTO atlas_gone VALUES (?, ?, ?)', [GONE.kind, GONE.id, GONE.seq]);
  db.run('COMMIT');
  db.close();
}
