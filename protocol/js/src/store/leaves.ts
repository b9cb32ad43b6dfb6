/**
 * Rows with a parent in IndexedDB, some dozens to a record. There a request costs more than a row: with a record for
 * each row, a device that comes back stores 5,000 of them in 5,000 requests, with leaves of 32 in 160.
 *
 * A leaf holds the rows of one history from its own place up to the next leaf's, in order. The first leaf of a history
 * begins at its very start. A unique index over the names of all rows finds a row, and refuses a second one.
 */

import { LOCAL, nameOf, type Row } from '../rows.js';
import type { Kind } from '../schema.js';
import { asked, walkBack } from './idb.js';
import type { Single } from './singles.js';

/** Rows, and characters, in a leaf. Chromium keeps values from 64 KiB on in files of their own. */
const MOST = 32;
const ROOM = 24_000;
/** What comes one by one is added to the last leaf up to so many rows, because all of it is written again each time. */
const GROWS = 16;
/** So many rows may make a leaf of their own behind the last one. */
const ENOUGH = 8;

export const LEAVES = 'leaves';

/** Of a leaf: the place from which on it has the rows. */
type Key = [kind: string, home: string, order: string];

interface Leaf {
  /** The rows by `nameOf`. */
  readonly names: readonly string[];
  readonly orders: readonly string[];
  readonly columns: readonly string[];
  /** Of each row the seq, the id and the columns' values. */
  readonly rows: readonly (readonly unknown[])[];
  /** The kind's name, if some row is local. */
  readonly local?: string;
  /** Of each row the key of its parent's parent, if some row has one; and for the index, with the kind's name. */
  readonly aboves?: readonly (string | undefined)[];
  readonly above?: readonly string[];
}

interface Placed {
  readonly name: string;
  readonly order: string;
  readonly above: string | undefined;
  readonly row: Row;
}

/** Some rows, and the leaf to which their places belong. */
interface Share {
  readonly key: Key;
  readonly held: readonly Placed[];
  readonly rows: readonly Placed[];
}

interface Part {
  readonly key: Key;
  readonly rows: readonly Placed[];
}

export function makeLeaves(db: IDBDatabase): void {
  const leaves = db.createObjectStore(LEAVES);
  leaves.createIndex('names', 'names', { unique: true, multiEntry: true });
  leaves.createIndex('above', 'above', { multiEntry: true });
  leaves.createIndex('local', 'local');
}

/** Arrays come after all texts. */
const within = (...begin: string[]): IDBKeyRange => IDBKeyRange.bound(begin, [...begin, []]);

const byOrder = (a: Placed, b: Placed): number => (a.order < b.order ? -1 : 1);

function leafOf(kind: string, placed: readonly Placed[]): Leaf {
  const columns = [...new Set(placed.flatMap(({ row }) => Object.keys(row)))].filter((name) => !OWN.has(name));
  const aboves = placed.map(({ above }) => above);
  const above = new Set(aboves.flatMap((key) => key ?? []));
  return {
    names: placed.map(({ name }) => name),
    orders: placed.map(({ order }) => order),
    columns,
    rows: placed.map(({ row }) => [row.seq, row.id, ...columns.map((name) => row[name])]),
    ...(placed.some(({ row }) => row.seq === LOCAL) && { local: kind }),
    ...(above.size > 0 && { aboves, above: [...above].map((key) => `${kind} ${key}`) }),
  };
}

const OWN = new Set(['kind', 'seq', 'id']);

function rowIn(kind: string, { columns, rows }: Leaf, at: number): Row {
  const [seq, id, ...values] = rows[at] as [number, Row['id'], ...unknown[]];
  const row: Record<string, unknown> = { kind, seq, id };
  columns.forEach((name, i) => {
    if (values[i] !== undefined) row[name] = values[i];
  });
  return row as Row;
}

const placedIn = (kind: string, leaf: Leaf): Placed[] =>
  leaf.names.map((name, i) => ({
    name,
    order: leaf.orders[i] as string,
    above: leaf.aboves?.[i],
    row: rowIn(kind, leaf, i),
  }));

const rowsIn = (kind: string, leaf: Leaf): Row[] => leaf.names.map((_, i) => rowIn(kind, leaf, i));

function sizeOf(value: unknown): number {
  if (typeof value === 'string') return value.length;
  if (value instanceof Uint8Array) return value.length;
  if (typeof value !== 'object' || value === null) return 8;
  return Object.entries(value).reduce((sum, [name, part]) => sum + name.length + sizeOf(part), 8);
}

