/**
 * What is shown of a history, and how more of it gets here: from the store first, then page by page from the server,
 * never past a hole. Knows the store; whoever has a connection brings the pages.
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
  /** Whether `loadOlder` has something to do. */
  readonly more: boolean;
}

/** here: more is shown · start: there is no more · offline: the device has no more, and the server is out of reach. */
export type Older = 'here' | 'start' | 'offline';

export interface HistoryQuery<T> extends Query<List<T>> {
  /** Show so many older rows: the store's own first, then the server's. */
  loadOlder(count?: number): Promise<Older>;
}

export interface HistoriesOptions {
  readonly store: Transactions;
  readonly queries: Queries;
  readonly clock: Clock;
  /** Rejects when the store cannot be used. */
  readonly ready: () => Promise<void>;
  readonly connected: () => boolean;
  /** Bring a page into the store. Rejects with PageError where that cannot be. */
  readonly page: (asked: PageRequest, limit: number) => Promise<void>;
  readonly onError: (error: unknown) => void;
}

/** How much of a history is held without a hole. */
interface Stretch {
  readonly here: number;
  readonly floor: Floor | undefined;
}

interface Shown<T> extends Stretch {
  readonly rows: readonly T[];
  /** Nothing is known about what lies between the rows. */
  readonly holed: boolean;
}

export const SHOWN = 50;
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

  /** Brings older rows of a conversation (null: older conversations) into the store, for whoever shows them. */
  async loadOlder(home: Uuid | null, count: number): Promise<Older> {
    return (await this.floor(home)) === 'start' ? 'start' : this.fetchOlder(home, count);
  }

  /** A page into the store, one after the other, because the server permits few at a time. Rejects with PageError. */
  async ask(asked: PageRequest, limit: number): Promise<void> {
    const { clock, page } = this.options;
    let off = (): void => undefined;
    const late = new Promise<never>((_, reject) => {
      off = clock.after(PAGE_WITHIN, () => reject(new PageError('offline')));
    });
    const turn = this.paging.then(() => Promise.race([page(asked, limit), late]));
    this.paging = turn.catch(() => undefined);
    try {
      await turn;
    } finally {
      off();
    }
  }

  private query<T>(
    home: Uuid | null,
    limit: number,
    show: (tx: Reading, most: number) => Promise<Shown<T>>,
  ): HistoryQuery<T> {
    const { store, queries, ready, connected, onError } = this.options;
    let most = limit;
    let filling = false;
    const fill = (): void => {
      // Nothing is known about this history: the newest page makes it whole.
      if (filling || !connected()) return;
      filling = true;
      this.fetchOlder(home, most)
        .catch(onError)
        .finally(() => (filling = false));
    };
    const query = queries.make<List<T>>(home, async () => {
      await ready();
      const { rows, here, floor, holed } = await store.read((tx) => show(tx, most));
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

  /** From the server, until `count` more rows are held or there are no more. */
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
      // A page may be short although there is more; one that brings nothing is not asked for again.
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

/** From where on nothing of a history is missing. */
async function floorOf(tx: Reading, home: Uuid | null): Promise<Floor | undefined> {
  const { cursor, list, lastLive } = await tx.meta();
  const known = home === null ? (list ?? undefined) : (await tx.floors([home]))[0];
  if (known !== undefined) return known;
  // The server has told this device nothing yet: what it has is all there is for it.
  if (cursor === null && list === null && lastLive === null) return 'start';
  const madeHere = (await tx.entries()).some(({ mutation }) => mutation.kind === '+c' && mutation.id === home);
  return madeHere ? 'start' : undefined;
}

async function readConversations(tx: Reading, most: number): Promise<Shown<ShownConversation>> {
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

async function readMessages(tx: Reading, conversation: Uuid, most: number): Promise<Shown<ShownMessage>> {
  const floor = await floorOf(tx, conversation);
  const entries = await tx.entries();
  const rows = await tx.newestMessages(conversation, null, most + 1);
  const held = rows.filter((row) => floor === undefined || row.seq === LOCAL || covers(floor, placeOf(row)));
  const shown = held.slice(0, most);
  const ids = new Set(shown.map((row) => row.id));
  // A creation whose row is held, but too old to be shown, must not appear among the newest.
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
