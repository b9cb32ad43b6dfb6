/**
 * Applies what the server sends to the store: rows, cursor, position and outbox change in one transaction, and only
 * while this tab holds the lease. Knows the store; knows neither WebSockets nor tabs.
 */

import { applyPage, applyRows, applySnapshot, type Touched, touchedNothing } from './apply.js';
import { serverOffset } from './clock.js';
import type { Codec } from './codec.js';
import { backoff } from './comeback.js';
import { changeEntries, redate } from './entries.js';
import type { ErrorAnswer, Limits, Page, Welcome, Window } from './frames.js';
import { mergeLocal } from './merge.js';
import { NUMBER_END } from './mutation.js';
import { acknowledge, advance, distrustAcks, nextPush, type Push, renumber } from './outbox.js';
import type { PageRequest } from './pages.js';
import type { Arrival, Cursor, Uuid } from './rows.js';
import type { Kind, Kinds } from './schema.js';
import type { Event, ResumePoint } from './session.js';
import { streamRows } from './stream_rows.js';
import type { KeptStream, StreamRow, Streams } from './streams.js';
import { Deposed, type Durability, type Reading, type Transactions, type Writing } from './store.js';

export interface IngestOptions {
  readonly store: Transactions;
  readonly codec: Codec;
  /** Asked for in `hello`. */
  readonly window: Window;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly random: () => number;
  readonly onTouched: (touched: Touched) => void;
  readonly streams: {
    readonly now: Streams;
    /** Their rows, after a change of rows. `isGone`: those that are not held were deleted. */
    rows(rows: ReadonlyMap<Uuid, StreamRow | null>, isGone: boolean): void;
  };
}

/** Jitter: up to this fraction is added to `retry_after`, because several devices may have been told the same. */
const JITTER = 0.5;
/** Milliseconds. A stored `notBefore` further ahead is ignored: the clock was set back since. */
const WAIT_AT_MOST = 600_000;

export class Ingest {
  private lease = -1;
  /** Of which store. */
  private made = '';
  /** Errors that answered a push, in a row. */
  private failures = 0;
  private unanswered: Push | null = null;
  private parts: (readonly Arrival[])[] = [];
  private readonly pages = new Map<number, PageRequest>();
  /** The windows of the server's schema, where it is another one. */
  private served: ReadonlyMap<string, number | undefined> | null = null;
  /** Milliseconds: `hello` is sent after it. */
  private begun = 0;
  /** Microseconds: the server's clock less ours, as the last welcome showed. */
  private ahead = 0;

  constructor(private readonly options: IngestOptions) {}

  /** Takes the lease, so that an earlier leader can store nothing any more. After a downgrade: false, and no change. */
  async lead(): Promise<boolean> {
    return this.options.store.write(async (tx) => {
      const { downgraded, lease, made } = await tx.meta();
      if (downgraded) return false;
      this.lease = lease + 1;
      this.made = made;
      await tx.setMeta({ lease: this.lease });
      return true;
    });
  }

  /** Before each connection. Pages and pushes of the last one will not be answered. */
  async begin(): Promise<ResumePoint> {
    this.pages.clear();
    this.parts = [];
    this.unanswered = null;
    this.served = null;
    this.begun = this.options.now();
    return this.underLease(async (tx) => {
      await tx.forget();
      const { clientId, cursor, generation: last } = await tx.meta();
      // The clock may have been set back, or be far off.
      const generation = Math.min(Math.max(last + 1, Math.round(this.begun * 1000)), NUMBER_END);
      await tx.setMeta({ generation });
      return { clientId, cursor, generation };
    });
  }

  /** The session asked for this page. */
  expectPage(id: number, request: PageRequest): void {
    this.pages.set(id, request);
  }

