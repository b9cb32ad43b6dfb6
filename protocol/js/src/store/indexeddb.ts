/**
 * A store in IndexedDB, for browsers. All tabs of a browser may have it open at once.
 *
 * The object stores are the same for every schema: rows without a parent are kept one to a record (singles.ts), those
 * with a parent some dozens to a record (leaves.ts), with their kinds and the texts by which they are found. So a changed
 * schema needs no other object stores, and no tab has to close the database; reshape.ts stores the rows anew, in the
 * transaction with which a Sync begins, and that ends the Syncs of the former schema. indexeddb_upgrade.ts brings
 * databases of earlier versions up to date, indexeddb_former.ts copies what was kept before there were kinds.
 */

import type { Floor } from '../holes.js';
import type { Entry } from '../outbox.js';
import { keyOf, LOCAL, type Row, type Uuid } from '../rows.js';
import type { Kind } from '../schema.js';
import type { KeptStream } from '../streams.js';
import {
  Destroyed,
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
import { adoptRows, belonging, isOwnerless, type OldRow } from './adopt.js';
import { CONVERSATION, MESSAGE } from './former.js';
import { abort, asked, committed, deleteDatabase, inDatabase, openDatabase } from './idb.js';
import { emptyFormer, takeFormer } from './indexeddb_former.js';
import { HEAD, LEFT, META, NAMES, OUTBOX, pourSome, POUR, STREAM, upgrade, VERSION } from './indexeddb_upgrade.js';
import { Leaves } from './leaves.js';
import { ackedOf, countsOf, OutboxCopy, pendingOf, OutboxView } from './outbox_copy.js';
import { singleOf, Singles } from './singles.js';

/** Before there were kinds, the database had the store's own name. */
const databaseOf = (name: string): string => `${name}/kinds`;

interface KeptFloor {
  readonly kind: string;
  readonly home: string;
  readonly floor: Floor;
}

export interface IndexedDbOptions {
  /** The store's name: one for each user. */
  readonly name: string;
  /**
   * The name of an earlier app's database, and this user's id in it: their rows are adopted, once. A conversation
   * without a `userId` gets the id of the first user who opens a store. Nothing else changes there until this user's
   * store is destroyed, which also deletes their rows there. For apps whose schema has the chat schema's kinds.
   */
  readonly adopt?: { readonly name: string; readonly userId: string };
}

interface Connection {
  readonly db: IDBDatabase;
  /** Singles may have rows that belong into leaves. */
  pouring: boolean;
}

/** The database does not answer any more: another connection may. AbortError: the browser closed it. */
const isLost = (error: unknown): boolean =>
  ['UnknownError', 'InvalidStateError', 'AbortError'].includes(String(Object(error).name));

const isAborted = (error: unknown): boolean => Object(error).name === 'AbortError';

const nothing = (): void => undefined;

/** Made when it is needed: a server that renders pages has no IDBKeyRange. */
const allStreams = (): IDBKeyRange => IDBKeyRange.bound([STREAM], [STREAM, []]);

/** Milliseconds. */
const OPEN_WITHIN = 5_000;

export class IndexedDbStore implements Store {
  readonly name: string;
  /** Called when the database was closed from outside. The next transaction opens it, perhaps empty. */
  onClosed: () => void = nothing;
  private onBlocked = nothing;
  readonly blocked = new Promise<void>((resolve) => (this.onBlocked = resolve));
  private readonly outbox = new OutboxCopy();
  private connection: Promise<Connection> | null = null;
  private destroyed = false;
  private closed = false;

  constructor(private readonly options: IndexedDbOptions) {
    this.name = options.name;
    this.connected().catch(nothing); // the first transaction tries again, and rejects with the error
  }

  read<T>(work: (tx: Reading) => Promise<T>): Promise<T> {
    return this.transaction('readonly', 'relaxed', work);
  }

  write<T>(work: (tx: Writing) => Promise<T>, durability: Durability = 'strict'): Promise<T> {
    return this.transaction('readwrite', durability, work);
  }

  /** The rows and the mark that they were adopted are stored in one transaction, so this happens once. */
  async adopt(user: string): Promise<void> {
    const { adopt } = this.options;
    if (adopt === undefined) return;
    const { name, userId } = adopt;
    if ((await this.read((tx) => tx.meta())).adopted.includes(name)) return;
    const mine = await inEarlier(name, async (conversations, messages) => {
      const all = await asked<OldRow[]>(conversations.getAll());
      // Before any row is adopted: whatever happens then, no other user gets it.
      const owned = all.map((row) => (isOwnerless(row) ? { ...row, userId } : row));
      for (const row of owned) if (!all.includes(row)) conversations.put(row);
      const { conversation, message } = belonging(userId, owned);
      return [owned.filter(conversation), (await asked<OldRow[]>(messages.getAll())).filter(message)] as const;
    });
    if (mine === undefined) return;
    const { conversations, messages } = await adoptRows(...mine);
    await this.write(async (tx) => {
      const meta = await tx.meta();
      if (meta.user !== user || meta.adopted.includes(name)) return;
      await putMissing(tx, CONVERSATION, conversations);
      await putMissing(tx, MESSAGE, messages);
      const local = conversations.filter((row) => row.seq === LOCAL);
      await tx.putFloors(
        MESSAGE,
        local.map((row) => [keyOf(CONVERSATION, row.id), 'start']),
      );
      await tx.setMeta({ adopted: [...meta.adopted, name] });
    });
  }

  async close(): Promise<void> {
    this.closed = true;
    const closing = this.connection?.then(({ db }) => db.close(), nothing);
    await Promise.race([closing, this.blocked]);
  }

  async destroy(): Promise<void> {
    const { adopt, name } = this.options;
    if (adopt !== undefined) {
      await inEarlier(adopt.name, async (conversations, messages) => {
        const mine = belonging(adopt.userId, await asked<OldRow[]>(conversations.getAll()));
        for (const row of await asked<OldRow[]>(messages.getAll()))
          if (mine.message(row)) messages.delete(row['id'] as IDBValidKey);
        for (const row of await asked<OldRow[]>(conversations.getAll()))
          if (mine.conversation(row)) conversations.delete(row['id'] as IDBValidKey);
      });
    }
    await deleteDatabase(databaseOf(name));
    await deleteDatabase(name);
  }

  private async transaction<T>(
    mode: 'readonly' | 'readwrite',
    durability: Durability,
    work: (tx: Writing) => Promise<T>,
  ): Promise<T> {
    for (let again = false; ; again = true) {
      const connection = this.connected();
      try {
        return await this.on(await connection, mode, durability, work);
      } catch (error) {
        if (!isLost(error) || this.closed) throw error;
        if (again) throw new StoreError(`the browser's database does not answer (${String(error)}): reload this page`);
        // Nothing was committed: once more, with another connection.
        if (this.connection === connection) this.connection = null;
        (await connection.catch(nothing))?.db.close();
      }
    }
  }

  private async on<T>(
    { db, pouring }: Connection,
    mode: 'readonly' | 'readwrite',
    durability: Durability,
    work: (tx: Transaction) => Promise<T>,
  ): Promise<T> {
    const tx = db.transaction(NAMES, mode, { durability });
    const end = committed(tx);
    const transaction = new Transaction(tx, new OutboxView(this.outbox), pouring);
    let result: T;
    try {
      result = await work(transaction);
    } catch (error) {
      abort(tx);
      await end.catch(nothing);
      // Of a transaction that was aborted, most requests do not say why.
      throw isAborted(error) ? (tx.error ?? error) : error;
    }
    await end;
    await transaction.committed();
    return result;
  }

  private connected(): Promise<Connection> {
    if (this.destroyed) return Promise.reject(new Destroyed());
    if (this.closed) return Promise.reject(new StoreError('this store is closed'));
    return this.connection ?? this.connect(Promise.resolve());
  }

  private connect(after: Promise<void>): Promise<Connection> {
    const connection = after.then(() => this.open());
    this.connection = connection;
    connection.catch(() => {
      if (this.connection === connection) this.connection = null;
    });
    return connection;
  }

  private async open(): Promise<Connection> {
    // The browser tells the first of several tabs that wait, and only of an upgrade, not of a deletion.
    const timer = setTimeout(this.onBlocked, OPEN_WITHIN);
    const opening = openDatabase(databaseOf(this.name), VERSION, upgrade, this.onBlocked);
    const db = await opening.finally(() => clearTimeout(timer));
    const connection = { db, pouring: false };
    db.onclose = () => this.onLost(db);
    db.onversionchange = ({ newVersion }) => {
      if (newVersion === null) return this.onDeletion(db);
      // A later version of this app upgrades the database.
      this.destroyed = true;
      db.close();
    };
    const head = db.transaction(HEAD).objectStore(HEAD);
    const [meta, left, pour] = await Promise.all([META, LEFT, POUR].map((key) => asked<unknown>(head.get(key))));
    connection.pouring = pour !== undefined;
    if (meta === undefined || left !== undefined) await this.takeOver(connection);
    if (connection.pouring) void this.pour(connection).catch(nothing); // goes on with the next connection
    return connection;
  }

  /** Copies what was kept before there were kinds, if there is such a database, and makes the head. */
  private async takeOver(connection: Connection): Promise<void> {
    const put = await takeFormer(this.name);
    await this.on(connection, 'readwrite', 'strict', async (tx) => {
      if (!(await tx.begin())) return; // another tab was quicker
      if (put === undefined) return tx.setMeta({});
      tx.head.put(true, LEFT);
      await put(tx);
    });
    await emptyFormer(this.name);
    await this.on(connection, 'readwrite', 'strict', async (tx) => void tx.head.delete(LEFT));
  }

  /** Some rows at a time, so that the app's own transactions wait for none of them long. */
  private async pour(connection: Connection): Promise<void> {
    while (connection.pouring && !this.closed) {
      connection.pouring = await this.on(connection, 'readwrite', 'relaxed', (tx) => tx.pour());
    }
  }

  /** The browser closed the database, as when the user deletes the data of the site. */
  private onLost(db: IDBDatabase): void {
    void this.connection?.then((connection) => {
      if (connection.db !== db || this.closed) return;
      this.connection = null;
      this.onClosed();
    }, nothing);
  }

  /** Somebody deletes the database, which waits for this connection. If it was a Sync, it deleted all content before. */
  private onDeletion(db: IDBDatabase): void {
    const meta = asked<Meta | undefined>(db.transaction(HEAD).objectStore(HEAD).get(META));
    db.close();
    if (this.closed) return;
    void this.connect(
      meta.then((found) => {
        this.destroyed = found?.destroyed !== false;
        if (this.destroyed) throw new Destroyed();
      }),
    );
    this.onClosed();
  }
}

/** Rows that the server has sent since are newer than the earlier app's. */
async function putMissing(tx: Writing, kind: Kind, rows: readonly Row[]): Promise<void> {
  const held = await tx.get(
    kind,
    rows.map((row) => keyOf(kind, row.id)),
  );
  await tx.put(
    kind,
    rows.filter((_, i) => held[i] === undefined),
  );
}

const inEarlier = <T>(
  name: string,
  work: (conversations: IDBObjectStore, messages: IDBObjectStore) => Promise<T>,
): Promise<T | undefined> =>
  inDatabase(name, ['conversations', 'messages'], (...stores) => work(...(stores as [IDBObjectStore, IDBObjectStore])));

/** Its requests are answered in their order, and one that fails undoes all of them. */
class Transaction implements Writing {
  readonly head: IDBObjectStore;
  private readonly singles: Singles;
  private readonly leaves: Leaves;
  private known: Meta | null = null;
  private before: Promise<unknown> | null = null;
  private after: string | null = null;

  constructor(
    private readonly tx: IDBTransaction,
    private readonly outbox: OutboxView,
    private readonly pouring: boolean,
  ) {
    this.head = tx.objectStore(HEAD);
    this.singles = new Singles(tx);
    this.leaves = new Leaves(tx);
  }

  async committed(): Promise<void> {
    if (this.after !== null) this.outbox.committed(await this.version(), this.after);
  }

  /** Of a store that has no head yet; else false. */
  async begin(): Promise<boolean> {
    if ((await asked(this.head.get(META))) !== undefined) return false;
    this.known = newMeta(newId());
    return true;
  }

  /** Returns whether there is more to pour. */
  pour(): Promise<boolean> {
    return pourSome(this, this.head, this.singles, this.leaves);
  }

  async meta(): Promise<Meta> {
    if (this.known === null) {
      const meta = await asked<Meta | undefined>(this.head.get(META));
      // Another tab has emptied the store: opened again, it is a new one.
      if (meta === undefined) throw new DOMException('the store was emptied', 'InvalidStateError');
      this.known ??= { ...newMeta(''), ...meta };
    }
    return this.known;
  }
  async get(kind: Kind, keys: readonly string[]): Promise<(Row | undefined)[]> {
    if (kind.parent === null) return this.singles.get(kind, keys);
    const rows = await this.leaves.get(kind, keys);
    if (!this.pouring) return rows;
    const missing = keys.filter((_, i) => rows[i] === undefined);
    const rest = (await this.singles.get(kind, missing)).values();
    return rows.map((row) => row ?? rest.next().value);
  }
  async newest(kind: Kind, home: string, before: string | null, limit: number): Promise<Row[]> {
    if (kind.parent === null) return this.singles.newest(kind, home, before, limit);
    const rows = await this.leaves.newest(kind, home, before, limit);
    if (!this.pouring) return rows;
    const placed = [...rows, ...(await this.singles.newest(kind, home, before, limit))].map((row) => singleOf(kind, row));
    placed.sort((a, b) => (a.order < b.order ? 1 : -1));
    return placed.slice(0, limit).map(({ row }) => row);
  }
  of(kind: Kind, home: string): Promise<Row[]> {
    return this.both(kind, (rows) => rows.of(kind, home));
  }
  under(kind: Kind, above: string): Promise<Row[]> {
    return this.both(kind, (rows) => rows.under(kind, above));
  }
  all(kind: Kind): Promise<Row[]> {
    return this.both(kind, (rows) => rows.all(kind));
  }
  async local(kind: Kind): Promise<Row[]> {
    // Of a kind of a former schema only the name is known.
    return [...(await this.singles.local(kind)), ...(await this.leaves.local(kind))];
  }
  async entries(): Promise<Entry[]> {
    return this.outbox.all(await this.version(), () => asked<Entry[]>(this.store('outbox').getAll()));
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
  floors({ name }: Kind, homes: readonly string[]): Promise<(Floor | undefined)[]> {
    const floors = this.store('floors');
    return Promise.all(homes.map(async (home) => (await asked<KeptFloor | undefined>(floors.get([name, home])))?.floor));
  }
  gone(): Promise<Gone[]> {
    return asked(this.store('deletions').getAll());
  }
  streams(): Promise<KeptStream[]> {
    return asked(this.head.getAll(allStreams()));
  }

  async setMeta(change: Partial<Meta>): Promise<void> {
    this.known = { ...(await this.meta()), ...change };
    this.head.put(this.known, META);
  }
  async put(kind: Kind, rows: readonly Row[]): Promise<void> {
    const singles = rows.map((row) => singleOf(kind, row));
    if (kind.parent === null) return this.singles.put(singles);
    if (this.pouring)
      this.singles.drop(
        kind,
        singles.map(({ key }) => key),
      );
    await this.leaves.put(kind.name, singles);
  }
  async drop(kind: Kind, keys: readonly string[]): Promise<void> {
    if (kind.parent === null || this.pouring) this.singles.drop(kind, keys);
    if (kind.parent !== null) await this.leaves.drop(kind, keys);
  }
  async clear(localToo: boolean): Promise<void> {
    await this.singles.clear(localToo);
    await this.leaves.clear(localToo);
    this.store('floors').clear();
    if (localToo) this.head.delete(allStreams());
    await this.forget();
  }
  async putEntries(entries: readonly Entry[]): Promise<void> {
    if (entries.length === 0) return;
    await this.renewVersion();
    for (const entry of entries) this.store('outbox').put(entry);
    this.outbox.put(entries);
  }
  async dropEntries(keys: readonly number[]): Promise<void> {
    if (keys.length === 0) return;
    await this.renewVersion();
    for (const key of keys) this.store('outbox').delete(key);
    this.outbox.drop(keys);
  }
  async putFloors({ name }: Kind, floors: readonly (readonly [string, Floor])[]): Promise<void> {
    for (const [home, floor] of floors) this.store('floors').put({ kind: name, home, floor });
  }
  async dropFloors({ name }: Kind, homes: readonly string[]): Promise<void> {
    for (const home of homes) this.store('floors').delete([name, home]);
  }
  async remember(deletions: readonly Gone[]): Promise<void> {
    for (const gone of deletions) this.store('deletions').put(gone);
  }
  async forget(): Promise<void> {
    this.store('deletions').clear();
  }

  async putStreams(streams: readonly KeptStream[]): Promise<void> {
    for (const stream of streams) this.head.put(stream, [STREAM, stream.stream]);
  }
  async dropStreams(ids: readonly Uuid[]): Promise<void> {
    for (const id of ids) this.head.delete([STREAM, id]);
  }

  private async both(kind: Kind, rows: (of: Singles | Leaves) => Promise<Row[]>): Promise<Row[]> {
    if (kind.parent === null) return rows(this.singles);
    const found = await rows(this.leaves);
    return this.pouring ? [...found, ...(await rows(this.singles))] : found;
  }

  /** Of the outbox, as this transaction found it. */
  private version(): Promise<unknown> {
    return (this.before ??= asked<unknown>(this.head.get(OUTBOX)).then((version) => version ?? null));
  }

  private async renewVersion(): Promise<void> {
    await this.version();
    if (this.after !== null) return;
    this.after = newId();
    this.head.put(this.after, OUTBOX);
  }

  private store(name: string): IDBObjectStore {
    return this.tx.objectStore(name);
  }
}
