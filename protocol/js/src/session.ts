/**
 * The sans-I/O state machine of one connection, from `hello` to its end: frames in, events out (SPEC.md, sections 3–4,
 * 7–10). connection.ts does the I/O around it, and comeback.ts decides what follows its end.
 */

import { byteLength, codecsFor, type Codec, type Data, type Encoding, ProtocolError } from './codec.js';
import type {
  Ack,
  ChangesFrame,
  ErrorAnswer,
  Limits,
  SnapshotFrame,
  StreamFrame,
  ToClient,
  ToServer,
  Welcome,
  Window,
} from './frames.js';
import { FRAME_BYTES, NUMBER_END } from './mutation.js';
import type { Push } from './outbox.js';
import type { PageRequest } from './pages.js';
import type { Arrival, Cursor, Uuid } from './rows.js';
import type { Id, Kinds } from './schema.js';
import { codePoints } from './text.js';
import { NO_ID } from './uuid.js';

/** The caller tried to send a frame that is not allowed in this state. */
export class StateError extends Error {
  override name = 'StateError';
}

/** Rows to apply, and the cursor to store with them in one local transaction. */
export type Batch =
  /** `seq`: the position once the rows are applied; null within a transaction, where there is none. */
  | { readonly t: 'changes'; readonly rows: readonly Arrival[]; readonly cursor: Cursor; readonly seq: number | null }
  /** A part of a snapshot. `first`: it is the first part. `cursor`: null in all parts but the last. */
  | {
      readonly t: 'snapshot';
      readonly rows: readonly Arrival[];
      readonly cursor: Cursor | null;
      readonly first: boolean;
    };

/** Rows that are stored in one transaction at most: the app's own transactions wait for it. */
const TOGETHER = 2_000;

/** Two events as one, if they may be applied in one transaction: changes that follow each other. Else null. */
export function together(first: Event, second: Event): Batch | null {
  if (first.t !== 'changes' || second.t !== 'changes' || first.rows.length + second.rows.length > TOGETHER) return null;
  // Within a transaction of the server the position stays where the one before has left it.
  return { ...second, rows: [...first.rows, ...second.rows], seq: second.seq ?? first.seq };
}

export type Event = Exclude<ToClient, SnapshotFrame | ChangesFrame> | Batch;

/**
 * new: hello was not sent · greeting: welcome has not come · schema_due: welcome named another schema, which has not come ·
 * snapshot_due: welcome announced a snapshot, no part of it
 * has come · snapshot: a part has come, there is no cursor · catching_up: there is a cursor, changes follow it · live:
 * the device has everything · broken: the connection must be closed.
 */
export type State = 'new' | 'greeting' | 'schema_due' | 'snapshot_due' | 'snapshot' | 'catching_up' | 'live' | 'broken';

const ALWAYS = ['error', 'pong'] as const;
const SAID_HELLO = [...ALWAYS, 'refreshed'] as const;
const WELCOMED = [...SAID_HELLO, 'ack', 'streams', 'stream', 'stopped'] as const;
const IN_STEP = [...WELCOMED, 'changes', 'live', 'page'] as const;

/** The frames that the server may send in each state. Every other known frame breaks the protocol. */
export const ALLOWED: Readonly<Record<State, readonly ToClient['t'][]>> = {
  new: ALWAYS,
  greeting: [...SAID_HELLO, 'welcome'],
  schema_due: [...SAID_HELLO, 'schema'],
  snapshot_due: [...WELCOMED, 'snapshot'],
  snapshot: [...WELCOMED, 'snapshot'],
  catching_up: IN_STEP,
  live: IN_STEP,
  broken: [],
};

/** The largest window of a kind without parent, and of each parent. */
const WINDOW_MOST = [500, 200] as const;
export const PAGE_ROWS = 1000;
/** Unanswered at once (13.6). */
const STOPS = 8;

/** Throws RangeError unless the window is one that a server accepts. */
export function checkWindow(kinds: Kinds, window: Window): Window {
  for (const [name, count] of Object.entries(window)) {
    const kind = kinds.get(name);
    if (kind === undefined) throw new RangeError(`window.${name}: there is no such kind`);
    const most = WINDOW_MOST[kind.parent === null ? 0 : 1];
    if (!Number.isInteger(count) || count < 0 || count > most) throw new RangeError(`window.${name} is 0 to ${most}`);
  }
  return window;
}

/** Which device connects, and from where it resumes. */
export interface ResumePoint {
  readonly clientId: Uuid;
  readonly cursor: Cursor | null;
  /** Larger than that of any earlier connection with this client_id. */
  readonly generation: number;
}

