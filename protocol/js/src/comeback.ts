/**
 * When to come back after a connection, and when to give a living one another token (SPEC.md, 7.8, 10.2, 10.3). Pure:
 * time and chance come in as arguments.
 */

import type { Refusal } from './wire.js';

export type Order = 'come back' | 'new token' | 'start over' | 'stay away';

export interface Step {
  readonly order: Order;
  readonly delayMs: number;
  /** For the next `nextStep`. */
  readonly attempt: number;
  /** Whether the server chose the delay, so that nothing may cut it short. */
  readonly advised: boolean;
}

export const orderOf = (closeCode: number | null): Order =>
  (['new token', 'start over', 'stay away'] as const)[Math.floor((closeCode ?? 0) / 100) - 41] ?? 'come back';

/**
 * Milliseconds to wait after so many failures in a row, if nobody said how long. 16 is far past the cap, and finite.
 */
export const backoff = (attempt: number, chance: number): number =>
  chance * Math.min(30_000, 500 * 2 ** Math.min(attempt, 16));

const LASTED = 60_000;
const ANNOUNCE_NO_CLOSE = ['unknown_frame', 'too_many_pages', 'unavailable', 'slow_down', 'gap', 'too_many_pushes'];

/** `closeCode` is the server's, null if there was none; `attempt` is what the last step gave, 0 at first. */
export function nextStep(
  closeCode: number | null,
  lastWords: Refusal | null,
  attempt: number,
  lastedMs: number,
  chance: number,
): Step {
  let order = orderOf(closeCode);
  // An error that announced a close counts although the close itself was cut off.
  if (lastWords !== null && lastWords.answers !== 'refresh' && order === 'come back') {
    order = ANNOUNCED[lastWords.code] ?? order;
  }
  const next = lastedMs >= LASTED ? 1 : attempt + 1;
  const advice = lastWords?.retryAfter ?? null;
  const refreshOnly = lastWords?.answers === 'refresh' && order === 'come back';
  const advised = advice !== null && lastWords !== null && !ANNOUNCE_NO_CLOSE.includes(lastWords.code) && !refreshOnly;
  return { order, delayMs: advised ? advice : backoff(next, chance), attempt: next, advised };
}

const ANNOUNCED: Readonly<Record<string, Order>> = {
  token_refused: 'new token',
  token_expired: 'new token',
  position_lost: 'start over',
  local_only: 'stay away',
  replaced: 'stay away',
  bad_frame: 'stay away',
  hello_first: 'stay away',
  second_hello: 'stay away',
};

/** Milliseconds to wait before a token with so much life left is refreshed: late, but never after its end. */
export const refreshAfter = (remainingMs: number): number => Math.max(0.8 * remainingMs, remainingMs - 60_000, 0);
