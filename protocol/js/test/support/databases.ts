/** Databases in IndexedDB as other software leaves them, and what is in them. */

import 'fake-indexeddb/auto';

import { asked, deleteDatabase, openDatabase } from '../../src/store/idb.js';

/** Of each object store: the key path (null: none), and the indexes by name. */
export type Layout = Readonly<Record<string, readonly [string | string[] | null, Readonly<Record<string, string | string[]>>]>>;

/** Opens a database, made by this layout if it does not exist. */
export const database = (name: string, version: number, layout: Layout): Promise<IDBDatabase> =>
  openDatabase(name, version, (db) => {
    for (const [store, [keyPath, indexes]] of Object.entries(layout)) {
      const made = db.createObjectStore(store, keyPath === null ? {} : { keyPath });
      for (const [index, path] of Object.entries(indexes)) made.createIndex(index, path);
    }
  });

/** Puts rows into an object store; `keys` if it has no key path. */
export async function put(db: IDBDatabase, store: string, rows: readonly unknown[], keys?: readonly IDBValidKey[]): Promise<void> {
  const into = db.transaction(store, 'readwrite').objectStore(store);
  await Promise.all(rows.map((row, i) => asked(into.put(row, keys?.[i]))));
}

export const all = (db: IDBDatabase, store: string): Promise<Record<string, unknown>[]> =>
  asked(db.transaction(store).objectStore(store).getAll());

export const clear = (db: IDBDatabase, store: string): Promise<void> =>
  asked(db.transaction(store, 'readwrite').objectStore(store).clear());

export const exists = async (name: string): Promise<boolean> =>
  (await indexedDB.databases()).some((database) => database.name === name);

/** The database of a version that used Dexie, with kinds. */
export const WITH_DEXIE: Layout = {
  head: [null, {}],
  rows: [
    ['kind', 'key'],
    {
      '[kind+home+order]': ['kind', 'home', 'order'],
      '[kind+above]': ['kind', 'above'],
      '[kind+local]': ['kind', 'local'],
    },
  ],
  outbox: ['key', { state: 'state' }],
  floors: [['kind', 'home'], { '[kind+home]': ['kind', 'home'] }],
  deletions: [['kind', 'key'], {}],
};
/** And before there were kinds. */
export const BEFORE_KINDS: Layout = {
  head: [null, {}],
  conversationRows: ['id', { '[updatedAt+id]': ['updatedAt', 'id'], local: 'local' }],
  messageRows: ['id', { '[conversationId+createdAt+id]': ['conversationId', 'createdAt', 'id'], local: 'local' }],
  outbox: ['key', { state: 'state' }],
  floorRows: [null, {}],
  deletions: [['kind', 'id'], {}],
};
/** Dexie multiplied its versions by ten. */
export const DEXIE_FIRST = 10;

export { deleteDatabase };
