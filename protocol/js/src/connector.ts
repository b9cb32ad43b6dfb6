/**
 * Opens one connection after the other: start, stop, and the pauses between them. What happens on one of them is
 * connection.ts's, when to come back comeback.ts's.
 */

import { codecsFor, type Encoding } from './codec.js';
import { nextStep } from './comeback.js';
import { Connection, type ConnectionOptions } from './connection.js';
import type { Window } from './frames.js';
import { PageError, type PageRequest } from './pages.js';
import { bare, closedBy, Inquiry, Trouble, type FetchLike } from './reason.js';
import type { Kinds } from './schema.js';
import { Session } from './session.js';
import { Deposed } from './store.js';
import { TokenError, Tokens, type GetToken } from './token.js';
import type { WebSocketClass, WebSocketLike } from './websocket.js';

export interface ConnectorOptions extends ConnectionOptions {
  readonly url: string;
  readonly getToken: GetToken;
  readonly kinds: Kinds;
  readonly window: Window;
  readonly encoding: Encoding;
  readonly random: () => number;
  readonly WebSocket: WebSocketClass;
  readonly fetch: FetchLike | null;
  readonly online: () => boolean;
  /** The server said not to come back by itself; `close` is the close code that says so (43xx). */
  readonly onStayAway: (close: number | null) => void;
}

/** Milliseconds. */
const TOKEN_WITHIN = 60_000;

const nothing = (): void => undefined;

const noToken = (why: string): Trouble => new Trouble('no_token', `getToken() failed (${why}): it is asked again`);
const ours = (error: unknown): boolean => error instanceof TokenError || error instanceof Trouble;

export class Connector {
  private readonly tokens: Tokens;
  private readonly inquiry: Inquiry;
  private running: Promise<void> | null = null;
  private stopped = false;
  private connection: Connection | null = null;
  /** The server chose the length of the pause. */
  private advised = false;
  private pauseEnds = Infinity;
  /** Ends the pause before the next attempt. */
  private wake = nothing;
  /** Ends the wait for a token. */
  private abort = nothing;

  constructor(private readonly options: ConnectorOptions) {
    const { url, fetch, online, clock } = options;
    this.tokens = new Tokens(options.getToken);
    this.inquiry = new Inquiry(url, fetch, online, clock);
  }

  start(): void {
    this.running ??= this.run();
  }

  /** Resolves when nothing is stored any more. May be repeated. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.wake();
    this.abort();
    this.connection?.end();
    await this.running;
  }

  /** There may be something to send now. */
  kick(): void {
    void this.connection?.pushNext();
    this.connection?.stopNext();
  }

  /** The device woke up, became visible, or has another network: check the connection, or connect now. */
  probe(): void {
    if (this.connection !== null) this.connection.probe();
    else if (!this.advised) this.wake();
  }

  /**
   * Browsers throttle timers in hidden tabs. A visible tab calls this, so that an overdue attempt does not wait for
   * ours.
   */
  tick(): void {
    if (this.options.clock.now() >= this.pauseEnds) this.wake();
  }

  /** Asks for older history; resolves with whether there is more, once the page is stored. Rejects with PageError. */
  async page(request: PageRequest, limit: number): Promise<boolean> {
    if (this.connection === null) throw new PageError('offline');
    return this.connection.page(request, limit);
  }

  private async run(): Promise<void> {
    const { random, onState, onError, onStayAway } = this.options;
    let attempt = 0;
    try {
      while (!this.stopped) {
        onState('connecting');
        const connection = await this.open();
        this.connection = connection;
        await connection?.run();
        this.connection = null;
        onState('offline');
        if (this.stopped) return;
        if (connection !== null) this.explain(connection);
        const { closeCode = null, session, age = 0 } = connection ?? {};
        const step = nextStep(closeCode, session?.lastError ?? null, attempt, age, random());
        attempt = step.attempt;
        if (step.instruction === 'stay_away') return onStayAway(step.close);
        if (step.instruction === 'start_over') await this.startOver();
        if (step.instruction === 'new_token') this.tokens.rejected(true);
        this.advised = step.advised;
        await this.pause(step.delayMs);
      }
    } catch (error) {
      onError(error);
    } finally {
      this.connection = null;
      onState('offline');
    }
  }

  /** Says why a connection ended, if no error did. */
  private explain({ opened, explained, closeCode }: Connection): void {
    const { onError } = this.options;
    if (opened) {
      this.inquiry.end();
      if (!explained) onError(closedBy(closeCode));
    } else if (!explained) {
      this.inquiry.begin((trouble) => {
        if (!this.stopped && this.connection?.opened !== true) onError(trouble);
      });
    }
  }

  /** If the store fails, the next connection is told again to start over. */
  private async startOver(): Promise<void> {
    try {
      await this.options.ingest.startOver();
    } catch (error) {
      if (error instanceof Deposed) throw error;
      this.options.onError(error);
    }
  }

  private pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const { clock } = this.options;
      this.pauseEnds = clock.now() + ms;
      this.options.onState('offline', this.pauseEnds);
      const cancel = clock.after(ms, () => this.wake());
      this.wake = () => {
        this.wake = nothing;
        this.pauseEnds = Infinity;
        cancel();
        resolve();
      };
      if (this.stopped) this.wake();
    });
  }

  /** A new connection; null if there can be none for now. */
  private async open(): Promise<Connection | null> {
    const { url, ingest, kinds, window, encoding, onError } = this.options;
    try {
      const token = await this.token();
      const point = await ingest.begin();
      if (this.stopped) return null;
      const session = new Session({ kinds, token, ...point, window, encoding });
      this.tokens.sent(token);
      const ws = this.dial(url, codecsFor(kinds)[encoding].subprotocol);
      ws.binaryType = 'arraybuffer';
      return new Connection(ws, session, this.tokens, this.options);
    } catch (error) {
      if (error instanceof Deposed) throw error;
      if (!this.stopped) onError(error);
      return null;
    }
  }

  private dial(url: string, subprotocol: string): WebSocketLike {
    try {
      return new this.options.WebSocket(url, [subprotocol]);
    } catch (error) {
      // The URL is none, or a page with https may not connect to ws://.
      const where = bare(url);
      const why = (error as Error).message.replaceAll(url, where);
      throw new Trouble('bad_url', `no WebSocket can be opened at ${where} (${why}): correct \`url\``);
    }
  }

  /** A token, unless the app takes too long or the connector is stopped. */
  private token(): Promise<string> {
    return new Promise((resolve, reject) => {
      const cancel = this.options.clock.after(TOKEN_WITHIN, () => reject(noToken('it gave none within a minute')));
      this.abort = () => reject(new Error('stopped'));
      this.tokens
        .forConnection()
        .then(resolve, (error: unknown) => {
          reject(ours(error) ? error : noToken(String(Object(error).message ?? error)));
        })
        .finally(() => {
          cancel();
          this.abort = nothing;
        });
    });
  }
}