/** Rows as leaves. At the end of a history they are full, one after the other; elsewhere each gets room for more. */
function split(rows: readonly Placed[], atEnd: boolean): Placed[][] {
  const sizes = rows.map(({ row }) => sizeOf(row));
  const parts = Math.max(Math.ceil(rows.length / MOST), Math.ceil(sizes.reduce((sum, size) => sum + size, 0) / ROOM));
  const most = atEnd ? MOST : Math.ceil(rows.length / parts);
  const made: Placed[][] = [];
  let room = 0;
  rows.forEach((row, i) => {
    const size = sizes[i] as number;
    const last = made.at(-1);
    if (last === undefined || last.length >= most || size > room) {
      made.push([row]);
      room = ROOM;
    } else {
      last.push(row);
    }
    room -= size;
  });
  return made;
}

/** Bound to a transaction. */
export class Leaves {
  private readonly store: IDBObjectStore;
  private readonly names: IDBIndex;

  constructor(tx: IDBTransaction) {
    this.store = tx.objectStore(LEAVES);
    this.names = this.store.index('names');
  }

  /** In the order of `keys`; undefined for a row that is not here. */
  async get(kind: Kind, keys: readonly string[]): Promise<(Row | undefined)[]> {
    const names = keys.map((key) => nameOf(kind, key));
    const wanted = new Set(names);
    const found = new Map<string, Row>();
    for (const [, leaf] of await this.holding(names)) {
      leaf.names.forEach((name, i) => wanted.has(name) && found.set(name, rowIn(kind.name, leaf, i)));
    }
    return names.map((name) => found.get(name));
  }

  /** The newest rows of a history, in descending order, before a place; null: from the newest on. */
  async newest({ name: kind }: Kind, home: string, before: string | null, limit: number): Promise<Row[]> {
    const rows: Row[] = [];
    if (limit <= 0) return rows;
    const range = before === null ? within(kind, home) : IDBKeyRange.bound([kind, home], [kind, home, before], false, true);
    const leaves = Math.ceil(limit / GROWS) + 1;
    await walkBack<Leaf>(this.store, range, leaves, (leaf) => {
      for (let i = leaf.names.length - 1; i >= 0 && rows.length < limit; i--) {
        if (before === null || (leaf.orders[i] as string) < before) rows.push(rowIn(kind, leaf, i));
      }
      return rows.length < limit;
    });
    return rows;
  }

  async of({ name }: Kind, home: string): Promise<Row[]> {
    return (await asked<Leaf[]>(this.store.getAll(within(name, home)))).flatMap((leaf) => rowsIn(name, leaf));
  }

  async all({ name }: Kind): Promise<Row[]> {
    return (await asked<Leaf[]>(this.store.getAll(within(name)))).flatMap((leaf) => rowsIn(name, leaf));
  }

  async under(kind: Kind, above: string): Promise<Row[]> {
    const leaves = await asked<Leaf[]>(this.store.index('above').getAll(nameOf(kind, above)));
    return leaves.flatMap((leaf) => rowsIn(kind.name, leaf).filter((_, i) => leaf.aboves?.[i] === above));
  }

  async local({ name }: Kind): Promise<Row[]> {
    const leaves = await asked<Leaf[]>(this.store.index('local').getAll(name));
    return leaves.flatMap((leaf) => rowsIn(name, leaf).filter((row) => row.seq === LOCAL));
  }

  /** `kind`: the name of a kind, all of whose rows these are. */
  async put(kind: string, singles: readonly Single[]): Promise<void> {
    const fresh = new Map<string, Placed>();
    const homes = new Map<string, Placed[]>();
    // Of two with one key, the later one counts.
    for (const { key, home, order, above, row } of new Map(singles.map((single) => [single.key, single])).values()) {
      const placed = { name: `${kind} ${key}`, order, above, row };
      fresh.set(placed.name, placed);
      const some = homes.get(home);
      if (some === undefined) homes.set(home, [placed]);
      else some.push(placed);
    }
    const refused = await Promise.all(
      [...homes].map(([home, some]) => this.putInto(kind, home, some.sort(byOrder), fresh)),
    );
    // Some of these rows are in other leaves: they moved. Out of there, and once more.
    for (const part of refused.flat()) {
      await this.dropNames(
        kind,
        part.rows.flatMap((placed) => (fresh.get(placed.name) === placed ? placed.name : [])),
      );
      await asked(this.store.put(leafOf(kind, part.rows), part.key));
    }
  }

  drop(kind: Kind, keys: readonly string[]): Promise<void> {
    return this.dropNames(
      kind.name,
      keys.map((key) => nameOf(kind, key)),
    );
  }

