/**
 * What an app talks to: queries over the local store, writes, status. Puts the parts together: the leading tab has a
 * keeper and a socket, the others ask it.
 */

import type { Touched } from './apply.js';
import { clean, homesOf, runsLow } from './clean.js';
import { environment, type Environment } from './environment.js';
import { covers, type Floor } from './holes.js';
import { Deposed, Keeper, type Asked } from './keeper.js';
import { Leader, type ChannelLike, type LeaderMessage } from './leader.js';
import { WriteError } from './mutation.js';
import { renew, type Entry } from './outbox.js';
import { LOCAL, type Instant, type Profile, type Uuid } from './rows.js';
import { checkWindow, DEFAULT_WINDOW } from './session.js';
import { PageError, Socket, type GetToken, type LineState, type StayAway } from './socket.js';
import { Query } from './query.js';
import { StoreError, type Reading, type Store, type Writing } from './store.js';
import { subjectOf } from './token.js';
import { newId } from './uuid.js';
import { showConversations, showMessages, type ShownConversation, type ShownMessage } from './view.js';
import { CODECS, type Encoding, type Window } from './wire.js';
import * as writes from './write.js';

export interface SyncOptions {
  /** `wss://…/sync` */
  readonly url: string;
  readonly store: Store;
  /** Whose rows the store keeps: the user's id. */
  readonly user: string;
  /** Without it, the device works on its own until `upgrade`. */
  readonly getToken?: GetToken;
  /** How much of the past comes with a first synchronisation. */
  readonly window?: Window;
  readonly encoding?: Encoding;
  readonly environment?: Partial<Environment>;
}

export interface Status {
  /** local: this user's work stays on the device. */
  readonly state: LineState | 'local';
  /** Mutations that the server has not answered, and those it has rejected. */
  readonly pending: number;
  readonly rejected: number;
  /** When everything was last known to be here. */
  readonly lastLive: Instant | null;
  /** Local work on its way up after an upgrade; null when there is none. */
  readonly progress: { readonly done: number; readonly total: number } | null;
  readonly tier: string | null;
  /** Why there is no connection, for status lines: a code of the protocol, or the name of a failure. */
  readonly error: { readonly code: string; readonly message: string } | null;
}

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

type Message =
  | LeaderMessage
  | { readonly k: 'touched'; readonly all: boolean; readonly conversations: readonly Uuid[] }
  | { readonly k: 'state'; readonly state: LineState; readonly error: Status['error'] }
  | { readonly k: 'page'; readonly id: Uuid; readonly asked: Asked; readonly limit: number }
  | { readonly k: 'paged'; readonly id: Uuid; readonly error: string | null }
  | { readonly k: 'kick' }
  | { readonly k: 'awake' }
  | { readonly k: 'downgrade' };

const UNKNOWN: Status = {
  state: 'offline',
  pending: 0,
  rejected: 0,
  lastLive: null,
  progress: null,
  tier: null,
  error: null,
};

const nothing = (): void => undefined;

const SHOWN = 50;
const PAGE_WITHIN = 30_000;
const CLEAN_EVERY = 3_600_000;

export function createSync(options: SyncOptions): Sync {
  return new Sync(options);
}

export class Sync {
  /** Rejects with StoreError if the store is another user's or cannot be opened. */
  readonly ready: Promise<void>;
  readonly status: Query<Status> & { value: Status };
  /** What was rejected, with the reason: to correct, `retry` or `discard`. */
  readonly quarantine: Query<readonly Entry[]>;
  readonly profile: Query<Profile | null>;

  private readonly env: Environment;
  private readonly store: Store;
  private readonly window: Window;
  private readonly queries = new Set<{ readonly home: Uuid | null; readonly query: Query<never> }>();
  private readonly asked = new Map<
    Uuid,
    { readonly resolve: () => void; readonly reject: (error: PageError) => void }
  >();
  private getToken: GetToken | undefined;
  private readonly channel: ChannelLike | null;
  private readonly leader: Leader;
  private socket: Socket | null = null;
  private state: LineState = 'offline';
  private error: Status['error'] = null;
  /** Why this device does not come back by itself. */
  private away: string | null = null;
  private closed = false;
  private tasks: Promise<unknown> = Promise.resolve();
  private paging: Promise<unknown> = Promise.resolve();
  private readonly off: (() => void)[] = [];

