/** A store in IndexedDB, by means of Dexie, for browsers. All tabs of a browser may have it open at once. */

import { Dexie, type Table, type Transaction as DexieTransaction } from 'dexie';

import type { Floor } from '../holes.js';
import type { Entry } from '../outbox.js';
import { compare, LOCAL, type Conversation, type Message, type Place, type Uuid } from '../rows.js';
import { Destroyed, newMeta, type Gone, type Meta, type Reading, type Store, type Writing } from '../store.js';
import { newId } from '../uuid.js';
import { adoptRows, belonging, isOwnerless, type OldRow } from './adopt.js';

type Kept<R> = R & { readonly local?: 1 };

/** Keys below and above every number and text, as IndexedDB orders them. */
const LEAST = -Infinity as never;
const MOST = '\uffff' as never;

const keep = <R extends Conversation | Message>(row: R): Kept<R> => (row.seq === LOCAL ? { ...row, local: 1 } : row);

function plain<R extends Conversation | Message>(row: Kept<R>): R {
  if (row.local === undefined) return row;
  const { local: _, ...rest } = row;
  return rest as unknown as R;
}

const oldestFirst = (a: Conversation | Message, b: Conversation | Message): number =>
  compare([a.createdAt, a.id], [b.createdAt, b.id]);

export interface DexieOptions {
  /** The database's name: one for each user. */
  readonly name: string;
  /**
   * The name of an earlier app's database, and this user's id in it: their rows are adopted, once. A conversation
   * without a `userId` gets the id of the first user who opens a store. Nothing else changes there until this user's
   * store is destroyed, which also deletes their rows there.
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
    this.db = new Database(options.name);
    this.db.on('versionchange', ({ newVersion }) => {
      if (newVersion) return undefined;
      // The deletion waits for this connection; and Dexie would create the database again.
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
    const adopted = await adoptRows(...mine);
    await this.write(async (tx) => {
      const meta = await tx.meta();
      if (meta.user !== user || meta.adopted.includes(name)) return;
      // Rows that the server has sent since are newer than the earlier app's.
      const heldC = await tx.conversations(adopted.conversations.map((row) => row.id));
      const heldM = await tx.messages(adopted.messages.map((row) => row.id));
      await tx.putConversations(adopted.conversations.filter((_, i) => heldC[i] === undefined));
      await tx.putMessages(adopted.messages.filter((_, i) => heldM[i] === undefined));
      const local = adopted.conversations.filter((row) => row.seq === LOCAL);
      await tx.putFloors(local.map((row) => [row.id, 'start']));
      await tx.setMeta({ adopted: [...meta.adopted, name] });
    });
  }

  async close(): Promise<void> {
    await this.opened.catch(() => undefined);
    this.db.close();
  }

  async destroy(): Promise<void> {
    const { adopt } = this.options;
    if (adopt !== undefined) {
      await inEarlier(adopt.name, async (conversations, messages) => {
        const mine = belonging(adopt.userId, await conversations.toArray());
        await messages.filter(mine.message).delete();
        await conversations.filter(mine.conversation).delete();
      });
    }
    await new Promise<void>((done, failed) => {
      // A frozen tab may keep the empty database for a while.
      this.db.on('blocked', () => (done(), false));
      this.db.delete().then(done, failed);
    });
  }

  private async transaction<T>(mode: 'r' | 'rw', work: (tx: Writing) => Promise<T>): Promise<T> {
    await this.opened;
    if (this.destroyed) throw new Destroyed();
    return this.db.transaction(mode, this.db.tables, (tx) => work(new Transaction(tx))) as Promise<T>;
  }

  private async open(): Promise<void> {
    await this.db.open();
    await this.db.transaction('rw', this.db.head, async () => {
      if ((await this.db.head.get(0)) === undefined) await this.db.head.add(newMeta(newId()), 0);
    });
  }
}

/** Does `work` in one transaction of an earlier app's database; undefined if it does not exist or lacks a table. */
async function inEarlier<T>(
  name: string,
  work: (conversations: Table, messages: Table) => Promise<T>,
): Promise<T | undefined> {
  if (!(await Dexie.exists(name))) return undefined;
  const old = new Dexie(name);
  try {
    await old.open();
    const names = old.tables.map((table) => table.name);
    if (!names.includes('conversations') || !names.includes('messages')) return undefined;
    return await old.transaction('rw', ['conversations', 'messages'], (tx) =>
      work(tx.table('conversations'), tx.table('messages')),
    );
  } finally {
    old.close();
  }
}

class Database extends Dexie {
  declare readonly head: Table<Meta, number>;

