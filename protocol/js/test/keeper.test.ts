/** What a keeper makes of the server's clock. */

import { expect, it } from 'vitest';

import { Keeper } from '../src/keeper.js';
import { MemoryStore } from '../src/store/memory.js';
import { CODECS } from '../src/wire.js';
import type { Event } from '../src/session.js';

const limits = { frameBytes: 20_000, pageRows: 7, pagesInFlight: 2, mutations: 3 };

/** Milliseconds that a device believes the server to be ahead, after a greeting that took from `begun` to `heard`. */
async function ahead(store: MemoryStore, begun: number, server: number, heard: number): Promise<number> {
  let time = begun;
  const keeper = new Keeper({
    store,
    codec: CODECS.json,
    window: { conversations: 1, messages: 1 },
    now: () => time,
    random: () => 0,
    onTouched: () => undefined,
  });
  await keeper.lead();
  await keeper.begin();
  time = heard;
  await keeper.hear({ t: 'welcome', limits, time: server * 1000, why: null } as unknown as Event);
  return (await store.read((tx) => tx.meta())).ahead / 1000;
}

it('leaves a clock alone that may be right, however long the greeting took', async () => {
  expect(await ahead(new MemoryStore(), 10_000, 10_400, 10_900)).toBe(0);
});

it('corrects a clock that is wrong, by no more than it must be', async () => {
  expect(await ahead(new MemoryStore(), 10_000, 70_000, 10_300)).toBe(59_700);
  expect(await ahead(new MemoryStore(), 70_000, 10_100, 70_300)).toBe(-59_900);
});

it('keeps what it found out as long as it fits', async () => {
  const store = new MemoryStore();
  expect(await ahead(store, 10_000, 70_000, 10_010)).toBe(59_990);
  expect(await ahead(store, 20_000, 80_100, 20_900)).toBe(59_990);
  expect(await ahead(store, 30_000, 30_050, 30_100)).toBe(50);
});

it('believes the server where a greeting says too little: it took very long, or the clock was set meanwhile', async () => {
  expect(await ahead(new MemoryStore(), 600_000, 605_000, 1_200_000)).toBe(-595_000);
  expect(await ahead(new MemoryStore(), 3_610_000, 10_100, 10_200)).toBe(-100);
});