export interface SessionOptions extends ResumePoint {
  readonly kinds: Kinds;
  readonly token: string;
  readonly window?: Window;
  readonly encoding?: Encoding;
}

export class Session {
  state: State = 'new';
  cursor: Cursor | null;
  /** The last frame, if it was an `error`. */
  lastError: ErrorAnswer | null = null;
  limits: Limits = {
    frameBytes: FRAME_BYTES,
    pageRows: PAGE_ROWS,
    pagesInFlight: 1,
    mutations: 0,
  };
  /** The ids of the pages that were not answered yet. */
  readonly unanswered = new Set<number>();
  /** The push that was not answered yet: its first number and how many mutations it has. */
  pushed: { readonly n: number; readonly count: number } | null = null;
  refreshing = false;
  /** The numbers of the stops that were not answered yet. */
  readonly stops = new Set<number>();

  private codec: Codec;
  /** The server's schema, as welcome named it, and the state once it is known. */
  private named: string | null = null;
  private begun: State = 'new';
  private lastPage = 0;
  private lastStop = 0;
  /** Of each stream, how long its text is as far as this connection brought it. */
  private readonly streamed = new Map<Uuid, number>();

  constructor(private readonly options: SessionOptions) {
    this.codec = codecsFor(options.kinds)[options.encoding ?? 'msgpack'];
    this.cursor = options.cursor;
    checkWindow(options.kinds, options.window ?? {});
    if (options.clientId === NO_ID) throw new RangeError('the nil UUID names no device');
  }

  hello(): Uint8Array | string {
    if (this.state !== 'new') throw new StateError('hello is sent once');
    this.state = 'greeting';
    const { token, clientId, generation, window = {}, kinds } = this.options;
    return this.encode({ t: 'hello', token, clientId, cursor: this.cursor, window, generation, schema: kinds.hash });
  }

  /** Whether a page may be asked for: not before a snapshot is complete, which would remove it, and not too many. */
  get mayAsk(): boolean {
    return (this.state === 'catching_up' || this.state === 'live') && this.unanswered.size < this.limits.pagesInFlight;
  }

  askPage(request: PageRequest, limit: number): [id: number, frame: Uint8Array | string] {
    if (!this.mayAsk) throw new StateError(`no page now: ${this.state}`);
    if (!Number.isInteger(limit) || limit < 1 || limit > PAGE_ROWS) throw new RangeError('a page has 1 to 1000 rows');
    const id = ++this.lastPage;
    const frame = this.encode({ t: 'page', id, ...request, limit });
    this.unanswered.add(id);
    return [id, frame];
  }

  get mayPush(): boolean {
    return this.isWelcomed && this.pushed === null;
  }

  private get isWelcomed(): boolean {
    return !['new', 'greeting', 'schema_due', 'broken'].includes(this.state);
  }

  push({ n, mutations, held }: Push): Uint8Array | string {
    if (!this.mayPush) throw new StateError(`no push now: ${this.state}`);
    if (mutations.length > this.limits.mutations) throw new RangeError('too many mutations');
    if (n < 1 || n > NUMBER_END - mutations.length + 1) throw new RangeError('numbers go from 1 to 2^53');
    const frame = this.encode({ t: 'push', n, mutations, held });
    this.pushed = { n, count: mutations.length };
    return frame;
  }

  get mayStop(): boolean {
    return this.isWelcomed && this.stops.size < STOPS;
  }

  /** The frame is null if the server has no such kind: then there is no stream of it. */
  stop(kind: string, id: Id, column: string | null): [n: number, frame: Uint8Array | string | null] {
    if (!this.mayStop) throw new StateError(`no stop now: ${this.state}`);
    const n = ++this.lastStop;
    if (!this.codec.knows(kind)) return [n, null];
    const frame = this.encode({ t: 'stop', n, kind, id, column });
    this.stops.add(n);
    return [n, frame];
  }

  refresh(token: string): Uint8Array | string {
    if (this.refreshing) throw new StateError('one refresh at a time');
    const frame = this.encode({ t: 'refresh', token });
    this.refreshing = true;
    return frame;
  }

  ping(): Uint8Array | string {
    return this.encode({ t: 'ping' });
  }

