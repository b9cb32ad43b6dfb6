/**
 * The user's writes, each in one transaction of the store: into the outbox, or, while the device works alone, into
 * local rows. Nothing is sent here.
 */

import { addEntry, creates } from './entries.js';
import { check, checkId, WriteError, type Columns, type Insert, type Mutation } from './mutation.js';
import { corrected, type Entry } from './outbox.js';
import { homeKey, keyOf, LOCAL, nameOf, rowFrom, type Instant, type Row } from './rows.js';
import type { Id, Kind, Kinds } from './schema.js';
import type { Reading, Writing } from './store.js';
import { newId } from './uuid.js';
import { raised, updated } from './view.js';

/** Microseconds. If the last instant is further ahead of the clock, a wrong clock gave it. */
const PLAUSIBLE = 60_000_000;

/**
 * The instant of a write, in microseconds by the server's clock. It is later than the last one, so that rows of one
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

/** A new id, for a kind whose rows may have any. Throws WriteError for another one. */
export function idFor({ name, key }: Kind): string {
  if (key.length === 1 && (key[0] === 'uuid' || key[0] === 'text')) return newId();
  const wanted = key.length === 1 ? `of type ${key[0]}` : `[${key.join(', ')}]`;
  throw new WriteError(`a new row of the kind ${name} needs an id ${wanted} that no row has`, 'bad_id');
}

/** Values as they are kept: JSON is copied, and what is undefined is left out. */
function kept({ columns: known }: Kind, columns: Columns): Columns {
  return Object.fromEntries(
    Object.entries(columns).flatMap(([name, value]) => {
      if (value === undefined) return [];
      const type = known.get(name)?.type;
      if (type === 'bytes' && value instanceof Uint8Array) return [[name, value.slice()]];
      return [[name, type === 'json' || type === 'array' ? copied(name, value) : value]];
    }),
  );
}

function copied(name: string, value: unknown): unknown {
  try {
    return JSON.parse(JSON.stringify(value));
  } catch {
    throw new WriteError(`${name} must be a JSON value`, 'bad_value');
  }
}

export async function insert(
  tx: Writing,
  kinds: Kinds,
  now: number,
  kind: Kind,
  id: Id,
  columns: Columns,
): Promise<void> {
  const at = await instant(tx, now);
  const mutation: Insert = { op: '+', kind: kind.name, id, columns: kept(kind, columns), at };
  check(kinds, mutation);
  const key = keyOf(kind, id);
  if (await isLocal(tx, kind, mutation)) await insertLocal(tx, kind, mutation);
  else await addEntry(tx, kinds, mutation);
  for (const child of kind.children) await tx.putFloors(child, [[key, 'start']]);
}

/** A row below a local one is local, too: the server would reject it before its parent. */
async function isLocal(tx: Reading, kind: Kind, { columns }: Insert): Promise<boolean> {
  if (kind.parent === null) return (await tx.meta()).local;
  const [above] = await tx.get(kind.parent, [homeKey(kind, columns[kind.home as string] as Id)]);
  return above?.seq === LOCAL;
}

async function insertLocal(tx: Writing, kind: Kind, mutation: Insert): Promise<void> {
  const { parent, home, touches } = kind;
  const [above] = parent === null ? [] : await tx.get(parent, [homeKey(kind, mutation.columns[home as string] as Id)]);
  const higher = above && parent?.home ? (above[parent.home] as Id) : null;
  await tx.put(kind, [rowFrom(kind, mutation, LOCAL, higher)]);
  if (parent && above && touches) await tx.put(parent, [{ ...above, ...raised(above, touches, mutation.at) }]);
}

export async function update(
  tx: Writing,
  kinds: Kinds,
  now: number,
  kind: Kind,
  id: Id,
  columns: Columns,
): Promise<void> {
  const change = kept(kind, columns);
  const { row, made } = await find(tx, kind, id);
  if (row === undefined && made?.state === 'rejected') {
    throw new WriteError(`this ${kind.name} was rejected: retry or discard it`);
  }
  if (Object.keys(change).length === 0) return;
  const at = await instant(tx, now);
  for (const { name, limit } of kind.columns.values()) {
    if (row && typeof limit === 'object' && !limit.includes(row[name])) {
      throw new WriteError(`a device may not update a ${kind.name} with this ${name}`, 'bad_value');
    }
  }
  const mutation: Mutation = { op: '~', kind: kind.name, id, ...dated(kind, row, made), columns: change, at };
  if (row?.seq === LOCAL) {
    check(kinds, mutation);
    await tx.put(kind, [updated(kind, row, mutation)]);
    const { edited } = await tx.meta();
    await tx.setMeta({ edited: [...new Set([...edited, nameOf(kind, keyOf(kind, id))])] });
  } else {
    await addEntry(tx, kinds, mutation);
  }
}

