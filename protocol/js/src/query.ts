/**
 * Queries: values that are loaded again whenever the data behind them changed, and told at most once a frame of the
 * screen. What the user did is told at once.
 */

import type { Touched } from './apply.js';

/** Calls `call` before the screen is drawn the next time. */
export type NextFrame = (call: () => void) => void;

/** What waits for the next frame. */
class Frame {
  private readonly due = new Set<() => void>();

  constructor(private readonly next: NextFrame) {}

  soon(call: () => void): void {
    const isFirst = this.due.size === 0;
    this.due.add(call);
    if (!isFirst) return;
    this.next(() => {
      const calls = [...this.due];
      this.due.clear();
      for (const each of calls) each();
    });
  }
}

/** Makes the value from what was loaded, and from what is in memory now. */
export type Paint<T> = () => T;

export class Query<T> {
  /** As of the last load; undefined before the first. It stays the same object until the next change. */
  value: T | undefined;
  private readonly listeners = new Set<() => void>();
  private paint: Paint<T> | null = null;
  private reading: Promise<void> | null = null;
  private stale = true;
  /** The user waits for what was changed. */
  private urgent = false;
  /** What the next frame shows: what was loaded, or what was loaded before with what is in memory now. */
  private due: 'loaded' | 'painted' | null = null;

  constructor(
    private readonly load: () => Promise<Paint<T>>,
    private readonly frame: Frame,
    /** Called when the first listener came, and when the last one left. */
    private readonly onUse: (used: boolean) => unknown,
    private readonly onError: (error: unknown) => void,
  ) {}

  /** Calls `listener` at every change. The returned function ends that. */
  subscribe = (listener: () => void): (() => void) => {
    if (this.listeners.size === 0) {
      this.onUse(true);
      this.invalidate(true);
    }
    this.listeners.add(listener);
    return () => {
      if (this.listeners.delete(listener) && this.listeners.size === 0) this.onUse(false);
    };
  };

  /** For `useSyncExternalStore`. */
  get = (): T | undefined => this.value;

  /** Loads the value and returns it. */
  async read(): Promise<T> {
    return this.publish(await this.load());
  }

  /** The data changed. Any number of calls leads to one load at a time, and one in a frame unless it is urgent. */
  invalidate(urgent = false): void {
    this.stale = true;
    this.urgent ||= urgent;
    this.next();
  }

  /** What is in memory changed. */
  repaint(): void {
    if (this.paint !== null && this.listeners.size > 0) this.soon('painted');
  }

  private publish(paint: Paint<T>): T {
    this.paint = paint;
    this.due = null;
    const value = (this.value = paint());
    for (const listener of [...this.listeners]) listener();
    return value;
  }

  private next(): void {
    if (this.due === 'loaded' && !this.urgent) return; // after that was told
    this.reading ??= this.refresh().finally(() => {
      this.reading = null;
      if (this.stale && this.listeners.size > 0) this.next();
    });
  }

  private async refresh(): Promise<void> {
    const now = this.urgent;
    this.stale = this.urgent = false;
    try {
      const paint = await this.load();
      if (now || this.listeners.size === 0) return void this.publish(paint);
      this.paint = paint;
      this.soon('loaded');
    } catch (error) {
      this.onError(error);
    }
  }

  private soon(due: 'loaded' | 'painted'): void {
    if (this.due === null) this.frame.soon(this.tell);
    this.due = due === 'loaded' ? due : (this.due ?? due);
  }

  private readonly tell = (): void => {
    const { due, paint } = this;
    this.due = null;
    if (due === null || paint === null) return;
    // What was loaded before does not fit what is in memory any more: the load that is under way is told.
    try {
      if (due === 'loaded' || (!this.stale && this.reading === null)) this.publish(paint);
    } catch (error) {
      this.onError(error); // the other queries of this frame follow
    }
    if (this.stale && this.listeners.size > 0) this.next();
  };
}

interface Use {
  /** The history that the query shows, by `nameOf`; null: any change may concern it. */
  readonly history: string | null;
  /** The history or the row whose streams it shows, by `nameOf`; null: none. */
  readonly streams: string | null;
}

/** The queries that have listeners. */
export class Queries {
  private readonly inUse = new Map<Pick<Query<never>, 'invalidate' | 'repaint'>, Use>();
  private readonly frame: Frame;

  constructor(
    next: NextFrame,
    private readonly onError: (error: unknown) => void,
  ) {
    this.frame = new Frame(next);
  }

  make<T>(history: string | null, load: () => Promise<T>): Query<T> {
    return this.painted(history, null, async () => {
      const value = await load();
      return () => value;
    });
  }

  /** The same for a query that shows streams. */
  painted<T>(history: string | null, streams: string | null, load: () => Promise<Paint<T>>): Query<T> {
    const query: Query<T> = new Query<T>(
      load,
      this.frame,
      (used) => (used ? this.inUse.set(query, { history, streams }) : this.inUse.delete(query)),
      this.onError,
    );
    return query;
  }

  /** `urgent`: the user did it. */
  touched({ all, histories }: Touched, urgent = false): void {
    for (const [query, { history }] of this.inUse) {
      if (all || history === null || histories.has(history)) query.invalidate(urgent);
    }
  }

  /** Streams in these rows and histories have grown. */
  grown(names: ReadonlySet<string>): void {
    for (const [query, { streams }] of this.inUse) if (streams !== null && names.has(streams)) query.repaint();
  }
}
