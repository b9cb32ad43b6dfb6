/** The figures of a device's strip: its position, the latency from commit to screen, and its last events in words. */

import type { Status } from 'atlas-sync';
import type { Device } from './device.js';

/** An event in words. */
export interface Happening {
  readonly key: number;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly words: string;
}

export interface Seen {
  readonly position: number | null;
  /** Milliseconds. */
  readonly latency: number | null;
  /** Newest first. */
  readonly happenings: readonly Happening[];
}

const KEPT = 20;
/** Milliseconds within which events of one kind are shown as one. */
const TOGETHER = 1_500;
/** Milliseconds after which the position is read, so that reading it delays no message. */
const LATER = 60;
const LOOPBACK = /^(localhost|127\.|\[::1\])/;

const preciseNow = (): number => performance.timeOrigin + performance.now();
export const plural = (count: number, one: string, many = `${one}s`): string => `${count} ${count === 1 ? one : many}`;

export class Activity {
  seen: Seen = { position: null, latency: null, happenings: [] };
  private readonly listeners = new Set<() => void>();
  private readonly off: () => void;
  private status: Status | undefined;
  /** Whether the device has tried to connect, so that being offline is an event. */
  private tried = false;
  /** The last state that was noted. */
  private noted: Status['state'] | null = null;
  private noting: ReturnType<typeof setTimeout> | undefined;
  /** Milliseconds by the server's clock. Rows committed before it were missed, so they say nothing about latency. */
  private liveSince = Infinity;
  private ahead = 0;
  private asking: ReturnType<typeof setTimeout> | null = null;
  private nextKey = 0;
  private counted: { readonly kind: string; readonly since: number; count: number } | null = null;
  private closed = false;

  constructor(private readonly device: Device) {
    const { status } = device.sync;
    this.off = status.subscribe(() => this.receive(status.get()));
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  close(): void {
    this.closed = true;
    this.off();
    clearTimeout(this.noting);
    if (this.asking !== null) clearTimeout(this.asking);
  }

  note(words: string): void {
    this.counted = null;
    this.put(words);
  }

  /** Adds to the last event if that is recent and of the same kind, so that many at once take one line. */
  count(kind: string, count: number, words: (count: number) => string): void {
    const [last, ...rest] = this.seen.happenings;
    if (this.counted?.kind === kind && last !== undefined && Date.now() - this.counted.since < TOGETHER) {
      this.counted.count += count;
      this.show({ happenings: [{ ...last, at: Date.now(), words: words(this.counted.count) }, ...rest] });
    } else {
      this.counted = { kind, since: Date.now(), count };
      this.put(words(count));
    }
  }

  /** Rows with these seqs are about to be painted: measures the latency of the newest. */
  painted(seqs: readonly number[]): void {
    const newest = Math.max(...seqs) / 1000;
    if (seqs.length === 0 || newest < this.liveSince || document.hidden) return;
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        this.show({ latency: Math.max(0, this.serverNow() - newest) });
        port1.close();
      };
      port2.postMessage(null);
    });
  }

  private receive(status: Status | undefined): void {
    if (status === undefined) return;
    const before = this.status;
    this.tried ||= status.state === 'connecting';
    this.status = status;
    if (before !== undefined && status.pending < before.pending) {
      const rejected = Math.max(0, status.rejected - before.rejected);
      const saved = before.pending - status.pending - rejected;
      if (saved > 0) this.count('saved', saved, (count) => `${plural(count, 'change')} saved by the server`);
      if (rejected > 0) this.note(`${plural(rejected, 'change')} not accepted`);
    }
    if (status.state === 'live' && before?.state !== 'live') this.liveSince = this.serverNow();
    else if (status.state !== 'live') this.liveSince = Infinity;
    clearTimeout(this.noting);
    this.noting = setTimeout(() => this.noteState(status), status.state === 'live' ? 0 : 400);
    this.asking ??= setTimeout(() => void this.askPosition(), LATER);
  }

  private noteState({ state }: Status): void {
    if (state === this.noted || state === 'connecting') return;
    this.noted = state;
    if (state === 'live') this.note('Up to date');
    else if (state === 'catching_up') this.note('Catching up');
    else if (state === 'local') this.note('Works on this device only');
    else if (this.tried || !this.device.network.on) this.note('Offline: everything stays usable');
    else this.noted = null;
  }

  private async askPosition(): Promise<void> {
    this.asking = null;
    try {
      const { position, ahead } = await this.device.store.read((tx) => tx.meta());
      // One machine has one clock: a measured offset is only the time that the greeting took.
      this.ahead = LOOPBACK.test(location.host) ? 0 : ahead / 1000;
      if (position !== this.seen.position) this.show({ position });
    } catch {
      // The device is being closed.
    }
  }

  private serverNow(): number {
    return preciseNow() + this.ahead;
  }

  private put(words: string): void {
    const happening = { key: this.nextKey++, at: Date.now(), words };
    this.show({ happenings: [happening, ...this.seen.happenings].slice(0, KEPT) });
  }

  private show(change: Partial<Seen>): void {
    if (this.closed) return;
    this.seen = { ...this.seen, ...change };
    for (const listener of [...this.listeners]) listener();
  }
}
