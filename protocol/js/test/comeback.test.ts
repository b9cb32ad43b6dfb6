/** What a device does after the end of a connection, and when it refreshes its token. */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { backoff, nextStep, refreshAfter } from '../src/comeback.js';
import type { ErrorAnswer } from '../src/frames.js';

interface Vector {
  readonly name: string;
  /** The server's close code; null: there was none. */
  readonly close: number | null;
  readonly errors: readonly { readonly code: string; readonly retry_after?: number; readonly answers?: string }[];
  readonly attempt: number;
  /** Milliseconds. */
  readonly lasted: number;
  readonly random: number;
  readonly instruction: string;
  /** Milliseconds. */
  readonly delay: number;
  readonly next_attempt: number;
}

const vectors = JSON.parse(
  readFileSync(new URL('../../vectors/comeback.json', import.meta.url), 'utf8'),
) as readonly Vector[];

const errorOf = ({ code, retry_after, answers }: Vector['errors'][number]): ErrorAnswer => ({
  t: 'error',
  code,
  message: '',
  retryable: true,
  answers: answers ?? null,
  id: null,
  retryAfter: retry_after ?? null,
  expected: null,
});

describe('after the end of a connection', () => {
  it.each(vectors.map((vector) => [vector.name, vector] as const))('%s', (_, vector) => {
    const last = vector.errors.at(-1);
    const step = nextStep(
      vector.close,
      last === undefined ? null : errorOf(last),
      vector.attempt,
      vector.lasted,
      vector.random,
    );
    expect([step.instruction.replace(' ', '_'), step.delayMs, step.attempt]).toEqual([
      vector.instruction,
      vector.delay,
      vector.next_attempt,
    ]);
  });

  it('a delay that the server advised is marked as advised', () => {
    const error = errorOf({ code: 'going_away', retry_after: 777 });
    expect(nextStep(4000, error, 3, 0, 1)).toMatchObject({ delayMs: 777, advised: true });
    expect(nextStep(1006, errorOf({ code: 'slow_down', retry_after: 777 }), 0, 0, 1).advised).toBe(false);
    expect(nextStep(1006, null, 3, 0, 1).advised).toBe(false);
  });

  it('the step names the close code that decided: the one that arrived, or else the announced one', () => {
    expect(nextStep(4301, errorOf({ code: 'replaced' }), 0, 0, 1).close).toBe(4301);
    expect(nextStep(1006, errorOf({ code: 'replaced' }), 0, 0, 1).close).toBe(4302);
    expect(nextStep(1006, errorOf({ code: 'constructor' }), 0, 0, 1).close).toBeNull();
  });
});

describe('times', () => {
  it('the back-off doubles with each failure up to its cap', () => {
    expect([1, 2, 3, 6, 99].map((n) => backoff(n, 1))).toEqual([1000, 2000, 4000, 30_000, 30_000]);
  });

  it('a token is refreshed late, and never after its end', () => {
    expect([3_600_000, 100_000, 10_000, -5].map(refreshAfter)).toEqual([3_540_000, 80_000, 8000, 0]);
  });
});
