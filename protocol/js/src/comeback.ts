/**
 * What to do after the end of a connection, and when to refresh the token of a living one (SPEC.md, 7.8, 10.1–10.3).
 * Pure: time and chance are arguments.
 */

import type { ErrorAnswer } from './frames.js';

export type Instruction = 'come_back' | 'new_token' | 'start_over' | 'stay_away';

/** Error code → the close code that the error announces (SPEC.md, 10.1); null: the connection goes on. */
export const ANNOUNCED_CLOSE = {
  bad_frame: 4300,
  hello_first: 4300,
  second_hello: 4300,
  unknown_frame: null,
  hello_timeout: 4002,
  token_refused: 4101,
  token_expired: 4100,
  too_many_sockets: 4003,
  too_many_frames: 4004,
  too_many_hellos: 4005,
  too_many_pages: null,
  bad_page: null,
  unavailable: null,
  slow_down: null,
  gap: null,
  too_many_pushes: null,
  replaced: 4302,
  position_lost: 4200,
  going_away: 4000,
  internal: 4001,
  local_only: 4301,
} as const;

export interface Step {
  readonly instruction: Instruction;
  /** The close code that decided: the server's, or else the announced one; null if there was neither. */
  readonly close: number | null;
  readonly delayMs: number;
  /** For the next `nextStep`. */
  readonly attempt: number;
  /** Whether the server chose the delay, so that nothing may cut it short. */
  readonly advised: boolean;
}

/** The hundreds digit of a close code is the instruction; undefined: the close code is none of this protocol. */
const instructionOf = (closeCode: number | null): Instruction | undefined =>
  (['come_back', 'new_token', 'start_over', 'stay_away'] as const)[Math.floor((closeCode ?? 0) / 100) - 40];

/** A connection that lived this many milliseconds resets the back-off. */
const LASTED = 60_000;

/** Milliseconds to wait after so many failures in a row. 2^16 is far past the cap, and finite. */
export const backoff = (attempt: number, chance: number): number =>
  chance * Math.min(30_000, 500 * 2 ** Math.min(attempt, 16));

/**
 * What to do after the end of a connection (SPEC.md, 10.3). `closeCode`: as the WebSocket reported it, null if it
 * reported none. `lastError`: the `error` that was the last frame to arrive. `attempt`: from the previous step, 0 at
 * first. `chance`: 0 to 1.
 */
export function nextStep(
  closeCode: number | null,
  lastError: ErrorAnswer | null,
  attempt: number,
  lastedMs: number,
  chance: number,
): Step {
  const { code = '', answers, retryAfter = null } = lastError ?? {};
  let announced = Object.hasOwn(ANNOUNCED_CLOSE, code)
    ? ANNOUNCED_CLOSE[code as keyof typeof ANNOUNCED_CLOSE]
    : undefined;
  // Most refused refreshes leave the connection open: only the close itself shows that this one did not.
  if (answers === 'refresh' && announced !== closeCode) announced = null;
  const close = instructionOf(closeCode) ? closeCode : (announced ?? null);
  const next = lastedMs >= LASTED ? 1 : attempt + 1;
  // An unknown code announces nothing that we know, but its delay counts.
  const advice = announced === null ? null : retryAfter;
  return {
    instruction: instructionOf(close) ?? 'come_back',
    close,
    delayMs: advice ?? backoff(next, chance),
    attempt: next,
    advised: advice !== null,
  };
}

/** Milliseconds to wait before a token with so much life left is refreshed: late, but never after its end. */
export const refreshAfter = (remainingMs: number): number => Math.max(0.8 * remainingMs, remainingMs - 60_000, 0);
