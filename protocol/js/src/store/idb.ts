/** IndexedDB with promises: as much of it as the store needs. */

export const asked = <T>(request: IDBRequest): Promise<T> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result as T);
    request.onerror = () => reject(request.error as Error);
  });

/** Resolves when the transaction is committed. Nobody needs to wait for it. */
export function committed(tx: IDBTransaction): Promise<void> {
  const end = new Promise<void>((resolve, reject) => {
    tx.oncomplete = () => resolve();
    tx.onabort = () => reject((tx.error as Error | null) ?? new DOMException('it was aborted', 'AbortError'));
  });
  end.catch(() => undefined);
  return end;
}

/** Undoes a transaction that may have ended by itself. */
export function abort(tx: IDBTransaction): void {
  try {
    tx.abort();
  } catch {
    // It had ended.
  }
}

/**
 * Opens a database; without `version`, in the version that it has. `upgrade` may make requests, but must await no other
 * promises. `onBlocked`: it waits for a tab that has an earlier version open.
 */
export function openDatabase(
  name: string,
  version?: number,
  upgrade: (db: IDBDatabase, tx: IDBTransaction, from: number) => void = () => undefined,
  onBlocked: () => void = () => undefined,
): Promise<IDBDatabase> {
  const request = indexedDB.open(name, version);
  request.onblocked = () => onBlocked();
  request.onupgradeneeded = ({ oldVersion }) => {
    upgrade(request.result, request.transaction as IDBTransaction, oldVersion);
  };
  return asked<IDBDatabase>(request);
}

/**
 * Does `work` in one transaction over stores of a database, then closes it; undefined if the database does not exist or
 * lacks one of the stores.
 */
export async function inDatabase<T>(
  name: string,
  stores: readonly string[],
  work: (...stores: IDBObjectStore[]) => Promise<T>,
): Promise<T | undefined> {
  const db = await openExisting(name);
  if (db === undefined) return undefined;
  try {
    if (!stores.every((store) => db.objectStoreNames.contains(store))) return undefined;
    const tx = db.transaction(stores, 'readwrite', { durability: 'strict' });
    const end = committed(tx);
    let result: T;
    try {
      result = await work(...stores.map((store) => tx.objectStore(store)));
    } catch (error) {
      abort(tx);
      throw error;
    }
    await end;
    return result;
  } finally {
    db.close();
  }
}

async function openExisting(name: string): Promise<IDBDatabase | undefined> {
  let isNew = false;
  try {
    return await openDatabase(name, undefined, (_, tx) => {
      isNew = true;
      tx.abort(); // or opening would have created it
    });
  } catch (error) {
    if (isNew) return undefined;
    throw error;
  }
}

/** Resolves when the database is deleted, or will be once another tab, which may be frozen, closes it. */
export const deleteDatabase = (name: string): Promise<void> =>
  new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase(name);
    request.onsuccess = request.onblocked = () => resolve();
    request.onerror = () => reject(request.error as Error);
  });

interface LastRecords {
  getAllRecords?(options: {
    readonly query: IDBKeyRange;
    readonly count: number;
    readonly direction: IDBCursorDirection;
  }): IDBRequest;
}

/** Most records in one request. */
const AT_ONCE = 256;

/** Records in descending order of their keys until `visit` returns false. `count`: how many will probably be wanted. */
export async function walkBack<T>(
  source: IDBObjectStore | IDBIndex,
  { lower, upper, lowerOpen, upperOpen }: IDBKeyRange,
  count: number,
  visit: (value: T, key: IDBValidKey) => boolean,
): Promise<void> {
  const { getAllRecords } = source as LastRecords;
  let [end, open] = [upper as unknown, upperOpen];
  for (let wanted = count; ; wanted = AT_ONCE) {
    const query = IDBKeyRange.bound(lower, end, lowerOpen, open);
    if (getAllRecords === undefined) return walk(source.openCursor(query, 'prev'), visit);
    // One request for many records: Chromium knows it since version 141.
    const some = await asked<readonly { readonly key: IDBValidKey; readonly value: T }[]>(
      getAllRecords.call(source, { query, count: Math.min(wanted, AT_ONCE), direction: 'prev' }),
    );
    for (const { key, value } of some) if (!visit(value, key)) return;
    if (some.length < Math.min(wanted, AT_ONCE)) return;
    [end, open] = [some.at(-1)?.key, true];
  }
}

const walk = <T>(
  request: IDBRequest<IDBCursorWithValue | null>,
  visit: (value: T, key: IDBValidKey) => boolean,
): Promise<void> =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => {
      const cursor = request.result;
      if (cursor !== null && visit(cursor.value as T, cursor.key)) cursor.continue();
      else resolve();
    };
    request.onerror = () => reject(request.error as Error);
  });