  constructor(name: string) {
    // Without strict durability a power cut could lose numbers that were sent, and they would be given a second time.
    super(name, { chromeTransactionDurability: 'strict' });
    this.version(1).stores({
      head: '',
      conversationRows: 'id, [updatedAt+id], local',
      messageRows: 'id, [conversationId+createdAt+id], local',
      outbox: 'key, state',
      floorRows: '',
      deletions: '[kind+id]',
    });
  }
}

/**
 * Bound to its Dexie transaction, because native promises lose the one that Dexie tracks in its own promises. Empty
 * lists make no request: IndexedDB commits a transaction that has no request to answer.
 */
class Transaction implements Writing {
  private readonly db: {
    readonly head: Table<Meta, number>;
    readonly conversationRows: Table<Kept<Conversation>, Uuid>;
    readonly messageRows: Table<Kept<Message>, Uuid>;
    readonly outbox: Table<Entry, number>;
    readonly floorRows: Table<Floor, Uuid>;
    readonly deletions: Table<Gone, [string, Uuid]>;
  };

  constructor(tx: DexieTransaction) {
    this.db = Object.fromEntries(tx.storeNames.map((name) => [name, tx.table(name)])) as unknown as typeof this.db;
  }

  async meta(): Promise<Meta> {
    return { ...newMeta(''), ...((await this.db.head.get(0)) as Meta) };
  }
  async conversations(ids: readonly Uuid[]): Promise<(Conversation | undefined)[]> {
    if (ids.length === 0) return [];
    return (await this.db.conversationRows.bulkGet([...ids])).map((row) => row && plain<Conversation>(row));
  }
  async messages(ids: readonly Uuid[]): Promise<(Message | undefined)[]> {
    if (ids.length === 0) return [];
    return (await this.db.messageRows.bulkGet([...ids])).map((row) => row && plain<Message>(row));
  }
  async newestConversations(before: Place | null, limit: number): Promise<Conversation[]> {
    const rows = this.db.conversationRows
      .where('[updatedAt+id]')
      .between([LEAST, LEAST], before === null ? [MOST, MOST] : [...before], true, false);
    return (await rows.reverse().limit(limit).toArray()).map((row) => plain<Conversation>(row));
  }
  async newestMessages(conversation: Uuid, before: Place | null, limit: number): Promise<Message[]> {
    const rows = this.db.messageRows
      .where('[conversationId+createdAt+id]')
      .between([conversation, LEAST, LEAST], [conversation, ...(before ?? [MOST, MOST])], true, false);
    return (await rows.reverse().limit(limit).toArray()).map((row) => plain<Message>(row));
  }
  async messagesOf(conversation: Uuid): Promise<Message[]> {
    return this.newestMessages(conversation, null, Infinity);
  }
  async localConversations(): Promise<Conversation[]> {
    const rows = await this.db.conversationRows.where('local').equals(1).toArray();
    return rows.map((row) => plain<Conversation>(row)).sort(oldestFirst);
  }
  async localMessages(): Promise<Message[]> {
    const rows = await this.db.messageRows.where('local').equals(1).toArray();
    return rows.map((row) => plain<Message>(row)).sort(oldestFirst);
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
  async floors(ids: readonly Uuid[]): Promise<(Floor | undefined)[]> {
    return ids.length === 0 ? [] : this.db.floorRows.bulkGet([...ids]);
  }
  async gone(): Promise<Gone[]> {
    return this.db.deletions.toArray();
  }

  async setMeta(change: Partial<Meta>): Promise<void> {
    await this.db.head.put({ ...(await this.meta()), ...change }, 0);
  }
  async putConversations(rows: readonly Conversation[]): Promise<void> {
    if (rows.length > 0) await this.db.conversationRows.bulkPut(rows.map(keep));
  }
  async putMessages(rows: readonly Message[]): Promise<void> {
    if (rows.length > 0) await this.db.messageRows.bulkPut(rows.map(keep));
  }
  async dropConversations(ids: readonly Uuid[]): Promise<void> {
    if (ids.length > 0) await this.db.conversationRows.bulkDelete([...ids]);
  }
  async dropMessages(ids: readonly Uuid[]): Promise<void> {
    if (ids.length > 0) await this.db.messageRows.bulkDelete([...ids]);
  }
  async dropSynced(): Promise<void> {
    const conversations = await this.localConversations();
    const messages = await this.localMessages();
    await this.db.conversationRows.clear();
    await this.db.messageRows.clear();
    await this.putConversations(conversations);
    await this.putMessages(messages);
    await this.db.floorRows.clear();
    await this.forget();
  }
  async putEntries(entries: readonly Entry[]): Promise<void> {
    if (entries.length > 0) await this.db.outbox.bulkPut([...entries]);
  }
  async dropEntries(keys: readonly number[]): Promise<void> {
    if (keys.length > 0) await this.db.outbox.bulkDelete([...keys]);
  }
  async putFloors(floors: readonly (readonly [Uuid, Floor])[]): Promise<void> {
    if (floors.length === 0) return;
    await this.db.floorRows.bulkPut(
      floors.map(([, floor]) => floor),
      floors.map(([id]) => id),
    );
  }
  async dropFloors(ids: readonly Uuid[]): Promise<void> {
    if (ids.length > 0) await this.db.floorRows.bulkDelete([...ids]);
  }
  async remember(deletions: readonly Gone[]): Promise<void> {
    if (deletions.length > 0) await this.db.deletions.bulkPut([...deletions]);
  }
  async forget(): Promise<void> {
    await this.db.deletions.clear();
  }
}
