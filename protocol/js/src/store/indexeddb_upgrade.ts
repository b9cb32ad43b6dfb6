/** The database of indexeddb.ts: its object stores, and how those of earlier versions are brought up to date. */

import type { KindShape } from '../schema.js';
import { newMeta, type Gone, type Meta, type Writing } from '../store.js';
import { newId } from '../uuid.js';
import { asked } from './idb.js';
import { LEAVES, Leaves, makeLeaves } from './leaves.js';
import { makeSingles, SINGLES, type Singles } from './singles.js';

export const HEAD = 'head';
export const NAMES = [HEAD, SINGLES, LEAVES, 'outbox', 'floors', 'deletions'];

/** Keys in the object store `head`. */
export const META = 'meta';
/** The outbox's version: another one with each transaction that changes it, in whatever tab. */
export const OUTBOX = 'outbox';
/** There while rows with a parent are still kept one to a record: a Poured. */
export const POUR = 'pour';
/**
 * A stream has the key [STREAM, its id]. They are few, and with an object store of their own the database would need
 * another version, for which the tabs of earlier versions of the app had to close it.
 */
export const STREAM = 'stream';
/** There while the database from before there were kinds is to be emptied. */
export const LEFT = 1;
/** Where versions that used Dexie have their head. They find another user there, and end. */
const DEXIE_META = 0;

/** The user of a database that was upgraded, for the versions that come from before. */
export const MOVED = 'a newer version of this app';

/** What leads to each version. Dexie multiplied its versions by ten. */
const STEPS: readonly (readonly [version: number, step: (db: IDBDatabase, tx: IDBTransaction) => void])[] = [
  [10, makeFirst],
  [20, addLeaves],
];
export const VERSION = 20;

/** In one transaction: if it is interrupted, nothing has changed. */
export function upgrade(db: IDBDatabase, tx: IDBTransaction, from: number): void {
  for (const [version, step] of STEPS) if (from < version) step(db, tx);
}

function makeFirst(db: IDBDatabase): void {
  db.createObjectStore(HEAD);
  makeSingles(db);
  db.createObjectStore('outbox', { keyPath: 'key' });
  db.createObjectStore('floors', { keyPath: ['kind', 'home'] });
  db.createObjectStore('deletions', { keyPath: ['kind', 'key'] });
}

/** Rows with a parent go into leaves later, some at a time: 100,000 of them take more than 10 s. */
function addLeaves(db: IDBDatabase, tx: IDBTransaction): void {
  makeLeaves(db);
  const head = tx.objectStore(HEAD);
  const found = head.get(DEXIE_META);
  found.onsuccess = () => {
    const meta = found.result as Meta | undefined;
    head.put({ user: MOVED }, DEXIE_META);
    // Without a head, what is there was being copied from before there were kinds, and is copied anew.
    if (meta === undefined) return void tx.objectStore(SINGLES).clear();
    // It did not say how new its rows are.
    head.put({ ...newMeta(''), ...meta, made: newId(), newest: { seq: 0, isKnown: false } } satisfies Meta, META);
    head.put({ seq: 0, after: [] } satisfies Poured, POUR);
  };
}

interface Poured {
  /** The greatest one of the rows that are in leaves now. */
  readonly seq: number;
  /**
   * Where the last of them was: kind, home, order. LevelDB is slow where much was deleted: beginning at the start each
   * time, 100,000 rows took ten times as long.
   */
  readonly after: readonly string[];
}

/** Rows in one transaction, which the app's own may have to wait for. */
const AT_ONCE = 500;

/** Stores some rows in leaves that are not there yet. Returns whether there are more. */
export async function pourSome(tx: Writing, head: IDBObjectStore, singles: Singles, leaves: Leaves): Promise<boolean> {
  const poured = await asked<Poured | undefined>(head.get(POUR));
  if (poured === undefined) return false; // another tab did the rest
  const { shape, newest } = await tx.meta();
  const kinds = (shape === '' ? [] : (JSON.parse(shape) as KindShape[])).filter(({ parent }) => parent !== null);
  const at = kinds.findIndex(({ name }) => name === poured.after[0]);
  for (const [i, { name }] of kinds.entries()) {
    if (i < at) continue;
    const some = await singles.some(name, i === at ? poured.after : [name], AT_ONCE);
    const last = some.at(-1);
    if (last === undefined) continue;
    singles.drop(
      { name },
      some.map(({ key }) => key),
    );
    await leaves.put(name, some);
    const seq = some.reduce((most, { row }) => Math.max(most, row.seq), poured.seq);
    head.put({ seq, after: [name, last.home, last.order] } satisfies Poured, POUR);
    return true;
  }
  const seqs = [...(await singles.every()).map(({ row }) => row.seq), ...(await tx.gone()).map(({ seq }: Gone) => seq)];
  const seq = seqs.reduce((most, one) => Math.max(most, one), Math.max(newest.seq, poured.seq));
  await tx.setMeta({ newest: { seq, isKnown: true } });
  head.delete(POUR);
  return false;
}
