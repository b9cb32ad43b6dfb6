/**
 * The edge around session.ts: opens WebSockets, one after the other, and notices when one is dead. Knows timers; what
 * frames mean is the session's, what to store the host's, when to come back comeback.ts's.
 */

import type { Clock } from './clock.js';
import { nextStep, refreshAfter, type Step } from './comeback.js';
import { Deposed, type Asked } from './keeper.js';
import { HANG_UP, Line, PageError, type WebSocketClass, type WebSocketLike } from './line.js';
import type { Push } from './outbox.js';
import { Session, type Begun, type Event } from './session.js';
import { CODECS, ProtocolError, type Data, type Encoding, type Limits, type Window } from './wire.js';

/** What the app's code is asked for a token for. `refused`: the last one will not do, also if it looks fresh. */
export type TokenReason = 'connecting' | 'expiring' | 'refused';
export type GetToken = (reason: TokenReason) => string | Promise<string>;

/** What stands behind a connection. */
export interface Host {
  begin(): Promise<Begun>;
  hear(event: Event): Promise<void>;
  nextPush(limits: Limits): Promise<Push | number | null>;
  expectPage(id: number, asked: Asked): void;
  startOver(): Promise<void>;
}

export type LineState = 'offline' | 'connecting' | 'catching up' | 'live';

export interface SocketOptions {
  readonly url: string;
  readonly host: Host;
  readonly getToken: GetToken;
  readonly window: Window;
  readonly encoding: Encoding;
  readonly clock: Clock;
  readonly random: () => number;
  readonly WebSocket: WebSocketClass;
  readonly onState: (state: LineState) => void;
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

export class Socket {
  state: LineState = 'offline';
  private running: Promise<void> | null = null;
  private stopped = false;
  private line: Line | null = null;
  private refusedToken: string | null = null;
  private reason: TokenReason = 'connecting';
  private advised = false;
  private pauseEnds = Infinity;
  /** Ends the pause before the next attempt. */
  private wake: () => void = nothing;
  /** Ends the wait for a token. */
  private abort: () => void = nothing;

  constructor(private readonly options: SocketOptions) {}

  start(): void {
    this.running ??= this.stayInStep();
  }

  /** Resolves when nothing is stored any more. May be repeated. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.wake();
    this.abort();
    this.line?.end(HANG_UP);
    await this.running;
  }

  /** There may be something to send now. */
  kick(): void {
    if (this.line !== null) void this.pump(this.line);
  }

  /** The device woke up, became visible, or has another network: find out now whether the line is alive. */
  doubt(): void {
    const { line } = this;
    if (line === null) {
      if (!this.advised) this.wake();
      return;
    }
    if (line.session.state === 'new' || line.session.state === 'broken') return;
    line.send(line.session.ping());
    line.after('pong', PONG_WITHIN, () => this.cut(line, 'no pong came'));
  }

  /** Timers of hidden tabs are late: somebody whose are not says that time has passed. */
  tick(): void {
    if (this.options.clock.now() >= this.pauseEnds) this.wake();
  }

  /** Older history; resolves with whether there is more, once what came is stored. */
  async page(asked: Asked, limit: number): Promise<boolean> {
    const { line } = this;
    if (line === null || !line.session.mayAsk) throw new PageError(line === null ? 'offline' : 'not_yet');
    const [id, frame] = line.session.askPage(
      asked.conversation,
      asked.before,
      Math.min(limit, line.session.limits.pageRows),
    );
    this.options.host.expectPage(id, asked);
    const answer = new Promise<boolean>((resolve, reject) => line.pages.set(id, { resolve, reject }));
    line.send(frame);
    return answer;
  }

  // ---- One connection after the other ----

