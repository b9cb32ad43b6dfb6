/**
 * Applies rows of the server within a transaction of a store, by rules 5.2–5.5, 7.3 and 7.7 of SPEC.md, and updates the
 * floors. Knows neither connections nor the outbox.
 */

import type { Window } from './frames.js';
import { afterPage, afterSnapshot, isNew, type Floor } from './holes.js';
import type { PageRequest } from './pages.js';
import { placeOf, type Conversation, type Message, type Profile, type Row, type Uuid } from './rows.js';
import type { Gone, Writing } from './store.js';

/** The part of the store that a transaction changed, so that queries over it are read again. */
export interface Touched {
  /** Conversations of which messages changed. */
  readonly conversations: Set<Uuid>;
  /** Anything may have changed. */
  all: boolean;
}

export const touchedNothing = (): Touched => ({ conversations: new Set(), all: false });
export const touchedAll = (): Touched => ({ conversations: new Set(), all: true });

/**
 * Applies rows in their order; a repeat is harmless. `remember`: a page is unanswered, so deletions are remembered, and
 * the memories of earlier ones count (5.4).
 */
export async function applyRows(tx: Writing, rows: readonly Row[], remember: boolean, touched: Touched): Promise<void> {
  if (rows.length === 0) return;
  const meta = await tx.meta();
  const list = meta.list ?? undefined;
  let profile: Profile | null = meta.profile;

  const idsOf = (...kinds: Row['kind'][]): Uuid[] => [
    ...new Set(rows.flatMap((row) => (kinds.includes(row.kind) ? [row.id] : []))),
  ];
  const ids = { c: idsOf('c', '-c'), m: idsOf('m', '-m') };
  const [oldC, oldM] = [await tx.conversations(ids.c), await tx.messages(ids.m)];
  const conversations = new Map<Uuid, Conversation>();
  for (const row of oldC) if (row) conversations.set(row.id, row);
  const messages = new Map<Uuid, Message>();
  const changed = new Set<Uuid>(ids.m);
  const homes = idsOf('-c');
  for (const home of homes) for (const row of await tx.messagesOf(home)) messages.set(row.id, row);
  for (const row of oldM) if (row) messages.set(row.id, row);

  const memories = new Map<string, number>();
  const added = new Map<string, Gone>();
  if (remember) for (const gone of await tx.gone()) memories.set(gone.kind + gone.id, gone.seq);
  const memory = (kind: 'c' | 'm', id: Uuid): number => memories.get(kind + id) ?? -1;
  const newFloors = new Map<Uuid, Floor>();
  const lostFloors = new Set<Uuid>();
  const unheld = new Set(ids.c.filter((id) => !conversations.has(id)));

  const rememberDeletion = (kind: 'c' | 'm', id: Uuid, seq: number): void => {
    if (!remember) return;
    const newest = Math.max(seq, memory(kind, id));
    memories.set(kind + id, newest);
    added.set(kind + id, { kind, id, seq: newest });
  };

  for (const row of rows) {
    switch (row.kind) {
      case 'p':
        if (row.seq >= (profile?.seq ?? -1)) profile = row;
        break;
      case '-p':
        if (row.seq >= (profile?.seq ?? -1)) profile = null;
        break;
      case 'c':
        if (row.seq >= Math.max(conversations.get(row.id)?.seq ?? -1, memory('c', row.id))) {
          if (!conversations.has(row.id) && isNew(list, row)) newFloors.set(row.id, 'start');
          conversations.set(row.id, row);
        }
        break;
      case 'm': {
        const held = messages.get(row.id);
        if (row.seq >= Math.max(held?.seq ?? -1, memory('m', row.id), memory('c', row.conversationId))) {
          if (held) touched.conversations.add(held.conversationId);
          touched.conversations.add(row.conversationId);
          messages.set(row.id, row);
        }
        break;
      }
      case '-m': {
        const held = messages.get(row.id);
        if (held && row.seq >= held.seq) {
          touched.conversations.add(held.conversationId);
          messages.delete(row.id);
        }
        rememberDeletion('m', row.id, row.seq);
        break;
      }
      case '-c': {
        touched.conversations.add(row.id);
        if (row.seq >= (conversations.get(row.id)?.seq ?? -1)) {
          conversations.delete(row.id);
          newFloors.delete(row.id);
          lostFloors.add(row.id);
        }
        // Also if a newer conversation of this id is held: it was made anew, and its old messages were not (5.3).
        for (const message of messages.values()) {
          if (message.conversationId === row.id && message.seq <= row.seq) {
            messages.delete(message.id);
            changed.add(message.id);
          }
        }
        rememberDeletion('c', row.id, row.seq);
        break;
      }
    }
  }

  if (profile !== meta.profile) await tx.setMeta({ profile });
  await tx.putConversations(ids.c.flatMap((id) => conversations.get(id) ?? []));
  await tx.dropConversations(ids.c.filter((id) => !conversations.has(id) && !unheld.has(id)));
  await tx.putMessages([...changed].flatMap((id) => messages.get(id) ?? []));
  await tx.dropMessages([...changed].filter((id) => !messages.has(id)));
  if (lostFloors.size > 0) await tx.dropFloors([...lostFloors]);
  if (newFloors.size > 0) {
    const fresh = [...newFloors];
    const known = await tx.floors(fresh.map(([id]) => id));
    await tx.putFloors(fresh.filter((_, i) => known[i] === undefined));
  }
  if (added.size > 0) await tx.remember([...added.values()]);
}

/** Replaces all synced rows by those of a snapshot, in all its parts. The outbox and local rows stay. */
export async function applySnapshot(
  tx: Writing,
  parts: readonly (readonly Row[])[],
  window: Window,
  touched: Touched,
): Promise<void> {
  const newestC = new Map<Uuid, Conversation>();
  const newestM = new Map<Uuid, Message>();
  const home = await tx.localConversations();
  const unsent = (await tx.entries()).flatMap(({ mutation }) => (mutation.kind === '+c' ? [mutation.id] : []));
  await tx.dropSynced();
  await tx.setMeta({ profile: null, list: null });
  for (const rows of parts) {
    await applyRows(tx, rows, false, touched);
    for (const row of rows) {
      if (row.kind === 'c') newestC.set(row.id, row);
      if (row.kind === 'm') newestM.set(row.id, row);
    }
  }
  const { list, floors } = afterSnapshot([...newestC.values()], [...newestM.values()], window);
  await tx.setMeta({ list: list ?? null });
  const made = [...home.map((row) => row.id), ...unsent].filter((id) => !newestC.has(id));
  await tx.putFloors([...floors, ...made.map((id): [Uuid, Floor] => [id, 'start'])]);
  touched.all = true;
}

/** Applies a page, and moves the floor of the history that it belongs to. */
export async function applyPage(
  tx: Writing,
  request: PageRequest,
  page: { readonly rows: readonly Row[]; readonly more: boolean },
  touched: Touched,
): Promise<void> {
  const { conversation, before } = request;
  const ofKind = page.rows.filter((row) => row.kind === (conversation === null ? 'c' : 'm')) as (
    Conversation | Message
  )[];
  const last = ofKind.at(-1);
  await applyRows(tx, page.rows, true, touched);
  if (conversation === null) {
    const list = afterPage((await tx.meta()).list ?? undefined, before, last && placeOf(last), page.more);
    await tx.setMeta({ list: list ?? null });
    touched.all = true;
  } else {
    const [floor] = await tx.floors([conversation]);
    const now = afterPage(floor, before, last && placeOf(last), page.more);
    if (now !== undefined) await tx.putFloors([[conversation, now]]);
    touched.conversations.add(conversation);
  }
}
