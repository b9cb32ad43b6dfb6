/**
 * A store in IndexedDB, by means of Dexie, for browsers. All tabs of a browser may have it open at once.
 *
 * The tables are the same for every schema: a row is kept with its kind, and with the texts by which it is found. So a
 * changed schema needs no other tables, and no tab has to close the database; reshape.ts stores the rows anew, in the
 * transaction with which a Sync begins, and that ends the Syncs of the former schema. dexie_former.ts copies what was
 * kept before there were kinds.
 */

import { Dexie, type Table, type Transaction as DexieTransaction } from 'dexie';

import type { Floor } from '../holes.js';
import type { Entry } from '../outbox.js';
import { aboveOf, homeOf, keyOf, LOCAL, orderOfRow, type Row } from '../rows.js';
import type { Kind } from '../schema.js';
import { Destroyed, newMeta, type Gone, type Meta, type Reading, type Store, type Writing } from '../store.js';
import { newId } from '../uuid.js';
import { adoptRows, belonging, isOwnerless, type OldRow } from './adopt.js';
import { emptyFormer, inDatabase, partsOfFormer } from './dexie_former.js';
import { CONVERSATION, MESSAGE } from './former.js';

/**
 * Before there were kinds, the database had the store's own name. A later form, too, needs another name: a tab of this
 * version, which may be frozen, would hold up the upgrade, and Dexie would add this version's tables again.
 */
const databaseOf = (name: string): string => `${name}/kinds`;

/** Keys in the table `head`. */
const META = 0;
/** There while the former database is to be emptied. */
const LEFT = 1;

/** Above every text in an index. */
const MOST = '\uffff';

interface Kept {
  readonly kind: string;
  readonly key: string;
  readonly home: string;
  readonly order: string;
  /** Absent for null: then the index leaves the row out. */
  readonly above?: string;
  readonly local?: 1;
  readonly row: Row;
}

interface KeptFloor {
  readonly kind: string;
  readonly home: string;
  readonly floor: Floor;
}

export interface DexieOptions {
  /** The store's name: one for each user. */
  readonly name: string;
  /**
   * The name of an earlier app's database, and this user's id in it: their rows are adopted, once. A conversation
   * without a `userId` gets the id of the first user who opens a store. Nothing else changes there until this user's
   * store is destroyed, which also deletes their rows there. For apps whose schema has the chat schema's kinds.
   */
  readonly adopt?: { readonly name: string; readonly userId: string };
}

export class DexieStore implements Store {
  readonly name: string;
  private readonly db: Database;
  private readonly opened: Promise<void>;
  private destroyed = false;

  constructor(private readonly options: DexieOptions) {
    this.name = options.name;
    this.db = new Database(databaseOf(options.name));
    this.db.on('versionchange', () => {
      // Another tab deletes the database, or upgrades it. That waits for this connection; and Dexie would open it again.
      this.destroyed = true;
      this.db.close();
      return false;
    });
    this.opened = this.open();
    this.opened.catch(() => undefined); // the first transaction rejects with it
  }

  read<T>(work: (tx: Reading) => Promise<T>): Promise<T> {
    return this.transaction('r', work);
  }

  write<T>(work: (tx: Writing) => Promise<T>): Promise<T> {
    return this.transaction('rw', work);
  }

