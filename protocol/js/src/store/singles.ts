/** Rows in IndexedDB, each in a record: those without a parent, and what was kept before there were leaves. */

import { aboveOf, homeOf, keyOf, LOCAL, orderOfRow, type Row } from '../rows.js';
import type { Kind } from '../schema.js';
import { asked, walkBack } from './idb.js';

export const SINGLES = 'rows';

export interface Single {
  readonly kind: string;
  readonly key: string;
  readonly home: string;
  readonly order: string;
  /** Absent for null: then the index leaves the row out. */
  readonly above?: string;
  readonly local?: 1;
  readonly row: Row;
}

export function makeSingles(db: IDBDatabase): void {
  const rows = db.createObjectStore(SINGLES, { keyPath: ['kind', 'key'] });
  rows.createIndex('[kind+home+order]', ['kind', 'home', 'order']);
  rows.createIndex('[kind+above]', ['kind', 'above']);
  rows.createIndex('[kind+local]', ['kind', 'local']);
}

/** A row with the texts by which it is found. */
export function singleOf(kind: Kind, row: Row): Single {
  const above = aboveOf(kind, row);
  return {
    kind: kind.name,
    key: keyOf(kind, row.id),
    home: homeOf(kind, row),
    order: orderOfRow(kind, row),
    ...(above !== null && { above }),
    ...(row.seq === LOCAL && { local: 1 }),
    row,
  };
}

const rowsIn = async (singles: IDBRequest): Promise<Row[]> => (await asked<Single[]>(singles)).map(({ row }) => row);

/** Bound to a transaction. */
export class Singles {
  private readonly store: IDBObjectStore;

  constructor(tx: IDBTransaction) {
    this.store = tx.objectStore(SINGLES);
  }

  get({ name }: Kind, keys: readonly string[]): Promise<(Row | undefined)[]> {
    return Promise.all(keys.map(async (key) => (await asked<Single | undefined>(this.store.get([name, key])))?.row));
  }

  async newest({ name }: Kind, home: string, before: string | null, limit: number): Promise<Row[]> {
    const rows: Row[] = [];
    if (limit <= 0) return rows;
    // Arrays come after all texts.
    const range = IDBKeyRange.bound([name, home], [name, home, before ?? []], false, true);
    await walkBack<Single>(this.by('home+order'), range, limit, ({ row }) => rows.push(row) < limit);
    return rows;
  }

  of({ name }: Kind, home: string): Promise<Row[]> {
    return rowsIn(this.by('home+order').getAll(IDBKeyRange.bound([name, home], [name, home, []])));
  }

  all({ name }: Kind): Promise<Row[]> {
    return rowsIn(this.store.getAll(IDBKeyRange.bound([name], [name, []])));
  }

  under({ name }: Kind, above: string): Promise<Row[]> {
    return rowsIn(this.by('above').getAll(IDBKeyRange.only([name, above])));
  }

  local({ name }: Kind): Promise<Row[]> {
    return rowsIn(this.by('local').getAll(IDBKeyRange.only([name, 1])));
  }

  put(singles: readonly Single[]): void {
    for (const single of singles) this.store.put(single);
  }

  drop({ name }: Pick<Kind, 'name'>, keys: readonly string[]): void {
    for (const key of keys) this.store.delete([name, key]);
  }

  /** Deletes all rows but the local ones, and these, too, if `localToo`. */
  async clear(localToo: boolean): Promise<void> {
    const local = localToo ? [] : await asked<Single[]>(this.by('local').getAll()); // the index has no others
    this.store.clear();
    for (const single of local) this.store.put(single);
  }

  /** Up to `count` rows of a kind, history by history, from a place on. */
  some(kind: string, from: readonly string[], count: number): Promise<Single[]> {
    return asked<Single[]>(this.by('home+order').getAll(IDBKeyRange.bound(from, [kind, []]), count));
  }

  every(): Promise<Single[]> {
    return asked<Single[]>(this.store.getAll());
  }

  private by(rest: string): IDBIndex {
    return this.store.index(`[kind+${rest}]`);
  }
}
