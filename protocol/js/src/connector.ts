/**
 * The edge around session.ts: opens WebSockets, one after the other, and notices when one is dead. Knows timers; what
 * frames mean is the session's, what to store the host's, when to come back comeback.ts's.
 */

import type { Clock } from './clock.js';
import { nextStep, refreshAfter, type Step } from './comeback.js';
import { Deposed, type PageRequest } from './ingest.js';
import { HANG_UP, Connection, PageError, type WebSocketClass, type WebSocketLike } from './connection.js';
import type { Push } from './outbox.js';
import { Session, type ResumePoint, type Event } from './session.js';
import { CODECS, ProtocolError, type Data, type Encoding } from './codec.js';
import type { Limits, Window } from './frames.js';

/** What the app's code is asked for a token for. `refused`: the last one will not do, also if it looks fresh. */
export type TokenReason = 'connecting' | 'expiring' | 'refused';
export type GetToken = (reason: TokenReason) => string | Promise<string>;

/** What stands behind a connection. */
export interface Host {
  begin(): Promise<ResumePoint>;
  hear(event: Event): Promise<void>;
  nextPush(limits: Limits): Promise<Push | number | null>;
  expectPage(id: number, asked: PageRequest): void;
  startOver(): Promise<void>;
}

export type ConnectionState = 'offline' | 'connecting' | 'catching_up' | 'live';

export interface ConnectorOptions {
  readonly url: string;
  readonly host: Host;
  readonly getToken: GetToken;
  readonly window: Window;
  readonly encoding: Encoding;
  readonly clock: Clock;
  readonly random: () => number;
  readonly WebSocket: WebSocketClass;
  readonly onState: (state: ConnectionState) => void;
  /** For status lines and logs; never contains content. */
  readonly onError: (error: unknown) => void;
  /** The server said not to come back by itself; `close` is the close code that says so (43xx). */
  readonly onStayAway: (close: number | null) => void;
}

const TOKEN_WITHIN = 60_000;
const CONNECT_WITHIN = 10_000;
/** Until the pong of a device in doubt. */
const PONG_WITHIN = 2_500;
/** At the earliest, if a refresh brought nothing new. */
const REFRESH_AGAIN_AFTER = 1_000;
const SERVER_AT_FAULT = 4000;

const nothing = (): void => undefined;

const answersPush = (event: Event): boolean =>
  event.t === 'ack' || (event.t === 'error' && event.answers === 'push');

export class Connector {
  state: ConnectionState = 'offline';
  private running: Promise<void> | null = null;
  private stopped = false;
  private connection: Connection | null = null;
  private refusedToken: string | null = null;
  private reason: TokenReason = 'connecting';
  private advised = false;
  private pauseEnds = Infinity;
  /** Ends the pause before the next attempt. */
  private wake: () => void = nothing;
  /** Ends the wait for a token. */
  private abort: () => void = nothing;

  constructor(private readonly options: ConnectorOptions) {}

  start(): void {
    this.running ??= this.stayInStep();
  }

  /** Resolves when nothing is stored any more. May be repeated. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.wake();
    this.abort();
    this.connection?.end(HANG_UP);
    await this.running;
  }

  /** There may be something to send now. */
  kick(): void {
    if (this.connection !== null) void this.pushNext(this.connection);
  }

  /** The device woke up, became visible, or has another network: find out now whether the line is alive. */
  probe(): void {
    const { connection } = this;
    if (connection === null) {
      if (!this.advised) this.wake();
      return;
    }
    if (connection.session.state === 'new' || connection.session.state === 'broken') return;
    connection.send(connection.session.ping());
    connection.after('pong', PONG_WITHIN, () => this.cut(connection, 'no pong came'));
  }

  /** Timers of hidden tabs are late: somebody whose are not says that time has passed. */
  tick(): void {
    if (this.options.clock.now() >= this.pauseEnds) this.wake();
  }

  /** Older history; resolves with whether there is more, once what came is stored. */
  async page(asked: PageRequest, limit: number): Promise<boolean> {
    const { connection } = this;
    if (connection === null || !connection.session.mayAsk) throw new PageError(connection === null ? 'offline' : 'not_yet');
    const [id, frame] = connection.session.askPage(
      asked.conversation,
      asked.before,
      Math.min(limit, connection.session.limits.pageRows),
    );
    this.options.host.expectPage(id, asked);
    const answer = new Promise<boolean>((resolve, reject) => connection.pages.set(id, { resolve, reject }));
    connection.send(frame);
    return answer;
  }

