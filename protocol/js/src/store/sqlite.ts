/**
 * A store in SQLite, for React Native. Of the driver it uses only `run` and `all`. It needs a connection of its own,
 * because a transaction stays open on it between two awaits.
 *
 * The tables are the same for every schema: a row is kept as JSON, with its kind and the texts by which it is found. A
 * changed schema needs no other tables: reshape.ts stores the rows anew, in the transaction with which a Sync begins.
 * sqlite_former.ts moves what was kept before there were kinds.
 */

import type { Floor } from '../holes.js';
import type { Mutation } from '../mutation.js';
import type { Entry } from '../outbox.js';
import { aboveOf, homeOf, keyOf, orderOfRow, type Row, type Uuid } from '../rows.js';
import type { Kind } from '../schema.js';
import type { KeptStream } from '../streams.js';
import {
  newMeta,
  StoreError,
  type Durability,
  type Gone,
  type Meta,
  type Reading,
  type Store,
  type Writing,
} from '../store.js';
import { newId } from '../uuid.js';
import type { FormerEntry, FormerMeta } from './former.js';
import { ackedOf, countsOf, OutboxCopy, pendingOf, OutboxView } from './outbox_copy.js';
import { moveFormer } from './sqlite_former.js';
import { fromJson, toJson } from './values.js';

export type SqlValue = string | number | null;
export type SqlRow = Readonly<Record<string, unknown>>;

/** expo-sqlite and op-sqlite offer these under other names; README.md has the adapter for each. */
export interface SqlDriver {
  run(sql: string, params: SqlValue[]): Promise<unknown>;
  all(sql: string, params: SqlValue[]): Promise<readonly SqlRow[]>;
  close?(): Promise<unknown> | void;
}

/** 1: conversations and messages only · 2: rows of kinds · 3: it is known how new the rows are. */
const VERSION = 3;

const HEAD =
  'CREATE TABLE IF NOT EXISTS atlas_meta (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL, meta TEXT NOT NULL)';
/** Made at each opening: earlier versions of this app, which do not know it, can still open the database. */
const STREAMS = 'CREATE TABLE IF NOT EXISTS atlas_streams (stream TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID';
const TABLES = [
  `CREATE TABLE IF NOT EXISTS atlas_rows (
     kind TEXT NOT NULL, key TEXT NOT NULL, home TEXT NOT NULL, place TEXT NOT NULL, above TEXT, seq INTEGER NOT NULL,
     content TEXT NOT NULL, PRIMARY KEY (kind, key)
   )`,
  'CREATE INDEX IF NOT EXISTS atlas_rows_place ON atlas_rows (kind, home, place)',
  'CREATE INDEX IF NOT EXISTS atlas_rows_above ON atlas_rows (kind, above) WHERE above IS NOT NULL',
  'CREATE INDEX IF NOT EXISTS atlas_rows_local ON atlas_rows (kind) WHERE seq < 0',
  `CREATE TABLE IF NOT EXISTS atlas_outbox (
     key INTEGER PRIMARY KEY, n INTEGER NOT NULL, state TEXT NOT NULL, mutation TEXT NOT NULL,
     seq INTEGER, code TEXT, message TEXT
   )`,
  `CREATE TABLE IF NOT EXISTS atlas_histories (
     kind TEXT NOT NULL, home TEXT NOT NULL, floor TEXT NOT NULL, PRIMARY KEY (kind, home)
   ) WITHOUT ROWID`,
  `CREATE TABLE IF NOT EXISTS atlas_deletions (
     kind TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (kind, key)
   ) WITHOUT ROWID`,
];

const AT_ONCE = 100; // rows in one statement: SQLite accepts at least 999 values

const number = (value: unknown): number => Number(value);

const entry = (row: SqlRow, mutation: unknown): Entry => ({
  key: number(row['key']),
  n: number(row['n']),
  mutation: mutation as Mutation,
  state: row['state'] as Entry['state'],
  seq: row['seq'] === null ? null : number(row['seq']),
  code: row['code'] as string | null,
  message: row['message'] as string | null,
});