  constructor(private readonly options: SyncOptions) {
    this.env = environment(options.environment);
    this.store = options.store;
    this.window = checkWindow(options.window ?? DEFAULT_WINDOW);
    this.getToken = options.getToken;
    const name = `atlas-sync ${options.store.name}`;
    this.channel = this.env.channel?.(name) ?? null;
    if (this.channel !== null) this.channel.onmessage = ({ data }) => this.hearTab(data as Message);
    const { locks, clock, random, visible } = this.env;
    this.leader = new Leader({
      name,
      locks,
      clock,
      random,
      visible,
      tell: (message) => {
        this.tell(message);
        if (message.k === 'here') this.tellState();
      },
      onLead: () => {
        void this.after(() => this.restart()).catch(nothing);
        void this.cleanNow(); // only who leads may
      },
      onDeposed: () => {
        this.away = null; // what the server told this tab was before another one spoke with it
        void this.after(() => this.hangUp()).catch(nothing);
      },
    });
    const status = this.query(null, (tx) => this.readStatus(tx));
    this.status = Object.assign(status, { value: UNKNOWN });
    this.quarantine = this.query(null, async (tx) =>
      (await tx.entries()).filter((entry) => entry.state === 'rejected'),
    );
    this.profile = this.query(null, async (tx) => (await tx.meta()).profile);
    this.ready = this.open();
    this.ready.catch(() => undefined); // whoever writes or reads hears of it
  }

  // ---- Reading ----

  /** The user's conversations, newest first. */
  conversations({ limit = SHOWN }: { readonly limit?: number } = {}): HistoryQuery<ShownConversation> {
    return this.history(null, limit, async (tx, most) => {
      const list = (await tx.meta()).list ?? undefined;
      const entries = await tx.entries();
      const rows = await tx.newestConversations(null, most + 1);
      const held = rows.filter(
        (row) => list === undefined || row.seq === LOCAL || covers(list, [row.updatedAt, row.id]),
      );
      const shown = new Map(held.slice(0, most).map((row) => [row.id, row]));
      for (const row of await tx.conversations([...(await homesOf(tx, entries))])) if (row) shown.set(row.id, row);
      return {
        rows: showConversations([...shown.values()], entries),
        here: held.length,
        floor: list ?? ((await neverSynced(tx)) ? 'start' : undefined),
        holed: false,
      };
    });
  }

  /** The messages of a conversation, oldest first, the newest `limit` of them. */
  messages(conversation: Uuid, { limit = SHOWN }: { readonly limit?: number } = {}): HistoryQuery<ShownMessage> {
    return this.history(conversation, limit, async (tx, most) => {
      const [known] = await tx.floors([conversation]);
      const entries = await tx.entries();
      const madeHere = entries.some(({ mutation }) => mutation.kind === '+c' && mutation.id === conversation);
      const floor = known ?? (madeHere || (await neverSynced(tx)) ? 'start' : undefined);
      const rows = await tx.newestMessages(conversation, null, most + 1);
      const held = rows.filter(
        (row) => floor === undefined || row.seq === LOCAL || covers(floor, [row.createdAt, row.id]),
      );
      const shown = held.slice(0, most);
      const ids = new Set(shown.map((row) => row.id));
      // A creation whose row is held, but too old to be shown, must not appear among the newest.
      const made = entries.flatMap(({ mutation }) =>
        mutation.kind === '+m' && !ids.has(mutation.id) ? mutation.id : [],
      );
      const older = new Set((await tx.messages(made)).flatMap((row) => (row ? row.id : [])));
      const effects = entries.filter(({ mutation }) => mutation.kind !== '+m' || !older.has(mutation.id));
      return {
        rows: showMessages(conversation, shown, effects, floor === undefined),
        here: held.length,
        floor,
        holed: floor === undefined,
      };
    });
  }

  /** Brings older rows of a conversation (null: older conversations) into the store, for whoever shows them. */
  async loadOlder(conversation: Uuid | null, count: number = SHOWN): Promise<Older> {
    await this.ready;
    const { floor } = await this.stretch(conversation, 0);
    if (floor === 'start') return 'start';
    return this.fetchOlder(conversation, count);
  }

  // ---- Writing: durable when the promise resolves, sent as soon as there is a connection ----

