/** What an app shows: synced rows with the outbox's effects over them (SPEC.md, 8.8). Pure. */

import type { Entry } from './outbox.js';
import { compare, LOCAL, placeOf, type Conversation, type Message, type Uuid } from './rows.js';

/**
 * How certain a shown row is. synced: as the server sent it · acked: durable on the server, but not in the feed yet ·
 * pending: the server has not answered · rejected: made here, and the server did not accept it · local: made here, and
 * not to be sent before an upgrade.
 */
export type Certainty = 'synced' | 'local' | 'acked' | 'pending' | 'rejected';

/** How an app marks a row. */
interface Marks {
  readonly state: Certainty;
  /** The last entry of the outbox that changed the row: the argument of `retry` and `discard`. */
  readonly key?: number;
  /** Why it was rejected: a code of SPEC.md, 8.4, and a sentence to show. */
  readonly code?: string;
  readonly reason?: string;
}

export type ShownConversation = Conversation & Marks;
export type ShownMessage = Message &
  Marks & {
    /** Messages may be missing between this message and the one before it. */
    readonly hole: boolean;
  };

const RANK: readonly Certainty[] = ['synced', 'local', 'acked', 'pending', 'rejected'];

interface Cell<R> {
  readonly row: R;
  readonly state: Certainty;
  readonly entry?: Entry;
}

const cell = <R extends Conversation | Message>(row: R): Cell<R> => ({
  row,
  state: row.seq === LOCAL ? 'local' : 'synced',
});

function touch<R>(shown: Cell<R>, row: R, entry: Entry): Cell<R> {
  const state = entry.state as Certainty;
  return { row, state: RANK.indexOf(state) > RANK.indexOf(shown.state) ? state : shown.state, entry };
}

const marks = ({ state, entry }: Cell<unknown>): Marks => ({
  state,
  ...(entry === undefined ? {} : { key: entry.key }),
  ...(entry?.code === null || entry?.code === undefined ? {} : { code: entry.code, reason: entry.message ?? '' }),
});

/** In the order in which they take effect: rejected creations last, other rejected mutations not at all. */
const inEffect = (entries: readonly Entry[]): Entry[] => [
  ...entries.filter((entry) => entry.state !== 'rejected'),
  ...entries.filter((entry) => entry.state === 'rejected' && entry.mutation.kind.startsWith('+')),
];

/**
 * Rows with the outbox's mutations applied, one after the other, as the server would apply them. A rejected creation
 * stays visible, so that no text disappears that the user wrote.
 */
class Overlay {
  readonly conversations: Map<Uuid, Cell<Conversation>>;
  readonly messages: Map<Uuid, Cell<Message>>;
  readonly gone = new Set<Uuid>();

  constructor(conversations: readonly Conversation[], messages: readonly Message[], entries: readonly Entry[]) {
    this.conversations = new Map(conversations.map((row) => [row.id, cell(row)]));
    this.messages = new Map(messages.map((row) => [row.id, cell(row)]));
    for (const entry of inEffect(entries)) this.put(entry);
  }

  private put(entry: Entry): void {
    const { mutation } = entry;
    const { conversations, messages, gone } = this;
    const rejected = entry.state === 'rejected';
    const { id } = mutation;
    switch (mutation.kind) {
      case '+c':
        if (!conversations.has(id) && !(gone.has(id) && rejected)) {
          gone.delete(id);
          const { title, at } = mutation;
          const row: Conversation = { kind: 'c', seq: 0, id, title, createdAt: at, updatedAt: at };
          conversations.set(id, { row, state: entry.state, entry });
        }
        break;
      case '~c': {
        const shown = conversations.get(id);
        if (shown) {
          const updatedAt = Math.max(mutation.at, shown.row.updatedAt);
          conversations.set(id, touch(shown, { ...shown.row, title: mutation.title, updatedAt }, entry));
        }
        break;
      }
      case '-c':
        gone.add(id);
        conversations.delete(id);
        for (const { row } of messages.values()) if (row.conversationId === id) messages.delete(row.id);
        break;
      case '+m': {
        const { conversationId, role, content, at } = mutation;
        // A conversation that is not held may be outside of the window. Only a deleted one hides its messages.
        if (messages.has(id) || gone.has(conversationId) || (gone.has(id) && rejected)) break;
        const row: Message = { kind: 'm', seq: 0, id, conversationId, role, content, createdAt: at, updatedAt: at };
        messages.set(id, { row, state: entry.state, entry });
        const home = conversations.get(conversationId);
        if (home && home.row.updatedAt < at && !rejected) {
          conversations.set(conversationId, { ...home, row: { ...home.row, updatedAt: at } });
        }
        break;
      }
      case '~m': {
        const shown = messages.get(id);
        if (shown?.row.createdAt === mutation.createdAt) {
          const updatedAt = Math.max(mutation.at, shown.row.updatedAt);
          messages.set(id, touch(shown, { ...shown.row, content: mutation.content, updatedAt }, entry));
        }
        break;
      }
      case '-m':
        gone.add(id);
        if (messages.get(id)?.row.createdAt === mutation.createdAt) messages.delete(id);
        break;
    }
  }
}

/** Newest first. `held`: the rows to show, and those that the outbox changes. */
export function showConversations(held: readonly Conversation[], entries: readonly Entry[]): ShownConversation[] {
  const overlay = new Overlay(held, [], entries);
  return [...overlay.conversations.values()]
    .map((shown) => ({ ...shown.row, ...marks(shown) }))
    .sort((a, b) => compare(placeOf(b), placeOf(a)));
}

/** The messages of one conversation, oldest first. `holed`: messages may be missing between those that are held. */
export function showMessages(
  conversation: Uuid,
  held: readonly Message[],
  entries: readonly Entry[],
  holed: boolean,
): ShownMessage[] {
  const overlay = new Overlay([], held, entries);
  return [...overlay.messages.values()]
    .filter((shown) => shown.row.conversationId === conversation)
    .map((shown) => ({ ...shown.row, ...marks(shown), hole: holed && shown.row.seq > 0 }))
    .sort((a, b) => compare(placeOf(a), placeOf(b)));
}
