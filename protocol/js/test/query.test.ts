/** Queries: what one of them does wrong concerns no other. */

import { expect, test } from 'vitest';

import { Queries } from '../src/query.js';

test('a listener that throws keeps no other query from being told, now and later', async () => {
  const frames: (() => void)[] = [];
  const errors: unknown[] = [];
  const queries = new Queries(
    (call) => frames.push(call),
    (error) => errors.push(error),
  );
  const draw = async (): Promise<void> => {
    for (let i = 0; i < 20; i++) await Promise.resolve();
    for (const frame of frames.splice(0)) frame();
  };
  let value = 0;
  let bad = false;
  queries
    .make('h', async () => value)
    .subscribe(() => {
      if (bad) throw new Error('a fault of the app');
    });
  const seen: unknown[] = [];
  const other = queries.make('h', async () => value);
  other.subscribe(() => seen.push(other.value));
  await draw();

  for (value = 1; value <= 2; value++) {
    bad = value === 1;
    queries.touched({ all: true, histories: new Set() });
    await draw();
  }
  expect(seen).toEqual([0, 1, 2]);
  expect(errors).toEqual([new Error('a fault of the app')]);
});