  async createConversation(title: string | null = null, id: Uuid = newId()): Promise<Uuid> {
    await this.write(null, (tx, now) => writes.createConversation(tx, now, title, id));
    return id;
  }

  async renameConversation(id: Uuid, title: string | null): Promise<void> {
    await this.write(null, (tx, now) => writes.renameConversation(tx, now, id, title));
  }

  async deleteConversation(id: Uuid): Promise<void> {
    await this.write(null, (tx) => writes.deleteConversation(tx, id));
  }

  async sendMessage(
    conversation: Uuid,
    content: string,
    { role = 'user', id = newId() }: { readonly role?: string; readonly id?: Uuid } = {},
  ): Promise<Uuid> {
    await this.write(conversation, (tx, now) => writes.sendMessage(tx, now, conversation, content, role, id));
    return id;
  }

  async editMessage(id: Uuid, content: string): Promise<void> {
    await this.write(null, (tx, now) => writes.editMessage(tx, now, id, content));
  }

  async deleteMessage(id: Uuid): Promise<void> {
    await this.write(null, (tx) => writes.deleteMessage(tx, id));
  }

  /** A rejected write once more, with another text if one is given. `key` is the row's, or the quarantine's. */
  async retry(key: number, text?: string): Promise<void> {
    await this.write(null, (tx, now) => writes.retry(tx, now, key, text));
  }

  /** Forget a rejected write. */
  async discard(key: number): Promise<void> {
    await this.write(null, (tx) => writes.discard(tx, key));
  }

  // ---- Coming and going ----

  /** This user may sync now: connect, and bring up what was made on the device meanwhile. `status.progress` tells. */
  async upgrade(getToken?: GetToken): Promise<void> {
    await this.ready;
    if (getToken !== undefined) this.getToken = getToken;
    if (this.getToken === undefined) throw new TypeError('upgrade() needs a getToken');
    this.away = null;
    // This tab knows the way to a token; the one that leads may not.
    if (this.leader.leading) await this.after(() => this.restart());
    else this.leader.take();
  }

  /** From now on this user's work stays on the device, which keeps everything. */
  async downgrade(): Promise<void> {
    await this.ready;
    await this.store.write((tx) => tx.setMeta({ local: true }));
    this.tell({ k: 'downgrade' });
    await this.stayLocal();
    this.touched({ conversations: new Set(), all: true });
  }

  private async stayLocal(): Promise<void> {
    this.away = 'local_only';
    await this.after(() => this.hangUp());
  }

  /** Try now, also after the server said not to come back. */
  reconnect(): void {
    this.away = null;
    if (this.leader.leading) void this.after(() => this.restart()).catch(nothing);
  }

  /** After the store was restored from a backup or copied: another client_id, for which numbers start at 1 (8.1). */
  async renew(): Promise<void> {
    await this.ready;
    await this.after(async () => {
      await this.hangUp();
      await this.store.write(async (tx) => {
        const { lease } = await tx.meta();
        const { nextN, put } = renew(await tx.entries());
        await tx.putEntries(put);
        // Another tab may be connected with the old client_id: whatever it is told from now on is not this one's.
        await tx.setMeta({ clientId: newId(), nextN, lease: lease + 1 });
      });
      if (this.leader.leading) await this.connect();
    });
  }

  /** Lets go of socket, lock and store. What was written stays written. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    for (const off of this.off) off();
    this.leader.stop();
    await this.ready.catch(() => undefined);
    await this.after(() => this.hangUp());
    this.channel?.close();
    for (const waiting of this.asked.values()) waiting.reject(new PageError('offline'));
    await this.store.close();
  }

  // ---- Within: leading and following ----

  private async open(): Promise<void> {
    const { user, getToken } = this.options;
    await this.store.write(async (tx) => {
      const meta = await tx.meta();
      if (meta.user !== '' && meta.user !== user) {
        throw new StoreError("this store is another user's: give each user one of a name of its own");
      }
      await tx.setMeta({ user, ...(getToken === undefined ? { local: true } : {}) });
    });
    if (this.closed) return;
    this.off.push(
      this.env.onAwake(() => {
        this.leader.awake();
        if (this.away === 'replaced') this.reconnect();
        if (this.leader.leading) this.socket?.doubt();
        else this.tell({ k: 'awake' });
      }),
    );
    this.leader.start();
    this.cleanLater(CLEAN_EVERY);
  }

  /** One after the other: leading, following and closing must not overtake each other. */
  private after<T>(work: () => Promise<T>): Promise<T> {
    const mine = this.tasks.then(work);
    this.tasks = mine.catch((error: unknown) => this.fault(error));
    return mine;
  }

