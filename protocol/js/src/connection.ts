/**
 * One connection, from its first attempt to its end: events of the session go into the store, pushes and pages are
 * sent, the token is refreshed, and silence ends it. connector.ts opens one connection after the other.
 */

import type { Clock } from './clock.js';
import { ProtocolError, type Data } from './codec.js';
import { refreshAfter } from './comeback.js';
import type { StreamFrame } from './frames.js';
import type { Ingest } from './ingest.js';
import { PageError, type PageRequest } from './pages.js';
import { reasonOf, Trouble } from './reason.js';
import type { Uuid } from './rows.js';
import { together, type Event, type Session } from './session.js';
import type { Stops } from './stops.js';
import { Deposed } from './store.js';
import type { Tokens } from './token.js';
import type { WebSocketLike } from './websocket.js';

export type ConnectionState = 'offline' | 'connecting' | 'catching_up' | 'live';

export interface ConnectionOptions {
  readonly ingest: Ingest;
  readonly streams: {
    receive(frame: StreamFrame): void;
    name(open: readonly Uuid[]): void;
    unnamed(): Uuid[];
    forget(ids: readonly Uuid[]): void;
  };
  readonly stops: Stops;
  readonly clock: Clock;
  /** `retryAt`: when the next attempt begins, in milliseconds by the device's clock. */
  readonly onState: (state: ConnectionState, retryAt?: number | null) => void;
  /** For status lines and logs; never contains content. */
  readonly onError: (error: unknown) => void;
}

/** Milliseconds until a WebSocket must be open. */
const OPEN_WITHIN = 10_000;
/** Milliseconds of silence before `welcome`, which says how often the server sends something (SPEC.md, 9.1). */
const WELCOME_WITHIN = 60_000;
/** Milliseconds until the pong that a probe asks for. */
const PONG_WITHIN = 2_500;
/** Milliseconds until a stop that could not be answered is repeated, if the server does not say it. */
const STOP_AGAIN_AFTER = 1_000;
/** Milliseconds until the next refresh at the earliest, if one brought nothing new. */
const REFRESH_AGAIN_AFTER = 1_000;
const CLOSE_NORMAL = 1000;
const CLOSE_PROTOCOL_BROKEN = 4000;

interface Waiting {
  readonly resolve: (more: boolean) => void;
  readonly reject: (error: PageError) => void;
}

const answersPush = (event: Event): boolean => event.t === 'ack' || (event.t === 'error' && event.answers === 'push');

export class Connection {
  /** The server's; null if there was none. */
  closeCode: number | null = null;
  /** Whether the WebSocket was open. */
  opened = false;
  /** Whether an error has told why the connection ended. */
  explained = false;
  private ended = false;
  private live = false;
  private finish: () => void = () => undefined;
  private readonly over = new Promise<void>((resolve) => (this.finish = resolve));
  private readonly startedAt: number;
  private heardAt: number;
  private silenceLimit = WELCOME_WITHIN;
  /** By the device's clock. */
  private tokenEnds = 0;
  private welcomed = false;
  /** Events are stored one after the other. */
  private storing: Promise<void> = Promise.resolve();
  /** Events whose turn has not come. */
  private readonly waiting: Event[] = [];
  /** Answers to pushes that are not stored yet: which mutations are due is known after them. */
  private unstored = 0;
  private pushing = false;
  private pushAgain = false;
  /** The stops that were sent, by their numbers. */
  private readonly stopped = new Map<number, Uuid>();
  private readonly pages = new Map<number, Waiting>();
  private readonly timers = new Map<string, () => void>();

  constructor(
    private readonly ws: WebSocketLike,
    readonly session: Session,
    private readonly tokens: Tokens,
    private readonly options: ConnectionOptions,
  ) {
    this.startedAt = this.heardAt = options.clock.now();
  }

  /** Resolves when the connection is over and everything that came is stored. Throws Deposed. */
  async run(): Promise<void> {
    const { ws, session } = this;
    ws.onopen = () => {
      this.cancel('open');
      this.opened = true;
      this.heardAt = this.options.clock.now();
      this.send(session.hello());
      this.watchSilence();
    };
    ws.onmessage = (({ data }: { data: Data }) => this.receive(data)) as WebSocketLike['onmessage'];
    ws.onclose = ((event: { code: number }) => {
      this.closeCode = event.code;
      this.end();
    }) as WebSocketLike['onclose'];
    ws.onerror = () => undefined; // `close` follows, and says more
    this.after('open', OPEN_WITHIN, () => this.end());
    await this.over;
    try {
      await this.storing;
    } catch (error) {
      if (error instanceof Deposed) throw error;
      this.report(error);
    } finally {
      for (const waiting of this.pages.values()) waiting.reject(new PageError('offline'));
    }
  }

