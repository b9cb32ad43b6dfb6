/** Turns the rows that a device made while it worked locally into mutations in the outbox, once it syncs. */

import { WriteError, type Mutation } from './mutation.js';
import { add, type Entry } from './outbox.js';
import { keyOf, nameOf, type Instant, type Row } from './rows.js';
import type { Kind, Kinds } from './schema.js';
import type { Writing } from './store.js';

/**
 * Merges all local work, in the transaction in which the device begins to sync: nothing that is written or received
 * later finds local rows. The number of mutations that wait is stored, for `status.progress`. `now`: the instant of
 * rows that do not say when they were made.
 */
export async function mergeLocal(tx: Writing, kinds: Kinds, now: Instant): Promise<void> {
  const mutations: Mutation[] = [];
  const { edited } = await tx.meta();
  // Each kind comes after its parent.
  for (const kind of kinds.values()) {
    const rows = await tx.local(kind);
    if (rows.length === 0) continue;
    const made = rows.map((row) => ({ row, at: instantOf(row, kind.created) ?? now }));
    made.sort((a, b) => a.at - b.at || (keyOf(kind, a.row.id) < keyOf(kind, b.row.id) ? -1 : 1));
    for (const { row, at } of made) {
      const columns = some(row, [...(kind.home === null ? [] : [kind.home]), ...(kind.insert ?? [])]);
      mutations.push({ op: '+', kind: kind.name, id: row.id, columns, at });
      if (!isEdited(kind, row, edited)) continue;
      mutations.push({
        op: '~',
        kind: kind.name,
        id: row.id,
        ...(kind.dated === null ? {} : { dated: at }),
        columns: some(row, kind.update ?? []),
        at: instantOf(row, kind.updated) ?? at,
      });
    }
    await tx.drop(
      kind,
      rows.map((row) => keyOf(kind, row.id)),
    );
  }
  if (mutations.length === 0) return;
  await addOrQuarantine(tx, kinds, mutations);
  await tx.setMeta({ edited: [], merging: (await tx.counts()).pending });
}

const instantOf = (row: Row, column: string | null): Instant | null =>
  column === null ? null : (row[column] as Instant | null);

const some = (row: Row, names: readonly string[]): Record<string, unknown> =>
  Object.fromEntries(names.map((name) => [name, row[name]]));

/** Where an insert of another kind raises `updated`, it does not tell whether the row itself was changed. */
function isEdited(kind: Kind, row: Row, edited: readonly string[]): boolean {
  if (edited.includes(nameOf(kind, keyOf(kind, row.id)))) return true;
  const [made, changed] = [instantOf(row, kind.created), instantOf(row, kind.updated)];
  return made !== null && changed !== null && changed > made && kind.children.every((child) => child.touches === null);
}

/**
 * A mutation that exceeds the server's limits goes to quarantine. An edit follows its creation because the server may
 * have the row already, as it was before it was changed here.
 */
async function addOrQuarantine(tx: Writing, kinds: Kinds, mutations: readonly Mutation[]): Promise<void> {
  let { nextKey, nextN } = await tx.meta();
  const { bounds } = await tx.meta();
  const entries: Entry[] = [];
  const outgrown = new Set<string>();
  for (const mutation of mutations) {
    const kind = kinds.get(mutation.kind) as Kind;
    const name = nameOf(kind, keyOf(kind, mutation.id));
    if (outgrown.has(name)) continue; // its creation is in quarantine with the same values
    const key = nextKey++;
    try {
      entries.push(add({ nextKey: key, nextN, bounds }, kinds, mutation));
      nextN++;
    } catch (error) {
      if (!(error instanceof WriteError)) throw error;
      outgrown.add(name);
      entries.push({ key, n: 0, mutation, state: 'rejected', seq: null, code: error.code, message: error.message });
    }
  }
  await tx.putEntries(entries);
  await tx.setMeta({ nextKey, nextN });
}
