/** The library's façade: queries over the local store, writes, and status. The only module that connects the parts. */

import { touchedAll, touchedNothing, type Touched } from './apply.js';
import { Cleaner } from './clean.js';
import type { Encoding } from './codec.js';
import { environment, type Environment } from './environment.js';
import type { Window } from './frames.js';
import { Histories, SHOWN, type HistoryQuery, type Older } from './history.js';
import { LeaderConnection } from './leader_connection.js';
import { WriteError, type Columns } from './mutation.js';
import { renew, type Entry } from './outbox.js';
import { Queries, type Query } from './query.js';
import { bare, blocked, EMPTIED, isQuotaError, reasonOf, type Reason } from './reason.js';
import { reshape } from './reshape.js';
import { homeKey, keyOf, nameOf, type Uuid } from './rows.js';
import {
  compile,
  shapeOf,
  type Id,
  type IdOf,
  type Kind,
  type KindName,
  type Kinds,
  type NewOf,
  type ParentOf,
  type PatchOf,
  type RowOf,
  type Schema,
} from './schema.js';
import { checkWindow } from './session.js';
import { Stops, type Stop } from './stops.js';
import { Streaming } from './streaming.js';
import { placed, shownState, type Places, type StreamState } from './streams.js';
import {
  DESTROYED,
  DISCONNECTED,
  isConnected,
  readStatus,
  UNKNOWN,
  type ConnectionStatus,
  type Status,
} from './status.js';
import {
  Deposed,
  Destroyed,
  Emptied,
  StoreError,
  type Durability,
  type Reading,
  type Store,
  type Transactions,
  type Writing,
} from './store.js';
import { Tabs } from './tabs.js';
import type { GetToken } from './token.js';
import { readUnsent, type Unsent } from './unsent.js';
import { newId } from './uuid.js';
import type { ShownOf } from './view.js';
import { mustConnect } from './websocket.js';
import { UnsentError, wipe } from './wipe.js';
import * as writes from './write.js';

export interface SyncOptions<S extends Schema = Schema> {
  /** The kinds of rows, as `atlas-sync schema --typescript` wrote them. */
  readonly schema: S;
  /** `wss://…/sync` */
  readonly url: string;
  readonly store: Store;
  /** The id of the user whose rows the store keeps. */
  readonly user: string;
  /** Without it, this user's work stays on the device until `upgrade`. */
  readonly getToken?: GetToken;
  /** How many rows of a kind a snapshot brings, of each parent; by the kind's name. By default the schema says it. */
  readonly window?: { readonly [K in KindName<S>]?: number };
  /** `msgpack` by default; `json` is for developer tools. */
  readonly encoding?: Encoding;
  /** What differs from the platform's own. */
  readonly environment?: Partial<Environment>;
}

const nothing = (): void => undefined;

/** As the history of a query: rows do not concern it. */
const STREAMS = 'streams';

/** The store works, and what was asked of it cannot be. */
const isRefusal = (error: unknown): boolean =>
  error instanceof WriteError || error instanceof UnsentError || error instanceof Deposed;

/** What `export` returns. `at`: by the device's clock. `schema`: the hash of the server's. */
export interface Export extends Pick<Status, 'state' | 'retryAt' | 'lastLive'> {
  readonly version: 1;
  readonly at: string;
  readonly url: string;
  readonly user: string;
  readonly clientId: string;
  readonly schema: string | null;
  /** The code of `status.reason`. */
  readonly reason: string | null;
  readonly unsent: readonly Unsent[];
}

/** Which rows of a kind. A kind with a parent has a list for each. */
export type ListOptions<S extends Schema, K extends string> = {
  /** 50 by default. */
  readonly limit?: number;
  /** Rows in ascending order: the newest `limit` ones, all the same. */
  readonly oldestFirst?: boolean;
} & (ParentOf<S, K> extends null ? { readonly parent?: null } : { readonly parent: ParentOf<S, K> });

/** A text that the app's backend is writing. */
export interface OpenStream<S extends Schema = Schema, K extends KindName<S> = KindName<S>> {
  readonly kind: K;
  readonly id: IdOf<S, K>;
  readonly column: string;
  /** The parent of its row; null if the kind has none, or this device does not hold the row. */
  readonly parent: ParentOf<S, K> | null;
}

