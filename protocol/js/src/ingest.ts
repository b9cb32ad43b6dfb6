/**
 * What becomes of a connection's events in the store: rows, cursor, position and outbox settle together, and only as
 * long as nobody took the lead over. Knows the store; knows neither sockets nor tabs.
 */

import { applyPage, applyRows, applySnapshot, touchedNothing, type Touched } from './apply.js';
import { backoff } from './comeback.js';
import { mergeLocal } from './merge.js';
import { NUMBER_END } from './mutation.js';
import { acknowledge, distrustAcks, nextPush, advance, renumber, type Change, type Push } from './outbox.js';
import type { Cursor, Place, Row, Uuid } from './rows.js';
import type { ResumePoint, Event } from './session.js';
import type { Transactions, Writing } from './store.js';
import type { Codec } from './codec.js';
import type { Limits, Page, ErrorAnswer, Welcome, Window } from './frames.js';

/** Somebody else leads now: whatever was to be stored was not. */
export class Deposed extends Error {
  override name = 'Deposed';
}

export interface PageRequest {
  readonly conversation: Uuid | null;
  readonly before: Place | null;
}

export interface IngestOptions {
  readonly store: Transactions;
  readonly codec: Codec;
  readonly window: Window;
  /** Milliseconds since 1970. */
  readonly now: () => number;
  readonly random: () => number;
  readonly onTouched: (touched: Touched) => void;
}

/** Microseconds. */
const GREETED_WITHIN = 10_000_000;
/** A share of `retry_after` at most that is waited longer: several devices may have been told the same. */
const RELUCTANCE = 0.5;
/** Milliseconds; an advice further off than this was given before the device's clock was set back. */
const ADVICE_MOST = 600_000;

export class Ingest {
  private lease = -1;
  private refusals = 0;
  private unanswered: Push | null = null;
  private parts: (readonly Row[])[] = [];
  private readonly pages = new Map<number, PageRequest>();
  /** Milliseconds: the server's time in `welcome` was taken after it. */
  private begun = 0;

  constructor(private readonly options: IngestOptions) {}

  /** From now on, nobody who led before stores anything. False, and nothing is changed, if the user wants no sync. */
  async lead(): Promise<boolean> {
    return this.options.store.write(async (tx) => {
      const { downgraded, lease } = await tx.meta();
      if (downgraded) return false;
      this.lease = lease + 1;
      await tx.setMeta({ lease: this.lease });
      return true;
    });
  }

  /** Before each connection: no page is unanswered, no push either. */
  async begin(): Promise<ResumePoint> {
    this.pages.clear();
    this.parts = [];
    this.unanswered = null;
    this.begun = this.options.now();
    return this.settle(async (tx) => {
      await tx.forget();
      const { clientId, cursor, generation: last } = await tx.meta();
      // The clock may have been set back, or be far off.
      const generation = Math.min(Math.max(last + 1, Math.round(this.begun * 1000)), NUMBER_END);
      await tx.setMeta({ generation });
      return { clientId, cursor, generation };
    });
  }

  expectPage(id: number, asked: PageRequest): void {
    this.pages.set(id, asked);
  }

  /** Store what an event brought. Throws Deposed, and whatever the store throws. */
  async hear(event: Event): Promise<void> {
    switch (event.t) {
      case 'welcome':
        return this.welcome(event);
      case 'changes':
        return this.touch(async (tx, touched) => {
          await applyRows(tx, event.rows, this.pages.size > 0, touched);
          await this.stand(tx, event.seq, { cursor: event.cursor }, touched);
        });
      case 'live':
        return this.touch(async (tx, touched) => {
          await this.stand(tx, event.seq, { lastLive: this.options.now() * 1000 }, touched);
        });
      case 'snapshot':
        if (event.first) this.parts = [];
        this.parts.push(event.rows);
        if (event.cursor === null) return;
        await this.touch(async (tx, touched) => {
          await applySnapshot(tx, this.parts, this.options.window, touched);
          await tx.setMeta({ cursor: event.cursor });
        });
        this.parts = [];
        return;
      case 'page':
        return this.page(event);
      case 'ack':
        await this.touch(async (tx, touched) => {
          const { position } = await tx.meta();
          if (this.unanswered === null) return;
          const entries = [...(await tx.acked()), ...(await tx.pending(event.results.length))];
          await commit(tx, acknowledge(entries, this.unanswered, event.results, position));
          touched.all = true;
          await this.progress(tx);
        });
        this.unanswered = null;
        this.refusals = 0;
        return;
      case 'error':
        if (event.answers === 'push') await this.refused(event);
        else if (event.id !== null && event.code !== 'unavailable') this.pages.delete(event.id);
        return;
    }
  }