  private async restart(): Promise<void> {
    await this.hangUp();
    await this.connect();
  }

  private async hangUp(): Promise<void> {
    const { socket } = this;
    this.socket = null;
    await socket?.stop();
    if (socket !== null) this.become('offline');
  }

  private async connect(): Promise<void> {
    const { getToken } = this;
    if (getToken === undefined || this.away !== null || this.closed || !this.leader.leading) return;
    const { url, encoding = 'msgpack' } = this.options;
    const { clock, random, WebSocket } = this.env;
    const { store, window } = this;
    const keeper = new Keeper({
      store,
      codec: CODECS[encoding],
      window,
      now: () => clock.now(),
      random,
      onTouched: (touched) => this.touched(touched),
    });
    await keeper.lead();
    const socket: Socket = new Socket({
      url,
      host: keeper,
      getToken: async (reason) => {
        const token = await (this.getToken ?? getToken)(reason);
        // Somebody else may have signed in meanwhile: this user's outbox must never travel under that name.
        const subject = subjectOf(token);
        if (subject !== null && subject !== this.options.user.toLowerCase()) {
          throw new Error("getToken() gave another user's token: make a Sync, with a store of its own, for each user");
        }
        return token;
      },
      window,
      encoding,
      clock,
      random,
      WebSocket,
      onState: (state) => {
        if (this.socket === socket) this.become(state);
      },
      onEvent: (event) => {
        if (event.t === 'welcome') this.welcomed(keeper, socket);
      },
      onError: (error) => this.faultOf(socket, error),
      onStayAway: (why) => void this.after(() => this.stayAway(keeper, socket, why)).catch(nothing),
    });
    this.socket = socket;
    socket.start();
  }

  private welcomed(keeper: Keeper, socket: Socket): void {
    this.error = null;
    keeper.merge().then(
      () => socket.kick(),
      (error: unknown) => this.faultOf(socket, error),
    );
  }

  /** What a connection that is over found out about its lease says nothing about the one that took its place. */
  private faultOf(socket: Socket, error: unknown): void {
    if (this.socket === socket || !(error instanceof Deposed)) this.fault(error);
  }

  private async stayAway(keeper: Keeper, socket: Socket, { code, refusal }: StayAway): Promise<void> {
    if (this.socket !== socket) return;
    this.away = refusal?.code ?? String(code);
    if (code === 4301 || this.away === 'local_only') await keeper.goLocal();
    if (code === 4302 || this.away === 'replaced') {
      this.away = 'replaced';
      // Another tab took over, and then this one follows; or a copy of this store is in use somewhere else.
      await keeper.begin();
    }
    await this.hangUp();
    this.touched({ conversations: new Set(), all: true });
  }

  /** A failure, for the status line. */
  private fault(error: unknown): void {
    if (error instanceof Deposed) {
      this.away = null;
      this.leader.resign();
    }
    if (typeof error === 'object' && error !== null && 't' in error && 'code' in error) {
      // A push or page that is put off is no reason to be without a connection.
      if ('answers' in error && (error.answers === 'push' || error.answers === 'page')) return;
      this.error = { code: String(error.code), message: 'message' in error ? String(error.message) : '' };
    } else if (error instanceof Error && !(error instanceof Deposed)) {
      this.error = { code: error.name, message: error.message };
    }
    if (/Quota/.test(String(error) + String((error as { inner?: unknown } | null)?.inner))) void this.cleanNow(true);
    this.status.invalidate();
    this.tellState();
  }

  private become(state: LineState): void {
    this.state = state;
    if (state === 'live') {
      this.error = null;
      for (const { query } of this.queries) query.invalidate(); // what could not be loaded can be now
    }
    this.status.invalidate();
    this.tellState();
  }

  private cleanLater(ms: number): void {
    this.off.push(
      this.env.clock.after(ms, () => {
        if (this.closed) return;
        void this.cleanNow().finally(() => this.closed || this.cleanLater(CLEAN_EVERY));
      }),
    );
  }