export function createSync<const S extends Schema>(options: SyncOptions<S>): Sync<S> {
  return new Sync(options);
}

export class Sync<S extends Schema = Schema> {
  /**
   * Resolves when the store is open. Rejects with StoreError if it is another user's or cannot be opened, and if there
   * is a getToken, but no WebSocket.
   */
  readonly ready: Promise<void>;
  /** Its `value` is never undefined: before the store was read, it says `offline`. */
  readonly status: Query<Status> & { value: Status };
  /** Rejected mutations with their reasons, for `retry` or `discard`. */
  readonly quarantine: Query<readonly Entry[]>;

  /** Rejects if another tab keeps the store from being opened. */
  private readonly blocked: Promise<void>;
  private readonly kinds: Kinds;
  private readonly env: Environment;
  private readonly store: Transactions;
  private readonly queries: Queries;
  private readonly histories: Histories;
  private readonly tabs: Tabs;
  private readonly server: LeaderConnection;
  private readonly cleaner: Cleaner;
  private readonly streaming: Streaming;
  private readonly stops = new Stops();
  private connection = DISCONNECTED;
  private closed = false;
  /** The store was destroyed. */
  private gone = false;
  /** Which store it is, by its `made`. */
  private made = '';
  private beginning: Promise<void> | null = null;
  /** Why the store could not be read, or written to, the last time. */
  private readonly broken: { read: Reason | null; write: Reason | null } = { read: null, write: null };
  private loss: Reason | null = null;
  private ending: Promise<void> | null = null;
  private off = nothing;

  constructor(private readonly options: SyncOptions<S>) {
    const { url, user, schema, encoding = 'msgpack' } = options;
    const kinds = (this.kinds = compile(schema));
    const env = (this.env = environment(options.environment));
    const store = (this.store = this.guarded(options));
    this.queries = new Queries(env.frame, (error) => this.closed || this.fault(error));
    this.streaming = new Streaming({
      kinds,
      store,
      clock: env.clock,
      leading: () => this.tabs.leading,
      keep: (put, drop) => this.server.keepStreams(put, drop),
      onChange: ({ grown, over, list }) => {
        if (list) over.add(STREAMS);
        // A text that only grew concerns no other query: else each frame would load the status and all lists of parents.
        if (over.size > 0) this.queries.touched({ all: false, histories: over });
        this.queries.grown(grown);
      },
      post: (what) => this.tabs.postStream(what),
      ask: () => this.tabs.signal('streamed'),
      onError: (error) => this.closed || this.fault(error),
    });
    this.server = new LeaderConnection(
      {
        url,
        user,
        store,
        kinds,
        window: checkWindow(kinds, (options.window ?? {}) as Window),
        encoding,
        environment: env,
        streams: this.streaming,
        stops: this.stops,
        leading: () => this.tabs.leading,
        onState: (state, retryAt) => this.become(state, retryAt),
        onTouched: (touched) => this.touched(touched),
        onError: (error) => this.fault(error),
      },
      options.getToken,
    );
    this.tabs = new Tabs({
      name: options.store.name,
      environment: env,
      onLead: () => {
        this.server.start().catch(nothing);
        void this.cleanNow(); // only the leading tab may
      },
      onDeposed: () => void this.server.stop().catch(nothing),
      onTouched: (touched) => this.queries.touched(touched),
      // A tab of another version may say less.
      onConnection: (connection) => {
        this.follow({ ...DISCONNECTED, ...connection });
        this.askStops(); // another tab may lead now
      },
      connection: () => this.connection,
      page: (request, limit) => this.histories.ask(request, limit),
      onStream: (what) => this.streaming.follow(what),
      onStop: (id, stop) => this.stopped(stop, id),
      onStopped: (id, found) => this.stops.answer(id, found),
      onTick: () => this.server.tick(),
      on: {
        streamed: () => this.streaming.postAll(),
        kick: () => this.server.kick(),
        awake: () => this.server.probe(),
        reconnect: () => void this.server.start().catch(nothing),
        downgrade: () => void this.disconnect().catch(nothing),
        destroyed: () => this.onDestroyed(),
      },
    });
    this.histories = new Histories({
      store,
      queries: this.queries,
      clock: env.clock,
      ready: () => this.ready,
      connected: () => isConnected(this.connection.state),
      streams: () => this.streaming.now,
      page: (request, limit) => (this.tabs.leading ? this.server : this.tabs).page(request, limit),
      onError: (error) => this.fault(error),
    });
    this.cleaner = new Cleaner({
      kinds,
      store,
      clock: env.clock,
      estimate: env.estimate,
      permitted: async () => {
        await this.ready;
        return this.tabs.leading;
      },
      onCleaned: () => this.touched(touchedAll()),
      onError: (error) => this.fault(error),
    });
    const status = async (): Promise<Status> => {
      try {
        await Promise.race([this.ready, this.blocked]);
        const status = await this.store.read((tx) => readStatus(tx, this.connection));
        return { ...status, reason: status.reason ?? this.broken.write ?? this.loss };
      } catch (error) {
        // A status that cannot be read says so itself.
        if (this.gone) return DESTROYED;
        return { ...this.status.value, ...DISCONNECTED, reason: reasonOf(error) };
      }
    };
    this.status = Object.assign(this.queries.make(null, status), { value: UNKNOWN });
    this.quarantine = this.query(async (tx) => (await tx.entries()).filter((entry) => entry.state === 'rejected'));
    this.ready = this.open();
    this.ready.catch(nothing); // each read and write rejects with it
    this.blocked = new Promise((_, reject) => void options.store.blocked?.then(() => reject(blocked())));
    this.blocked.catch(() => this.ready.catch(nothing).then(() => this.status.invalidate()));
  }

