/**
 * What an app talks to: queries over the local store, writes, status. The only place that puts the parts together.
 */

import { touchedAll, touchedNothing, type Touched } from './apply.js';
import { Cleaner, isQuotaError } from './clean.js';
import type { Encoding } from './codec.js';
import { environment, type Environment } from './environment.js';
import type { Window } from './frames.js';
import { Histories, SHOWN, type HistoryQuery, type Older } from './history.js';
import { LeaderConnection } from './leader_connection.js';
import { WriteError } from './mutation.js';
import { renew, type Entry } from './outbox.js';
import { Queries, type Query } from './query.js';
import type { Profile, Uuid } from './rows.js';
import { checkWindow, DEFAULT_WINDOW } from './session.js';
import { describe, DESTROYED, isConnected, readStatus, UNKNOWN, type ConnectionStatus, type Status } from './status.js';
import { Deposed, Destroyed, StoreError, type Reading, type Store, type Transactions, type Writing } from './store.js';
import { Tabs } from './tabs.js';
import type { GetToken } from './token.js';
import { newId } from './uuid.js';
import type { ShownConversation, ShownMessage } from './view.js';
import { wipe } from './wipe.js';
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

const nothing = (): void => undefined;

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
  private readonly store: Transactions;
  private readonly queries: Queries;
  private readonly histories: Histories;
  private readonly tabs: Tabs;
  private readonly server: LeaderConnection;
  private readonly cleaner: Cleaner;
  private connection: ConnectionStatus = { state: 'offline', error: null };
  private closed = false;
  /** The store was destroyed. */
  private gone = false;
  private ending: Promise<void> | null = null;
  private off = nothing;

  constructor(private readonly options: SyncOptions) {
    const { url, user, encoding = 'msgpack' } = options;
    const env = (this.env = environment(options.environment));
    const store = (this.store = this.guarded(options));
    this.queries = new Queries((error) => this.closed || this.fault(error));
    this.server = new LeaderConnection(
      {
        url,
        user,
        store,
        window: checkWindow(options.window ?? DEFAULT_WINDOW),
        encoding,
        environment: env,
        leading: () => this.tabs.leading,
        onState: (state) => this.become(state),
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
        void this.cleanNow(); // only who leads may
      },
      onDeposed: () => void this.server.stop().catch(nothing),
      onTouched: (touched) => this.queries.touched(touched),
      onConnection: (connection) => this.follow(connection),
      connection: () => this.connection,
      page: (request, limit) => this.histories.ask(request, limit),
      onTick: () => this.server.tick(),
      on: {
        kick: () => this.server.kick(),
        awake: () => this.server.probe(),
        reconnect: () => void this.server.start().catch(nothing),
        downgrade: () => void this.server.stop().catch(nothing),
        destroyed: () => this.lose(),
      },
    });
    this.histories = new Histories({
      store,
      queries: this.queries,
      clock: env.clock,
      ready: () => this.ready,
      connected: () => isConnected(this.connection.state),
      page: (request, limit) => (this.tabs.leading ? this.server : this.tabs).page(request, limit),
      onError: (error) => this.fault(error),
    });
    this.cleaner = new Cleaner({
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
      await this.ready;
      return this.store.read((tx) => readStatus(tx, this.connection)).catch((error: unknown) => {
        if (this.gone) return DESTROYED;
        throw error;
      });
    };
    this.status = Object.assign(this.queries.make(null, status), { value: UNKNOWN });
    this.quarantine = this.query(async (tx) => (await tx.entries()).filter((entry) => entry.state === 'rejected'));
    this.profile = this.query(async (tx) => (await tx.meta()).profile);
    this.ready = this.open();
    this.ready.catch(nothing); // whoever writes or reads hears of it
  }

  // ---- Reading ----

  /** The user's conversations, newest first. */
  conversations({ limit = SHOWN }: { readonly limit?: number } = {}): HistoryQuery<ShownConversation> {
    return this.histories.conversations(limit);
  }

  /** The messages of a conversation, oldest first, the newest `limit` of them. */
  messages(conversation: Uuid, { limit = SHOWN }: { readonly limit?: number } = {}): HistoryQuery<ShownMessage> {
    return this.histories.messages(conversation, limit);
  }

  /** Brings older rows of a conversation (null: older conversations) into the store, for whoever shows them. */
  async loadOlder(conversation: Uuid | null, count: number = SHOWN): Promise<Older> {
    await this.ready;
    return this.histories.loadOlder(conversation, count);
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
    if (getToken !== undefined) this.server.getToken = getToken;
    if (this.server.getToken === undefined) throw new TypeError('upgrade() needs a getToken');
    await this.store.write((tx) => tx.setMeta({ downgraded: false }));
    // This tab knows the way to a token; the one that leads may not.
    if (this.tabs.leading) await this.server.start();
    else this.tabs.steal();
  }

  /** From now on, also after a restart, this user's work stays on the device, which keeps everything. */
  async downgrade(): Promise<void> {
    await this.ready;
    await this.store.write(async (tx) => {
      // Another tab may be connected yet: whatever it is told from now on is not stored.
      await tx.setMeta({ local: true, downgraded: true, lease: (await tx.meta()).lease + 1 });
    });
    this.tabs.signal('downgrade');
    await this.server.stop();
    this.touched(touchedAll());
  }

  /** Try now, also after the server said not to come back. */
  reconnect(): void {
    this.ready.then(() => this.tabs.reconnect()).catch(nothing);
  }

  /** After the store was restored from a backup or copied: another client_id, for which numbers start at 1 (8.1). */
  async renew(): Promise<void> {
    await this.ready;
    await this.server.pause(() =>
      this.store.write(async (tx) => {
        const { lease } = await tx.meta();
        const { nextN, put } = renew(await tx.entries());
        await tx.putEntries(put);
        // Another tab may be connected with the old client_id: whatever it is told from now on is not this one's.
        await tx.setMeta({ clientId: newId(), nextN, lease: lease + 1 });
      }),
    );
  }

  /**
   * Removes conversations that were not changed for half a year from this device, if storage runs low or is `full`.
   * Conversations with unsent work stay; paging brings the others back. Returns how many were removed.
   */
  cleanNow(full = false): Promise<number> {
    return this.cleaner.clean(full);
  }

  /** Lets go of socket, lock and store. What was written stays written. */
  close(): Promise<void> {
    return (this.ending ??= this.end());
  }

  /**
   * Deletes the store with all that this user has on the device, as when they sign out; resolves when it is gone. Their
   * Sync ends in every tab, with the state `destroyed`. Rejects with UnsentError, and nothing is changed, if writes are
   * on this device only and are not to be discarded.
   */
  async destroy({ discardUnsent = false }: { readonly discardUnsent?: boolean } = {}): Promise<void> {
    await this.ready;
    this.mustBeOpen();
    try {
      await this.store.write((tx) => wipe(tx, discardUnsent));
      this.tabs.signal('destroyed');
      this.lose();
    } catch (error) {
      // Otherwise it is gone already, perhaps by another tab.
      if (error instanceof Destroyed) return this.close();
      throw error;
    }
    await this.close();
    await this.options.store.destroy?.();
  }

  // ---- Within ----

  private async open(): Promise<void> {
    const { store, user, getToken } = this.options;
    await store.write(async (tx) => {
      const meta = await tx.meta();
      if (meta.user !== '' && meta.user !== user) {
        throw new StoreError("this store is another user's: give each user one of a name of its own");
      }
      await tx.setMeta({ user, ...(getToken === undefined ? { local: true } : {}) });
    });
    await store.adopt?.(user);
    if (this.closed) return;
    this.off = this.env.onAwake(() => {
      this.tabs.awake();
      if (this.tabs.leading) this.server.probe();
    });
    if (getToken !== undefined) this.tabs.start();
    this.cleaner.start();
  }

  private async write(home: Uuid | null, work: (tx: Writing, now: number) => Promise<unknown>): Promise<void> {
    await this.ready;
    this.mustBeOpen();
    await this.store.write((tx) => work(tx, this.env.clock.now()));
    this.touched(home === null ? touchedAll() : { ...touchedNothing(), conversations: new Set([home]) });
    if (this.tabs.leading) this.server.kick();
    else this.tabs.signal('kick');
  }

  private mustBeOpen(): void {
    if (this.closed && !this.gone) throw new WriteError('this sync is closed');
  }

  /** The store as long as it is this user's: once a tab has destroyed it, no other one brings it to life again. */
  private guarded({ store, user }: SyncOptions): Transactions {
    const guard =
      (how: 'read' | 'write') =>
      async <T>(work: (tx: Writing) => Promise<T>): Promise<T> => {
        try {
          return await store[how](async (tx: Reading) => {
            if (this.gone || (await tx.meta()).user !== user) throw new Destroyed();
            return work(tx as Writing);
          });
        } catch (error) {
          if (error instanceof Destroyed) this.lose();
          throw this.gone ? new Destroyed() : error;
        }
      };
    return { read: guard('read'), write: guard('write') };
  }

  /** There is no store any more. */
  private lose(): void {
    if (this.gone) return;
    this.gone = true;
    this.close().catch(nothing);
    this.status.invalidate();
  }

  private async end(): Promise<void> {
    this.closed = true;
    this.cleaner.stop();
    this.off();
    await this.ready.catch(nothing);
    await this.server.close(); // the other tabs are told that nobody is connected
    this.tabs.close();
    await this.options.store.close();
  }

  private query<T>(load: (tx: Reading) => Promise<T>): Query<T> {
    return this.queries.make(null, async () => {
      await this.ready;
      return this.store.read(load);
    });
  }

  private touched(touched: Touched): void {
    this.queries.touched(touched);
    this.tabs.touched(touched);
  }

  private become(state: ConnectionStatus['state']): void {
    this.follow({ state, error: isConnected(state) ? null : this.connection.error });
  }

  private follow(connection: ConnectionStatus): void {
    const came = connection.state === 'live' && this.connection.state !== 'live';
    this.show(connection);
    if (came) this.queries.touched(touchedAll()); // what could not be loaded can be now
  }

  private show(connection: ConnectionStatus): void {
    const { state, error } = this.connection;
    // Where the store cannot be read, the status cannot either, and says so each time it is asked for.
    if (state === connection.state && error?.message === connection.error?.message) return;
    this.connection = connection;
    this.status.invalidate();
    this.tabs.postStatus();
  }

  private fault(error: unknown): void {
    if (error instanceof Deposed) return this.tabs.resign();
    if (isQuotaError(error)) void this.cleanNow(true);
    const described = describe(error);
    if (described !== null) this.show({ state: this.connection.state, error: described });
  }
}
