/**
 * The user's writes, each in one transaction of the store: into the outbox, or, while the device works alone, into
 * local rows. Nothing is sent here.
 */

import { addEntry } from './entries.js';
import { check, WriteError, type Mutation } from './mutation.js';
import { corrected, type Entry } from './outbox.js';
import { LOCAL, type Conversation, type Instant, type Message, type Uuid } from './rows.js';
import type { Writing } from './store.js';
import { newId } from './uuid.js';

/** Microseconds. If the last instant is further ahead of the clock, a wrong clock gave it. */
const PLAUSIBLE = 60_000_000;

/**
 * The instant of a write, in microseconds by the server's clock. It is later than the last one, so that messages of one
 * device keep their order; but not if a wrong clock gave the last one, or the server would reject every write until
 * then.
 */
async function instant(tx: Writing, nowMs: number): Promise<Instant> {
  const { ahead, lastAt } = await tx.meta();
  const here = Math.round(nowMs * 1000 + ahead);
  const at = lastAt < here + PLAUSIBLE ? Math.max(here, lastAt + 1) : here;
  await tx.setMeta({ lastAt: at });
  return at;
}

/** The entries of the outbox that create this row. */
const creationsOf = async (tx: Writing, id: Uuid): Promise<Entry[]> =>
  (await tx.entries()).filter(({ mutation }) => mutation.id === id && mutation.kind.startsWith('+'));

export async function createConversation(tx: Writing, now: number, title: string | null, id: Uuid): Promise<void> {
  const at = await instant(tx, now);
  const mutation: Mutation = { kind: '+c', id, title, at };
  const { local, bounds } = await tx.meta();
  if (local) {
    check(mutation, bounds);
    await tx.putConversations([{ kind: 'c', seq: LOCAL, id, title, createdAt: at, updatedAt: at }]);
  } else {
    await addEntry(tx, mutation);
  }
  await tx.putFloors([[id, 'start']]);
}

export async function renameConversation(tx: Writing, now: number, id: Uuid, title: string | null): Promise<void> {
  const at = await instant(tx, now);
  const mutation: Mutation = { kind: '~c', id, title, at };
  const row = await conversationOrNone(tx, id);
  if (row?.seq === LOCAL) {
    const { bounds, renamed } = await tx.meta();
    check(mutation, bounds);
    await tx.putConversations([{ ...row, title, updatedAt: at }]);
    await tx.setMeta({ renamed: [...new Set([...renamed, id])] });
  } else {
    await addEntry(tx, mutation);
  }
}

export async function deleteConversation(tx: Writing, id: Uuid): Promise<void> {
  const row = await conversationOrNone(tx, id);
  const local = (await tx.messagesOf(id)).filter((message) => message.seq === LOCAL);
  await tx.dropMessages(local.map((message) => message.id));
  if (row?.seq === LOCAL) {
    await tx.dropConversations([id]);
    await tx.dropFloors([id]);
  } else {
    const made = await creationsOf(tx, id);
    // The server never had it: its rejected entries are deleted, and those of its messages.
    if (row === undefined && made.length > 0 && made.every((entry) => entry.state === 'rejected')) {
      const entries = await tx.entries();
      const within = entries.filter(
        ({ mutation, state }) => state === 'rejected' && mutation.kind === '+m' && mutation.conversationId === id,
      );
      await tx.dropEntries([...made, ...within].map((entry) => entry.key));
    } else {
      await addEntry(tx, { kind: '-c', id });
    }
  }
}

export async function sendMessage(
  tx: Writing,
  now: number,
  conversationId: Uuid,
  content: string,
  role: string,
  id: Uuid,
): Promise<void> {
  const at = await instant(tx, now);
  const mutation: Mutation = { kind: '+m', id, conversationId, role, content, at };
  check(mutation, (await tx.meta()).bounds);
  const [home] = await tx.conversations([conversationId]);
  // The message of a local conversation is local, too: the server would reject it before its conversation.
  if (home?.seq === LOCAL) {
    await tx.putMessages([{ kind: 'm', seq: LOCAL, id, conversationId, role, content, createdAt: at, updatedAt: at }]);
    await tx.putConversations([{ ...home, updatedAt: Math.max(home.updatedAt, at) }]);
  } else {
    await addEntry(tx, mutation);
  }
}

export async function editMessage(tx: Writing, now: number, id: Uuid, content: string): Promise<Uuid> {
  const at = await instant(tx, now);
  const { row, createdAt, home } = await messageOf(tx, id);
  const mutation: Mutation = { kind: '~m', id, createdAt, content, at };
  if (row?.seq === LOCAL) {
    check(mutation, (await tx.meta()).bounds);
    await tx.putMessages([{ ...row, content, updatedAt: at }]);
  } else {
    await addEntry(tx, mutation);
  }
  return home;
}

export async function deleteMessage(tx: Writing, id: Uuid): Promise<Uuid> {
  const { row, createdAt, home } = await messageOf(tx, id);
  if (row?.seq === LOCAL) await tx.dropMessages([id]);
  else await addEntry(tx, { kind: '-m', id, createdAt });
  return home;
}

/** Writes a rejected mutation again, with a new number. Throws WriteError if no rejected entry has this key. */
export async function retry(tx: Writing, now: number, key: number, text: string | undefined): Promise<void> {
  const entry = await rejected(tx, key);
  const mutation = corrected(entry, text, await instant(tx, now), newId(now));
  await tx.dropEntries([key]);
  await addEntry(tx, mutation);
  if (entry.mutation.kind !== '+c' || mutation.id === entry.mutation.id) return;
  // Its rejected messages move along to the new id.
  const from = entry.mutation.id;
  await tx.putFloors([[mutation.id, 'start']]);
  await tx.putEntries(
    (await tx.entries()).flatMap((other): Entry[] =>
      other.state === 'rejected' && other.mutation.kind === '+m' && other.mutation.conversationId === from
        ? [{ ...other, mutation: { ...other.mutation, conversationId: mutation.id } }]
        : [],
    ),
  );
}

/** Deletes a rejected mutation. Throws WriteError if no rejected entry has this key. */
export async function discard(tx: Writing, key: number): Promise<void> {
  await tx.dropEntries([(await rejected(tx, key)).key]);
}

async function rejected(tx: Writing, key: number): Promise<Entry> {
  const entry = (await tx.entries()).find((candidate) => candidate.key === key);
  if (entry?.state !== 'rejected') throw new WriteError(`no rejected mutation has the key ${key}`);
  return entry;
}

async function conversationOrNone(tx: Writing, id: Uuid): Promise<Conversation | undefined> {
  const [row] = await tx.conversations([id]);
  if (row === undefined && (await creationsOf(tx, id)).length === 0)
    throw new WriteError('this device has no such conversation');
  return row;
}

async function messageOf(
  tx: Writing,
  id: Uuid,
): Promise<{ readonly row: Message | undefined; readonly createdAt: Instant; readonly home: Uuid }> {
  const [row] = await tx.messages([id]);
  if (row) return { row, createdAt: row.createdAt, home: row.conversationId };
  const made = (await creationsOf(tx, id)).at(-1);
  if (made?.mutation.kind !== '+m') throw new WriteError('this device has no such message');
  if (made.state === 'rejected') throw new WriteError('this message was rejected: retry or discard it');
  return { row, createdAt: made.mutation.at, home: made.mutation.conversationId };
}
