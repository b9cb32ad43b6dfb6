/** The library's façade: queries over the local store, writes, and status. The only module that connects the parts. */

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
  /** The id of the user whose rows the store keeps. */
  readonly user: string;
  /** Without it, this user's work stays on the device until `upgrade`. */
  readonly getToken?: GetToken;
  /** How many conversations, and messages of each, a snapshot brings: 50 of both by default. */
  readonly window?: Window;
  /** `msgpack` by default; `json` is for developer tools. */
  readonly encoding?: Encoding;
  /** What differs from the platform's own. */
  readonly environment?: Partial<Environment>;
}

const nothing = (): void => undefined;

export function createSync(options: SyncOptions): Sync {
  return new Sync(options);
}

export class Sync {
  /** Resolves when the store is open. Rejects with StoreError if it is another user's or cannot be opened. */
  readonly ready: Promise<void>;
  /** Its `value` is never undefined: before the store was read, it says `offline`. */
  readonly status: Query<Status> & { value: Status };
  /** Rejected mutations with their reasons, for `retry` or `discard`. */
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
        void this.cleanNow(); // only the leading tab may
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
        destroyed: () => this.onDestroyed(),
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
      return this.store
        .read((tx) => readStatus(tx, this.connection))
        .catch((error: unknown) => {
          if (this.gone) return DESTROYED;
          throw error;
        });
    };
    this.status = Object.assign(this.queries.make(null, status), { value: UNKNOWN });
    this.quarantine = this.query(async (tx) => (await tx.entries()).filter((entry) => entry.state === 'rejected'));
    this.profile = this.query(async (tx) => (await tx.meta()).profile);
    this.ready = this.open();
    this.ready.catch(nothing); // each read and write rejects with it
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

  /** Fetches older rows of a conversation (null: older conversations) into the store; queries show them. */
  async loadOlder(conversation: Uuid | null, count: number = SHOWN): Promise<Older> {
    await this.ready;
    return this.histories.loadOlder(conversation, count);
  }

  // ---- Writing: durable when the promise resolves, and sent as soon as there is a connection. Throws WriteError ----

  /** Returns the id of the conversation. */
  async createConversation(title: string | null = null, id: Uuid = newId()): Promise<Uuid> {
    await this.write(null, (tx, now) => writes.createConversation(tx, now, title, id));
    return id;
  }

  async renameConversation(id: Uuid, title: string | null): Promise<void> {
    await this.write(null, (tx, now) => writes.renameConversation(tx, now, id, title));
  }

  /** Deletes a conversation with its messages. */
  async deleteConversation(id: Uuid): Promise<void> {
    await this.write(null, (tx) => writes.deleteConversation(tx, id));
  }

  /** Adds a message to a conversation, and returns its id. `role` must be one that the server accepts from devices. */
  async sendMessage(
    conversation: Uuid,
    content: string,
    { role = 'user', id = newId() }: { readonly role?: string; readonly id?: Uuid } = {},
  ): Promise<Uuid> {
    await this.write(conversation, (tx, now) => writes.sendMessage(tx, now, conversation, content, role, id));
    return id;
  }

  /** Replaces the content of a message. */
  async editMessage(id: Uuid, content: string): Promise<void> {
    await this.write(null, (tx, now) => writes.editMessage(tx, now, id, content));
  }

  async deleteMessage(id: Uuid): Promise<void> {
    await this.write(null, (tx) => writes.deleteMessage(tx, id));
  }

  /**
   * Writes a rejected mutation again, with `text` if given. `key` is that of its row or of its entry in the quarantine.
   */
  async retry(key: number, text?: string): Promise<void> {
    await this.write(null, (tx, now) => writes.retry(tx, now, key, text));
  }

  /** Deletes a rejected mutation. */
  async discard(key: number): Promise<void> {
    await this.write(null, (tx) => writes.discard(tx, key));
  }

  // ---- Connecting, disconnecting, cleaning, deleting ----

  /** Connects, and pushes the work that stayed on the device. `status.progress` shows how far that is. */
  async upgrade(getToken?: GetToken): Promise<void> {
    await this.ready;
    if (getToken !== undefined) this.server.getToken = getToken;
    if (this.server.getToken === undefined) throw new TypeError('upgrade() needs a getToken');
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
    await this.server.stop();
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
   * Removes conversations that were not changed for half a year from this device, if storage runs low or is `full`.
   * Conversations with unsent work stay; paging brings the others back. Returns how many were removed.
   */
  cleanNow(full = false): Promise<number> {
    return this.cleaner.clean(full);
  }

  /** Closes connection, lock and store. May be repeated. */
  close(): Promise<void> {
    return (this.ending ??= this.end());
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
      await this.store.write((tx) => wipe(tx, discardUnsent));
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
    const { store, user, getToken } = this.options;
    await store.write(async (tx) => {
      const meta = await tx.meta();
      if (meta.user !== '' && meta.user !== user) {
        throw new StoreError("this store is another user's: give each user a store with a name of its own");
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

  /** The store, while it is this user's: after a tab has destroyed it, no other tab may write to it again. */
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
          if (error instanceof Destroyed) this.onDestroyed();
          throw this.gone ? new Destroyed() : error;
        }
      };
    return { read: guard('read'), write: guard('write') };
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
    await this.ready.catch(nothing);
    await this.server.close(); // reports `offline` to the other tabs
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
    if (came) this.queries.touched(touchedAll()); // pages that could not be fetched can be now
  }

  private show(connection: ConnectionStatus): void {
    const { state, error } = this.connection;
    // Without this, an unreadable store would loop: its status cannot be read, which is an error to show.
    if (state === connection.state && error?.message === connection.error?.message) return;
    this.connection = connection;
    this.status.invalidate();
    this.tabs.postStatus();
  }

  /** Shows an error on the status line, and reacts to a lost lease and to a full disk. */
  private fault(error: unknown): void {
    if (error instanceof Deposed) return this.tabs.resign();
    if (isQuotaError(error)) void this.cleanNow(true);
    const described = describe(error);
    if (described !== null) this.show({ state: this.connection.state, error: described });
  }
}
