/** Time and timers, which tests replace, and the offset of the server's clock. */

export interface Clock {
  /** Milliseconds since 1970; the device's own clock may be wrong. */
  now(): number;
  /** Calls `call` once after so many milliseconds. The returned function cancels that. */
  after(ms: number, call: () => void): () => void;
}

const MOST = 2 ** 31 - 1; // beyond it, timers fire at once

export const systemClock: Clock = {
  now: () => Date.now(),
  after(ms, call) {
    const timer = setTimeout(call, Math.min(Math.max(ms, 0), MOST));
    return () => clearTimeout(timer);
  },
};

/** The earliest instant of a write that a server accepts: 2015-01-01 (SPEC.md, 8.3). */
export const EARLIEST = 1_420_070_400_000_000;

/**
 * Instants that a wrong clock gave, as they should have been: each one is moved by `shift`, and then to the nearest
 * that a server accepts, from EARLIEST to `most`. Two that differed still differ, in the same order. The keys are the
 * former instants.
 */
export function redated(instants: Iterable<number>, shift: number, most: number): ReadonlyMap<number, number> {
  const from = [...new Set(instants)].sort((a, b) => a - b);
  const to = from.map((at) => at + shift);
  for (let i = to.length - 1, last = most; i >= 0; i--) last = (to[i] = Math.min(to[i] as number, last)) - 1;
  for (let i = 0, first = EARLIEST; i < to.length; i++) first = (to[i] = Math.max(to[i] as number, first)) + 1;
  return new Map(from.map((at, i) => [at, to[i] as number]));
}

/** Microseconds. A greeting that took longer says too little about the server's clock. */
const GREETED_WITHIN = 10_000_000;

/**
 * How far the server's clock is ahead of ours, in microseconds, after a greeting: `hello` was sent at `sentMs`, and
 * `welcome`, in which the server's clock said `time`, arrived at `receivedMs`. Each offset that puts `time` between the
 * two is possible. `believed` stays if it is possible: two devices whose clocks are right must not order what is
 * written on them by the duration of their greetings (SPEC.md, 8.3). If the greeting was very long, or the clock was
 * set during it, the server is believed.
 */
export function serverOffset(believed: number, time: number, sentMs: number, receivedMs: number): number {
  const [least, most] = [time - receivedMs * 1000, time - sentMs * 1000];
  const quick = most >= least && most - least < GREETED_WITHIN;
  return quick ? Math.min(Math.max(believed, least), most) : least;
}
