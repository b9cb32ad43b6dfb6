/**
 * Which tab of a browser holds the socket. A Web Lock elects it, and goes on to the next tab when it crashes; a frozen
 * tab keeps its lock, so visible tabs ask the leader whether it is there, and take the lock from one that is silent.
 * Knows nothing of what a leader does; whether the deposed one can still do harm is the store's lease to decide.
 */

import type { Clock } from './clock.js';

/** As much of `navigator.locks` as is needed here. */
export interface LocksLike {
  request(
    name: string,
    options: { readonly steal?: boolean; readonly signal?: AbortSignal },
    held: () => Promise<void>,
  ): Promise<unknown>;
}

/** As much of BroadcastChannel as is needed here: what is posted reaches all others of the name. */
export interface ChannelLike {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: unknown }) => unknown) | null;
  close(): void;
}

export interface LeaderOptions {
  readonly name: string;
  /** null: there are none (React Native, an insecure page), and every tab leads that is looked at. */
  readonly locks: LocksLike | null;
  readonly clock: Clock;
  readonly random: () => number;
  readonly visible: () => boolean;
  /** To the other tabs. */
  readonly post: (message: LeaderMessage) => void;
  readonly onLead: () => void;
  readonly onDeposed: () => void;
}

export type LeaderMessage = { readonly k: 'ask' } | { readonly k: 'here' };

/** Milliseconds between two questions of a visible tab, and the silence after which a leader counts as frozen. */
const ASK_EVERY = 1_500;
const SILENT_AFTER = 5_000;

export class Leader {
  leading = false;
  private candidate = false;
  private stopped = false;
  private answeredAt: number;
  private release: () => void = () => undefined;
  private queued: AbortController | null = null;
  private off: () => void = () => undefined;

  constructor(private readonly options: LeaderOptions) {
    this.answeredAt = options.clock.now();
  }

  start(): void {
    this.candidate = true;
    if (this.options.locks === null) return this.lead();
    this.queue();
    this.watch();
  }

  stop(): void {
    this.stopped = true;
    this.off();
    this.queued?.abort();
    this.leading = false;
    this.release();
  }

  receive(message: LeaderMessage): void {
    if (message.k === 'here') this.answeredAt = this.options.clock.now();
    else if (this.leading) this.options.post({ k: 'here' });
  }

  /** Somebody looks at this tab (again). */
  awake(): void {
    if (!this.candidate || this.stopped || this.leading) return;
    if (this.options.locks === null) return this.lead();
    this.answeredAt = this.options.clock.now();
    this.watch();
  }

  /** Take the lead from whoever has it. */
  steal(): void {
    this.candidate = true;
    if (this.stopped || this.leading) return;
    if (this.options.locks === null) return this.lead();
    this.queued?.abort();
    this.hold({ steal: true });
  }

  /** The store or the server says that another tab leads now. */
  resign(): void {
    if (!this.leading) return;
    this.leading = false;
    this.release();
    this.options.onDeposed();
    if (this.options.locks !== null && !this.stopped) {
      this.answeredAt = this.options.clock.now();
      this.queue();
      this.watch();
    }
  }

  private queue(): void {
    this.queued?.abort();
    const queued = new AbortController();
    this.queued = queued;
    this.hold({ signal: queued.signal });
  }

  private hold(options: { readonly steal?: boolean; readonly signal?: AbortSignal }): void {
    let mine = false;
    const held = (): Promise<void> => {
      if (this.stopped || this.leading) return Promise.resolve();
      mine = true;
      return new Promise((resolve) => {
        this.release = resolve;
        this.lead();
      });
    };
    this.options.locks?.request(this.options.name, options, held).catch(() => {
      // Aborted in the queue, or stolen by a tab that found us silent.
      if (mine) this.resign();
    });
  }

  private lead(): void {
    this.leading = true;
    this.off();
    this.options.post({ k: 'here' });
    this.options.onLead();
  }

  /** Only visible tabs watch: where nobody looks, nothing is late, and timers of hidden tabs tell nothing. */
  private watch(): void {
    this.off();
    if (this.stopped || this.leading || !this.options.visible()) return;
    const { clock, random } = this.options;
    if (clock.now() - this.answeredAt > SILENT_AFTER) {
      this.answeredAt = clock.now();
      this.steal();
    } else {
      this.options.post({ k: 'ask' });
    }
    // Apart from each other, so that not all followers steal at once.
    const asked = clock.now();
    const wait = ASK_EVERY * (1 + random() / 2);
    this.off = clock.after(wait, () => {
      // A timer this late means that this tab was frozen itself, and could not hear.
      if (clock.now() - asked > 2 * wait) this.answeredAt = clock.now();
      this.watch();
    });
  }
}