  /** Stores what an event brought. Throws Deposed, and errors of the store. */
  async apply(event: Event): Promise<void> {
    switch (event.t) {
      case 'welcome':
        return this.welcome(event);
      case 'schema':
        this.served = new Map(event.kinds.map(({ name, window }) => [name, window]));
        return;
      case 'changes':
        return this.writeRows(async (tx, touched) => {
          await applyRows(tx, this.kinds, event.rows, this.pages.size > 0, touched);
          await this.advancePosition(tx, event.seq, { cursor: event.cursor }, touched);
        }, true);
      case 'live':
        return this.write(async (tx, touched) => {
          await this.advancePosition(tx, event.seq, { lastLive: this.options.now() * 1000 }, touched);
        }, 'relaxed');
      case 'snapshot':
        if (event.first) this.parts = [];
        this.parts.push(event.rows);
        if (event.cursor === null) return;
        await this.writeRows(async (tx, touched) => {
          await applySnapshot(tx, this.kinds, this.parts, (kind) => this.window(kind), touched);
          await tx.setMeta({ cursor: event.cursor });
        }, false);
        this.parts = [];
        return;
      case 'page':
        return this.page(event);
      case 'ack': {
        // With the next push the server forgets these rejections, and would answer `repeated` (SPEC.md, 8.2).
        const isFinal = event.results.some(({ kind }) => kind === 'rejected');
        await this.write(async (tx, touched) => {
          const { position } = await tx.meta();
          if (this.unanswered === null) return;
          const entries = [...(await tx.acked()), ...(await tx.pending(event.results.length))];
          await changeEntries(tx, acknowledge(entries, this.unanswered, event.results, position));
          touched.all = true;
          await finishMerging(tx);
        }, isFinal ? 'strict' : 'relaxed');
        this.unanswered = null;
        this.failures = 0;
        return;
      }
      case 'error':
        if (event.answers === 'push') await this.pushFailed(event);
        else if (event.answers !== 'stop' && event.id !== null && event.code !== 'unavailable')
          this.pages.delete(event.id);
        return;
    }
  }

  /** The push to send now, or the milliseconds until one may be due; null: none is due before something changes. */
  async nextPush(limits: Limits): Promise<Push | number | null> {
    const { store, codec, now } = this.options;
    return store.read(async (tx) => {
      await this.checkLease(tx);
      const { notBefore } = await tx.meta();
      const entries = [...(await tx.acked()), ...(await tx.pending(limits.mutations))];
      const push = nextPush(entries, limits, codec);
      const wait = notBefore - now();
      if (push !== null && wait > 0 && wait <= WAIT_AT_MOST) return wait;
      this.unanswered = push;
      return push;
    });
  }

  /** The next connection gets a snapshot. */
  async startOver(): Promise<void> {
    await this.underLease((tx) => tx.setMeta({ cursor: null }));
  }

  /** The server accepts nothing from this user: the device works alone. */
  async goLocal(): Promise<void> {
    await this.underLease((tx) => tx.setMeta({ local: true }));
  }

  /** The server sends them again. */
  async keepStreams(put: readonly KeptStream[], drop: readonly Uuid[]): Promise<void> {
    await this.underLease(async (tx) => {
      await tx.putStreams(put);
      await tx.dropStreams(drop);
    }, 'relaxed');
  }

  /** Milliseconds since 1970 by the server's clock. */
  serverNow(): number {
    return this.options.now() + this.ahead / 1000;
  }

  private get kinds(): Kinds {
    return this.options.codec.kinds;
  }

  /** How many rows of a history a snapshot has, if there are as many. */
  private window(kind: Kind): number {
    const declared = this.served === null ? kind.window : this.served.get(kind.name);
    return this.options.window[kind.name] ?? declared ?? Infinity;
  }

  private async welcome({ limits, time, mode, schema, tier }: Welcome): Promise<void> {
    await this.write(async (tx, touched) => {
      const { frameBytes } = limits;
      const { ahead, nextKey, schema: known, cursor, lastLive } = await tx.meta();
      this.ahead = serverOffset(ahead, time, this.begun, this.options.now());
      await tx.setMeta({ bounds: { frameBytes }, ahead: this.ahead, schema, tier, local: false });
      // A snapshot has no position before the frame that follows it, and a position of another history means nothing.
      if (mode === 'snapshot') await tx.setMeta({ position: null });
      await changeEntries(tx, distrustAcks(await tx.acked()));
      const now = Math.round(this.serverNow() * 1000);
      const shift = this.ahead - ahead;
      await mergeLocal(tx, this.kinds, now - shift);
      // The server compares what it gets again: what may have been sent keeps its instant. Before the first welcome
      // nothing was sent, and what was merged just now was not, either.
      const first = known === null && cursor === null && lastLive === null;
      if (first || (await tx.meta()).nextKey > nextKey) {
        const unsent = (await tx.entries()).filter(({ key }) => first || key >= nextKey);
        await redate(tx, this.kinds, unsent, shift, now);
      }
      touched.all = true;
    });
  }