  // ---- Reading ----

  /** The newest `limit` rows of a kind, newest first; of a kind with a parent, those of one parent. */
  list<K extends KindName<S>>(
    kind: K,
    ...[options]: ParentOf<S, K> extends null ? [options?: ListOptions<S, K>] : [options: ListOptions<S, K>]
  ): HistoryQuery<ShownOf<S, K>> {
    const { limit = SHOWN, oldestFirst = false, parent = null } = (options ?? {}) as ListOptions<Schema, string>;
    const home = { kind: this.kind(kind), parent: parent as Id | null };
    return this.histories.list(home, limit, oldestFirst) as unknown as HistoryQuery<ShownOf<S, K>>;
  }

  /** One row; null if this device does not have it. */
  get<K extends KindName<S>>(kind: K, id: IdOf<S, K>): Query<ShownOf<S, K> | null> {
    return this.histories.row(this.kind(kind), id as Id) as unknown as Query<ShownOf<S, K> | null>;
  }

  /** Fetches older rows of a kind, and of a parent (null: it has none), into the store; queries show them. */
  async loadOlder<K extends KindName<S>>(kind: K, parent: ParentOf<S, K>, count: number = SHOWN): Promise<Older> {
    await this.ready;
    return this.histories.loadOlder({ kind: this.kind(kind), parent: parent as Id | null }, count);
  }

  /** The texts that are being written now, of all kinds. */
  streams(): Query<readonly OpenStream<S>[]> {
    return this.streamsQuery((places) =>
      [...places.values()].flatMap((columns) =>
        [...columns.values()].flatMap(({ kind, id, column, row, state, over }) =>
          state === 'open' && !over ? [{ kind, id, column, parent: row && row.parent } as unknown as OpenStream<S>] : [],
        ),
      ),
    );
  }

  /** The state of the stream that is shown in this row; null: none is. It is another value when the state changes only. */
  stream<K extends KindName<S>>(kind: K, id: IdOf<S, K>): Query<StreamState | null> {
    const of = this.kind(kind);
    const name = nameOf(of, keyOf(of, id as Id));
    return this.streamsQuery((places) => shownState(places.get(name)));
  }

  /**
   * Ends the open stream of a column of this row, or without `column` of any: whoever writes it is told. Resolves with
   * whether there was one, once the server has said so. Without a connection it is asked on the next one; that is
   * kept in memory only.
   */
  async stop<K extends KindName<S>>(kind: K, id: IdOf<S, K>, column?: keyof RowOf<S, K> & string): Promise<boolean> {
    const { name } = this.kind(kind);
    await this.ready;
    this.mustBeOpen();
    return this.stopped({ kind: name, id: id as Id, column: column ?? null });
  }

  // ---- Writing: durable when the promise resolves, and sent as soon as there is a connection. Throws WriteError ----

