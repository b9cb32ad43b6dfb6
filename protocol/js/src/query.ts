/** Values that are read from the store again whenever what they are made of changed. Knows neither what nor where. */

import type { Touched } from './apply.js';
import type { Uuid } from './rows.js';

export class Query<T> {
  /** As of the last reading; undefined before the first. The same object as long as nothing was read. */
  value: T | undefined;
  private readonly listeners = new Set<() => void>();
  private reading: Promise<void> | null = null;
  private stale = true;

  constructor(
    private readonly load: () => Promise<T>,
    /** The first listener came, or the last one went. */
    private readonly onUse: (used: boolean) => unknown,
    private readonly onError: (error: unknown) => void,
  ) {}

  /** Calls at every change, until what it returns is called. */
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

  /** The value as the store has it now. */
  async read(): Promise<T> {
    const value = await this.load();
    this.publish(value);
    return value;
  }

  /** What it is made of changed. However often that happens, one reading at a time follows. */
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

/** The queries that somebody listens to. */
export class Queries {
  private readonly inUse = new Map<{ invalidate(): void }, Uuid | null>();

  constructor(private readonly onError: (error: unknown) => void) {}

  /** `home`: the conversation whose messages are shown; null: anything may change it. */
  make<T>(home: Uuid | null, load: () => Promise<T>): Query<T> {
    const query: Query<T> = new Query<T>(
      load,
      (used) => (used ? this.inUse.set(query, home) : this.inUse.delete(query)),
      this.onError,
    );
    return query;
  }

  touched({ all, conversations }: Touched): void {
    for (const [query, home] of this.inUse) if (all || home === null || conversations.has(home)) query.invalidate();
  }
}
