/**
 * Queries over histories: the rows of a kind that have the same parent, or no parent. Older rows come from the store
 * first, then page by page from the server, and a query never shows rows beyond a hole. Knows the store; other modules
 * fetch the pages.
 */

import type { Clock } from './clock.js';
import { creates, homeOfRow, keysAbout, rowsAbove } from './entries.js';
import { covers, type Floor } from './holes.js';
import { homeOfInsert, keyOfMutation, orderOfInsert } from './keys.js';
import type { Entry } from './outbox.js';
import { PageError, type PageRequest } from './pages.js';
import type { Queries, Query } from './query.js';
import { homeKey, homeOf, keyOf, LOCAL, nameOf, orderOf, orderOfRow, placeOf, type Place, type Row } from './rows.js';
import type { Id, Kind } from './schema.js';
import type { Reading, Transactions } from './store.js';
import { fitting, placed, type Places, type Streams } from './streams.js';
import { show, type Ancestor, type Shown } from './view.js';

export interface List<T> {
  readonly rows: readonly T[];
  /** Whether there may be older rows, which `loadOlder` fetches. */
  readonly more: boolean;
}

/**
 * here: older rows are shown · start: there are none · offline: the device has none, and the server cannot be asked.
 */
export type Older = 'here' | 'start' | 'offline';

export interface HistoryQuery<T> extends Query<List<T>> {
  /** Shows `count` more older rows (50 by default): from the store first, then from the server. */
  loadOlder(count?: number): Promise<Older>;
}

export interface HistoriesOptions {
  readonly store: Transactions;
  readonly queries: Queries;
  readonly clock: Clock;
  /** Rejects when the store cannot be used. */
  readonly ready: () => Promise<void>;
  readonly connected: () => boolean;
  /** Fetches a page into the store. Rejects with PageError. */
  readonly page: (request: PageRequest, limit: number) => Promise<void>;
  readonly onError: (error: unknown) => void;
  /** Those of now. */
  readonly streams: () => Streams;
}

/** Which history: of a kind and a parent; null for a kind without one. */
export interface Home {
  readonly kind: Kind;
  readonly parent: Id | null;
}

/** The newest part of a history, which the device holds without a hole. */
interface Stretch {
  /** Its rows to show, as far as they were counted: at least one more than were asked for, if there is one. */
  readonly here: number;
  readonly floor: Floor | undefined;
}

/** What a history is shown from. */
interface Loaded extends Stretch {
  readonly held: readonly Row[];
  readonly entries: readonly Entry[];
  readonly above: readonly Ancestor[];
  /** Of the rows to show without streams: those to show. */
  readonly rows: readonly Shown[];
}

/** Rows that a query shows, and adds, by default. */
export const SHOWN = 50;
/** Milliseconds. */
const PAGE_WITHIN = 30_000;
const PAGE_MOST = 1000;