  /** Adds a row, and returns its id: a new UUID if none is given. */
  async insert<K extends KindName<S>>(kind: K, columns: NewOf<S, K>, id?: IdOf<S, K>): Promise<IdOf<S, K>> {
    const of = this.kind(kind);
    const given = (id ?? writes.idFor(of)) as Id;
    const parent = of.home === null ? null : ((columns as Columns)[of.home] as Id);
    // With a row that may have others below it, their histories begin.
    const only = of.children.length === 0 ? of : undefined;
    await this.write((tx, now) => writes.insert(tx, this.kinds, now, of, given, columns as Columns), only, parent);
    return given as IdOf<S, K>;
  }

  /** Changes some columns of a row. */
  async update<K extends KindName<S>>(kind: K, id: IdOf<S, K>, columns: PatchOf<S, K>): Promise<void> {
    const of = this.kind(kind);
    await this.write((tx, now) => writes.update(tx, this.kinds, now, of, id as Id, columns as Columns));
  }

  /** Deletes a row, with the rows below it. */
  async remove<K extends KindName<S>>(kind: K, id: IdOf<S, K>): Promise<void> {
    const of = this.kind(kind);
    await this.write((tx) => writes.remove(tx, this.kinds, of, id as Id));
  }

  /**
   * Writes a rejected mutation again, with other values of `columns` if given. `key` is that of its row or of its entry
   * in the quarantine.
   */
  async retry(key: number, columns: Columns = {}): Promise<void> {
    await this.write((tx, now) => writes.retry(tx, this.kinds, now, key, columns));
  }

  /** Deletes a rejected mutation. */
  async discard(key: number): Promise<void> {
    await this.write((tx) => writes.discard(tx, key));
  }

  // ---- Connecting, disconnecting, cleaning, deleting ----

  /** Connects, and pushes the work that stayed on the device. `status.progress` shows how far that is. */
  async upgrade(getToken?: GetToken): Promise<void> {
    await this.ready;
    if (getToken !== undefined) this.server.getToken = getToken;
    if (this.server.getToken === undefined) throw new TypeError('upgrade() needs a getToken');
    mustConnect(this.env.WebSocket);
    await this.store.write((tx) => tx.setMeta({ downgraded: false }));
    // This tab has a getToken; the leading one may have none.
    if (this.tabs.leading) await this.server.start();
    else this.tabs.steal();
  }

  /** Disconnects. This user's work stays on the device until an upgrade, also after a restart; no row is deleted. */
  async downgrade(): Promise<void> {
    await this.ready;
    await this.store.write(async (tx) => {
      // Another tab may still be connected: the new lease keeps it from storing anything.
      await tx.setMeta({ local: true, downgraded: true, lease: (await tx.meta()).lease + 1 });
    });
    this.tabs.signal('downgrade');
    await this.disconnect();
    this.touched(touchedAll());
  }

  /** Connects now, also if the server said not to come back. */
  reconnect(): void {
    this.ready.then(() => this.tabs.reconnect()).catch(nothing);
  }

  /** For a store that was restored from a backup or copied: it gets another client_id (SPEC.md, 8.1). */
  async renew(): Promise<void> {
    await this.ready;
    await this.server.pause(() =>
      this.store.write(async (tx) => {
        const { lease } = await tx.meta();
        const { nextN, put } = renew(await tx.entries());
        await tx.putEntries(put);
        // Another tab may be connected with the old client_id: the new lease keeps it from storing anything.
        await tx.setMeta({ clientId: newId(), nextN, lease: lease + 1 });
      }),
    );
  }

  /**
   * Removes what was not changed for half a year from this device, if storage runs low or is `full`: rows without a
   * parent, with the rows below them. Those with unsent work stay; paging brings the others back. Returns how many were
   * removed.
   */
  cleanNow(full = false): Promise<number> {
    return this.cleaner.clean(full);
  }

  /** Closes connection, lock and store. May be repeated. */
  close(): Promise<void> {
    return (this.ending ??= this.end());
  }

