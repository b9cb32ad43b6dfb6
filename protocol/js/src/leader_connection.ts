/**
 * The leading tab's way to the server: an ingest and a connector, one pair after the other, as long as this tab leads and
 * the server has not told this device to stay away. Knows neither tabs nor queries.
 */

import { touchedAll, type Touched } from './apply.js';
import { ANNOUNCED_CLOSE, backoff } from './comeback.js';
import type { Environment } from './environment.js';
import { Deposed, Ingest, type PageRequest } from './ingest.js';
import { PageError } from './connection.js';
import { Connector, type GetToken, type ConnectionState } from './connector.js';
import type { Transactions } from './store.js';
import { ownToken } from './token.js';
import { CODECS, type Encoding } from './codec.js';
import type { Window } from './frames.js';

/** How the connection stands, for status lines. */
export interface ConnectionStatus {
  readonly state: ConnectionState;
  /** Why there is none: a code of the protocol, or the name of a failure. */
  readonly error: { readonly code: string; readonly message: string } | null;
}

export interface LeaderConnectionOptions {
  readonly url: string;
  readonly user: string;
  readonly store: Transactions;
  readonly window: Window;
  readonly encoding: Encoding;
  readonly environment: Environment;
  readonly leading: () => boolean;
  readonly onState: (state: ConnectionState) => void;
  readonly onTouched: (touched: Touched) => void;
  readonly onError: (error: unknown) => void;
}

const nothing = (): void => undefined;

export class LeaderConnection {
  private connector: Connector | null = null;
  /** The close code for which this device does not come back by itself. */
  private away: number | null = null;
  private failures = 0;
  private retry = nothing;
  private closed = false;
  private tasks: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly options: LeaderConnectionOptions,
    public getToken: GetToken | undefined,
  ) {}

  /** Connect anew, whatever the server has said; if this tab does not lead, as soon as it does. */
  async start(): Promise<void> {
    this.away = null;
    await this.after(async () => {
      await this.hangUp();
      await this.connect();
    });
  }

  async stop(): Promise<void> {
    await this.after(() => this.hangUp());
  }

  /** Without a connection meanwhile; and with one again after it if this tab leads. */
  async pause(work: () => Promise<void>): Promise<void> {
    await this.after(async () => {
      await this.hangUp();
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
    this.retry();
  }

  kick(): void {
    this.connector?.kick();
  }

  tick(): void {
    this.connector?.tick();
  }

  /** The device woke up, or somebody looks at it. */
  probe(): void {
    if (this.connector !== null) return this.connector.probe();
    if (this.away !== null && this.away !== ANNOUNCED_CLOSE.replaced) return;
    this.away = null;
    this.after(async () => {
      if (this.connector === null) await this.connect();
    }).catch(nothing);
  }

  async page(asked: PageRequest, limit: number): Promise<void> {
    if (this.connector === null) throw new PageError('offline');
    await this.connector.page(asked, limit);
  }

  /** One after the other: what begins and what ends a connection must not overtake each other. */
  private after(work: () => Promise<void>): Promise<void> {
    const mine = this.tasks.then(work);
    this.tasks = mine.catch((error: unknown) => this.options.onError(error));
    return mine;
  }

  private async hangUp(): Promise<void> {
    const { connector } = this;
    this.connector = null;
    await connector?.stop();
    this.options.onState('offline');
  }

  private async connect(): Promise<void> {
    const { getToken, options } = this;
    this.retry();
    if (getToken === undefined || this.away !== null || this.closed || !options.leading()) return;
    const { url, user, store, window, encoding, onTouched } = options;
    const { clock, random, WebSocket } = options.environment;
    const now = (): number => clock.now();
    const ingest = new Ingest({ store, codec: CODECS[encoding], window, now, random, onTouched });
    try {
      if (!(await ingest.lead())) return;
    } catch (error) {
      // A full disk may have room again.
      this.retry = clock.after(backoff(++this.failures, random()), () => void this.start().catch(nothing));
      throw error;
    }
    this.failures = 0;
    const connector: Connector = new Connector({
      url,
      host: ingest,
      // Somebody else may have signed in meanwhile: this user's outbox must never travel under that name.
      getToken: async (reason) => ownToken(await (this.getToken ?? getToken)(reason), user),
      window,
      encoding,
      clock,
      random,
      WebSocket,
      onState: (state) => {
        if (this.connector === connector) options.onState(state);
      },
      // What a connection that is over found out about its lease says nothing about the one that took its place.
      onError: (error) => {
        if (this.connector === connector || !(error instanceof Deposed)) options.onError(error);
      },
      onStayAway: (close) => void this.after(() => this.stayAway(ingest, connector, close)).catch(nothing),
    });
    this.connector = connector;
    connector.start();
  }

  private async stayAway(ingest: Ingest, connector: Connector, close: number | null): Promise<void> {
    if (this.connector !== connector) return;
    this.away = close;
    try {
      if (close === ANNOUNCED_CLOSE.local_only) await ingest.goLocal();
      // Another tab took over, and then this one follows; or a copy of this store is in use somewhere else.
      if (close === ANNOUNCED_CLOSE.replaced) await ingest.begin();
    } finally {
      await this.hangUp();
      this.options.onTouched(touchedAll());
    }
  }
}
