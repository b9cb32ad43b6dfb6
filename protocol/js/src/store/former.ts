/**
 * What stores kept before there were kinds, as they keep it now: a profile, conversations and messages, which are the
 * kinds of the chat schema, and mutations of them. Memories of deletions are left out: each connection begins without
 * any. Pure but for `putFormer`.
 */

import type { Floor } from '../holes.js';
import type { Mutation } from '../mutation.js';
import type { Entry } from '../outbox.js';
import { nameOf, type Instant, type Row, type Uuid } from '../rows.js';
import { CHAT } from '../schema.chat.js';
import { compile, shapeOf, type Kind } from '../schema.js';
import type { Meta, Writing } from '../store.js';

const KINDS = compile(CHAT);
export const [PROFILE, CONVERSATION, MESSAGE] = [...KINDS.values()] as [Kind, Kind, Kind];

/** A stored row, by the names of its columns here. */
export type FormerRow = Readonly<Record<string, unknown>> & { readonly seq: number; readonly id: Uuid };

/** The first versions did not have all of it. */
export type FormerMeta = Omit<Partial<Meta>, 'edited' | 'shape' | 'schema' | 'tier'> & {
  readonly profile?: FormerRow | null;
  /** The floor of the list of conversations. */
  readonly list?: Floor | null;
  /** Local conversations that were renamed after they were made. */
  readonly renamed?: readonly Uuid[];
};

interface FormerMutation {
  readonly kind: '+c' | '~c' | '-c' | '+m' | '~m' | '-m';
  readonly id: Uuid;
  readonly title?: string | null;
  readonly conversationId?: Uuid;
  readonly role?: string;
  readonly content?: string;
  readonly createdAt?: Instant;
  readonly at?: Instant;
}
export type FormerEntry = Omit<Entry, 'mutation'> & { readonly mutation: FormerMutation };

const rowFrom = ({ name, columns }: Kind, row: FormerRow): Row => ({
  kind: name,
  seq: row.seq,
  id: row.id,
  ...Object.fromEntries([...columns.keys()].map((column) => [column, row[column] ?? null])),
});

/** Stores rows of a kind. */
export const putFormerRows = (tx: Writing, kind: Kind, rows: readonly FormerRow[]): Promise<void> =>
  tx.put(
    kind,
    rows.map((row) => rowFrom(kind, row)),
  );

/** The columns keep this order: the server compares a mutation that it gets again with the one that it consumed. */
function mutationFrom(former: FormerMutation): Mutation {
  const { id, title, conversationId, role, content } = former;
  const at = former.at as Instant;
  const dated = former.createdAt as Instant;
  switch (former.kind) {
    case '+c':
      return { op: '+', kind: 'conversation', id, columns: { title }, at };
    case '~c':
      return { op: '~', kind: 'conversation', id, columns: { title }, at };
    case '-c':
      return { op: '-', kind: 'conversation', id };
    case '+m':
      return { op: '+', kind: 'message', id, columns: { conversationId, role, content }, at };
    case '~m':
      return { op: '~', kind: 'message', id, dated, columns: { content }, at };
    case '-m':
      return { op: '-', kind: 'message', id, dated };
  }
}

/** Stores everything but conversations and messages. */
export async function putFormer(
  tx: Writing,
  { profile, list, renamed = [], bounds, ...meta }: FormerMeta,
  entries: readonly FormerEntry[],
  floors: readonly (readonly [conversation: Uuid, floor: Floor])[],
): Promise<void> {
  await tx.setMeta({
    ...meta,
    ...(bounds && { bounds: { frameBytes: bounds.frameBytes } }),
    edited: renamed.map((id) => nameOf(CONVERSATION, id)),
    shape: shapeOf(KINDS),
    newest: { seq: 0, isKnown: false },
  });
  if (profile) await putFormerRows(tx, PROFILE, [profile]);
  if (list) {
    // There was a snapshot, which holds the whole profile.
    await tx.putFloors(PROFILE, [['', 'start']]);
    await tx.putFloors(CONVERSATION, [['', list]]);
  }
  await tx.putFloors(MESSAGE, floors);
  await tx.putEntries(entries.map((entry) => ({ ...entry, mutation: mutationFrom(entry.mutation) })));
}
