/** Stores the rows of a device anew when the schema changed on which they depend, as when a new version of the app starts. */

import { keyOf, LOCAL, type Row } from './rows.js';
import { shapeOf, type Id, type Kind, type Kinds, type KindShape } from './schema.js';
import type { Writing } from './store.js';

/**
 * Rows stay if their key and their parent are the same. Columns that are new or of another type are null until a
 * snapshot comes, which the next connection gets. Mutations of kinds that are no more go to quarantine.
 */
export async function reshape(tx: Writing, kinds: Kinds): Promise<void> {
  const { shape: before } = await tx.meta();
  const shape = shapeOf(kinds);
  if (before === shape) return;
  await tx.setMeta({ shape });
  if (before === '') return;
  const former = new Map((JSON.parse(before) as KindShape[]).map((kind) => [kind.name, kind]));
  const rows = new Map<Kind, Row[]>();
  for (const kind of kinds.values()) {
    const old = former.get(kind.name);
    if (old === undefined || String(old.key) !== String(kind.key) || old.parent !== (kind.parent?.name ?? null)) continue;
    rows.set(kind, (await tx.all(kind)).map((row) => fitted(kind, old, row)));
  }
  await tx.clear(true);
  for (const [kind, some] of rows) {
    const homed = some.filter((row) => kind.home === null || row[kind.home] !== null);
    await tx.put(kind, homed);
    const made = homed.filter((row) => row.seq === LOCAL).map((row) => keyOf(kind, row.id));
    for (const child of kind.children) await tx.putFloors(child, made.map((key) => [key, 'start']));
  }
  const lost = (await tx.entries()).filter(({ mutation }) => !fits(mutation.kind, kinds, former));
  await tx.putEntries(
    lost.map((entry) => ({ ...entry, state: 'rejected', code: 'not_allowed', message: 'This app no longer writes it.' })),
  );
  await tx.setMeta({ cursor: null });
}

function fitted(kind: Kind, old: KindShape, row: Row): Row {
  const made: Record<string, unknown> = { kind: kind.name, seq: row.seq, id: row.id };
  for (const [name, { type }] of kind.columns) made[name] = old.columns[name] === type ? (row[name] ?? null) : null;
  return made as Row & { readonly id: Id };
}

function fits(name: string, kinds: Kinds, former: ReadonlyMap<string, KindShape>): boolean {
  const [kind, old] = [kinds.get(name), former.get(name)];
  return kind !== undefined && old !== undefined && String(old.key) === String(kind.key);
}