export class Histories {
  private paging: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: HistoriesOptions) {}

  /** The newest `limit` rows. `oldestFirst`: in ascending order. */
  list(of: Home, limit: number, oldestFirst: boolean): HistoryQuery<Shown> {
    const { store, queries, ready, connected, onError, streams } = this.options;
    const { kind } = of;
    let most = limit;
    let filling = false;
    const fill = (): void => {
      // No floor is known: the newest page sets one.
      if (filling || !connected()) return;
      filling = true;
      this.fetchOlder(of, most)
        .catch(onError)
        .finally(() => (filling = false));
    };
    // Rows of other kinds may change one that has rows below it.
    const name = nameOf(kind, homeKey(kind, of.parent));
    const history = kind.children.length > 0 ? null : name;
    const query = queries.painted<List<Shown>>(history, name, async () => {
      await ready();
      const before = streams();
      const loaded = await store.read((tx) => read(tx, of, most));
      const { here, floor } = loaded;
      if (floor === undefined) fill();
      const more = here > most || floor !== 'start';
      return () => {
        const rows = withStreams(kind, loaded, placed(fitting(before, streams())));
        return { rows: oldestFirst ? [...rows].reverse() : rows, more };
      };
    });
    return Object.assign(query, {
      loadOlder: async (count: number = SHOWN): Promise<Older> => {
        await ready();
        const want = most + count;
        let stretch = await this.stretch(of, want);
        const before = Math.min(stretch.here, most);
        let outcome: Older = 'here';
        if (stretch.here < want && stretch.floor !== 'start') {
          outcome = await this.fetchOlder(of, want - stretch.here);
          stretch = await this.stretch(of, want);
        }
        const grew = stretch.here > before;
        most = Math.max(most, Math.min(want, stretch.here));
        await query.read();
        return grew ? 'here' : stretch.floor === 'start' ? 'start' : outcome;
      },
    });
  }

  /** One row; null if it is not held. */
  row(kind: Kind, id: Id): Query<Shown | null> {
    const { store, queries, ready, streams } = this.options;
    return queries.painted<Shown | null>(null, nameOf(kind, keyOf(kind, id)), async () => {
      await ready();
      const before = streams();
      const shown = await store.read((tx) => readRow(tx, kind, id));
      return () => shown(placed(fitting(before, streams())));
    });
  }

  /** Fetches older rows of a history into the store. */
  async loadOlder(of: Home, count: number): Promise<Older> {
    return (await this.floor(of)) === 'start' ? 'start' : this.fetchOlder(of, count);
  }

  /** Fetches a page into the store, one after the other: the server permits few at a time. Rejects with PageError. */
  async ask(request: PageRequest, limit: number): Promise<void> {
    const { clock, page } = this.options;
    let cancel = (): void => undefined;
    const late = new Promise<never>((_, reject) => {
      cancel = clock.after(PAGE_WITHIN, () => reject(new PageError('offline')));
    });
    const fetched = this.paging.then(() => Promise.race([page(request, limit), late]));
    this.paging = fetched.catch(() => undefined);
    try {
      await fetched;
    } finally {
      cancel();
    }
  }

  /** Fetches pages from the server until the device holds `count` more rows, or all. */
  private async fetchOlder(of: Home, count: number): Promise<Older> {
    const { kind, parent } = of;
    let left = count;
    for (;;) {
      const floor = await this.floor(of);
      if (floor === 'start') return left < count ? 'here' : 'start';
      try {
        await this.ask({ kind: kind.name, parent, before: floor ?? null }, Math.min(Math.max(left, 1), PAGE_MOST));
      } catch (error) {
        if (error instanceof PageError) return 'offline';
        throw error;
      }
      const now = await this.floor(of);
      // A page may be short although there is more. A page that brought nothing is not asked for again.
      if (
        now === undefined ||
        (floor !== undefined && now !== 'start' && orderOf(kind, now) === orderOf(kind, floor))
      ) {
        return 'offline';
      }
      if (now === 'start') return 'here';
      left -= await this.between(of, now, floor);
      if (left <= 0) return 'here';
    }
  }

  private stretch(of: Home, most: number): Promise<Stretch> {
    return this.options.store.read((tx) => read(tx, of, most));
  }

  private floor({ kind, parent }: Home): Promise<Floor | undefined> {
    return this.options.store.read((tx) => floorOf(tx, kind, homeKey(kind, parent)));
  }

  private between({ kind, parent }: Home, from: Place, to: Floor | undefined): Promise<number> {
    return this.options.store.read(async (tx) => {
      const before = to === undefined || to === 'start' ? null : orderOf(kind, to);
      const rows = await tx.newest(kind, homeKey(kind, parent), before, PAGE_MOST);
      return rows.filter((row) => covers(kind, from, placeOf(kind, row))).length;
    });
  }
}

/** The place from which on no row of a history is missing. */
async function floorOf(tx: Reading, kind: Kind, home: string): Promise<Floor | undefined> {
  const [known] = await tx.floors(kind, [home]);
  if (known !== undefined) return known;
  const { parent } = kind;
  const { cursor, lastLive } = await tx.meta();
  // The server has sent nothing yet: the device has everything that it can know.
  if (cursor === null && lastLive === null && (await isUnknown(tx, kind))) return 'start';
  if (parent === null) return undefined;
  return (await tx.entries()).some(({ mutation }) => creates(parent, home, mutation)) ? 'start' : undefined;
}

/** Whether nothing is known of the list at the top of this kind. */
async function isUnknown(tx: Reading, kind: Kind): Promise<boolean> {
  let top = kind;
  while (top.parent !== null) top = top.parent;
  return (await tx.floors(top, ['']))[0] === undefined;
}