  /**
   * What is on this device only, with its texts, for a support case: plain JSON, without a token. It holds content of
   * the user: send it nowhere without their consent.
   */
  async export(): Promise<Export> {
    await this.ready;
    const { user } = this.options;
    const url = bare(this.options.url);
    const at = new Date(this.env.clock.now()).toISOString();
    return this.store.read(async (tx) => {
      const { clientId, schema, lastLive } = await tx.meta();
      const { state, reason: why, retryAt } = await readStatus(tx, this.connection);
      const reason = why?.code ?? null;
      const unsent = await readUnsent(tx, this.kinds);
      return { version: 1, at, url, user, clientId, schema, state, reason, retryAt, lastLive, unsent };
    });
  }

  /**
   * Deletes the store and everything in it, as when the user signs out. Resolves when it is gone. Their Sync ends in
   * every tab, with the state `destroyed`. Rejects with UnsentError, and changes nothing, if there are writes on this
   * device only and `discardUnsent` is not set.
   */
  async destroy({ discardUnsent = false }: { readonly discardUnsent?: boolean } = {}): Promise<void> {
    await this.ready;
    this.mustBeOpen();
    try {
      await this.store.write((tx) => wipe(tx, this.kinds, discardUnsent));
      this.tabs.signal('destroyed');
      this.onDestroyed();
    } catch (error) {
      // Another call, perhaps in another tab, has destroyed it already.
      if (error instanceof Destroyed) return this.close();
      throw error;
    }
    await this.close();
    await this.options.store.destroy?.();
  }

  // ---- Internals ----

  private async open(): Promise<void> {
    const { store, getToken } = this.options;
    if (getToken !== undefined) mustConnect(this.env.WebSocket);
    await this.begin();
    await this.streaming.restore();
    if (this.closed) return;
    store.onClosed = () => {
      this.store.read(async () => undefined).catch((error: unknown) => this.fault(error));
      this.queries.touched(touchedAll());
    };
    // Tabs with a former schema, or of a former version, notice that the store is not theirs any more, and let go of the lead.
    this.tabs.signal('kick');
    this.tabs.touched(touchedAll());
    this.tabs.signal('streamed');
    this.off = this.env.onAwake(() => {
      this.tabs.awake();
      if (this.tabs.leading) this.server.probe();
    });
    if (getToken !== undefined) this.tabs.start();
    this.cleaner.start();
  }

  /** Makes the store this user's, with rows as the schema says. */
  private async begin(isAgain = false): Promise<void> {
    const { store, user, getToken } = this.options;
    this.made = await store.write(async (tx) => {
      const meta = await tx.meta();
      if (isAgain && meta.destroyed) throw new Destroyed();
      if (meta.user !== '' && meta.user !== user) {
        throw new StoreError("this store is another user's: give each user a store with a name of its own");
      }
      await reshape(tx, this.kinds);
      await tx.setMeta({ user, destroyed: false, ...(getToken === undefined ? { local: true } : {}) });
      return meta.made;
    });
    await store.adopt?.(user);
  }

  /** The database was deleted while it was open, as when the user deletes the data of a site: it is a new store. */
  private async beginAgain(): Promise<void> {
    await this.begin(true);
    this.loss = EMPTIED;
    this.streaming.clear();
    this.touched(touchedAll());
    // With the new client_id. Not awaited: a connection that begins may be waiting for this.
    if (this.tabs.leading) void this.server.start().catch(nothing);
  }

  /** Throws TypeError for a name that is not in the schema. */
  private kind(name: string): Kind {
    const kind = this.kinds.get(name);
    if (kind === undefined) throw new TypeError(`the schema has no kind ${name}`);
    return kind;
  }

  /** `kind` and `parent`: of the only history that changes. */
  private async write(
    work: (tx: Writing, now: number) => Promise<unknown>,
    kind?: Kind,
    parent: Id | null = null,
  ): Promise<void> {
    await this.ready;
    this.mustBeOpen();
    await this.store.write((tx) => work(tx, this.env.clock.now()));
    const only = kind && nameOf(kind, homeKey(kind, parent));
    this.touched(only === undefined ? touchedAll() : { ...touchedNothing(), histories: new Set([only]) }, true);
    if (this.tabs.leading) this.server.kick();
    else this.tabs.signal('kick');
  }

  private stopped(stop: Stop, id?: Uuid): Promise<boolean> {
    const answered = this.stops.add(stop, id);
    if (this.tabs.leading) this.server.kick();
    else this.askStops();
    return answered;
  }