  /** Lets conversations go that nobody touched for half a year, if storage runs low or is `full`. Returns how many. */
  async cleanNow(full = false): Promise<number> {
    try {
      await this.ready;
      if (!this.leader.leading || !(full || runsLow(await this.env.estimate()))) return 0;
      const count = await clean(this.store, this.env.clock.now() * 1000);
      if (count > 0) this.touched({ conversations: new Set(), all: true });
      return count;
    } catch (error) {
      this.fault(error);
      return 0;
    }
  }

  // ---- Within: tabs ----

  private tell(message: Message): void {
    if (!this.closed) this.channel?.postMessage(message);
  }

  private tellState(): void {
    if (this.leader.leading) this.tell({ k: 'state', state: this.state, error: this.error });
  }

  private hearTab(message: Message): void {
    if (this.closed) return;
    switch (message.k) {
      case 'ask':
      case 'here':
        this.leader.hear(message);
        this.socket?.tick();
        break;
      case 'touched':
        this.show({ conversations: new Set(message.conversations), all: message.all });
        break;
      case 'state':
        if (this.leader.leading || (this.state === message.state && this.error?.message === message.error?.message))
          break;
        this.state = message.state;
        this.error = message.error;
        if (message.state === 'live') for (const { query } of this.queries) query.invalidate();
        this.status.invalidate();
        break;
      case 'page':
        if (!this.leader.leading) break;
        this.ask(message.asked, message.limit).then(
          () => this.tell({ k: 'paged', id: message.id, error: null }),
          (error: unknown) =>
            this.tell({ k: 'paged', id: message.id, error: error instanceof PageError ? error.code : 'offline' }),
        );
        break;
      case 'paged': {
        const waiting = this.asked.get(message.id);
        this.asked.delete(message.id);
        if (message.error === null) waiting?.resolve();
        else waiting?.reject(new PageError(message.error));
        break;
      }
      case 'kick':
        this.socket?.kick();
        break;
      case 'awake':
        this.socket?.doubt();
        break;
      case 'downgrade':
        void this.stayLocal();
        break;
    }
  }

  private touched(touched: Touched): void {
    this.show(touched);
    this.tell({ k: 'touched', all: touched.all, conversations: [...touched.conversations] });
  }

  private show({ all, conversations }: Touched): void {
    for (const { home, query } of this.queries) {
      if (all || home === null || conversations.has(home)) query.invalidate();
    }
  }

  // ---- Within: store ----

  private async write(home: Uuid | null, work: (tx: Writing, now: number) => Promise<unknown>): Promise<void> {
    await this.ready;
    if (this.closed) throw new WriteError('this sync is closed');
    await this.store.write((tx) => work(tx, this.env.clock.now()));
    this.touched({ conversations: new Set(home === null ? [] : [home]), all: home === null });
    if (this.leader.leading) this.socket?.kick();
    else this.tell({ k: 'kick' });
  }

  private query<T>(home: Uuid | null, load: (tx: Reading) => Promise<T>): Query<T> {
    const query: Query<T> = new Query<T>(
      async () => {
        await this.ready;
        return this.store.read(load);
      },
      (used) => this.use(home, query, used),
      (error) => this.closed || this.fault(error),
    );
    return query;
  }

  private readonly registered = new Map<Query<never>, { readonly home: Uuid | null; readonly query: Query<never> }>();

  private use<T>(home: Uuid | null, query: Query<T>, used: boolean): void {
    const known = query as unknown as Query<never>;
    const entry = this.registered.get(known) ?? { home, query: known };
    this.registered.set(known, entry);
    if (used) {
      this.queries.add(entry);
    } else {
      this.queries.delete(entry);
      this.registered.delete(known);
    }
  }

  private async readStatus(tx: Reading): Promise<Status> {
    const { local, lastLive, merging, profile } = await tx.meta();
    const { pending, rejected } = await tx.counts();
    const waiting = merging === 0 ? 0 : pending + (await tx.countLocal());
    return {
      state: local && this.state === 'offline' ? 'local' : this.state,
      pending,
      rejected,
      lastLive,
      progress: merging === 0 ? null : { done: Math.max(0, merging - waiting), total: merging },
      tier: profile?.tier ?? null,
      error: this.error,
    };
  }

