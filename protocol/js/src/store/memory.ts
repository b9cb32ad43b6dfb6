/** A store in memory, for tests and for devices that keep nothing. One transaction at a time, undone if it throws. */

import type { Floor } from '../holes.js';
import type { Entry } from '../outbox.js';
import { compare, LOCAL, placeOf, type Conversation, type Message, type Place, type Uuid } from '../rows.js';
import { newMeta, type Gone, type Meta, type Reading, type Store, type Writing } from '../store.js';
import { newId } from '../uuid.js';

interface Tables {
  meta: Meta;
  readonly conversations: Map<Uuid, Conversation>;
  readonly messages: Map<Uuid, Message>;
  readonly entries: Map<number, Entry>;
  readonly floors: Map<Uuid, Floor>;
  readonly gone: Map<string, Gone>;
}

const oldestFirst = (a: Conversation | Message, b: Conversation | Message): number =>
  compare([a.createdAt, a.id], [b.createdAt, b.id]);

function newest<R extends Conversation | Message>(rows: R[], before: Place | null, limit: number): R[] {
  return rows
    .filter((row) => before === null || compare(placeOf(row), before) < 0)
    .sort((a, b) => compare(placeOf(b), placeOf(a)))
    .slice(0, limit);
}

class Transaction implements Writing {
  private readonly undo: (() => void)[] = [];

  constructor(private readonly t: Tables) {}

  rollback(): void {
    for (const step of this.undo.reverse()) step();
  }

  meta = async () => this.t.meta;
  conversations = async (ids: readonly Uuid[]) => ids.map((id) => this.t.conversations.get(id));
  messages = async (ids: readonly Uuid[]) => ids.map((id) => this.t.messages.get(id));
  newestConversations = async (before: Place | null, limit: number) =>
    newest([...this.t.conversations.values()], before, limit);
  newestMessages = async (conversation: Uuid, before: Place | null, limit: number) =>
    newest(await this.messagesOf(conversation), before, limit);
  messagesOf = async (conversation: Uuid) =>
    [...this.t.messages.values()].filter((row) => row.conversationId === conversation);
  localConversations = async () =>
    [...this.t.conversations.values()].filter((row) => row.seq === LOCAL).sort(oldestFirst);
  localMessages = async () => [...this.t.messages.values()].filter((row) => row.seq === LOCAL).sort(oldestFirst);
  entries = async () => [...this.t.entries.values()].sort((a, b) => a.key - b.key);
  pending = async (limit: number) =>
    (await this.entries()).filter((entry) => entry.state === 'pending').slice(0, limit);
  acked = async () => (await this.entries()).filter((entry) => entry.state === 'acked');
  counts = async () => {
    const all = [...this.t.entries.values()];
    const count = (state: Entry['state']): number => all.filter((entry) => entry.state === state).length;
    return { pending: count('pending'), rejected: count('rejected') };
  };
  floors = async (ids: readonly Uuid[]) => ids.map((id) => this.t.floors.get(id));
  gone = async () => [...this.t.gone.values()];

  async setMeta(change: Partial<Meta>): Promise<void> {
    const before = this.t.meta;
    this.undo.push(() => void (this.t.meta = before));
    this.t.meta = { ...before, ...change };
  }
  putConversations = async (rows: readonly Conversation[]) =>
    rows.forEach((row) => this.set(this.t.conversations, row.id, row));
  putMessages = async (rows: readonly Message[]) => rows.forEach((row) => this.set(this.t.messages, row.id, row));
  dropConversations = async (ids: readonly Uuid[]) =>
    ids.forEach((id) => this.set(this.t.conversations, id, undefined));
  dropMessages = async (ids: readonly Uuid[]) => ids.forEach((id) => this.set(this.t.messages, id, undefined));
  async dropSynced(): Promise<void> {
    for (const table of [this.t.conversations, this.t.messages] as Map<Uuid, Conversation | Message>[]) {
      for (const row of [...table.values()]) if (row.seq !== LOCAL) this.set(table, row.id, undefined);
    }
    await this.dropFloors([...this.t.floors.keys()]);
    await this.forget();
  }
  putEntries = async (entries: readonly Entry[]) =>
    entries.forEach((entry) => this.set(this.t.entries, entry.key, entry));
  dropEntries = async (keys: readonly number[]) => keys.forEach((key) => this.set(this.t.entries, key, undefined));
  putFloors = async (floors: readonly (readonly [Uuid, Floor])[]) =>
    floors.forEach(([id, floor]) => this.set(this.t.floors, id, floor));
  dropFloors = async (ids: readonly Uuid[]) => ids.forEach((id) => this.set(this.t.floors, id, undefined));
  remember = async (deletions: readonly Gone[]) =>
    deletions.forEach((gone) => this.set(this.t.gone, gone.kind + gone.id, gone));
  forget = async () => [...this.t.gone.keys()].forEach((key) => this.set(this.t.gone, key, undefined));

  private set<K, V>(table: Map<K, V>, key: K, value: V | undefined): void {
    const before = table.get(key);
    this.undo.push(() => (before === undefined ? table.delete(key) : table.set(key, before)));
    if (value === undefined) table.delete(key);
    else table.set(key, value);
  }
}

export class MemoryStore implements Store {
  readonly name = newId();
  private readonly tables: Tables = {
    meta: newMeta(newId()),
    conversations: new Map(),
    messages: new Map(),
    entries: new Map(),
    floors: new Map(),
    gone: new Map(),
  };
  private queue: Promise<unknown> = Promise.resolve();

  read<T>(work: (tx: Reading) => Promise<T>): Promise<T> {
    return this.write(work);
  }

  write<T>(work: (tx: Writing) => Promise<T>): Promise<T> {
    const mine = this.queue.then(async () => {
      const tx = new Transaction(this.tables);
      try {
        return await work(tx);
      } catch (error) {
        tx.rollback();
        throw error;
      }
    });
    this.queue = mine.catch(() => undefined);
    return mine;
  }

  async close(): Promise<void> {
    await this.queue;
  }
}