  /** What to send now, or in how many milliseconds there may be something; null: not before something happens. */
  async nextPush(limits: Limits): Promise<Push | number | null> {
    const { store, codec, now } = this.options;
    return store.read(async (tx) => {
      const { lease, notBefore } = await tx.meta();
      if (lease !== this.lease) throw new Deposed();
      const entries = [...(await tx.acked()), ...(await tx.pending(limits.mutations))];
      const push = nextPush(entries, limits, codec);
      const wait = notBefore - now();
      if (push !== null && wait > 0 && wait <= ADVICE_MOST) return wait;
      this.unanswered = push;
      return push;
    });
  }

  /** The cursor is of no use any more. */
  async startOver(): Promise<void> {
    await this.settle((tx) => tx.setMeta({ cursor: null }));
  }

  /** The server will not have this user's work, and the device goes on alone. */
  async goLocal(): Promise<void> {
    await this.settle((tx) => tx.setMeta({ local: true }));
  }

  private async welcome({ limits, time, mode }: Welcome): Promise<void> {
    await this.touch(async (tx, touched) => {
      const { frameBytes, titleBytes, contentBytes } = limits;
      // Anything between the two fits what was seen. What was believed stays as far as it fits: two devices whose clocks
      // are right must not order what is written on them by how long their greetings took. A greeting that took very
      // long, or during which the clock was set, says too little for that.
      const [least, most] = [time - this.options.now() * 1000, time - this.begun * 1000];
      const quick = most >= least && most - least < GREETED_WITHIN;
      const ahead = quick ? Math.min(Math.max((await tx.meta()).ahead, least), most) : least;
      await tx.setMeta({ bounds: { frameBytes, titleBytes, contentBytes }, ahead, local: false });
      // A snapshot has no position before the frame that follows it; that of another history settles nothing.
      if (mode === 'snapshot') await tx.setMeta({ position: null });
      await commit(tx, distrustAcks(await tx.acked()));
      await mergeLocal(tx);
      touched.all = true;
    });
  }

  private async page(page: Page): Promise<void> {
    const asked = this.pages.get(page.id);
    if (asked === undefined) return;
    await this.touch(async (tx, touched) => {
      await applyPage(tx, asked, page, touched);
      if (this.pages.size === 1) await tx.forget();
    });
    this.pages.delete(page.id);
  }

  private async refused(refusal: ErrorAnswer): Promise<void> {
    if (this.unanswered === null || (refusal.id !== null && refusal.id !== this.unanswered.n)) return;
    const { now, random } = this.options;
    const { n } = this.unanswered;
    const { expected } = refusal;
    let pause = backoff(++this.refusals, random());
    await this.touch(async (tx, touched) => {
      if (refusal.code === 'gap' && expected !== null) {
        const { nextN, ...change } = renumber(await tx.entries(), n, expected);
        await commit(tx, change);
        await tx.setMeta({ nextN });
        touched.all = true;
        // A server that never finds the numbers right must not be asked without a pause.
        if (this.refusals === 1) pause = 0;
      }
      if (refusal.retryAfter !== null) pause = refusal.retryAfter * (1 + RELUCTANCE * random());
      await tx.setMeta({ notBefore: now() + pause });
    });
    this.unanswered = null;
  }

  private async stand(
    tx: Writing,
    seq: number | null,
    meta: { readonly cursor?: Cursor; readonly lastLive?: number },
    touched: Touched,
  ): Promise<void> {
    if (seq === null) return void (await tx.setMeta(meta));
    await tx.setMeta({ ...meta, position: Math.max(seq, (await tx.meta()).position ?? 0) });
    const settled = advance(await tx.acked(), seq);
    if (settled.drop.length > 0) touched.all = true;
    await commit(tx, settled);
  }

  private async progress(tx: Writing): Promise<void> {
    if ((await tx.meta()).merging > 0 && (await tx.counts()).pending === 0) await tx.setMeta({ merging: 0 });
  }

  private async touch(work: (tx: Writing, touched: Touched) => Promise<void>): Promise<void> {
    const touched = touchedNothing();
    await this.settle((tx) => work(tx, touched));
    this.options.onTouched(touched);
  }

  private settle<T>(work: (tx: Writing) => Promise<T>): Promise<T> {
    return this.options.store.write(async (tx) => {
      if ((await tx.meta()).lease !== this.lease) throw new Deposed();
      return work(tx);
    });
  }
}

async function commit(tx: Writing, { put, drop }: Change): Promise<void> {
  await tx.putEntries(put);
  await tx.dropEntries(drop);
}