  // ---- One connection after the other ----

  private async stayInStep(): Promise<void> {
    const { random, onError, onStayAway } = this.options;
    let attempt = 0;
    try {
      while (!this.stopped) {
        this.become('connecting');
        const connection = await this.open();
        if (connection !== null) await this.converse(connection);
        this.become('offline');
        if (this.stopped) return;
        const words = connection?.session.lastError ?? null;
        const lasted = connection === null ? 0 : this.options.clock.now() - connection.opened;
        const step: Step = nextStep(connection?.closeCode ?? null, words, attempt, lasted, random());
        attempt = step.attempt;
        if (step.instruction === 'stay_away') {
          onStayAway(step.close);
          return;
        }
        if (step.instruction === 'start_over') await this.startOver();
        if (step.instruction === 'new_token') {
          this.refusedToken = connection?.offered ?? null;
          this.reason = 'refused';
        }
        this.advised = step.advised;
        await this.pause(step.delayMs);
      }
    } catch (error) {
      onError(error);
    } finally {
      this.become('offline');
    }
  }

  /** Where the store fails, the next connection is told once more to start over. */
  private async startOver(): Promise<void> {
    try {
      await this.options.host.startOver();
    } catch (error) {
      if (error instanceof Deposed) throw error;
      this.options.onError(error);
    }
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const { clock } = this.options;
      this.pauseEnds = clock.now() + ms;
      const off = clock.after(ms, () => this.wake());
      this.wake = () => {
        this.wake = nothing;
        this.pauseEnds = Infinity;
        off();
        resolve();
      };
      if (this.stopped) this.wake();
    });
  }

  /** A new connection, on which nothing was said yet; null if there is none for now. */
  private async open(): Promise<Connection | null> {
    const { url, host, window, encoding, clock, WebSocket, onError } = this.options;
    try {
      const token = await this.within(TOKEN_WITHIN, async () => this.options.getToken(this.reason), 'no token came');
      if (token === this.refusedToken) throw new Error('getToken() gave the token that the server refused');
      const begun = await host.begin();
      if (this.stopped) return null;
      const session = new Session({ token, ...begun, window, encoding });
      const ws = new WebSocket(url, [CODECS[encoding].subprotocol]);
      ws.binaryType = 'arraybuffer';
      const connection = new Connection(ws, session, clock, token);
      this.connection = connection;
      connection.after('open', CONNECT_WITHIN, () => this.cut(connection, 'no connection within ten seconds'));
      return connection;
    } catch (error) {
      if (error instanceof Deposed) throw error;
      onError(error);
      return null;
    }
  }

  private async within<T>(ms: number, work: () => Promise<T>, words: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const off = this.options.clock.after(ms, () => reject(new Error(words)));
      this.abort = () => reject(new Error('stopped'));
      work()
        .then(resolve, reject)
        .finally(() => {
          off();
          this.abort = nothing;
        });
    });
  }

  /** Until nothing more will come, and what came is stored. */
  private async converse(connection: Connection): Promise<void> {
    const { onError } = this.options;
    let turn: Promise<void> = Promise.resolve();
    connection.ws.onopen = () => {
      connection.off('open');
      connection.heard = connection.clock.now();
      connection.send(connection.session.hello());
      this.listenFor(connection, connection.quietAfter);
    };
    connection.ws.onmessage = (({ data }: { data: Data }) => {
      connection.heard = connection.clock.now();
      let event: Event | null;
      try {
        event = connection.session.receive(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
      } catch (error) {
        onError(error);
        connection.end(error instanceof ProtocolError ? SERVER_AT_FAULT : HANG_UP);
        return;
      }
      if (event === null) return;
      if (event.t === 'pong') connection.off('pong');
      if (answersPush(event)) connection.unsettled++;
      const heard = event;
      turn = turn.then(() => this.handle(connection, heard));
      turn.catch(() => connection.end(HANG_UP));
    }) as WebSocketLike['onmessage'];
    connection.ws.onclose = ((event: { code: number }) => {
      connection.closeCode = event.code;
      connection.end(null);
    }) as WebSocketLike['onclose'];
    connection.ws.onerror = () => undefined; // `close` follows, and says more

    await connection.over;
    this.connection = null;
    let failure: unknown = null;
    try {
      await turn;
    } catch (error) {
      failure = error;
    }
    for (const waiting of connection.pages.values()) waiting.reject(new PageError('offline'));
    if (failure === null) return;
    if (failure instanceof Deposed) throw failure;
    onError(failure);
  }

  private async handle(connection: Connection, event: Event): Promise<void> {
    await this.options.host.hear(event);
    if (answersPush(event)) connection.unsettled--;
    switch (event.t) {
      case 'welcome':
        connection.welcomed = true;
        this.refusedToken = null;
        this.reason = 'connecting';
        connection.quietAfter = 2 * event.keepalive;
        this.listenFor(connection, connection.quietAfter);
        this.keepToken(connection, (event.expires - event.time) / 1000);
        if (!connection.ended) this.become('catching_up');
        break;
      case 'live':
        if (!connection.ended) this.become('live');
        break;
      case 'page':
        connection.pages.get(event.id)?.resolve(event.more);
        connection.pages.delete(event.id);
        break;
      case 'refreshed':
        // By the server's clock, of which the last welcome told; what passed since, ours has measured.
        this.reason = 'connecting';
        this.keepToken(connection, event.expires / 1000 - this.serverNow(connection));
        break;
      case 'error':
        this.options.onError(event);
        if (event.answers === 'refresh') {
          if (event.code === 'token_refused') this.reason = 'refused';
          this.keepToken(connection, this.remaining, event.retryAfter ?? REFRESH_AGAIN_AFTER);
        } else if (event.answers !== 'push' && event.id !== null && !connection.session.unanswered.has(event.id)) {
          connection.pages.get(event.id)?.reject(new PageError(event.code));
          connection.pages.delete(event.id);
        }
        break;
    }
    if (event.t === 'welcome') this.serverAhead = event.time / 1000 - connection.clock.now();
    void this.pushNext(connection);
  }

  private serverAhead = 0;
  private expires = 0;
  private serverNow = (connection: Connection): number => connection.clock.now() + this.serverAhead;
  private get remaining(): number {
    return this.expires - this.options.clock.now();
  }

  // ---- While it lives ----

  private listenFor(connection: Connection, ms: number): void {
    connection.after('quiet', ms, () => {
      const silence = connection.clock.now() - connection.heard;
      if (silence < connection.quietAfter) return this.listenFor(connection, connection.quietAfter - silence);
      // Messages may lie in front of us that a busy page has not taken yet: give them one turn.
      connection.after('quiet', 0, () => {
        if (connection.clock.now() - connection.heard >= connection.quietAfter) this.cut(connection, 'nothing came for too long');
        else this.listenFor(connection, connection.quietAfter);
      });
    });
  }

  private cut(connection: Connection, words: string): void {
    this.options.onError(new Error(words));
    connection.end(null);
  }

  /** Give the server a later token before the one in use ends, again and again. */
  private keepToken(connection: Connection, remainingMs: number, atLeastMs = 0): void {
    this.expires = connection.clock.now() + remainingMs;
    if (remainingMs <= 0) return;
    connection.after('token', Math.max(refreshAfter(remainingMs), atLeastMs), () => void this.refresh(connection));
  }

  private async refresh(connection: Connection): Promise<void> {
    let token: string | null = null;
    try {
      token = await this.options.getToken(this.reason === 'refused' ? 'refused' : 'expiring');
    } catch (error) {
      this.options.onError(error);
    }
    if (connection.ended || connection.session.refreshing || connection.session.state === 'broken') return;
    // The server has it already, or has refused it.
    if (token === null || token === connection.offered) return this.keepToken(connection, this.remaining, REFRESH_AGAIN_AFTER);
    connection.offered = token;
    connection.send(connection.session.refresh(token));
  }

  private async pushNext(connection: Connection): Promise<void> {
    connection.pushAgain = connection.pushing;
    if (connection.pushing || !connection.welcomed || connection.ended || connection.unsettled > 0 || !connection.session.mayPush) return;
    connection.pushing = true;
    try {
      const due = await this.options.host.nextPush(connection.session.limits);
      if (connection.ended || !connection.session.mayPush) return;
      if (typeof due === 'number') connection.after('push', due, () => void this.pushNext(connection));
      else if (due !== null) connection.send(connection.session.push(due));
    } catch (error) {
      this.options.onError(error);
      connection.end(HANG_UP);
    } finally {
      connection.pushing = false;
      // What was added while the store was read may have come too late for it.
      if (connection.pushAgain) void this.pushNext(connection);
    }
  }

  private become(state: ConnectionState): void {
    if (state === this.state) return;
    this.state = state;
    this.options.onState(state);
  }
}