const stored = (row: SqlRow): Entry => entry(row, fromJson(row['mutation']));

export class SqliteStore implements Store {
  readonly name = newId();
  private queue: Promise<unknown>;
  private closing: Promise<unknown> | null = null;
  private readonly outbox = new OutboxCopy();
  private synchronous = '';

  constructor(private readonly driver: SqlDriver) {
    this.queue = this.open();
    this.queue.catch(() => undefined); // the first transaction rejects with it
  }

  read<T>(work: (tx: Reading) => Promise<T>): Promise<T> {
    return this.transaction('BEGIN', work);
  }

  write<T>(work: (tx: Writing) => Promise<T>, durability: Durability = 'strict'): Promise<T> {
    return this.transaction('BEGIN IMMEDIATE', work, durability);
  }

  /** May be repeated. */
  async close(): Promise<void> {
    this.closing ??= this.queue.catch(nothing).then(() => this.driver.close?.());
    await this.closing;
  }

  private transaction<T>(
    begin: string,
    work: (tx: Writing) => Promise<T>,
    durability: Durability = 'relaxed',
  ): Promise<T> {
    const mine = this.queue.then(() => this.alone(begin, work, durability));
    // After a failed transaction the next one runs; after a failed opening none does.
    this.queue = this.queue.then(() => mine.then(nothing, nothing));
    this.queue.catch(nothing);
    return mine;
  }

  private async alone<T>(begin: string, work: (tx: Writing) => Promise<T>, durability: Durability): Promise<T> {
    // FULL: durable even if the power fails. NORMAL: in that case the last transactions may be lost, from the end.
    const synchronous = durability === 'strict' ? 'FULL' : 'NORMAL';
    if (synchronous !== this.synchronous) await this.driver.all(`PRAGMA synchronous = ${synchronous}`, []);
    this.synchronous = synchronous;
    await this.driver.run(begin, []);
    try {
      const tx = new Transaction(this.driver, new OutboxView(this.outbox));
      const result = await work(tx);
      await this.driver.run('COMMIT', []);
      await tx.committed();
      return result;
    } catch (error) {
      // SQLite may have rolled back by itself, as when the disk is full.
      await this.driver.run('ROLLBACK', []).catch(nothing);
      throw error;
    }
  }

  private async open(): Promise<void> {
    await this.driver.all('PRAGMA journal_mode = WAL', []);
    await this.driver.all('PRAGMA secure_delete = ON', []); // deleted rows must not stay readable in the file
    await this.alone('BEGIN IMMEDIATE', (tx) => this.upgrade(tx), 'strict');
  }

  /** Makes the tables, or brings those of an earlier version up to date. */
  private async upgrade(tx: Writing): Promise<void> {
    const { driver } = this;
    await driver.run(HEAD, []);
    const [head] = await driver.all('SELECT version, meta FROM atlas_meta', []);
    const version = head === undefined ? 0 : number(head['version']);
    if (version > VERSION) throw new StoreError('this database was written by a newer version: update this app');
    await driver.run(STREAMS, []);
    if (version === VERSION) return;
    for (const table of TABLES) await driver.run(table, []);
    await driver.run('DROP INDEX IF EXISTS atlas_outbox_state', []);
    if (version === 2) {
      await driver.run('UPDATE atlas_meta SET version = ?', [VERSION]);
      const [row] = await driver.all('SELECT max(seq) AS seq FROM atlas_rows', []);
      await tx.setMeta({ made: newId(), newest: { seq: number(row?.['seq'] ?? 0), isKnown: true } });
      return tx.forget(); // or a deletion might be newer; each connection forgets them, too
    }
    await driver.run('INSERT OR REPLACE INTO atlas_meta VALUES (1, ?, ?)', [VERSION, JSON.stringify(newMeta(newId()))]);
    if (head === undefined) return;
    const entries = await driver.all('SELECT * FROM atlas_outbox', []);
    await moveFormer(
      driver,
      tx,
      JSON.parse(head['meta'] as string) as FormerMeta,
      entries.map((row) => entry(row, JSON.parse(row['mutation'] as string)) as unknown as FormerEntry),
    );
  }
}

