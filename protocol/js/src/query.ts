/** Queries: values that are loaded again whenever the data behind them changed. */

import type { Touched } from './apply.js';

export class Query<T> {
  /** As of the last load; undefined before the first. It stays the same object until the next load. */
  value: T | undefined;
  private readonly listeners = new Set<() => void>();
  private reading: Promise<void> | null = null;
  private stale = true;

  constructor(
    private readonly load: () => Promise<T>,
    /** Called when the first listener came, and when the last one left. */
    private readonly onUse: (used: boolean) => unknown,
    private readonly onError: (error: unknown) => void,
  ) {}

  /** Calls `listener` at every change. The returned function ends that. */
  subscribe = (listener: () => void): (() => void) => {
    if (this.listeners.size === 0) {
      this.onUse(true);
      this.invalidate();
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
    const value = await this.load();
    this.publish(value);
    return value;
  }

  /** The data changed. Any number of calls leads to one load at a time. */
  invalidate(): void {
    this.stale = true;
    this.reading ??= this.refresh().finally(() => {
      this.reading = null;
      if (this.stale && this.listeners.size > 0) this.invalidate();
    });
  }

  protected publish(value: T): void {
    this.value = value;
    for (const listener of [...this.listeners]) listener();
  }

  private async refresh(): Promise<void> {
    this.stale = false;
    try {
      this.publish(await this.load());
    } catch (error) {
      this.onError(error);
    }
  }
}

/** The queries that have listeners. */
export class Queries {
  private readonly inUse = new Map<{ invalidate(): void }, string | null>();

  constructor(private readonly onError: (error: unknown) => void) {}

  /** `history`: the one that the query shows, by `nameOf`; null: any change may concern it. */
  make<T>(history: string | null, load: () => Promise<T>): Query<T> {
    const query: Query<T> = new Query<T>(
      load,
      (used) => (used ? this.inUse.set(query, history) : this.inUse.delete(query)),
      this.onError,
    );
    return query;
  }

  touched({ all, histories }: Touched): void {
    for (const [query, history] of this.inUse) {
      if (all || history === null || histories.has(history)) query.invalidate();
    }
  }
}