  /** Nothing more is received or sent. `code`: the close code to send. */
  end(code = CLOSE_NORMAL): void {
    if (this.ended) return;
    this.ended = true;
    for (const cancel of this.timers.values()) cancel();
    this.timers.clear();
    const { ws } = this;
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.onerror = () => undefined; // an abandoned WebSocket may still report an error
    try {
      ws.close(code);
    } catch {
      // It was not open, or is closed already.
    }
    this.finish();
  }

  /** Milliseconds since the connection was tried. */
  get age(): number {
    return this.options.clock.now() - this.startedAt;
  }

  /** Find out now whether the connection is alive. */
  probe(): void {
    const { session } = this;
    if (session.state === 'new' || session.state === 'broken') return;
    this.send(session.ping());
    this.after('pong', PONG_WITHIN, () => this.fail());
  }

  /** Asks for a page; resolves with whether there is more, once the page is stored. Rejects with PageError. */
  async page(request: PageRequest, limit: number): Promise<boolean> {
    const { session } = this;
    if (this.ended || !session.mayAsk) throw new PageError(this.ended ? 'offline' : 'not_yet');
    const [id, frame] = session.askPage(request, Math.min(limit, session.limits.pageRows));
    this.options.ingest.expectPage(id, request);
    const answer = new Promise<boolean>((resolve, reject) => this.pages.set(id, { resolve, reject }));
    this.send(frame);
    return answer;
  }

  /** Sends the next push, if one is due and the last one is answered. */
  async pushNext(): Promise<void> {
    const { session, options } = this;
    this.pushAgain = this.pushing;
    if (this.pushing || !this.welcomed || this.ended || this.unstored > 0 || !session.mayPush) return;
    this.pushing = true;
    try {
      const due = await options.ingest.nextPush(session.limits);
      if (this.ended || !session.mayPush) return;
      if (typeof due === 'number') this.after('push', due, () => void this.pushNext());
      else if (due !== null) this.send(session.push(due));
    } catch (error) {
      this.report(error);
      this.end();
    } finally {
      this.pushing = false;
      // A mutation may have been added after the store was read.
      if (this.pushAgain) void this.pushNext();
    }
  }

  /** Sends the stops that are not answered, as many as the server permits. */
  stopNext(): void {
    const { session, stopped, options } = this;
    if (!this.welcomed || this.ended || this.timers.has('stop')) return;
    const sent = new Set(stopped.values());
    for (const [id, { kind, id: row, column }] of options.stops.unanswered()) {
      if (!session.mayStop) return;
      if (sent.has(id)) continue;
      const [n, frame] = session.stop(kind, row, column);
      if (frame === null) options.stops.answer(id, false);
      else {
        stopped.set(n, id);
        this.send(frame);
      }
    }
  }

  private stopAnswered(n: number, found: boolean): void {
    this.options.stops.answer(this.stopped.get(n) ?? '', found);
    this.stopped.delete(n);
    this.stopNext();
  }

