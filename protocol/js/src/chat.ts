/** A chat app's own names for the generic calls: conversations and their messages, by the schema of schema.chat.ts. */

import type { HistoryQuery } from './history.js';
import type { Columns } from './mutation.js';
import type { Entry } from './outbox.js';
import type { Query } from './query.js';
import type { Row, Uuid } from './rows.js';
import { CHAT } from './schema.chat.js';
import { compile, type Kind, type RowOf } from './schema.js';
import { Sync, type SyncOptions } from './sync.js';
import { newId } from './uuid.js';
import { show, type ShownOf } from './view.js';

export type Profile = RowOf<typeof CHAT, 'profile'>;
export type Conversation = RowOf<typeof CHAT, 'conversation'>;
export type Message = RowOf<typeof CHAT, 'message'>;
export type ShownConversation = ShownOf<typeof CHAT, 'conversation'>;
export type ShownMessage = ShownOf<typeof CHAT, 'message'>;
export type ChatOptions = Omit<SyncOptions<typeof CHAT>, 'schema'>;

const kinds = compile(CHAT);
/** The kinds, for reading a store. */
export const CONVERSATION = kinds.get('conversation') as Kind;
export const MESSAGE = kinds.get('message') as Kind;

export function createChatSync(options: ChatOptions): ChatSync {
  return new ChatSync(options);
}

interface Limit {
  /** 50 by default. */
  readonly limit?: number;
}

export class ChatSync extends Sync<typeof CHAT> {
  /** The user's tier and status; null before the server sent them. */
  readonly profile: Query<Profile | null>;

  constructor(options: ChatOptions) {
    super({ ...options, schema: CHAT });
    this.profile = this.get('profile', options.user.toLowerCase());
  }

  /** The user's conversations, newest first. */
  conversations({ limit }: Limit = {}): HistoryQuery<ShownConversation> {
    return this.list('conversation', limit === undefined ? {} : { limit });
  }

  /** The messages of a conversation, oldest first, the newest `limit` of them. */
  messages(conversation: Uuid, { limit }: Limit = {}): HistoryQuery<ShownMessage> {
    return this.list('message', { parent: conversation, oldestFirst: true, ...(limit !== undefined && { limit }) });
  }

  /** Returns the id of the conversation. */
  createConversation(title: string | null = null, id: Uuid = newId()): Promise<Uuid> {
    return this.insert('conversation', { title }, id);
  }

  renameConversation(id: Uuid, title: string | null): Promise<void> {
    return this.update('conversation', id, { title });
  }

  /** Deletes a conversation with its messages. */
  deleteConversation(id: Uuid): Promise<void> {
    return this.remove('conversation', id);
  }

  /** Adds a message to a conversation, and returns its id. */
  sendMessage(
    conversation: Uuid,
    content: string,
    { role = 'user', id = newId() }: { readonly role?: string; readonly id?: Uuid } = {},
  ): Promise<Uuid> {
    return this.insert('message', { conversationId: conversation, role, content }, id);
  }

  /** Replaces the content of a message. */
  editMessage(id: Uuid, content: string): Promise<void> {
    return this.update('message', id, { content });
  }

  deleteMessage(id: Uuid): Promise<void> {
    return this.remove('message', id);
  }

  /** Writes a rejected mutation again, with `text` as its title or content if given. */
  override async retry(key: number, text?: string | Columns): Promise<void> {
    if (typeof text !== 'string') return super.retry(key, text);
    const entry = (await this.quarantine.read()).find((candidate) => candidate.key === key);
    return super.retry(key, entry?.mutation.kind === 'conversation' ? { title: text } : { content: text });
  }
}

/** Conversations of a store as an app shows them, newest first. `held`: those to show, and those that the outbox changes. */
export const showConversations = (held: readonly Row[], entries: readonly Entry[]): ShownConversation[] =>
  show(CONVERSATION, '', [], held, entries, false) as unknown as ShownConversation[];

/** The messages of one conversation, oldest first. `holed`: messages may be missing between those that are held. */
export const showMessages = (
  conversation: Uuid,
  held: readonly Row[],
  entries: readonly Entry[],
  holed: boolean,
): ShownMessage[] =>
  show(
    MESSAGE,
    conversation,
    [{ kind: CONVERSATION, key: conversation, id: null }],
    held,
    entries,
    holed,
  ).reverse() as unknown as ShownMessage[];
