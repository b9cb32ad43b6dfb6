/** Stores the rows of a device anew when the schema changed on which they depend, as when a new version of the app starts. */

import type { Columns, Mutation } from './mutation.js';
import type { Entry } from './outbox.js';
import { keyOf, LOCAL, type Row } from './rows.js';
import { shapeOf, type Kind, type Kinds, type KindShape } from './schema.js';
import type { Writing } from './store.js';

/**
 * Rows stay if their key and their parent are the same. Columns that are new or of another type are null until a
 * snapshot comes, which the next connection gets. What the server does not have, and what does not fit any more, goes to
 * quarantine: mutations, and local rows as insertions. A tab with the former schema ends, because its schema is not the
 * stored one.
 */
export async function reshape(tx: Writing, kinds: Kinds): Promise<void> {
  const { shape: before } = await tx.meta();
  const shape = shapeOf(kinds);
  if (before === shape) return;
  await tx.setMeta({ shape });
  if (before === '') return;
  const former = new Map((JSON.parse(before) as KindShape[]).map((kind) => [kind.name, kind]));
  const rows = new Map<Kind, Row[]>();
  const lost: Row[] = [];
  for (const old of former.values()) {
    const kind = kinds.get(old.name);
    // To find local rows, a store needs the kind's name only.
    if (!kind || !isSame(kind, old)) lost.push(...(await tx.local({ name: old.name } as Kind)));
    else rows.set(kind, await tx.all(kind));
  }
  await tx.clear(true);
  for (const [kind, some] of rows) {
    const old = former.get(kind.name) as KindShape;
    await tx.put(
      kind,
      some.map((row) => fitted(kind, old, row)),
    );
    const made = some.filter((row) => row.seq === LOCAL).map((row) => keyOf(kind, row.id));
    for (const child of kind.children)
      await tx.putFloors(
        child,
        made.map((key) => [key, 'start']),
      );
  }
  await quarantine(tx, kinds, former, lost);
  await tx.setMeta({ cursor: null });
}

const isSame = (kind: Kind, old: KindShape): boolean =>
  String(old.key) === String(kind.key) &&
  old.parent === (kind.parent?.name ?? null) &&
  (kind.home === null || hasSame(kind, old, kind.home));

const hasSame = (kind: Kind, old: KindShape, column: string): boolean =>
  kind.columns.get(column)?.type === old.columns[column];

function fitted(kind: Kind, old: KindShape, row: Row): Row {
  const made: Record<string, unknown> = {};
  for (const name of kind.columns.keys()) made[name] = hasSame(kind, old, name) ? (row[name] ?? null) : null;
  return { ...made, kind: kind.name, seq: row.seq, id: row.id };
}

/** A column that is no more is left out when the mutation is sent. */
function isFit({ kind: name, ...mutation }: Mutation, kinds: Kinds, former: ReadonlyMap<string, KindShape>): boolean {
  const [kind, old] = [kinds.get(name), former.get(name)];
  if (!kind || !old || !isSame(kind, old)) return false;
  const columns: Columns = mutation.op === '-' ? {} : mutation.columns;
  return Object.keys(columns).every((column) => !kind.columns.has(column) || hasSame(kind, old, column));
}

async function quarantine(
  tx: Writing,
  kinds: Kinds,
  former: ReadonlyMap<string, KindShape>,
  lost: readonly Row[],
): Promise<void> {
  let { nextKey } = await tx.meta();
  const { lastAt: at } = await tx.meta();
  const unfit = (await tx.entries()).filter(({ mutation }) => !isFit(mutation, kinds, former));
  const made = lost.map(({ kind, seq: _, id, ...columns }): Entry => {
    const mutation: Mutation = { op: '+', kind, id, columns, at };
    return { key: nextKey++, n: 0, mutation, state: 'pending', seq: null, code: null, message: null };
  });
  await tx.setMeta({ nextKey });
  // The server has what it acknowledged.
  await tx.dropEntries(unfit.filter(({ state }) => state === 'acked').map(({ key }) => key));
  await tx.putEntries(
    [...unfit, ...made]
      .filter(({ state }) => state !== 'acked')
      .map((entry): Entry => {
        const { kind } = entry.mutation;
        // A kind that has another key or parent is another kind. Its mutations are not to be read as those of this one.
        const mutation = { ...entry.mutation, kind: kinds.has(kind) ? `former ${kind}` : kind };
        if (entry.state === 'rejected') return { ...entry, mutation };
        return { ...entry, mutation, state: 'rejected', code: 'not_allowed', message: 'This app no longer writes it.' };
      }),
  );
}
