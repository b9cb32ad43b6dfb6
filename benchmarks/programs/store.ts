/** What benchmarks/store.py measures in Chromium: the library and its store, and a list instead of a page. */

import { CONVERSATION, createChatSync, MESSAGE, type ChatSync } from '../../protocol/js/src/chat.js';
import { CHAT } from '../../protocol/js/src/schema.chat.js';
import { compile } from '../../protocol/js/src/schema.js';
import { IndexedDbStore } from '../../protocol/js/src/store/indexeddb.js';
import { insert } from '../../protocol/js/src/write.js';

const NAME = 'measured';
const kinds = compile(CHAT);
let sync: ChatSync;
let store: IndexedDbStore;

function open(url: string, user: string, token: string, name = NAME): void {
  store = new IndexedDbStore({ name });
  sync = createChatSync({ url, user, store, getToken: async () => token });
}

const live = (): Promise<void> =>
  new Promise((resolve) => {
    const off = sync.status.subscribe(() => {
      if (sync.status.value.state !== 'live') return;
      setTimeout(() => off());
      resolve();
    });
  });

/** Milliseconds until the device has everything. */
async function catchUp(url: string, user: string, token: string): Promise<number> {
  const began = performance.now();
  open(url, user, token);
  await live();
  return performance.now() - began;
}

/** Milliseconds from the start of a page until the newest messages of a conversation are in its document. */
async function first(url: string, user: string, token: string, conversation: string, count: number): Promise<number> {
  const began = performance.now();
  open(url, user, token);
  show(conversation);
  await new Promise<void>((resolve) => {
    (function look() {
      if (document.querySelectorAll('li').length >= count) resolve();
      else setTimeout(look);
    })();
  });
  return performance.now() - began;
}

const seen: Record<string, number> = {};

/** Shows a conversation from now on, and notes when each message is in the document. */
function show(conversation: string): void {
  const messages = sync.messages(conversation);
  messages.subscribe(() => {
    const lines = messages.value?.rows.map(({ id, content }) =>
      Object.assign(document.createElement('li'), { id, textContent: content }),
    );
    document.querySelector('ul')?.replaceChildren(...(lines ?? []));
    const now = performance.timeOrigin + performance.now();
    for (const { content } of messages.value?.rows ?? []) seen[content] ??= now;
  });
}

/** Puts messages that are older than all others into a conversation's history. */
async function fill(conversation: string, count: number, content: string): Promise<void> {
  for (let from = 0; from < count; from += 2000) {
    const rows = Array.from({ length: Math.min(2000, count - from) }, (_, i) => {
      const at = 1_500_000_000_000_000 + (from + i) * 1000;
      const id = `00000000-0000-7000-9000-${(from + i).toString(16).padStart(12, '0')}`;
      const row = { kind: 'message', seq: 1, id, conversationId: conversation, role: 'user', content };
      return { ...row, createdAt: at, updatedAt: at };
    });
    await store.write((tx) => tx.put(MESSAGE, rows));
  }
}

/** Milliseconds of each of `times` queries of the newest 50 messages, while `count` mutations wait. */
async function pending(user: string, conversation: string, count: number, times: number, held: number): Promise<number[]> {
  const other = new IndexedDbStore({ name: 'pending' });
  const waiting = createChatSync({ url: `ws://${location.host}/none`, user, store: other, getToken: async () => '' });
  await waiting.ready;
  const seq = 1;
  const at = 1_600_000_000_000_000;
  const home = { kind: 'conversation', seq, id: conversation, title: 'x', createdAt: at, updatedAt: at };
  await other.write(async (tx) => {
    await tx.put(CONVERSATION, [home]);
    await tx.putFloors(CONVERSATION, [['', 'start']]);
    await tx.putFloors(MESSAGE, [[conversation, 'start']]);
    await tx.put(
      MESSAGE,
      Array.from({ length: held }, (_, i) => {
        const id = `00000000-0000-7000-9000-${i.toString(16).padStart(12, '0')}`;
        const times = { createdAt: at + i, updatedAt: at + i };
        return { kind: 'message', seq, id, conversationId: conversation, role: 'user', content: 'x'.repeat(500), ...times };
      }),
    );
    for (let i = 0; i < count; i++) {
      const columns = { conversationId: conversation, role: 'user', content: `pending ${i}` };
      await insert(tx, kinds, Date.now(), MESSAGE, crypto.randomUUID(), columns);
    }
  });
  const query = waiting.messages(conversation);
  const took: number[] = [];
  for (let i = 0; i < times; i++) {
    const began = performance.now();
    await query.read();
    took.push(performance.now() - began);
  }
  await waiting.close();
  return took;
}

Object.assign(window, { measured: { catchUp, first, show, fill, pending, seen, close: () => sync.close() } });