  /** Asks the leading tab for what this one wants to stop. */
  private askStops(): void {
    for (const [id, stop] of this.stops.unanswered()) this.tabs.stop(id, stop);
  }

  private mustBeOpen(): void {
    if (this.closed && !this.gone) throw new WriteError('this sync is closed');
  }

  /**
   * The store, while it is this user's, and its rows are as this schema says: after a tab has destroyed it, or stored its
   * rows by another schema, no other tab may write to it again.
   */
  private guarded({ store, user }: SyncOptions<S>): Transactions {
    const shape = shapeOf(this.kinds);
    const guard = (how: 'read' | 'write') => {
      const guarded = async <T>(work: (tx: Writing) => Promise<T>, durability?: Durability): Promise<T> => {
        try {
          const result = await store[how](async (tx: Reading) => {
            const meta = await tx.meta();
            const isOurs = meta.user === user && meta.shape === shape;
            const isFree = isOurs || meta.user === '';
            if (!this.gone && !meta.destroyed && isFree && meta.made !== this.made) throw new Emptied();
            if (this.gone || !isOurs) throw new Destroyed();
            return work(tx as Writing);
          }, durability);
          this.setBroken(how, null);
          return result;
        } catch (error) {
          if (error instanceof Emptied) {
            await (this.beginning ??= this.beginAgain().finally(() => (this.beginning = null)));
            return guarded(work, durability);
          }
          if (error instanceof Destroyed) this.onDestroyed();
          else if (!isRefusal(error)) this.setBroken(how, reasonOf(error));
          throw this.gone ? new Destroyed() : error;
        }
      };
      return guarded;
    };
    return { read: guard('read'), write: guard('write') };
  }

  /** Shows on the status line that the store fails, and that it does not any more. */
  private setBroken(how: 'read' | 'write', reason: Reason | null): void {
    if (this.broken[how]?.message === reason?.message) return;
    this.broken[how] = reason;
    this.status.invalidate();
  }

  /** The store was destroyed. */
  private onDestroyed(): void {
    if (this.gone) return;
    this.gone = true;
    this.close().catch(nothing);
    this.status.invalidate();
  }

  private async end(): Promise<void> {
    this.closed = true;
    this.cleaner.stop();
    this.off();
    this.stops.close(new WriteError('this sync is closed'));
    await Promise.race([this.ready, this.blocked]).catch(nothing);
    await this.streaming.close();
    await this.server.close(); // reports `offline` to the other tabs
    this.tabs.close();
    await this.options.store.close();
  }

  private streamsQuery<T>(value: (places: Places) => T): Query<T> {
    return this.queries.make(STREAMS, async () => {
      await this.ready;
      return value(placed(this.streaming.now));
    });
  }

  private query<T>(load: (tx: Reading) => Promise<T>): Query<T> {
    return this.queries.make(null, async () => {
      await this.ready;
      return this.store.read(load);
    });
  }

  /** `urgent`: the user did it. */
  private touched(touched: Touched, urgent = false): void {
    this.queries.touched(touched, urgent);
    this.tabs.touched(touched);
  }

  /** Because the app wants it: nothing is wrong. */
  private async disconnect(): Promise<void> {
    await this.server.stop();
    this.show(DISCONNECTED);
  }

  private become(state: ConnectionStatus['state'], retryAt: number | null = null): void {
    this.follow({ state, reason: isConnected(state) ? null : this.connection.reason, retryAt });
  }

  private follow(connection: ConnectionStatus): void {
    const came = connection.state === 'live' && this.connection.state !== 'live';
    this.show(connection);
    if (came) this.queries.touched(touchedAll()); // pages that could not be fetched can be now
  }

  private show(connection: ConnectionStatus): void {
    const { state, reason, retryAt } = this.connection;
    const same = reason?.code === connection.reason?.code && reason?.message === connection.reason?.message;
    if (same && state === connection.state && retryAt === connection.retryAt) return;
    this.connection = connection;
    this.status.invalidate();
    this.tabs.postStatus();
  }

  /** Shows an error on the status line, and reacts to a lost lease and to a full disk. */
  private fault(error: unknown): void {
    if (error instanceof Deposed) return this.tabs.resign();
    if (isQuotaError(error)) void this.cleanNow(true);
    const reason = reasonOf(error);
    if (reason !== null) this.show({ ...this.connection, reason });
  }
}
