/**
 * Queries over histories: the list of conversations, and the messages of one conversation. Older rows come from the
 * store first, then page by page from the server, and a query never shows rows beyond a hole. Knows the store; other
 * modules fetch the pages.
 */

import type { Clock } from './clock.js';
import { conversationsOf } from './entries.js';
import { covers, type Floor } from './holes.js';
import { PageError, type PageRequest } from './pages.js';
import type { Queries, Query } from './query.js';
import { LOCAL, placeOf, type Conversation, type Message, type Place, type Uuid } from './rows.js';
import type { Reading, Transactions } from './store.js';
import { showConversations, showMessages, type ShownConversation, type ShownMessage } from './view.js';

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
}

/** The newest part of a history, which the device holds without a hole. */
interface Stretch {
  /** Its rows, as far as they were counted. */
  readonly here: number;
  readonly floor: Floor | undefined;
}

interface Loaded<T> extends Stretch {
  readonly rows: readonly T[];
  /** Rows may be missing between those that are held. */
  readonly holed: boolean;
}

/** Rows that a query shows, and adds, by default. */
export const SHOWN = 50;
/** Milliseconds. */
const PAGE_WITHIN = 30_000;
const PAGE_MOST = 1000;

export class Histories {
  private paging: Promise<unknown> = Promise.resolve();

  constructor(private readonly options: HistoriesOptions) {}

  conversations(limit: number): HistoryQuery<ShownConversation> {
    return this.query(null, limit, readConversations);
  }

  messages(conversation: Uuid, limit: number): HistoryQuery<ShownMessage> {
    return this.query(conversation, limit, (tx, most) => readMessages(tx, conversation, most));
  }

  /** Fetches older rows of a conversation (null: older conversations) into the store. */
  async loadOlder(home: Uuid | null, count: number): Promise<Older> {
    return (await this.floor(home)) === 'start' ? 'start' : this.fetchOlder(home, count);
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

  private query<T>(
    home: Uuid | null,
    limit: number,
    load: (tx: Reading, most: number) => Promise<Loaded<T>>,
  ): HistoryQuery<T> {
    const { store, queries, ready, connected, onError } = this.options;
    let most = limit;
    let filling = false;
    const fill = (): void => {
      // No floor is known: the newest page sets one.
      if (filling || !connected()) return;
      filling = true;
      this.fetchOlder(home, most)
        .catch(onError)
        .finally(() => (filling = false));
    };
    const query = queries.make<List<T>>(home, async () => {
      await ready();
      const { rows, here, floor, holed } = await store.read((tx) => load(tx, most));
      if (holed) fill();
      return { rows, more: here > most || floor !== 'start' };
    });
    return Object.assign(query, {
      loadOlder: async (count: number = SHOWN): Promise<Older> => {
        await ready();
        const want = most + count;
        let stretch = await this.stretch(home, want);
        const before = Math.min(stretch.here, most);
        let outcome: Older = 'here';
        if (stretch.here < want && stretch.floor !== 'start') {
          outcome = await this.fetchOlder(home, want - stretch.here);
          stretch = await this.stretch(home, want);
        }
        const grew = stretch.here > before;
        most = Math.max(most, Math.min(want, stretch.here));
        await query.read();
        return grew ? 'here' : stretch.floor === 'start' ? 'start' : outcome;
      },
    });
  }

  /** Fetches pages from the server until the device holds `count` more rows, or all. */
  private async fetchOlder(home: Uuid | null, count: number): Promise<Older> {
    let left = count;
    for (;;) {
      const floor = await this.floor(home);
      if (floor === 'start') return left < count ? 'here' : 'start';
      try {
        await this.ask({ conversation: home, before: floor ?? null }, Math.min(Math.max(left, 1), PAGE_MOST));
      } catch (error) {
        if (error instanceof PageError) return 'offline';
        throw error;
      }
      const now = await this.floor(home);
      // A page may be short although there is more. A page that brought nothing is not asked for again.
      if (now === undefined || (floor !== undefined && String(now) === String(floor))) return 'offline';
      if (now === 'start') return 'here';
      left -= await this.between(home, now, floor);
      if (left <= 0) return 'here';
    }
  }

  private stretch(home: Uuid | null, most: number): Promise<Stretch> {
    return this.options.store.read(async (tx) => {
      const floor = await floorOf(tx, home);
      return { here: (await newest(tx, home, null, most)).filter((row) => covers(floor, placeOf(row))).length, floor };
    });
  }

  private floor(home: Uuid | null): Promise<Floor | undefined> {
    return this.options.store.read((tx) => floorOf(tx, home));
  }

  private between(home: Uuid | null, from: Place, to: Floor | undefined): Promise<number> {
    return this.options.store.read(async (tx) => {
      const rows = await newest(tx, home, to === undefined || to === 'start' ? null : to, PAGE_MOST);
      return rows.filter((row) => covers(from, placeOf(row))).length;
    });
  }
}

const newest = (
  tx: Reading,
  home: Uuid | null,
  before: Place | null,
  limit: number,
): Promise<(Conversation | Message)[]> =>
  home === null ? tx.newestConversations(before, limit) : tx.newestMessages(home, before, limit);

/** The place from which on no row of a history is missing. */
async function floorOf(tx: Reading, home: Uuid | null): Promise<Floor | undefined> {
  const { cursor, list, lastLive } = await tx.meta();
  const known = home === null ? (list ?? undefined) : (await tx.floors([home]))[0];
  if (known !== undefined) return known;
  // The server has sent nothing yet: the device has everything that it can know.
  if (cursor === null && list === null && lastLive === null) return 'start';
  const madeHere = (await tx.entries()).some(({ mutation }) => mutation.kind === '+c' && mutation.id === home);
  return madeHere ? 'start' : undefined;
}

async function readConversations(tx: Reading, most: number): Promise<Loaded<ShownConversation>> {
  const list = await floorOf(tx, null);
  const entries = await tx.entries();
  const rows = await tx.newestConversations(null, most + 1);
  const held = rows.filter((row) => list === undefined || row.seq === LOCAL || covers(list, placeOf(row)));
  const shown = new Map(held.slice(0, most).map((row) => [row.id, row]));
  for (const row of await tx.conversations([...(await conversationsOf(tx, entries))])) if (row) shown.set(row.id, row);
  return {
    rows: showConversations([...shown.values()], entries),
    here: held.length,
    floor: list,
    holed: false,
  };
}

async function readMessages(tx: Reading, conversation: Uuid, most: number): Promise<Loaded<ShownMessage>> {
  const floor = await floorOf(tx, conversation);
  const entries = await tx.entries();
  const rows = await tx.newestMessages(conversation, null, most + 1);
  const held = rows.filter((row) => floor === undefined || row.seq === LOCAL || covers(floor, placeOf(row)));
  const shown = held.slice(0, most);
  const ids = new Set(shown.map((row) => row.id));
  // The outbox's creation of a row that is held, but too old to be shown, must not appear among the newest.
  const made = entries.flatMap(({ mutation }) => (mutation.kind === '+m' && !ids.has(mutation.id) ? mutation.id : []));
  const older = new Set((await tx.messages(made)).flatMap((row) => (row ? row.id : [])));
  const effects = entries.filter(({ mutation }) => mutation.kind !== '+m' || !older.has(mutation.id));
  return {
    rows: showMessages(conversation, shown, effects, floor === undefined),
    here: held.length,
    floor,
    holed: floor === undefined,
  };
}