  /** Deletes all rows but the local ones, and these, too, if `localToo`. */
  async clear(localToo: boolean): Promise<void> {
    const index = this.store.index('local');
    const [keys, leaves] = localToo
      ? [[], []]
      : await Promise.all([asked<Key[]>(index.getAllKeys()), asked<Leaf[]>(index.getAll())]);
    this.store.clear();
    leaves.forEach((leaf, at) => {
      const kind = leaf.local as string;
      const left = placedIn(kind, leaf).filter(({ row }) => row.seq === LOCAL);
      this.store.put(leafOf(kind, left), keys[at] as Key);
    });
  }

  private async dropNames(kind: string, names: readonly string[]): Promise<void> {
    const going = new Set(names);
    for (const [key, leaf] of await this.holding(names)) {
      const left = placedIn(kind, leaf).filter(({ name }) => !going.has(name));
      if (left.length === 0) this.store.delete(key);
      else this.store.put(leafOf(kind, left), key);
    }
  }

  /** The leaves that have rows with these names. */
  private async holding(names: readonly string[]): Promise<(readonly [Key, Leaf])[]> {
    const found = await Promise.all(names.map((name) => asked<Key | undefined>(this.names.getKey(name))));
    const keys = new Map(found.flatMap((key) => (key === undefined ? [] : [[key.join('\x00'), key] as const])));
    return Promise.all(
      [...keys.values()].map(async (key) => [key, await asked<Leaf>(this.store.get(key))] as const),
    );
  }

  /** Rows of one history, in order, some of the `fresh` ones. Returns the leaves that the index over names refused. */
  private async putInto(
    kind: string,
    home: string,
    rows: readonly Placed[],
    fresh: ReadonlyMap<string, Placed>,
  ): Promise<Part[]> {
    const written = (await this.shares(kind, home, rows)).flatMap(({ key, held, rows: share }) => {
      const first = share[0] as Placed;
      const others = held.filter(({ name }) => !fresh.has(name));
      const last = others.at(-1);
      const atEnd = last === undefined || last.order < first.order;
      const apart =
        atEnd &&
        others.length === held.length &&
        others.length >= ENOUGH &&
        (share.length >= ENOUGH || others.length + share.length > GROWS);
      const merged = apart ? share : atEnd ? [...others, ...share] : [...others, ...share].sort(byOrder);
      // The leaf that shrinks comes first, so that none of its rows is in two.
      return split(merged, atEnd).map((part, i) =>
        this.putPart(kind, {
          key: i === 0 && !apart ? key : [kind, home, (part[0] as Placed).order],
          rows: part,
        }),
      );
    });
    return (await Promise.all(written)).flatMap((part) => part ?? []);
  }

  private async shares(kind: string, home: string, rows: readonly Placed[]): Promise<Share[]> {
    const [first, last] = [rows[0] as Placed, rows.at(-1) as Placed];
    const place = (order: string): string[] => [kind, home, order];
    let key: Key = [kind, home, ''];
    let leaf: Leaf | undefined;
    const [, later] = await Promise.all([
      walkBack<Leaf>(this.store, IDBKeyRange.bound(place(''), place(first.order)), 1, (value, at) => {
        [leaf, key] = [value, at as Key];
        return false;
      }),
      rows.length === 1
        ? []
        : asked<Key[]>(this.store.getAllKeys(IDBKeyRange.bound(place(first.order), place(last.order), true))),
    ]);
    const starts = [key, ...later];
    const shares: Promise<Share>[] = [];
    let at = 0;
    starts.forEach((key, i) => {
      const next = starts[i + 1]?.[2];
      const share: Placed[] = [];
      for (let row = rows[at]; row !== undefined && (next === undefined || row.order < next); row = rows[++at]) {
        share.push(row);
      }
      if (share.length === 0) return;
      const held = i === 0 ? leaf : asked<Leaf | undefined>(this.store.get(key));
      shares.push(
        Promise.resolve(held).then((found) => ({ key, held: found ? placedIn(kind, found) : [], rows: share })),
      );
    });
    return Promise.all(shares);
  }

  /** Resolves with the part if the index refused it, else with null. */
  private putPart(kind: string, part: Part): Promise<Part | null> {
    const request = this.store.put(leafOf(kind, part.rows), part.key);
    return new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(null);
      request.onerror = (event) => {
        if (request.error?.name !== 'ConstraintError') return reject(request.error as Error);
        // The transaction goes on.
        event.preventDefault();
        event.stopPropagation();
        resolve(part);
      };
    });
  }
}
