/** Readable rows, ids and tokens for tests. */

import type { Conversation, Message, Uuid } from '../../src/rows.js';

export const id = (n: number): Uuid => `00000000-0000-7000-8000-${n.toString(16).padStart(12, '0')}`;
export const C = (n: number): Uuid => id(0xc000 + n);
export const M = (n: number): Uuid => id(0xe000 + n);

/** An unsigned token of a user; `mark` distinguishes it from others. */
export const tokenOf = (sub: unknown, mark: string | number = ''): string =>
  `head.${btoa(JSON.stringify({ sub }))}.${mark}`;

export const conversation = (n: number, seq: number, change: Partial<Conversation> = {}): Conversation => ({
  kind: 'c',
  seq,
  id: C(n),
  title: `c${n}`,
  createdAt: n * 1000,
  updatedAt: n * 1000,
  ...change,
});

export const message = (n: number, home: number, seq: number, change: Partial<Message> = {}): Message => ({
  kind: 'm',
  seq,
  id: M(n),
  conversationId: C(home),
  role: 'user',
  content: `m${n}`,
  createdAt: n * 1000,
  updatedAt: n * 1000,
  ...change,
});