/** With the rows below it. */
export async function remove(tx: Writing, kinds: Kinds, kind: Kind, id: Id): Promise<void> {
  const { row, made } = await find(tx, kind, id);
  const key = keyOf(kind, id);
  await dropLocalBelow(tx, kind, key);
  if (row?.seq === LOCAL) {
    await tx.drop(kind, [key]);
    for (const child of kind.children) await tx.dropFloors(child, [key]);
  } else if (row === undefined && made?.state === 'rejected') {
    // The server never had it: its rejected entries are deleted, and those of the rows below it.
    const entries = (await tx.entries()).filter((entry) => entry.state === 'rejected');
    await tx.dropEntries(createdBelow(entries, kind, key).map((entry) => entry.key));
  } else {
    await addEntry(tx, kinds, { op: '-', kind: kind.name, id, ...dated(kind, row, made) });
  }
}

async function dropLocalBelow(tx: Writing, kind: Kind, key: string): Promise<void> {
  for (const child of kind.children) {
    for (const row of await tx.of(child, key)) {
      const below = keyOf(child, row.id);
      await dropLocalBelow(tx, child, below);
      if (row.seq === LOCAL) await tx.drop(child, [below]);
    }
  }
}

/** The entries that create a row, and those that create rows below it. */
const createdBelow = (entries: readonly Entry[], kind: Kind, key: string): Entry[] => [
  ...entries.filter(({ mutation }) => creates(kind, key, mutation)),
  ...kind.children.flatMap((child) =>
    entriesIn(entries, child, key).flatMap(({ mutation }) => createdBelow(entries, child, keyOf(child, mutation.id))),
  ),
];

/** The entries that create rows of this home. */
const entriesIn = (entries: readonly Entry[], kind: Kind, home: string): (Entry & { readonly mutation: Insert })[] =>
  entries.filter(
    (entry): entry is Entry & { readonly mutation: Insert } =>
      entry.mutation.op === '+' &&
      entry.mutation.kind === kind.name &&
      homeKey(kind, entry.mutation.columns[kind.home as string] as Id) === home,
  );

/**
 * Writes a rejected mutation again, with a new number, and with other columns if given. Throws WriteError if no rejected
 * entry has this key.
 */
export async function retry(tx: Writing, kinds: Kinds, now: number, key: number, columns: Columns): Promise<void> {
  const entry = await rejected(tx, key);
  const kind = kinds.get(entry.mutation.kind);
  if (kind === undefined) throw new WriteError(`there is no kind ${entry.mutation.kind}`);
  const { id } = entry.mutation;
  const other = entry.code === 'bad_id' && entry.mutation.op === '+' ? idFor(kind) : id;
  const mutation = corrected(entry, kept(kind, columns), await instant(tx, now), other);
  await tx.dropEntries([key]);
  await addEntry(tx, kinds, mutation);
  if (other === id) return;
  // The rejected rows below it move along to the new id.
  const entries = (await tx.entries()).filter(({ state }) => state === 'rejected');
  for (const child of kind.children) {
    await tx.putFloors(child, [[keyOf(kind, other), 'start']]);
    await tx.putEntries(
      entriesIn(entries, child, keyOf(kind, id)).map((below) => ({
        ...below,
        mutation: { ...below.mutation, columns: { ...below.mutation.columns, [child.home as string]: other } },
      })),
    );
  }
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

interface Found {
  readonly row: Row | undefined;
  /** The last entry that creates it: one that is not rejected, if there is one. */
  readonly made: Entry | undefined;
}

/** Throws WriteError if this device knows no such row. */
async function find(tx: Reading, kind: Kind, id: Id): Promise<Found> {
  checkId('id', kind, id);
  const key = keyOf(kind, id);
  const [row] = await tx.get(kind, [key]);
  const made = (await tx.entries()).filter(({ mutation }) => creates(kind, key, mutation));
  if (row === undefined && made.length === 0) throw new WriteError(`this device has no such ${kind.name}`);
  return { row, made: made.filter((entry) => entry.state !== 'rejected').at(-1) ?? made.at(-1) };
}

/** Of a partitioned table, an update or a deletion names the instant, too. */
function dated({ dated: column }: Kind, row: Row | undefined, made: Entry | undefined): { readonly dated?: Instant } {
  if (column === null) return {};
  return { dated: row ? (row[column] as Instant) : (made?.mutation as Insert).at };
}