  /** The rows and the mark that they were adopted are stored in one transaction, so this happens once. */
  async adopt(user: string): Promise<void> {
    const { adopt } = this.options;
    if (adopt === undefined) return;
    const { name, userId } = adopt;
    if ((await this.read((tx) => tx.meta())).adopted.includes(name)) return;
    const mine = await inEarlier(name, async (conversations, messages) => {
      // Before any row is adopted: whatever happens then, no other user gets it.
      await conversations.filter(isOwnerless).modify({ userId });
      const all: OldRow[] = await conversations.toArray();
      const { conversation, message } = belonging(userId, all);
      return [all.filter(conversation), await messages.filter(message).toArray()] as const;
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
    await this.opened.catch(() => undefined);
    this.db.close();
  }

  async destroy(): Promise<void> {
    const { adopt, name } = this.options;
    if (adopt !== undefined) {
      await inEarlier(adopt.name, async (conversations, messages) => {
        const mine = belonging(adopt.userId, await conversations.toArray());
        await messages.filter(mine.message).delete();
        await conversations.filter(mine.conversation).delete();
      });
    }
    await deleted(this.db);
    await deleted(new Dexie(name));
  }

  private async transaction<T>(mode: 'r' | 'rw', work: (tx: Writing) => Promise<T>): Promise<T> {
    await this.opened;
    if (this.destroyed) throw new Destroyed();
    return this.db.transaction(mode, this.db.tables, (tx) => work(new Transaction(tx))) as Promise<T>;
  }

  private async open(): Promise<void> {
    const { db, name } = this;
    await db.open();
    if ((await db.head.get(META)) === undefined) {
      for await (const put of partsOfFormer(name)) {
        if (!(await this.make((tx) => put(tx), LEFT))) break;
      }
      await this.make((tx) => tx.setMeta(newMeta(newId())));
    }
    if ((await db.head.get(LEFT)) === undefined) return;
    await emptyFormer(name);
    await db.head.delete(LEFT);
  }

  /** Does `work` unless the store was made already, perhaps by another tab: then false. */
  private make(work: (tx: Writing) => Promise<void>, mark?: number): Promise<boolean> {
    return this.db.transaction('rw', this.db.tables, async (tx) => {
      const head = tx.table('head');
      if ((await head.get(META)) !== undefined) return false;
      if (mark !== undefined) await head.put(true, mark);
      await work(new Transaction(tx));
      return true;
    }) as Promise<boolean>;
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
  work: (conversations: Table, messages: Table) => Promise<T>,
): Promise<T | undefined> =>
  inDatabase(name, ['conversations', 'messages'], (...tables) => work(...(tables as [Table, Table])));

const deleted = (db: Dexie): Promise<void> =>
  new Promise<void>((done, failed) => {
    // A frozen tab may keep the empty database for a while.
    db.on('blocked', () => (done(), false));
    db.delete().then(done, failed);
  });

class Database extends Dexie {
  declare readonly head: Table<unknown, number>;

  constructor(name: string) {
    // Without strict durability a power cut could lose numbers that were sent, and they would be given a second time.
    super(name, { chromeTransactionDurability: 'strict' });
    this.version(1).stores({
      head: '',
      rows: '[kind+key], [kind+home+order], [kind+above], [kind+local]',
      outbox: 'key, state',
      floors: '[kind+home]',
      deletions: '[kind+key]',
    });
  }
}

const rowIn = ({ row }: Kept): Row => row;

/**
 * Bound to its Dexie transaction, because native promises lose the one that Dexie tracks in its own promises. Empty
 * lists make no request: IndexedDB commits a transaction that has no request to answer.
 */
class Transaction implements Writing {
  private readonly db: {
    readonly head: Table<Meta, number>;
    readonly rows: Table<Kept, readonly [kind: string, key: string]>;
    readonly outbox: Table<Entry, number>;
    readonly floors: Table<KeptFloor, readonly [kind: string, home: string]>;
    readonly deletions: Table<Gone>;
  };

  constructor(tx: DexieTransaction) {
    this.db = Object.fromEntries(tx.storeNames.map((name) => [name, tx.table(name)])) as unknown as typeof this.db;
  }

  async meta(): Promise<Meta> {
    return { ...newMeta(''), ...(await this.db.head.get(META)) };
  }
  async get({ name }: Kind, keys: readonly string[]): Promise<(Row | undefined)[]> {
    if (keys.length === 0) return [];
    return (await this.db.rows.bulkGet(keys.map((key) => [name, key] as const))).map((kept) => kept?.row);
  }
  async newest({ name }: Kind, home: string, before: string | null, limit: number): Promise<Row[]> {
    const rows = this.db.rows.where('[kind+home+order]').between([name, home, ''], [name, home, before ?? MOST]);
    return (await rows.reverse().limit(limit).toArray()).map(rowIn);
  }
  async of(kind: Kind, home: string): Promise<Row[]> {
    return this.newest(kind, home, null, Infinity);
  }
  async under({ name }: Kind, above: string): Promise<Row[]> {
    return (await this.db.rows.where('[kind+above]').equals([name, above]).toArray()).map(rowIn);
  }
  async all({ name }: Kind): Promise<Row[]> {
    return (await this.db.rows.where('[kind+key]').between([name, ''], [name, MOST]).toArray()).map(rowIn);
  }
  async local({ name }: Kind): Promise<Row[]> {
    return (await this.db.rows.where('[kind+local]').equals([name, 1]).toArray()).map(rowIn);
  }
  async entries(): Promise<Entry[]> {
    return this.db.outbox.orderBy('key').toArray();
  }
  async pending(limit: number): Promise<Entry[]> {
    return this.db.outbox.where('state').equals('pending').limit(limit).toArray();
  }
  async acked(): Promise<Entry[]> {
    return this.db.outbox.where('state').equals('acked').toArray();
  }
  async counts(): Promise<{ pending: number; rejected: number }> {
    return {
      pending: await this.db.outbox.where('state').equals('pending').count(),
      rejected: await this.db.outbox.where('state').equals('rejected').count(),
    };
  }
  async floors({ name }: Kind, homes: readonly string[]): Promise<(Floor | undefined)[]> {
    if (homes.length === 0) return [];
    return (await this.db.floors.bulkGet(homes.map((home) => [name, home] as const))).map((kept) => kept?.floor);
  }
  async gone(): Promise<Gone[]> {
    return this.db.deletions.toArray();
  }

  async setMeta(change: Partial<Meta>): Promise<void> {
    await this.db.head.put({ ...(await this.meta()), ...change }, META);
  }
  async put(kind: Kind, rows: readonly Row[]): Promise<void> {
    if (rows.length === 0) return;
    await this.db.rows.bulkPut(
      rows.map((row) => {
        const above = aboveOf(kind, row);
        return {
          kind: kind.name,
          key: keyOf(kind, row.id),
          home: homeOf(kind, row),
          order: orderOfRow(kind, row),
          ...(above !== null && { above }),
          ...(row.seq === LOCAL && { local: 1 }),
          row,
        };
      }),
    );
  }
  async drop({ name }: Kind, keys: readonly string[]): Promise<void> {
    if (keys.length > 0) await this.db.rows.bulkDelete(keys.map((key) => [name, key] as const));
  }
  async clear(localToo: boolean): Promise<void> {
    const { rows, floors } = this.db;
    const local = localToo ? [] : await rows.orderBy('[kind+local]').toArray(); // without those that are not local
    await rows.clear();
    if (local.length > 0) await rows.bulkPut(local);
    await floors.clear();
    await this.forget();
  }
  async putEntries(entries: readonly Entry[]): Promise<void> {
    if (entries.length > 0) await this.db.outbox.bulkPut([...entries]);
  }
  async dropEntries(keys: readonly number[]): Promise<void> {
    if (keys.length > 0) await this.db.outbox.bulkDelete([...keys]);
  }
  async putFloors({ name }: Kind, floors: readonly (readonly [string, Floor])[]): Promise<void> {
    if (floors.length === 0) return;
    await this.db.floors.bulkPut(floors.map(([home, floor]) => ({ kind: name, home, floor })));
  }
  async dropFloors({ name }: Kind, homes: readonly string[]): Promise<void> {
    if (homes.length > 0) await this.db.floors.bulkDelete(homes.map((home) => [name, home] as const));
  }
  async remember(deletions: readonly Gone[]): Promise<void> {
    if (deletions.length > 0) await this.db.deletions.bulkPut([...deletions]);
  }
  async forget(): Promise<void> {
    await this.db.deletions.clear();
  }
}
