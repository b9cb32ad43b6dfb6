/** Time and timers, so that tests can hold them in their hand. */

export interface Clock {
  /** Milliseconds since 1970; the device's own clock may be wrong. */
  now(): number;
  /** Calls once after so many milliseconds; what it returns calls it off. */
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
