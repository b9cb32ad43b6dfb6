/**
 * The streams of this user, as this tab holds them: frames and rows in, and it tells the queries, the other tabs and,
 * some times a second, the store. Knows neither the connection nor how rows are shown.
 */

import type { Clock } from './clock.js';
import type { StreamFrame } from './frames.js';
import type { Uuid } from './rows.js';
import type { Kind, Kinds } from './schema.js';
import type { Transactions } from './store.js';
import { streamRows } from './stream_rows.js';
import {
  kept,
  named,
  NO_STREAMS,
  received,
  restored,
  unnamed,
  withRows,
  without,
  type HeldStream,
  type KeptStream,
  type StreamRow,
  type Streams,
} from './streams.js';

/** Milliseconds between two transactions in which streams are stored. */
export const KEEP_EVERY = 250;

/** What a change of the streams means for queries. */
export interface StreamChange {
  /** Rows and histories, by `nameOf`, in which a text has grown: what was loaded is enough to show it. */
  readonly grown: ReadonlySet<string>;
  /** Histories in which a stream gives way to its row, or is shown no more. */
  readonly over: Set<string>;
  /** Which streams are open has changed, or what is known of them. */
  readonly list: boolean;
}

export interface StreamingOptions {
  readonly kinds: Kinds;
  readonly store: Transactions;
  readonly clock: Clock;
  /** Whether this tab has the connection. */
  readonly leading: () => boolean;
  /** Stores streams, under the lease. */
  readonly keep: (put: readonly KeptStream[], drop: readonly Uuid[]) => Promise<void>;
  readonly onChange: (change: StreamChange) => void;
  /** For the other tabs: a frame, or all streams. */
  readonly post: (what: StreamFrame | readonly HeldStream[]) => void;
  /** Asks the leading tab for all streams. */
  readonly ask: () => void;
  readonly onError: (error: unknown) => void;
}

export class Streaming {
  now: Streams = NO_STREAMS;
  private readonly unkept = new Set<Uuid>();
  private cancel: (() => void) | null = null;

  constructor(private readonly options: StreamingOptions) {}

  /** Takes what the store has. */
  async restore(): Promise<void> {
    const { store, kinds } = this.options;
    const [streams, rows] = await store.read(async (tx) => {
      const streams = restored((await tx.streams()).filter(({ kind }) => kinds.has(kind)));
      return [streams, await streamRows(tx, kinds, streams.values())] as const;
    });
    // What has come meanwhile is newer.
    this.become(new Map([...withRows(streams, rows, false), ...this.now]));
  }

  // ---- What the connection of the leading tab brings ----

  receive(frame: StreamFrame): void {
    this.take(frame);
    this.options.post(frame);
    if (this.now.get(frame.stream)?.row === null) void this.lookUp();
  }

  name(open: readonly Uuid[]): void {
    this.lead(named(this.now, open));
  }

  unnamed(): Uuid[] {
    return unnamed(this.now);
  }

  forget(ids: readonly Uuid[]): void {
    if (ids.length > 0) this.lead(without(this.now, ids));
  }

  /** Rows that were read. `isGone`: those that are not held were deleted. */
  rows(rows: ReadonlyMap<Uuid, StreamRow | null>, isGone: boolean): void {
    this.lead(withRows(this.now, rows, isGone));
  }

  // ---- What another tab says ----

  /** A frame that the leading tab has received, or all its streams. */
  follow(what: StreamFrame | readonly HeldStream[]): void {
    if (!('t' in what)) this.become(new Map(what.map((stream) => [stream.stream, stream])));
    else if (!this.take(what)) this.options.ask();
  }

  postAll(): void {
    this.options.post([...this.now.values()]);
  }

  // ----

  /** The store was emptied. */
  clear(): void {
    this.become(NO_STREAMS);
    this.unkept.clear();
  }

  /** Stores what was not stored yet, and nothing after it. */
  async close(): Promise<void> {
    await this.keep();
    this.cancel = () => undefined;
  }

  /** Stores what was not stored yet. */
  private async keep(): Promise<void> {
    this.cancel?.();
    this.cancel = null;
    const { leading, keep, onError } = this.options;
    const ids = [...this.unkept];
    this.unkept.clear();
    if (ids.length === 0 || !leading()) return;
    const put = ids.flatMap((id) => this.now.get(id) ?? []);
    const drop = ids.filter((id) => !this.now.has(id));
    try {
      await keep(put.map(kept), drop);
    } catch (error) {
      for (const id of ids) this.unkept.add(id); // with the next change
      onError(error);
    }
  }

  /** Returns whether the frame fits what is held. */
  private take(frame: StreamFrame): boolean {
    const next = received(this.now, this.options.kinds.get(frame.kind) as Kind, frame);
    if (next !== null) this.become(next);
    return next !== null;
  }

  private lead(next: Streams): void {
    if (this.become(next)) this.postAll();
  }

  private async lookUp(): Promise<void> {
    const { store, kinds, onError } = this.options;
    const missing = [...this.now.values()].filter(({ row }) => row === null);
    try {
      this.rows(await store.read((tx) => streamRows(tx, kinds, missing)), false);
    } catch (error) {
      onError(error);
    }
  }

  /** Returns whether anything has changed. */
  private become(next: Streams): boolean {
    const before = this.now;
    const [grown, over] = [new Set<string>(), new Set<string>()];
    let [isChanged, list] = [false, false];
    for (const id of new Set([...before.keys(), ...next.keys()])) {
      const [old, now] = [before.get(id), next.get(id)];
      if (old === now) continue;
      isChanged = true;
      this.unkept.add(id);
      const isOver = (old !== undefined && now === undefined) || (now?.over === true && old?.over === false);
      list ||= isOver || old?.state !== now?.state || old?.row?.history !== now?.row?.history;
      for (const held of [old, now]) {
        if (held === undefined) continue;
        if (held.row) (isOver ? over : grown).add(held.row.history);
        if (!isOver) grown.add(`${held.kind} ${held.key}`);
      }
    }
    if (!isChanged) return false;
    this.now = next;
    this.options.onChange({ grown, over, list });
    if (this.options.leading()) this.cancel ??= this.options.clock.after(KEEP_EVERY, () => void this.keep());
    return true;
  }
}