async function read(tx: Reading, { kind, parent }: Home, most: number): Promise<Loaded> {
  const home = homeKey(kind, parent);
  const floor = await floorOf(tx, kind, home);
  const entries = await tx.entries();
  // A row that is deleted here, or moved down, makes room for an older one; one that is inserted takes a place.
  const wanted = most + 1 + entries.filter(({ mutation: { op, kind: of } }) => of === kind.name && op !== '+').length;
  const rows = await tx.newest(kind, home, null, wanted);
  const held = rows.filter(
    (row) => floor === undefined || row.seq === LOCAL || covers(kind, floor, placeOf(kind, row)),
  );
  const shown = new Map(held.map((row) => [keyOf(kind, row.id), row]));
  const oldest = held.at(-1);
  const least = oldest === undefined ? '' : orderOfRow(kind, oldest);
  const effects = kind.children.length > 0 ? entries : newestInserts(kind, home, entries, wanted, shown);
  // Rows with unsent work, or with unsent work below them. Those that have none below them must not be shown as if no
  // row were between them and the others.
  const about = kind.children.length > 0 ? await keysAbout(tx, kind, effects) : keysRaised(kind, effects, least);
  const older = new Set<string>();
  for (const row of await tx.get(
    kind,
    [...about].filter((key) => !shown.has(key)),
  )) {
    if (row === undefined || homeOf(kind, row) !== home) continue;
    shown.set(keyOf(kind, row.id), row);
    if (kind.children.length === 0) older.add(keyOf(kind, row.id));
  }
  const above = await rowsAbove(tx, kind, home, entries);
  const all = show(kind, home, above, [...shown.values()], effects, floor === undefined).filter(
    (row) => !older.has(keyOf(kind, row.id)) || orderOfRow(kind, row) > least,
  );
  return { held: [...shown.values()], entries: effects, above, rows: all.slice(0, most), here: all.length, floor };
}

/** The rows to show, with their streams. Those without a stream stay the same objects. */
function withStreams(kind: Kind, { held, entries, above, rows, floor }: Loaded, places: Places): readonly Shown[] {
  const nameOfRow = ({ id }: Row): string => nameOf(kind, keyOf(kind, id));
  const names = new Set(rows.map(nameOfRow).filter((name) => places.has(name)));
  if (names.size === 0) return rows;
  const some = held.filter((row) => names.has(nameOfRow(row)));
  // A stream changes no other row, and no order.
  const shown = new Map(
    show(kind, null, above, some, entries, floor === undefined, places).map((row) => [nameOfRow(row), row]),
  );
  return rows.map((row) => (names.has(nameOfRow(row)) ? (shown.get(nameOfRow(row)) ?? row) : row));
}

/** The entries without those that insert into other homes, and without inserts that are older than `most` other ones. */
function newestInserts(
  kind: Kind,
  home: string,
  entries: readonly Entry[],
  most: number,
  shown: ReadonlyMap<string, Row>,
): Entry[] {
  const orders = new Map<Entry, string>();
  for (const entry of entries) {
    const { mutation } = entry;
    if (mutation.op !== '+' || mutation.kind !== kind.name) continue;
    if (homeOfInsert(kind, mutation) !== home) orders.set(entry, '');
    else if (!shown.has(keyOfMutation(kind, mutation))) orders.set(entry, orderOfInsert(kind, mutation));
  }
  const here = [...orders.values()].filter((order) => order !== '').sort();
  const least = here.at(-most) ?? '\0';
  return entries.filter((entry) => (orders.get(entry) ?? least) >= least);
}

/** The keys of rows below `least` that these entries may raise above it, and of those that they insert below it. */
function keysRaised(kind: Kind, entries: readonly Entry[], least: string): Set<string> {
  const keys = new Set<string>();
  const { newest, updated } = kind;
  for (const { mutation } of entries) {
    if (mutation.kind !== kind.name || mutation.op === '-') continue;
    const isRaised =
      mutation.op === '+'
        ? orderOfInsert(kind, mutation) < least
        : newest !== null && (newest.name === updated || newest.name in mutation.columns);
    if (isRaised) keys.add(keyOfMutation(kind, mutation));
  }
  return keys;
}

async function readRow(tx: Reading, kind: Kind, id: Id): Promise<(places: Places) => Shown | null> {
  const key = keyOf(kind, id);
  const entries = await tx.entries();
  const [row] = await tx.get(kind, [key]);
  const home = (await homeOfRow(tx, kind, key, entries)) ?? '';
  const above = await rowsAbove(tx, kind, home, entries);
  return (places) =>
    show(kind, home, above, row ? [row] : [], entries, false, places).find((other) => keyOf(kind, other.id) === key) ??
    null;
}
