/**
 * Elects the tab of a browser that connects. The leader holds a Web Lock, which passes to the next tab when the leader
 * crashes. A frozen tab keeps its lock, so visible tabs ask the leader whether it is there, and steal the lock if it
 * does not answer. Does not know what a leader does. The store's lease prevents writes of a deposed leader.
 */

import type { Clock } from './clock.js';

/** The part of `navigator.locks` that this library uses. */
export interface LocksLike {
  request(
    name: string,
    options: { readonly steal?: boolean; readonly signal?: AbortSignal },
    held: () => Promise<void>,
  ): Promise<unknown>;
}

/** The part of BroadcastChannel that this library uses: a message reaches all other channels of the name. */
export interface ChannelLike {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: unknown }) => unknown) | null;
  close(): void;
}

export interface LeaderOptions {
  readonly name: string;
  /** null: there are none (React Native, an insecure page); then each tab leads that becomes visible. */
  readonly locks: LocksLike | null;
  readonly clock: Clock;
  readonly random: () => number;
  readonly visible: () => boolean;
  /** Sends to the other tabs. */
  readonly post: (message: LeaderMessage) => void;
  readonly onLead: () => void;
  readonly onDeposed: () => void;
}

export type LeaderMessage = { readonly k: 'ask' } | { readonly k: 'here' };

/** Milliseconds between two questions of a visible tab; up to half of it is added at random. */
const ASK_EVERY = 1_500;
/** Milliseconds without an answer after which a leader counts as frozen. */
const SILENT_AFTER = 5_000;

export class Leader {
  leading = false;
  private candidate = false;
  private stopped = false;
  /** When the leader last answered, or was given more time. */
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

  /** This tab became visible, or the network came back. */
  awake(): void {
    if (!this.candidate || this.stopped || this.leading) return;
    if (this.options.locks === null) return this.lead();
    this.answeredAt = this.options.clock.now();
    this.watch();
  }

  /** Takes the lead from the tab that has it. */
  steal(): void {
    this.candidate = true;
    if (this.stopped || this.leading) return;
    if (this.options.locks === null) return this.lead();
    this.queued?.abort();
    this.hold({ steal: true });
  }

  /** The store's lease or the lock was taken by another tab. */
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
      // Aborted in the queue, or stolen by a tab that got no answer from us.
      if (mine) this.resign();
    });
  }

  private lead(): void {
    this.leading = true;
    this.off();
    this.options.post({ k: 'here' });
    this.options.onLead();
  }

  /** Only visible tabs watch the leader: browsers throttle the timers of hidden ones. */
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
    // With jitter, so that not all followers steal at once.
    const asked = clock.now();
    const wait = ASK_EVERY * (1 + random() / 2);
    this.off = clock.after(wait, () => {
      // A timer this late means that this tab was frozen itself, and could receive no answer.
      if (clock.now() - asked > 2 * wait) this.answeredAt = clock.now();
      this.watch();
    });
  }
}