const nothing = (): void => undefined;

class Transaction implements Writing {
  private found: Promise<unknown> | null = null;

  constructor(
    private readonly driver: SqlDriver,
    private readonly outbox: OutboxView,
  ) {}

  async committed(): Promise<void> {
    if (this.found !== null) this.outbox.committed(await this.found, await this.found);
  }

  async meta(): Promise<Meta> {
    const [row] = await this.driver.all('SELECT meta FROM atlas_meta', []);
    return { ...newMeta(''), ...(JSON.parse(row?.['meta'] as string) as Meta) };
  }
  async get(kind: Kind, keys: readonly string[]): Promise<(Row | undefined)[]> {
    return (await this.byKey('atlas_rows', 'key', 'content', kind, keys)) as (Row | undefined)[];
  }
  async newest(kind: Kind, home: string, before: string | null, limit: number): Promise<Row[]> {
    return this.rows(`kind = ? AND home = ? ${before === null ? '' : 'AND place < ?'} ORDER BY place DESC LIMIT ?`, [
      kind.name,
      home,
      ...(before === null ? [] : [before]),
      sqlLimit(limit),
    ]);
  }
  of(kind: Kind, home: string): Promise<Row[]> {
    return this.rows('kind = ? AND home = ?', [kind.name, home]);
  }
  under(kind: Kind, above: string): Promise<Row[]> {
    return this.rows('kind = ? AND above = ?', [kind.name, above]);
  }
  all(kind: Kind): Promise<Row[]> {
    return this.rows('kind = ?', [kind.name]);
  }
  local(kind: Kind): Promise<Row[]> {
    return this.rows('kind = ? AND seq < 0', [kind.name]);
  }
  async entries(): Promise<Entry[]> {
    const sql = 'SELECT * FROM atlas_outbox ORDER BY key';
    return this.outbox.all(await this.version(), async () => (await this.driver.all(sql, [])).map(stored));
  }
  async pending(limit: number): Promise<Entry[]> {
    return pendingOf(await this.entries(), limit);
  }
  async acked(): Promise<Entry[]> {
    return ackedOf(await this.entries());
  }
  async counts(): Promise<{ pending: number; rejected: number }> {
    return countsOf(await this.entries());
  }
  async floors(kind: Kind, homes: readonly string[]): Promise<(Floor | undefined)[]> {
    return (await this.byKey('atlas_histories', 'home', 'floor', kind, homes)) as (Floor | undefined)[];
  }
  async gone(): Promise<Gone[]> {
    return (await this.driver.all('SELECT kind, key, seq FROM atlas_deletions', [])).map((row) => ({
      kind: row['kind'] as string,
      key: row['key'] as string,
      seq: number(row['seq']),
    }));
  }
  async streams(): Promise<KeptStream[]> {
    const rows = await this.driver.all('SELECT content FROM atlas_streams', []);
    return rows.map((row) => fromJson(row['content']) as KeptStream);
  }