  private receive(data: Data): void {
    this.heardAt = this.options.clock.now();
    let event: Event | null;
    try {
      event = this.session.receive(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
    } catch (error) {
      this.report(error);
      this.end(error instanceof ProtocolError ? CLOSE_PROTOCOL_BROKEN : CLOSE_NORMAL);
      return;
    }
    if (event === null) return;
    const { streams } = this.options;
    if (event.t === 'pong') this.cancel('pong');
    // A text is shown as soon as it comes, also while rows are being stored.
    if (event.t === 'stream') return streams.receive(event);
    if (event.t === 'streams') return streams.name(event.open);
    if (event.t === 'stopped') return this.stopAnswered(event.n, event.found);
    this.explained = event.t === 'error' && reasonOf(event) !== null;
    if (answersPush(event)) this.unstored++;
    // What came while the store was busy is stored together: a device that was away catches up in few transactions.
    const last = this.waiting.at(-1);
    const both = last && together(last, event);
    if (both) {
      this.waiting[this.waiting.length - 1] = both;
      return;
    }
    this.waiting.push(event);
    const over = event.t === 'live' ? streams.unnamed() : [];
    this.storing = this.storing.then(async () => {
      await this.handle(this.waiting.shift() as Event);
      streams.forget(over);
    });
    this.storing.catch(() => this.end());
  }

  private async handle(event: Event): Promise<void> {
    const { ingest, onState, onError, clock } = this.options;
    const { pages, tokens } = this;
    await ingest.apply(event);
    if (answersPush(event)) this.unstored--;
    switch (event.t) {
      case 'welcome':
        this.welcomed = true;
        tokens.accepted();
        this.silenceLimit = 2 * event.keepalive;
        this.watchSilence();
        this.scheduleRefresh((event.expires - event.time) / 1000);
        if (!this.ended) onState('catching_up');
        break;
      case 'live':
        if (this.live) break;
        this.live = true;
        if (!this.ended) onState('live');
        break;
      case 'page':
        pages.get(event.id)?.resolve(event.more);
        pages.delete(event.id);
        break;
      case 'refreshed':
        tokens.accepted();
        if (!this.ended) onState(this.live ? 'live' : 'catching_up'); // what was wrong with a token is not any more
        this.scheduleRefresh(event.expires / 1000 - ingest.serverNow());
        break;
      case 'error':
        if (event.answers === 'stop' && event.id !== null) {
          if (!event.retryable) this.stopAnswered(event.id, false);
          this.stopped.delete(event.id);
          if (!event.retryable) break;
          this.after('stop', event.retryAfter ?? STOP_AGAIN_AFTER, () => {
            this.cancel('stop');
            this.stopNext();
          });
          break;
        }
        // A server of an earlier version: it has no streams.
        if (event.code === 'unknown_frame') for (const n of [...this.stopped.keys()]) this.stopAnswered(n, false);
        onError(event);
        if (event.answers === 'refresh') {
          if (event.code === 'token_refused') tokens.rejected(false);
          this.scheduleRefresh(this.tokenEnds - clock.now(), event.retryAfter ?? REFRESH_AGAIN_AFTER);
        } else if (event.answers !== 'push' && event.id !== null && !this.session.unanswered.has(event.id)) {
          pages.get(event.id)?.reject(new PageError(event.code));
          pages.delete(event.id);
        }
        break;
    }
    void this.pushNext();
    this.stopNext();
  }

  /** A refresh before the token ends, again and again. Milliseconds. */
  private scheduleRefresh(remaining: number, atLeast = 0): void {
    this.tokenEnds = this.options.clock.now() + remaining;
    if (remaining > 0) this.after('token', Math.max(refreshAfter(remaining), atLeast), () => void this.refresh());
  }

  private async refresh(): Promise<void> {
    const { session, tokens, options } = this;
    let token: string | null = null;
    try {
      token = await tokens.forRefresh();
    } catch (error) {
      options.onError(error);
    }
    if (this.ended || session.refreshing || session.state === 'broken') return;
    if (token === null) return this.scheduleRefresh(this.tokenEnds - options.clock.now(), REFRESH_AGAIN_AFTER);
    tokens.sent(token);
    this.send(session.refresh(token));
  }

  private watchSilence(): void {
    const { clock } = this.options;
    const left = this.heardAt + this.silenceLimit - clock.now();
    this.after('silence', left, () => {
      if (clock.now() - this.heardAt < this.silenceLimit) return this.watchSilence();
      // A busy page may not have read messages that have arrived: let it do so first.
      this.after('silence', 0, () => {
        if (clock.now() - this.heardAt < this.silenceLimit) this.watchSilence();
        else this.fail();
      });
    });
  }

  private fail(): void {
    this.report(new Trouble('silent', 'the server fell silent: a new connection is made'));
    this.end();
  }

  private report(error: unknown): void {
    this.explained = true;
    this.options.onError(error);
  }

  private send(frame: Uint8Array | string): void {
    if (!this.ended) this.ws.send(frame);
  }

  /** One timer of each name. */
  private after(name: string, ms: number, call: () => void): void {
    this.cancel(name);
    if (!this.ended) this.timers.set(name, this.options.clock.after(ms, call));
  }

  private cancel(name: string): void {
    this.timers.get(name)?.();
    this.timers.delete(name);
  }
}