  private async page(page: Page): Promise<void> {
    const request = this.pages.get(page.id);
    if (request === undefined) return;
    await this.writeRows(async (tx, touched) => {
      await applyPage(tx, this.kinds, request, page, touched);
      if (this.pages.size === 1) await tx.forget();
    }, false);
    this.pages.delete(page.id);
  }

  private async pushFailed(error: ErrorAnswer): Promise<void> {
    if (this.unanswered === null || (error.id !== null && error.id !== this.unanswered.n)) return;
    const { now, random } = this.options;
    const { n } = this.unanswered;
    const { expected } = error;
    let pause = backoff(++this.failures, random());
    await this.write(async (tx, touched) => {
      if (error.code === 'gap' && expected !== null) {
        const { nextN, ...change } = renumber(await tx.entries(), n, expected);
        await changeEntries(tx, change);
        await tx.setMeta({ nextN });
        touched.all = true;
        // At once, but not after a second gap in a row: a server might never accept the numbers.
        if (this.failures === 1) pause = 0;
      }
      if (error.retryAfter !== null) pause = error.retryAfter * (1 + JITTER * random());
      await tx.setMeta({ notBefore: now() + pause });
    });
    this.unanswered = null;
  }

  private async advancePosition(
    tx: Writing,
    seq: number | null,
    meta: { readonly cursor?: Cursor; readonly lastLive?: number },
    touched: Touched,
  ): Promise<void> {
    if (seq === null) return tx.setMeta(meta);
    await tx.setMeta({ ...meta, position: Math.max(seq, (await tx.meta()).position ?? 0) });
    const change = advance(await tx.acked(), seq);
    if (change.drop.length > 0) touched.all = true;
    await changeEntries(tx, change);
  }

  /**
   * Relaxed for what the server sends again: rows, cursor, position and what it applied. Numbers of mutations, and
   * rejections, must last.
   */
  private async write(
    work: (tx: Writing, touched: Touched) => Promise<void>,
    durability: Durability = 'strict',
  ): Promise<void> {
    const touched = touchedNothing();
    await this.underLease((tx) => work(tx, touched), durability);
    this.options.onTouched(touched);
  }

  /** The same for what changes rows, with those of the streams, as one transaction left them. */
  private async writeRows(work: (tx: Writing, touched: Touched) => Promise<void>, isGone: boolean): Promise<void> {
    const { streams } = this.options;
    let rows: ReadonlyMap<Uuid, StreamRow | null> = new Map();
    await this.write(async (tx, touched) => {
      await work(tx, touched);
      rows = await streamRows(tx, this.kinds, streams.now.values());
    }, 'relaxed');
    streams.rows(rows, isGone);
  }

  private underLease<T>(work: (tx: Writing) => Promise<T>, durability: Durability = 'strict'): Promise<T> {
    return this.options.store.write(async (tx) => {
      await this.checkLease(tx);
      return work(tx);
    }, durability);
  }

  /** Another tab may lead now, or the store may be another one: the browser deleted this one's data. */
  private async checkLease(tx: Reading): Promise<void> {
    const { lease, made } = await tx.meta();
    if (lease !== this.lease || made !== this.made) throw new Deposed();
  }
}

/** Once nothing waits any more, the progress of an upgrade is no longer shown. */
async function finishMerging(tx: Writing): Promise<void> {
  if ((await tx.meta()).merging > 0 && (await tx.counts()).pending === 0) await tx.setMeta({ merging: 0 });
}