  async setMeta(change: Partial<Meta>): Promise<void> {
    await this.driver.run('UPDATE atlas_meta SET meta = ?', [JSON.stringify({ ...(await this.meta()), ...change })]);
  }
  put(kind: Kind, rows: readonly Row[]): Promise<void> {
    return this.putAll(
      'atlas_rows',
      rows.map((row) => {
        const { id, seq } = row;
        const place = [keyOf(kind, id), homeOf(kind, row), orderOfRow(kind, row), aboveOf(kind, row)];
        return [kind.name, ...place, seq, toJson(row)];
      }),
    );
  }
  drop(kind: Kind, keys: readonly string[]): Promise<void> {
    return this.dropByKey('atlas_rows', 'key', kind, keys);
  }
  async clear(localToo: boolean): Promise<void> {
    await this.driver.run(`DELETE FROM atlas_rows ${localToo ? '' : 'WHERE seq >= 0'}`, []);
    await this.driver.run('DELETE FROM atlas_histories', []);
    if (localToo) await this.driver.run('DELETE FROM atlas_streams', []);
    await this.forget();
  }
  async putEntries(entries: readonly Entry[]): Promise<void> {
    if (entries.length > 0) await this.version();
    this.outbox.put(entries);
    await this.putAll(
      'atlas_outbox',
      entries.map((e) => [e.key, e.n, e.state, toJson(e.mutation), e.seq, e.code, e.message]),
    );
  }
  async dropEntries(keys: readonly number[]): Promise<void> {
    if (keys.length > 0) await this.version();
    this.outbox.drop(keys);
    for (const some of chunks(keys)) {
      await this.driver.run(`DELETE FROM atlas_outbox WHERE key IN (${marks(some.length)})`, some);
    }
  }
  putFloors(kind: Kind, floors: readonly (readonly [string, Floor])[]): Promise<void> {
    return this.putAll(
      'atlas_histories',
      floors.map(([home, floor]) => [kind.name, home, toJson(floor)]),
    );
  }
  dropFloors(kind: Kind, homes: readonly string[]): Promise<void> {
    return this.dropByKey('atlas_histories', 'home', kind, homes);
  }
  remember(deletions: readonly Gone[]): Promise<void> {
    return this.putAll(
      'atlas_deletions',
      deletions.map(({ kind, key, seq }) => [kind, key, seq]),
    );
  }
  async forget(): Promise<void> {
    await this.driver.run('DELETE FROM atlas_deletions', []);
  }

  putStreams(streams: readonly KeptStream[]): Promise<void> {
    return this.putAll(
      'atlas_streams',
      streams.map((stream) => [stream.stream, toJson(stream)]),
    );
  }
  async dropStreams(ids: readonly Uuid[]): Promise<void> {
    for (const some of chunks(ids))
      await this.driver.run(`DELETE FROM atlas_streams WHERE stream IN (${marks(some.length)})`, some);
  }

  /** Another one when another connection has changed the database. */
  private version(): Promise<unknown> {
    return (this.found ??= this.driver.all('PRAGMA data_version', []).then(([row]) => number(row?.['data_version'])));
  }

  private async rows(where: string, params: SqlValue[]): Promise<Row[]> {
    const rows = await this.driver.all(`SELECT content FROM atlas_rows WHERE ${where}`, params);
    return rows.map((row) => fromJson(row['content']) as Row);
  }

  /** The values of a column, in the order of `keys`; undefined where there is no such row. */
  private async byKey(
    table: string,
    column: string,
    value: string,
    { name }: Kind,
    keys: readonly string[],
  ): Promise<unknown[]> {
    const found = new Map<unknown, unknown>();
    for (const some of chunks(keys)) {
      const sql = `SELECT ${column}, ${value} FROM ${table} WHERE kind = ? AND ${column} IN (${marks(some.length)})`;
      for (const row of await this.driver.all(sql, [name, ...some])) found.set(row[column], fromJson(row[value]));
    }
    return keys.map((key) => found.get(key));
  }

  private async putAll(table: string, rows: readonly SqlValue[][]): Promise<void> {
    for (const some of chunks(rows)) {
      const values = some.map((row) => `(${marks(row.length)})`).join(', ');
      await this.driver.run(`INSERT OR REPLACE INTO ${table} VALUES ${values}`, some.flat());
    }
  }

  private async dropByKey(table: string, column: string, { name }: Kind, keys: readonly string[]): Promise<void> {
    for (const some of chunks(keys)) {
      const sql = `DELETE FROM ${table} WHERE kind = ? AND ${column} IN (${marks(some.length)})`;
      await this.driver.run(sql, [name, ...some]);
    }
  }
}

const marks = (count: number): string => new Array(count).fill('?').join(', ');
const sqlLimit = (limit: number): number => (Number.isSafeInteger(limit) ? limit : -1);

function* chunks<T>(items: readonly T[]): Generator<T[]> {
  for (let i = 0; i < items.length; i += AT_ONCE) yield items.slice(i, i + AT_ONCE);
}
