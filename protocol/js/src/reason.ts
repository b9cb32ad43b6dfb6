/** Why a device has no connection: one sentence that says what to do, for a status line. */

import type { Clock } from './clock.js';
import type { ErrorAnswer } from './frames.js';

export interface Reason {
  /** A code of SPEC.md, 10.1, or one of this page: `unreachable`, `http_404`, `cut` … */
  readonly code: string;
  readonly message: string;
}

/** A reason that this library found itself. */
export class Trouble extends Error {
  override name = 'Trouble';

  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** Said until the app starts again. */
export const EMPTIED: Reason = {
  code: 'store_emptied',
  message: 'the data on this device was deleted, and is fetched again: what had not been sent to the server is lost',
};

/** The database waits for another tab, which may be frozen, or have an earlier version of the app. */
export const blocked = (): Trouble =>
  new Trouble('store_blocked', 'another tab keeps the database on this device: close the other tabs of this app, or reload them');

/** For the codes of SPEC.md, 10.1, whose sentence from the server speaks to clients, and not to apps and people. */
const SENTENCES: Readonly<Record<string, string>> = {
  token_refused: 'the server refuses the token: getToken() must return one that it verifies and that has not expired',
  token_expired: 'the token expired: getToken() must return a later one in time',
  hello_timeout: 'the connection was too slow to begin: it is tried again',
  too_many_sockets: 'this user has too many connections open: close the app on other devices or in other browsers',
  too_many_frames: 'this device sent more than is permitted: it connects again after a pause',
  too_many_hellos: 'this user connects too often: it is tried again after a pause',
  unavailable: "the server's database is not available at this moment: it is tried again",
  replaced: 'another copy of this store has connected: if it was copied or restored from a backup, call renew()',
  position_lost: "the server's database went back to an earlier state: this device fetches everything anew",
  going_away: 'the server is being restarted: it is tried again after a pause',
  internal: "the server failed: it is tried again; if that goes on, look at the server's log",
  local_only: 'the server does not sync for this user: the work stays on this device',
};

/**
 * The reason that an Error or an `error` frame is; null if it is no reason to be without a connection: a push, a page or a
 * stop that is put off leaves the connection as it is.
 */
export function reasonOf(error: unknown): Reason | null {
  const { t, answers, code, name, message = String(error) } = Object(error) as Partial<ErrorAnswer & Error>;
  if (t === 'error') {
    const of = String(code);
    const isPutOff = answers === 'push' || answers === 'page' || answers === 'stop';
    return isPutOff ? null : { code: of, message: SENTENCES[of] ?? message };
  }
  if (error instanceof Trouble) return { code: error.code, message };
  if (name === 'PageError') return null;
  if (name === 'TokenError' || name === 'StoreError') return { code: name, message };
  if (name === 'ProtocolError') {
    return { code: name, message: `the server broke the protocol (${message}): a new connection is made` };
  }
  // What is left comes from the store.
  return isQuotaError(error)
    ? { code: 'store_full', message: 'this device has no room left: free some, and the app goes on' }
    : { code: 'store', message: `the database on this device fails (${String(name)}: ${message}): reload the app` };
}

/** Whether the browser had no room for a write. */
export const isQuotaError = (error: unknown): boolean => /Quota/.test(String(error));

/** A connection that was open has ended without an `error`. `close`: the server's code; null if there was none. */
export function closedBy(close: number | null): Trouble {
  switch (Math.floor((close ?? 0) / 100)) {
    case 40:
      return new Trouble('closed', `the server ended the connection (${close}): it is tried again`);
    case 41:
      return new Trouble('closed', `the server wants another token (${close}): getToken() must return one`);
    case 42:
      return new Trouble('closed', `the server ended the connection (${close}): this device fetches everything anew`);
    case 43:
      return new Trouble('closed', `the server wants this device to stay away (${close}): reconnect() tries it again`);
    default:
      return new Trouble('cut', 'the connection was cut: it is tried again');
  }
}

/** The part of `fetch` that this library uses. */
export type FetchLike = (
  url: string,
  options: RequestInit,
) => Promise<{ readonly status: number; readonly type: string }>;

/** An address without what may be secret in it. */
export const bare = (url: string): string => url.replace(/[?#].*/, '').replace(/\/\/[^/]*@/, '//');

/** Milliseconds between two questions at least: a server with trouble is not asked twice as often. */
const ASK_AGAIN_AFTER = 60_000;
const ANSWER_WITHIN = 10_000;

/**
 * Finds out why no WebSocket opens at a URL. A browser does not tell, so the URL is asked by HTTP, without credentials,
 * once a minute at most.
 */
export class Inquiry {
  /** The last answer. */
  private found: Trouble | null = null;
  private askedAt = -Infinity;
  private readonly where: string;

  constructor(
    private readonly url: string,
    private readonly fetch: FetchLike | null,
    private readonly online: () => boolean,
    private readonly clock: Clock,
  ) {
    this.where = bare(url);
  }

  /** A WebSocket has opened: what was found does not hold any more. */
  end(): void {
    this.found = null;
    this.askedAt = -Infinity;
  }

  /** Tells what is known at once, and more when there is an answer, unless the inquiry has ended meanwhile. */
  begin(tell: (trouble: Trouble) => void): void {
    const { clock, fetch } = this;
    if (!this.online()) {
      return tell(new Trouble('no_network', 'this device has no network: it connects as soon as there is one'));
    }
    const sentence = `the server cannot be reached at ${this.where}: check the address, its port and path`;
    tell(this.found ?? new Trouble('unreachable', sentence));
    const now = clock.now();
    if (fetch === null || now - this.askedAt < ASK_AGAIN_AFTER) return;
    this.askedAt = now;
    void this.ask(fetch).then((found) => {
      if (this.askedAt !== now) return;
      this.found = found;
      tell(found);
    });
  }

  private async ask(fetch: FetchLike): Promise<Trouble> {
    const giveUp = new AbortController();
    const cancel = this.clock.after(ANSWER_WITHIN, () => giveUp.abort());
    const options: RequestInit = {
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'manual',
      referrerPolicy: 'no-referrer',
      signal: giveUp.signal,
    };
    const url = this.url.replace(/^ws/, 'http');
    try {
      return this.answered(await fetch(url, options));
    } catch (error) {
      const { name, cause } = Object(error) as Partial<Error>;
      if (name === 'AbortError' || Object(cause).code !== undefined) return this.failed(error); // this says enough
      // Another site's answer is hidden from a page unless the site permits it to be read. That there is one is not.
      return await fetch(url, { ...options, mode: 'no-cors' }).then(
        () => this.answered({ status: 0, type: 'opaque' }),
        () => this.failed(error),
      );
    } finally {
      cancel();
    }
  }

  private answered({ status, type }: { readonly status: number; readonly type: string }): Trouble {
    const { where } = this;
    const trouble = (code: string, says: string, todo: string): Trouble =>
      new Trouble(code, `the server at ${where} ${says}: ${todo}`);
    const none = 'answers, but no WebSocket opens';
    const http = `http_${status}`;
    if (type === 'opaqueredirect' || (status >= 300 && status < 400)) {
      return trouble('redirect', 'redirects elsewhere', 'use the address that it names');
    }
    if (status === 404) return trouble(http, 'answered 404', 'check the path, which is /sync unless a proxy changes it');
    if (status === 403) return trouble(http, 'answered 403', "add this page's origin to its ATLAS_ALLOWED_ORIGINS");
    if (status === 426) return trouble('no_websocket', none, 'let the proxies in between pass WebSockets on');
    if (status >= 500) {
      return trouble(http, `answered ${status}`, "it is tried again; if that goes on, look at its log or its proxy's");
    }
    if (status === 0) return trouble('no_websocket', none, 'check the path, and the origins that it permits');
    return trouble(http, `answered ${status}, not as Atlas Sync does`, 'check the address and its path');
  }

  private failed(error: unknown): Trouble {
    const { where } = this;
    const { cause, name } = Object(error) as Partial<Error>;
    // Node.js says why; browsers do not.
    const why = String((Object(cause) as { readonly code?: unknown }).code);
    if (/CERT|SSL|TLS|SIGNATURE/.test(why)) {
      return new Trouble('tls', `TLS fails at ${where} (${why}): mend the server's certificate`);
    }
    const [says, todo] =
      why === 'ECONNREFUSED'
        ? ['nothing listens', 'start the server, or check the port']
        : why === 'ENOTFOUND' || why === 'EAI_AGAIN'
          ? ['there is no such host', 'check the address, or DNS']
          : name === 'AbortError'
            ? ['nothing answers', 'check the address and firewalls in between']
            : ['nothing answers', "check the address, its port and certificate, and the page's Content-Security-Policy"];
    return new Trouble('unreachable', `${says} at ${where}: ${todo}`);
  }
}
