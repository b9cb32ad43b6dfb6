/**
 * One connection, from its first attempt to its end: the WebSocket, its session, its timers, and who waits for a page.
 * What happens on it is socket.ts's to say.
 */

import type { Clock } from './clock.js';
import type { Session } from './session.js';

/** As much of the browser's WebSocket as is needed here. */
export interface WebSocketLike {
  binaryType: string;
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: never) => unknown) | null;
  onclose: ((event: never) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
  send(data: Uint8Array | string): void;
  close(code?: number): void;
}
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

/** Milliseconds of silence before the server has said how often it speaks. */
const WELCOME_WITHIN = 60_000;
export const HANG_UP = 1000;

/** Why a page did not come. */
export class PageError extends Error {
  override name = 'PageError';
  constructor(readonly code: string) {
    super(code);
  }
}

interface Waiting {
  readonly resolve: (more: boolean) => void;
  readonly reject: (error: PageError) => void;
}

export class Connection {
  readonly session: Session;
  readonly pages = new Map<number, Waiting>();
  readonly over: Promise<void>;
  readonly opened: number;
  welcomed = false;
  closeCode: number | null = null;
  ended = false;
  /** The last token that was sent. */
  offered: string;
  heard: number;
  quietAfter = WELCOME_WITHIN;
  /** Answers to pushes that are not stored yet: what is due is known after them. */
  unsettled = 0;
  pushing = false;
  pushAgain = false;
  private finish: () => void = () => undefined;
  private readonly timers = new Map<string, () => void>();

  constructor(
    readonly ws: WebSocketLike,
    session: Session,
    readonly clock: Clock,
    token: string,
  ) {
    this.session = session;
    this.offered = token;
    this.opened = this.heard = clock.now();
    this.over = new Promise((resolve) => (this.finish = resolve));
  }

  /** Nothing more will be heard or said. `code`: ours; null: nobody is there to hear. */
  end(code: number | null): void {
    if (this.ended) return;
    this.ended = true;
    for (const off of this.timers.values()) off();
    this.timers.clear();
    const { ws } = this;
    ws.onopen = ws.onmessage = ws.onclose = null;
    ws.onerror = () => undefined; // a socket that is given up may complain yet
    try {
      ws.close(code ?? HANG_UP);
    } catch {
      // It was not open, or is closed already.
    }
    this.finish();
  }

  send(frame: Uint8Array | string): void {
    if (!this.ended) this.ws.send(frame);
  }

  /** One timer of each name. */
  after(name: string, ms: number, call: () => void): void {
    this.off(name);
    if (!this.ended) this.timers.set(name, this.clock.after(ms, call));
  }

  off(name: string): void {
    this.timers.get(name)?.();
    this.timers.delete(name);
  }
}
