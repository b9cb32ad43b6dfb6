/** The outbox within a transaction of a store. outbox.ts decides what becomes of its entries. */

import { redated } from './clock.js';
import { homeOfInsert, keyOfMutation } from './keys.js';
import type { Mutation } from './mutation.js';
import { add, type Change, type Entry } from './outbox.js';
import { aboveOf, homeKey, homeOf, keyOf, nameOf, type Instant } from './rows.js';
import type { Id, Kind, Kinds } from './schema.js';
import type { Reading, Writing } from './store.js';
import type { Ancestor } from './view.js';

/** Adds a mutation to the outbox and numbers it for good. Throws WriteError, and then nothing is added. */
export async function addEntry(tx: Writing, kinds: Kinds, mutation: Mutation): Promise<Entry> {
  const { nextKey, nextN, bounds } = await tx.meta();
  const entry = add({ nextKey, nextN, bounds }, kinds, mutation);
  await tx.setMeta({ nextKey: nextKey + 1, nextN: nextN + 1 });
  await tx.putEntries([entry]);
  return entry;
}

export async function changeEntries(tx: Writing, { put, drop }: Change): Promise<void> {
  await tx.putEntries(put);
  await tx.dropEntries(drop);
}

/**
 * Dates mutations that were never sent by the server's clock: `shift` is how far the clock that dated them was behind
 * it, `now` the present by it.
 */
export async function redate(
  tx: Writing,
  kinds: Kinds,
  unsent: readonly Entry[],
  shift: number,
  now: Instant,
): Promise<void> {
  const given = unsent.flatMap(({ mutation }) => (mutation.op === '-' ? [] : [mutation.at]));
  const instants = redated(given, shift, now);
  if (given.every((at) => instants.get(at) === at)) return;
  const after = (at: Instant): Instant => instants.get(at) ?? at;
  const made = new Set(unsent.flatMap(({ mutation }) => (mutation.op === '+' ? [rowOf(kinds, mutation)] : [])));
  await tx.putEntries(
    unsent.map((entry) => {
      const { mutation } = entry;
      if (mutation.op === '+') return { ...entry, mutation: { ...mutation, at: after(mutation.at) } };
      // The instant of a row that the server has stays what it is.
      const { dated } = mutation;
      const moved = dated === undefined || !made.has(rowOf(kinds, mutation)) ? {} : { dated: after(dated) };
      if (mutation.op === '-') return { ...entry, mutation: { ...mutation, ...moved } };
      return { ...entry, mutation: { ...mutation, ...moved, at: after(mutation.at) } };
    }),
  );
  await tx.setMeta({ lastAt: after((await tx.meta()).lastAt) });
}

function rowOf(kinds: Kinds, { kind: name, id }: Mutation): string {
  const kind = kinds.get(name);
  return kind === undefined ? '' : nameOf(kind, keyOf(kind, id));
}

/** Whether the mutation creates this row. */
export const creates = (kind: Kind, key: string, mutation: Mutation): boolean =>
  mutation.op === '+' && mutation.kind === kind.name && keyOfMutation(kind, mutation) === key;

/** The id of the parent of a row that is held, or that an entry creates; null if neither is known. */
async function parentOfRow(tx: Reading, kind: Kind, key: string, entries: readonly Entry[]): Promise<Id | null> {
  if (kind.home === null) return null;
  const [row] = await tx.get(kind, [key]);
  if (row) return row[kind.home] as Id;
  const made = entries.map(({ mutation }) => mutation).find((mutation) => creates(kind, key, mutation));
  return made?.op === '+' ? (made.columns[kind.home] as Id) : null;
}

/** The home of a row that is held, or that an entry creates; null if neither is known. */
export async function homeOfRow(
  tx: Reading,
  kind: Kind,
  key: string,
  entries: readonly Entry[],
): Promise<string | null> {
  const parent = await parentOfRow(tx, kind, key, entries);
  return kind.home !== null && parent === null ? null : homeKey(kind, parent);
}

/** The rows above those of this home, from the parent upwards, as far as this device knows. */
export async function rowsAbove(
  tx: Reading,
  kind: Kind,
  home: string,
  entries: readonly Entry[],
): Promise<readonly Ancestor[]> {
  const { parent, above: column } = kind;
  if (parent === null) return [];
  const above: Ancestor[] = [{ kind: parent, key: home, id: null }];
  if (parent.parent === null || column === null) return above;
  let id = await parentOfRow(tx, parent, home, entries);
  if (id === null) {
    // The parent is not held. The rows below it know what is above it.
    const [row] = await tx.newest(kind, home, null, 1);
    id = (row?.[column] ?? null) as Id | null;
  }
  return id === null ? above : [...above, { kind: parent.parent, key: keyOf(parent.parent, id), id }];
}

/** The keys of a kind's rows that these entries are about, or rows below them, as far as this device knows. */
export async function keysAbout(tx: Reading, kind: Kind, entries: readonly Entry[]): Promise<Set<string>> {
  const keys = new Set<string>();
  for (const { mutation } of entries) if (mutation.kind === kind.name) keys.add(keyOfMutation(kind, mutation));
  for (const child of kind.children) {
    for (const home of await homesAbout(tx, child, entries)) keys.add(home);
    for (const lower of child.children) {
      const about = entries.flatMap(({ mutation }) => (mutation.kind === lower.name ? [keyOf(lower, mutation.id)] : []));
      for (const row of await tx.get(lower, about)) {
        const above = row && aboveOf(lower, row);
        if (above != null) keys.add(above);
      }
    }
  }
  return keys;
}

/** The homes of the rows of `keysAbout`. */
async function homesAbout(tx: Reading, kind: Kind, entries: readonly Entry[]): Promise<Set<string>> {
  const keys = await keysAbout(tx, kind, entries);
  const homes = new Set<string>();
  for (const { mutation } of entries) {
    if (mutation.op !== '+' || mutation.kind !== kind.name) continue;
    homes.add(homeOfInsert(kind, mutation));
    keys.delete(keyOfMutation(kind, mutation));
  }
  for (const row of await tx.get(kind, [...keys])) if (row) homes.add(homeOf(kind, row));
  return homes;
}