  /**
   * The event that a message of the server stands for; null for a frame of a later version, and in state broken. Throws
   * ProtocolError if the message is malformed, not allowed in this state, or does not start at our cursor. Then close
   * with 4000, and come back with the stored cursor.
   */
  receive(data: Data): Event | null {
    if (this.state === 'broken') return null;
    this.lastError = null;
    try {
      const frame = this.codec.decode(data);
      if (frame === null) return null;
      if (!ALLOWED[this.state].includes(frame.t))
        throw new ProtocolError(`${frame.t} is not allowed now: ${this.state}`);
      return this.accept(frame);
    } catch (error) {
      this.state = 'broken';
      throw error;
    }
  }

  private accept(frame: ToClient): Event {
    switch (frame.t) {
      case 'welcome':
        return this.welcome(frame);
      case 'schema':
        if (frame.hash !== this.named) throw new ProtocolError('hash: not that of the schema that welcome named');
        this.codec = this.codec.servedBy(frame);
        this.state = this.begun;
        return frame;
      case 'snapshot':
        return this.snapshot(frame);
      case 'changes':
        return this.changes(frame);
      case 'live':
        if (frame.cursor !== this.cursor) throw new ProtocolError('cursor: not ours');
        this.state = 'live';
        return frame;
      case 'page':
        if (!this.unanswered.delete(frame.id)) throw new ProtocolError('id: no such page was asked for');
        return frame;
      case 'ack':
        return this.ack(frame);
      case 'refreshed':
        this.refreshing = false;
        return frame;
      case 'stream':
        return this.stream(frame);
      case 'stopped':
        if (!this.stops.delete(frame.n)) throw new ProtocolError('n: no such stop is unanswered');
        return frame;
      case 'error':
        return this.error(frame);
      default:
        return frame;
    }
  }

  private welcome(frame: Welcome): Welcome {
    if (frame.keepalive === 0) throw new ProtocolError('keepalive: zero');
    if (frame.mode !== 'snapshot' && (frame.mode !== 'resumed' || this.cursor === null)) {
      throw new ProtocolError('mode: neither a snapshot nor resumed from our cursor');
    }
    this.begun = frame.mode === 'snapshot' ? 'snapshot_due' : 'catching_up';
    this.named = frame.schema;
    this.state = frame.schema === null || frame.schema === this.options.kinds.hash ? this.begun : 'schema_due';
    this.limits = frame.limits;
    return frame;
  }

  private snapshot(frame: SnapshotFrame): Batch {
    const first = this.state === 'snapshot_due';
    this.cursor = frame.cursor;
    this.state = frame.cursor === null ? 'snapshot' : 'catching_up';
    return { t: 'snapshot', rows: frame.rows, cursor: frame.cursor, first };
  }

  private changes(frame: ChangesFrame): Batch {
    if (frame.from !== this.cursor) throw new ProtocolError('from: not our cursor');
    this.cursor = frame.to;
    return { t: 'changes', rows: frame.rows, cursor: frame.to, seq: frame.partial ? null : frame.seq };
  }

  private stream(frame: StreamFrame): StreamFrame {
    const { stream, offset, text } = frame;
    if (offset > (this.streamed.get(stream) ?? 0)) throw new ProtocolError('offset: behind the end of the text');
    this.streamed.set(stream, offset + codePoints(text));
    return frame;
  }

  private ack(frame: Ack): Ack {
    const { pushed } = this;
    if (pushed === null) throw new ProtocolError('an ack without a push');
    if (frame.results.length !== pushed.count || frame.results.some((result, i) => result.n !== pushed.n + i)) {
      throw new ProtocolError('results: not one for each mutation of the push, in its order');
    }
    this.pushed = null;
    return frame;
  }

  private error(frame: ErrorAnswer): ErrorAnswer {
    this.lastError = frame;
    if (frame.answers === 'push') {
      const { pushed } = this;
      if (pushed === null || (frame.id !== null && frame.id !== pushed.n)) return frame;
      if (frame.code === 'gap' && ((frame.expected ?? 0) < 1 || frame.expected === pushed.n)) {
        throw new ProtocolError('expected: missing, or the first number of the push');
      }
      this.pushed = null;
    } else if (frame.answers === 'refresh') {
      this.refreshing = false;
    } else if (frame.answers === 'stop') {
      if (frame.id !== null) this.stops.delete(frame.id);
    } else if (frame.id !== null && frame.code !== 'unavailable') {
      // A page that waits for Postgres is answered when Postgres is back (7.7).
      this.unanswered.delete(frame.id);
    }
    return frame;
  }

  private encode(frame: ToServer): Uint8Array | string {
    if (this.state === 'new' || this.state === 'broken') throw new StateError(this.state);
    const encoded = this.codec.encode(frame);
    if (byteLength(encoded) > this.limits.frameBytes) throw new RangeError('a frame larger than the server accepts');
    return encoded;
  }
}
