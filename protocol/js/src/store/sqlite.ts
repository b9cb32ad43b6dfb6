/**
 * A store in SQLite, for React Native. Of the driver it uses only `run` and `all`. It needs a connection of its own,
 * because a transaction stays open on it between two awaits.
 */

import type { Floor } from '../holes.js';
import type { Mutation } from '../mutation.js';
import type { Entry } from '../outbox.js';
import type { Conversation, Message, Place, Uuid } from '../rows.js';
import { newMeta, StoreError, type Gone, type Meta, type Reading, type Store, type Writing } from '../store.js';
import { newId } from '../uuid.js';

export type SqlValue = string | number | null;
export type SqlRow = Readonly<Record<string, unknown>>;

/** expo-sqlite and op-sqlite offer these under other names; README.md has the adapter for each. */
export interface SqlDriver {
  run(sql: string, params: SqlValue[]): Promise<unknown>;
  all(sql: string, params: SqlValue[]): Promise<readonly SqlRow[]>;
  close?(): Promise<unknown> | void;
}

const VERSION = 1;

const TABLES = [
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

const AT_ONCE = 100; // rows in one statement: SQLite accepts at least 999 values

const number = (value: unknown): number => Number(value);

const conversation = (row: SqlRow): Conversation => ({
  kind: 'c',
  seq: number(row['seq']),
  id: row['id'] as Uuid,
  title: row['title'] as string | null,
  createdAt: number(row['created_at']),
  updatedAt: number(row['updated_at']),
});

const message = (row: SqlRow): Message => ({
  kind: 'm',
  seq: number(row['seq']),
  id: row['id'] as Uuid,
  conversationId: row['conversation_id'] as Uuid,
  role: row['role'] as string,
  content: row['content'] as string,
  createdAt: number(row['created_at']),
  updatedAt: number(row['updated_at']),
});

const entry = (row: SqlRow): Entry => ({
  key: number(row['key']),
  n: number(row['n']),
  mutation: JSON.parse(row['mutation'] as string) as Mutation,
  state: row['state'] as Entry['state'],
  seq: row['seq'] === null ? null : number(row['seq']),
  code: row['code'] as string | null,
  message: row['message'] as string | null,
});

export class SqliteStore implements Store {
  readonly name = newId();
  private queue: Promise<unknown>;
  private closing: Promise<unknown> | null = null;
  private readonly tx: Transaction;

  constructor(private readonly driver: SqlDriver) {
    this.tx = new Transaction(driver);
    this.queue = this.open();
    this.queue.catch(() => undefined); // the first transaction rejects with it
  }

  read<T>(work: (tx: Reading) => Promise<T>): Promise<T> {
    return this.transaction('BEGIN', work);
  }

  write<T>(work: (tx: Writing) => Promise<T>): Promise<T> {
    return this.transaction('BEGIN IMMEDIATE', work);
  }

  /** May be repeated. */
  async close(): Promise<void> {
    this.closing ??= this.queue.catch(nothing).then(() => this.driver.close?.());
    await this.closing;
  }

  private transaction<T>(begin: string, work: (tx: Writing) => Promise<T>): Promise<T> {
    const mine = this.queue.then(() => this.alone(begin, work));
    // After a failed transaction the next one runs; after a failed opening none does.
    this.queue = this.queue.then(() => mine.then(nothing, nothing));
    this.queue.catch(nothing);
    return mine;
  }

  private async alone<T>(begin: string, work: (tx: Writing) => Promise<T>): Promise<T> {
    await this.driver.run(begin, []);
    try {
      const result = await work(this.tx);
      await this.driver.run('COMMIT', []);
      return result;
    } catch (error) {
      // SQLite may have rolled back by itself, as when the disk is full.
      await this.driver.run('ROLLBACK', []).catch(nothing);
      throw error;
    }
  }

  private async open(): Promise<void> {
    await this.driver.all('PRAGMA journal_mode = WAL', []);
    await this.driver.all('PRAGMA synchronous = FULL', []); // durable even if the power fails
    await this.driver.all('PRAGMA secure_delete = ON', []); // deleted rows must not stay readable in the file
    await this.alone('BEGIN IMMEDIATE', async () => {
      for (const table of TABLES) await this.driver.run(table, []);
      const [head] = await this.driver.all('SELECT version FROM atlas_meta', []);
      if (head !== undefined && number(head['version']) > VERSION) {
        throw new StoreError('this database was written by a newer version: update this app');
      }
      if (head === undefined) {
        await this.driver.run('INSERT INTO atlas_meta VALUES (1, ?, ?)', [VERSION, JSON.stringify(newMeta(newId()))]);
      }
    });
  }
}

const nothing = (): void => undefined;

class Transaction implements Writing {
  constructor(private readonly driver: SqlDriver) {}

  async meta(): Promise<Meta> {
    const [row] = await this.driver.all('SELECT meta FROM atlas_meta', []);
    return { ...newMeta(''), ...(JSON.parse(row?.['meta'] as string) as Meta) };
  }
  async conversations(ids: readonly Uuid[]): Promise<(Conversation | undefined)[]> {
    return this.byId('atlas_conversations', 'id', ids, conversation);
  }
  async messages(ids: readonly Uuid[]): Promise<(Message | undefined)[]> {
    return this.byId('atlas_messages', 'id', ids, message);
  }
  async newestConversations(before: Place | null, limit: number): Promise<Conversation[]> {
    const rows = await this.driver.all(
      `SELECT * FROM atlas_conversations ${before ? 'WHERE (updated_at, id) < (?, ?)' : ''}
       ORDER BY updated_at DESC, id DESC LIMIT ?`,
      [...(before ?? []), sqlLimit(limit)],
    );
    return rows.map(conversation);
  }
  async newestMessages(home: Uuid, before: Place | null, limit: number): Promise<Message[]> {
    const rows = await this.driver.all(
      `SELECT * FROM atlas_messages WHERE conversation_id = ? ${before ? 'AND (created_at, id) < (?, ?)' : ''}
       ORDER BY created_at DESC, id DESC LIMIT ?`,
      [home, ...(before ?? []), sqlLimit(limit)],
    );
    return rows.map(message);
  }
  async messagesOf(home: Uuid): Promise<Message[]> {
    return this.newestMessages(home, null, Infinity);
  }
  async localConversations(): Promise<Conversation[]> {
    const rows = await this.driver.all('SELECT * FROM atlas_conversations WHERE seq < 0 ORDER BY created_at, id', []);
    return rows.map(conversation);
  }
  async localMessages(): Promise<Message[]> {
    return (await this.driver.all('SELECT * FROM atlas_messages WHERE seq < 0 ORDER BY created_at, id', [])).map(
      message,
    );
  }
  async entries(): Promise<Entry[]> {
    return (await this.driver.all('SELECT * FROM atlas_outbox ORDER BY key', [])).map(entry);
  }
  async pending(limit: number): Promise<Entry[]> {
    const sql = "SELECT * FROM atlas_outbox WHERE state = 'pending' ORDER BY key LIMIT ?";
    return (await this.driver.all(sql, [sqlLimit(limit)])).map(entry);
  }
  async acked(): Promise<Entry[]> {
    return (await this.driver.all("SELECT * FROM atlas_outbox WHERE state = 'acked' ORDER BY key", [])).map(entry);
  }
  async counts(): Promise<{ pending: number; rejected: number }> {
    const rows = await this.driver.all('SELECT state, count(*) AS count FROM atlas_outbox GROUP BY state', []);
    const of = (state: string): number => number(rows.find((row) => row['state'] === state)?.['count'] ?? 0);
    return { pending: of('pending'), rejected: of('rejected') };
  }
  async floors(ids: readonly Uuid[]): Promise<(Floor | undefined)[]> {
    const floors = await this.byId('atlas_floors', 'conversation_id', ids, (row) => row);
    return floors.map((row) => row && (JSON.parse(row['floor'] as string) as Floor));
  }
  async gone(): Promise<Gone[]> {
    return (await this.driver.all('SELECT kind, id, seq FROM atlas_gone', [])).map((row) => ({
      kind: row['kind'] as Gone['kind'],
      id: row['id'] as Uuid,
      seq: number(row['seq']),
    }));
  }

  async setMeta(change: Partial<Meta>): Promise<void> {
    await this.driver.run('UPDATE atlas_meta SET meta = ?', [JSON.stringify({ ...(await this.meta()), ...change })]);
  }
  putConversations(rows: readonly Conversation[]): Promise<void> {
    return this.put(
      'atlas_conversations',
      rows.map((row) => [row.id, row.seq, row.title, row.createdAt, row.updatedAt]),
    );
  }
  putMessages(rows: readonly Message[]): Promise<void> {
    return this.put(
      'atlas_messages',
      rows.map((row) => [row.id, row.seq, row.conversationId, row.role, row.content, row.createdAt, row.updatedAt]),
    );
  }
  dropConversations(ids: readonly Uuid[]): Promise<void> {
    return this.drop('atlas_conversations', 'id', ids);
  }
  dropMessages(ids: readonly Uuid[]): Promise<void> {
    return this.drop('atlas_messages', 'id', ids);
  }
  async dropSynced(): Promise<void> {
    await this.driver.run('DELETE FROM atlas_conversations WHERE seq >= 0', []);
    await this.driver.run('DELETE FROM atlas_messages WHERE seq >= 0', []);
    await this.driver.run('DELETE FROM atlas_floors', []);
    await this.forget();
  }
  putEntries(entries: readonly Entry[]): Promise<void> {
    return this.put(
      'atlas_outbox',
      entries.map((e) => [e.key, e.n, e.state, JSON.stringify(e.mutation), e.seq, e.code, e.message]),
    );
  }
  dropEntries(keys: readonly number[]): Promise<void> {
    return this.drop('atlas_outbox', 'key', keys);
  }
  putFloors(floors: readonly (readonly [Uuid, Floor])[]): Promise<void> {
    return this.put(
      'atlas_floors',
      floors.map(([id, floor]) => [id, JSON.stringify(floor)]),
    );
  }
  dropFloors(ids: readonly Uuid[]): Promise<void> {
    return this.drop('atlas_floors', 'conversation_id', ids);
  }
  remember(deletions: readonly Gone[]): Promise<void> {
    return this.put(
      'atlas_gone',
      deletions.map(({ kind, id, seq }) => [kind, id, seq]),
    );
  }
  async forget(): Promise<void> {
    await this.driver.run('DELETE FROM atlas_gone', []);
  }

  private async byId<T>(
    table: string,
    column: string,
    ids: readonly Uuid[],
    read: (row: SqlRow) => T,
  ): Promise<(T | undefined)[]> {
    const found = new Map<unknown, T>();
    for (const some of chunks(ids)) {
      const sql = `SELECT * FROM ${table} WHERE ${column} IN (${marks(some.length)})`;
      for (const row of await this.driver.all(sql, some)) found.set(row[column], read(row));
    }
    return ids.map((id) => found.get(id));
  }

  private async put(table: string, rows: readonly SqlValue[][]): Promise<void> {
    for (const some of chunks(rows)) {
      const values = some.map((row) => `(${marks(row.length)})`).join(', ');
      await this.driver.run(`INSERT OR REPLACE INTO ${table} VALUES ${values}`, some.flat());
    }
  }

  private async drop(table: string, column: string, keys: readonly (string | number)[]): Promise<void> {
    for (const some of chunks(keys)) {
      await this.driver.run(`DELETE FROM ${table} WHERE ${column} IN (${marks(some.length)})`, some);
    }
  }
}

const marks = (count: number): string => new Array(count).fill('?').join(', ');
const sqlLimit = (limit: number): number => (Number.isSafeInteger(limit) ? limit : -1);

function* chunks<T>(items: readonly T[]): Generator<T[]> {
  for (let i = 0; i < items.length; i += AT_ONCE) yield items.slice(i, i + AT_ONCE);
}
