/** Readable rows, ids and tokens for tests. */

import type { Conversation, Message } from '../../src/chat.js';
import type { Entry } from '../../src/outbox.js';
import type { Uuid } from '../../src/rows.js';
import { CHAT } from '../../src/schema.chat.js';
import { compile, type Kind } from '../../src/schema.js';
import { NO_STREAMS } from '../../src/streams.js';

/** The chat schema. */
export const CHAT_KINDS = compile(CHAT);
export const PROFILE = CHAT_KINDS.get('profile') as Kind;
export const CONVERSATION = CHAT_KINDS.get('conversation') as Kind;
export const MESSAGE = CHAT_KINDS.get('message') as Kind;

export const id = (n: number): Uuid => `00000000-0000-7000-8000-${n.toString(16).padStart(12, '0')}`;
export const C = (n: number): Uuid => id(0xc000 + n);
export const M = (n: number): Uuid => id(0xe000 + n);

/** An unsigned token of a user; `mark` distinguishes it from others. */
export const tokenOf = (sub: unknown, mark: string | number = ''): string =>
  `head.${btoa(JSON.stringify({ sub }))}.${mark}`;

export const conversation = (n: number, seq: number, change: Partial<Conversation> = {}): Conversation => ({
  kind: 'conversation',
  seq,
  id: C(n),
  title: `c${n}`,
  createdAt: n * 1000,
  updatedAt: n * 1000,
  ...change,
});

export const message = (n: number, home: number, seq: number, change: Partial<Message> = {}): Message => ({
  kind: 'message',
  seq,
  id: M(n),
  conversationId: C(home),
  role: 'user',
  content: `m${n}`,
  createdAt: n * 1000,
  updatedAt: n * 1000,
  ...change,
});

/** What waits in an outbox, but for `change`. */
export const entry = (key: number, change: Partial<Entry> = {}): Entry => ({
  key,
  n: key,
  mutation: { op: '-', kind: 'conversation', id: C(key) },
  state: 'pending',
  seq: null,
  code: null,
  message: null,
  ...change,
});

/** For an ingest of a device that has no streams. */
export const WITHOUT_STREAMS = { now: NO_STREAMS, rows: (): void => undefined };