  private async stayInStep(): Promise<void> {
    const { random, onError, onStayAway } = this.options;
    let attempt = 0;
    try {
      while (!this.stopped) {
        this.become('connecting');
        const line = await this.open();
        if (line !== null) await this.converse(line);
        this.become('offline');
        if (this.stopped) return;
        const words = line?.session.lastWords ?? null;
        const lasted = line === null ? 0 : this.options.clock.now() - line.opened;
        const step: Step = nextStep(line?.closeCode ?? null, words, attempt, lasted, random());
        attempt = step.attempt;
        if (step.order === 'stay away') {
          onStayAway(step.close);
          return;
        }
        if (step.order === 'start over') await this.startOver();
        if (step.order === 'new token') {
          this.refusedToken = line?.offered ?? null;
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
  private async open(): Promise<Line | null> {
    const { url, host, window, encoding, clock, WebSocket, onError } = this.options;
    try {
      const token = await this.within(TOKEN_WITHIN, async () => this.options.getToken(this.reason), 'no token came');
      if (token === this.refusedToken) throw new Error('getToken() gave the token that the server refused');
      const begun = await host.begin();
      if (this.stopped) return null;
      const session = new Session({ token, ...begun, window, encoding });
      const ws = new WebSocket(url, [CODECS[encoding].subprotocol]);
      ws.binaryType = 'arraybuffer';
      const line = new Line(ws, session, clock, token);
      this.line = line;
      line.after('open', CONNECT_WITHIN, () => this.cut(line, 'no connection within ten seconds'));
      return line;
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
  private async converse(line: Line): Promise<void> {
    const { onError } = this.options;
    let turn: Promise<void> = Promise.resolve();
    line.ws.onopen = () => {
      line.off('open');
      line.heard = line.clock.now();
      line.send(line.session.hello());
      this.listenFor(line, line.quietAfter);
    };
    line.ws.onmessage = (({ data }: { data: Data }) => {
      line.heard = line.clock.now();
      let event: Event | null;
      try {
        event = line.session.receive(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
      } catch (error) {
        onError(error);
        line.end(error instanceof ProtocolError ? SERVER_AT_FAULT : HANG_UP);
        return;
      }
      if (event === null) return;
      if (event.t === 'pong') line.off('pong');
      if (answersPush(event)) line.unsettled++;
      const heard = event;
      turn = turn.then(() => this.handle(line, heard));
      turn.catch(() => line.end(HANG_UP));
    }) as WebSocketLike['onmessage'];
    line.ws.onclose = ((event: { code: number }) => {
      line.closeCode = event.code;
      line.end(null);
    }) as WebSocketLike['onclose'];
    line.ws.onerror = () => undefined; // `close` follows, and says more

    await line.over;
    this.line = null;
    let failure: unknown = null;
    try {
      await turn;
    } catch (error) {
      failure = error;
    }
    for (const waiting of line.pages.values()) waiting.reject(new PageError('offline'));
    if (failure === null) return;
    if (failure instanceof Deposed) throw failure;
    onError(failure);
  }

  private async handle(line: Line, event: Event): Promise<void> {
    await this.options.host.hear(event);
    if (answersPush(event)) line.unsettled--;
    switch (event.t) {
      case 'welcome':
        line.welcomed = true;
        this.refusedToken = null;
        this.reason = 'connecting';
        line.quietAfter = 2 * event.keepalive;
        this.listenFor(line, line.quietAfter);
        this.keepToken(line, (event.expires - event.time) / 1000);
        if (!line.ended) this.become('catching up');
        break;
      case 'live':
        if (!line.ended) this.become('live');
        break;
      case 'page':
        line.pages.get(event.id)?.resolve(event.more);
        line.pages.delete(event.id);
        break;
      case 'refreshed':
        // By the server's clock, of which the last welcome told; what passed since, ours has measured.
        this.reason = 'connecting';
        this.keepToken(line, event.expires / 1000 - this.serverNow(line));
        break;
      case 'error':
        this.options.onError(event);
        if (event.answers === 'refresh') {
          if (event.code === 'token_refused') this.reason = 'refused';
          this.keepToken(line, this.remaining, event.retryAfter ?? REFRESH_AGAIN_AFTER);
        } else if (event.answers !== 'push' && event.id !== null && !line.session.unanswered.has(event.id)) {
          line.pages.get(event.id)?.reject(new PageError(event.code));
          line.pages.delete(event.id);
        }
        break;
    }
    if (event.t === 'welcome') this.serverAhead = event.time / 1000 - line.clock.now();
    void this.pump(line);
  }

  private serverAhead = 0;
  private expires = 0;
  private serverNow = (line: Line): number => line.clock.now() + this.serverAhead;
  private get remaining(): number {
    return this.expires - this.options.clock.now();
  }

  // ---- While it lives ----

  private listenFor(line: Line, ms: number): void {
    line.after('quiet', ms, () => {
      const silence = line.clock.now() - line.heard;
      if (silence < line.quietAfter) return this.listenFor(line, line.quietAfter - silence);
      // Messages may lie in front of us that a busy page has not taken yet: give them one turn.
      line.after('quiet', 0, () => {
        if (line.clock.now() - line.heard >= line.quietAfter) this.cut(line, 'nothing came for too long');
        else this.listenFor(line, line.quietAfter);
      });
    });
  }

  private cut(line: Line, words: string): void {
    this.options.onError(new Error(words));
    line.end(null);
  }

  /** Give the server a later token before the one in use ends, again and again. */
  private keepToken(line: Line, remainingMs: number, atLeastMs = 0): void {
    this.expires = line.clock.now() + remainingMs;
    if (remainingMs <= 0) return;
    line.after('token', Math.max(refreshAfter(remainingMs), atLeastMs), () => void this.refresh(line));
  }

  private async refresh(line: Line): Promise<void> {
    let token: string | null = null;
    try {
      token = await this.options.getToken(this.reason === 'refused' ? 'refused' : 'expiring');
    } catch (error) {
      this.options.onError(error);
    }
    if (line.ended || line.session.refreshing || line.session.state === 'broken') return;
    // The server has it already, or has refused it.
    if (token === null || token === line.offered) return this.keepToken(line, this.remaining, REFRESH_AGAIN_AFTER);
    line.offered = token;
    line.send(line.session.refresh(token));
  }

  private async pump(line: Line): Promise<void> {
    line.pumpAgain = line.pushing;
    if (line.pushing || !line.welcomed || line.ended || line.unsettled > 0 || !line.session.mayPush) return;
    line.pushing = true;
    try {
      const due = await this.options.host.nextPush(line.session.limits);
      if (line.ended || !line.session.mayPush) return;
      if (typeof due === 'number') line.after('push', due, () => void this.pump(line));
      else if (due !== null) line.send(line.session.push(due));
    } catch (error) {
      this.options.onError(error);
      line.end(HANG_UP);
    } finally {
      line.pushing = false;
      // What was added while the store was read may have come too late for it.
      if (line.pumpAgain) void this.pump(line);
    }
  }

  private become(state: LineState): void {
    if (state === this.state) return;
    this.state = state;
    this.options.onState(state);
  }
}