  private history<T>(
    home: Uuid | null,
    limit: number,
    load: (tx: Reading, most: number) => Promise<Stretch & { readonly rows: readonly T[] }>,
  ): HistoryQuery<T> {
    let most = limit;
    let filling = false;
    const fill = (): void => {
      // Nothing is known about this history: the newest page makes it whole.
      if (filling || this.state === 'offline' || this.state === 'connecting') return;
      filling = true;
      this.fetchOlder(home, most)
        .catch((error: unknown) => this.fault(error))
        .finally(() => (filling = false));
    };
    const query = this.query<List<T>>(home, async (tx) => {
      const { rows, here, floor, holed } = await load(tx, most);
      if (holed) fill();
      return { rows, more: here > most || floor !== 'start' };
    });
    return Object.assign(query, {
      loadOlder: async (count: number = SHOWN): Promise<Older> => {
        await this.ready;
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

  /** How much of a history is held without a hole, up to `most` rows. */
  private stretch(home: Uuid | null, most: number): Promise<Stretch> {
    return this.store.read(async (tx) => {
      const floor = home === null ? ((await tx.meta()).list ?? undefined) : (await tx.floors([home]))[0];
      const rows = home === null ? await tx.newestConversations(null, most) : await tx.newestMessages(home, null, most);
      const here = rows.filter((row) =>
        covers(floor, row.kind === 'c' ? [row.updatedAt, row.id] : [row.createdAt, row.id]),
      );
      return { here: here.length, floor, holed: floor === undefined };
    });
  }

  /** From the server, until `count` more rows are held or there are no more. */
  private async fetchOlder(home: Uuid | null, count: number): Promise<Older> {
    let left = count;
    for (;;) {
      const { floor } = await this.stretch(home, 0);
      if (floor === 'start') return left < count ? 'here' : 'start';
      try {
        await this.ask({ conversation: home, before: floor ?? null }, Math.min(Math.max(left, 1), 1000));
      } catch (error) {
        if (error instanceof PageError) return 'offline';
        throw error;
      }
      const { floor: now } = await this.stretch(home, 0);
      // A page may be short although there is more; one that brings nothing is not asked for again.
      if (now === undefined || (floor !== undefined && String(now) === String(floor))) return 'offline';
      left = now === 'start' ? 0 : left - (await this.between(home, now, floor));
      if (left <= 0 || now === 'start') return 'here';
    }
  }

  private between(home: Uuid | null, from: readonly [number, Uuid], to: Stretch['floor']): Promise<number> {
    return this.store.read(async (tx) => {
      const before = to === undefined || to === 'start' ? null : to;
      const rows =
        home === null ? await tx.newestConversations(before, 1000) : await tx.newestMessages(home, before, 1000);
      return rows.filter((row) => covers(from, row.kind === 'c' ? [row.updatedAt, row.id] : [row.createdAt, row.id]))
        .length;
    });
  }

  /** A page into the store: asked by this tab, or for it by the one that leads. */
  private async ask(asked: Asked, limit: number): Promise<void> {
    let off = nothing;
    const late = new Promise<never>((_, reject) => {
      off = this.env.clock.after(PAGE_WITHIN, () => reject(new PageError('offline')));
    });
    const { leading } = this.leader;
    // One after the other, because the server permits few at a time.
    const turn = this.paging.then(() =>
      Promise.race([leading ? this.page(asked, limit) : this.pageByLeader(asked, limit), late]),
    );
    this.paging = turn.catch(nothing);
    try {
      await turn;
    } finally {
      off();
    }
  }

  private async page(asked: Asked, limit: number): Promise<void> {
    if (this.socket === null) throw new PageError('offline');
    await this.socket.page(asked, limit);
  }

  private pageByLeader(asked: Asked, limit: number): Promise<void> {
    if (this.channel === null) return Promise.reject(new PageError('offline'));
    const id = newId();
    return new Promise<void>((resolve, reject) => {
      this.asked.set(id, { resolve, reject });
      this.tell({ k: 'page', id, asked, limit });
    });
  }
}

interface Stretch {
  readonly here: number;
  readonly floor: Floor | undefined;
  readonly holed: boolean;
}

const neverSynced = async (tx: Reading): Promise<boolean> => {
  const { cursor, list, lastLive } = await tx.meta();
  return cursor === null && list === null && lastLive === null;
};
