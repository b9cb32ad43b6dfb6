/**
 * The leading tab's way to the server: a keeper and a socket, one pair after the other, as long as this tab leads and
 * the server has not told this device to stay away. Knows neither tabs nor queries.
 */

import { touchedAll, type Touched } from './apply.js';
import { ANNOUNCED_CLOSE, backoff } from './comeback.js';
import type { Environment } from './environment.js';
import { Deposed, Keeper, type Asked } from './keeper.js';
import { PageError } from './line.js';
import { Socket, type GetToken, type LineState } from './socket.js';
import type { Transactions } from './store.js';
import { ownToken } from './token.js';
import { CODECS, type Encoding, type Window } from './wire.js';

/** How the connection stands, for status lines. */
export interface Connection {
  readonly state: LineState;
  /** Why there is none: a code of the protocol, or the name of a failure. */
  readonly error: { readonly code: string; readonly message: string } | null;
}

export interface UplinkOptions {
  readonly url: string;
  readonly user: string;
  readonly store: Transactions;
  readonly window: Window;
  readonly encoding: Encoding;
  readonly environment: Environment;
  readonly leading: () => boolean;
  readonly onState: (state: LineState) => void;
  readonly onTouched: (touched: Touched) => void;
  readonly onError: (error: unknown) => void;
}

const nothing = (): void => undefined;

export class Uplink {
  private socket: Socket | null = null;
  /** The close code for which this device does not come back by itself. */
  private away: number | null = null;
  private failures = 0;
  private retry = nothing;
  private closed = false;
  private tasks: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly options: UplinkOptions,
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
    this.socket?.kick();
  }

  tick(): void {
    this.socket?.tick();
  }

  /** The device woke up, or somebody looks at it. */
  doubt(): void {
    if (this.socket !== null) return this.socket.doubt();
    if (this.away !== null && this.away !== ANNOUNCED_CLOSE.replaced) return;
    this.away = null;
    this.after(async () => {
      if (this.socket === null) await this.connect();
    }).catch(nothing);
  }

  async page(asked: Asked, limit: number): Promise<void> {
    if (this.socket === null) throw new PageError('offline');
    await this.socket.page(asked, limit);
  }

  /** One after the other: what begins and what ends a connection must not overtake each other. */
  private after(work: () => Promise<void>): Promise<void> {
    const mine = this.tasks.then(work);
    this.tasks = mine.catch((error: unknown) => this.options.onError(error));
    return mine;
  }

  private async hangUp(): Promise<void> {
    const { socket } = this;
    this.socket = null;
    await socket?.stop();
    this.options.onState('offline');
  }

  private async connect(): Promise<void> {
    const { getToken, options } = this;
    this.retry();
    if (getToken === undefined || this.away !== null || this.closed || !options.leading()) return;
    const { url, user, store, window, encoding, onTouched } = options;
    const { clock, random, WebSocket } = options.environment;
    const now = (): number => clock.now();
    const keeper = new Keeper({ store, codec: CODECS[encoding], window, now, random, onTouched });
    try {
      if (!(await keeper.lead())) return;
    } catch (error) {
      // A full disk may have room again.
      this.retry = clock.after(backoff(++this.failures, random()), () => void this.start().catch(nothing));
      throw error;
    }
    this.failures = 0;
    const socket: Socket = new Socket({
      url,
      host: keeper,
      // Somebody else may have signed in meanwhile: this user's outbox must never travel under that name.
      getToken: async (reason) => ownToken(await (this.getToken ?? getToken)(reason), user),
      window,
      encoding,
      clock,
      random,
      WebSocket,
      onState: (state) => {
        if (this.socket === socket) options.onState(state);
      },
      // What a connection that is over found out about its lease says nothing about the one that took its place.
      onError: (error) => {
        if (this.socket === socket || !(error instanceof Deposed)) options.onError(error);
      },
      onStayAway: (close) => void this.after(() => this.stayAway(keeper, socket, close)).catch(nothing),
    });
    this.socket = socket;
    socket.start();
  }

  private async stayAway(keeper: Keeper, socket: Socket, close: number | null): Promise<void> {
    if (this.socket !== socket) return;
    this.away = close;
    try {
      if (close === ANNOUNCED_CLOSE.local_only) await keeper.goLocal();
      // Another tab took over, and then this one follows; or a copy of this store is in use somewhere else.
      if (close === ANNOUNCED_CLOSE.replaced) await keeper.begin();
    } finally {
      await this.hangUp();
      this.options.onTouched(touchedAll());
    }
  }
}
