/**
 * The leading tab's connection to the server: an ingest and a connector, one pair after the other, while this tab leads
 * and the server has not told this device to stay away. Knows neither tabs nor queries.
 */

import { touchedAll, type Touched } from './apply.js';
import { codecsFor, type Encoding } from './codec.js';
import { ANNOUNCED_CLOSE, backoff } from './comeback.js';
import type { ConnectionState } from './connection.js';
import { Connector } from './connector.js';
import type { Environment } from './environment.js';
import type { Window } from './frames.js';
import { Ingest } from './ingest.js';
import { PageError, type PageRequest } from './pages.js';
import type { Uuid } from './rows.js';
import type { Kinds } from './schema.js';
import type { Stops } from './stops.js';
import { Deposed, type Transactions } from './store.js';
import type { Streaming } from './streaming.js';
import type { KeptStream } from './streams.js';
import { ownToken, type GetToken } from './token.js';

export interface LeaderConnectionOptions {
  readonly url: string;
  readonly user: string;
  readonly store: Transactions;
  readonly kinds: Kinds;
  readonly window: Window;
  readonly encoding: Encoding;
  readonly environment: Environment;
  readonly streams: Streaming;
  readonly stops: Stops;
  readonly leading: () => boolean;
  readonly onState: (state: ConnectionState, retryAt?: number | null) => void;
  readonly onTouched: (touched: Touched) => void;
  readonly onError: (error: unknown) => void;
}

const nothing = (): void => undefined;

export class LeaderConnection {
  private connector: Connector | null = null;
  private ingest: Ingest | null = null;
  /** The close code for which this device does not come back by itself. */
  private away: number | null = null;
  private failures = 0;
  private cancelRetry = nothing;
  private closed = false;
  private tasks: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly options: LeaderConnectionOptions,
    public getToken: GetToken | undefined,
  ) {}

  /** Connects anew, whatever the server has said. A tab that does not lead connects once it leads. */
  async start(): Promise<void> {
    this.away = null;
    await this.queue(async () => {
      await this.disconnect();
      await this.connect();
    });
  }

  async stop(): Promise<void> {
    await this.queue(() => this.disconnect());
  }

  /** Does `work` without a connection, then connects again if this tab leads. */
  async pause(work: () => Promise<void>): Promise<void> {
    await this.queue(async () => {
      await this.disconnect();
      try {
        await work();
      } finally {
        await this.connect();
      }
    });
  }

  async close(): Promise<void> {
    this.closed = true;
    await this.stop();
    this.cancelRetry();
  }

  kick(): void {
    this.connector?.kick();
  }

  tick(): void {
    this.connector?.tick();
  }

  /** The device woke up, the tab became visible, or the network changed. */
  probe(): void {
    if (this.connector !== null) return this.connector.probe();
    if (this.away !== null && this.away !== ANNOUNCED_CLOSE.replaced) return;
    this.away = null;
    this.queue(async () => {
      if (this.connector === null) await this.connect();
    }).catch(nothing);
  }

  async page(request: PageRequest, limit: number): Promise<void> {
    if (this.connector === null) throw new PageError('offline');
    await this.connector.page(request, limit);
  }

  async keepStreams(put: readonly KeptStream[], drop: readonly Uuid[]): Promise<void> {
    await this.ingest?.keepStreams(put, drop);
  }

  /** One task after the other, so that a start and a stop do not overtake each other. */
  private queue(work: () => Promise<void>): Promise<void> {
    const mine = this.tasks.then(work);
    this.tasks = mine.catch((error: unknown) => this.options.onError(error));
    return mine;
  }

  private async disconnect(): Promise<void> {
    const { connector } = this;
    this.connector = null;
    await connector?.stop();
    this.options.onState('offline');
  }

  private async connect(): Promise<void> {
    const { getToken, options } = this;
    this.cancelRetry();
    if (getToken === undefined || this.away !== null || this.closed || !options.leading()) return;
    const { url, user, store, kinds, window, encoding, onTouched, streams, stops } = options;
    const { clock, random, WebSocket, fetch, online } = options.environment;
    const now = (): number => clock.now();
    const codec = codecsFor(kinds)[encoding];
    const ingest = new Ingest({ store, codec, window, now, random, onTouched, streams });
    try {
      if (!(await ingest.lead())) return;
    } catch (error) {
      // Retry: the disk may have been full.
      const pause = backoff(++this.failures, random());
      this.cancelRetry = clock.after(pause, () => void this.start().catch(nothing));
      options.onState('offline', clock.now() + pause);
      throw error;
    }
    this.failures = 0;
    this.ingest = ingest;
    const connector: Connector = new Connector({
      url,
      ingest,
      streams,
      stops,
      // Another user may have signed in meanwhile, whose token must not carry this user's writes.
      getToken: async (reason) => ownToken(await (this.getToken ?? getToken)(reason), user),
      kinds,
      window,
      encoding,
      clock,
      random,
      WebSocket,
      fetch,
      online,
      onState: (state, retryAt) => {
        if (this.connector === connector) options.onState(state, retryAt);
      },
      // That an earlier connector lost the lease says nothing about the one that took its place.
      onError: (error) => {
        if (this.connector === connector || !(error instanceof Deposed)) options.onError(error);
      },
      onStayAway: (close) => void this.queue(() => this.stayAway(ingest, connector, close)).catch(nothing),
    });
    this.connector = connector;
    connector.start();
  }

  private async stayAway(ingest: Ingest, connector: Connector, close: number | null): Promise<void> {
    if (this.connector !== connector) return;
    this.away = close;
    try {
      if (close === ANNOUNCED_CLOSE.local_only) await ingest.goLocal();
      // If another tab took over, this throws Deposed, and this tab follows. Else a copy of this store is in use
      // elsewhere.
      if (close === ANNOUNCED_CLOSE.replaced) await ingest.begin();
    } finally {
      await this.disconnect();
      this.options.onTouched(touchedAll());
    }
  }
}
