/** A wrong clock: what was written under it gets the instants of the server's clock, in its order (SPEC.md, 8.3). */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { ChatSync } from '../src/chat.js';
import { EARLIEST, redated, serverOffset } from '../src/clock.js';
import { App, USER } from './support/app.js';
import { tokenOf } from './support/rows.js';
import { MemoryStore } from '../src/store/memory.js';

const HOUR = 3_600_000;
const YEAR = 365 * 24 * HOUR;
const NOW = 1_700_000_000_000_000;

describe('redated', () => {
  const instants = fc.array(fc.integer({ min: -(10 ** 15), max: 3 * 10 ** 15 }), { maxLength: 50 });
  const shifts = fc.integer({ min: -(10 ** 15), max: 10 ** 15 });

  it('keeps the order, and what was equal stays equal', () => {
    fc.assert(
      fc.property(instants, shifts, (given, shift) => {
        const after = redated(given, shift, NOW);
        for (const a of given) for (const b of given) {
          expect(Math.sign((after.get(a) as number) - (after.get(b) as number))).toBe(Math.sign(a - b));
        }
      }),
    );
  });

  it('gives only what a server accepts', () => {
    fc.assert(
      fc.property(instants, shifts, (given, shift) => {
        for (const at of redated(given, shift, NOW).values()) expect(at >= EARLIEST && at <= NOW).toBe(true);
      }),
    );
  });

  it('moves all by the same, as far as a server accepts it', () => {
    fc.assert(
      fc.property(instants, shifts, (given, shift) => {
        const fits = given.filter((at) => at + shift >= EARLIEST && at + shift <= NOW);
        const after = redated(fits, shift, NOW);
        for (const at of fits) expect(after.get(at)).toBe(at + shift);
      }),
    );
  });
});

describe('serverOffset', () => {
  it('a clock that may be right is not adjusted', () => {
    fc.assert(
      fc.property(fc.integer({ min: -(10 ** 15), max: 10 ** 15 }), fc.nat(4_000), fc.nat(4_000), (truth, there, back) => {
        const [sent, arrived] = [1_700_000_000_000, 1_700_000_000_000 + there + back];
        expect(serverOffset(truth, (sent + there) * 1000 + truth, sent, arrived)).toBe(truth);
      }),
    );
  });
});

const app = new App();

/** A tab whose clock is wrong by so many milliseconds. */
function wrong(by: number): object {
  const real = app.world.tab().environment();
  return { ...real, clock: { ...real.clock, now: () => app.world.clock.now() + by } };
}

const CLOCKS: readonly (readonly [string, number])[] = [
  ['one hour ahead', HOUR],
  ['five years ahead', 5 * YEAR],
  ['in 2010', Date.UTC(2010, 0) - 1_700_000_000_000],
  ['right', 0],
];

async function writes(sync: ChatSync): Promise<string> {
  const home = await sync.createConversation('Trip');
  for (let i = 0; i < 20; i++) {
    await sync.sendMessage(home, `${i}`);
    await app.world.clock.pass(1_000);
  }
  const { rows } = await sync.messages(home).read();
  await sync.editMessage(rows[3]?.id ?? '', 'three');
  await sync.deleteMessage(rows[4]?.id ?? '');
  await sync.renameConversation(home, 'Journey');
  return home;
}
const EXPECTED = ['0', '1', '2', 'three', ...Array.from({ length: 15 }, (_, i) => `${i + 5}`)];

async function arrived(sync: ChatSync, home: string, began: number): Promise<void> {
  expect(await sync.status.read()).toMatchObject({ state: 'live', pending: 0, rejected: 0 });
  const { rows } = await sync.messages(home).read();
  expect(rows.map((row) => [row.content, row.state])).toEqual(EXPECTED.map((text) => [text, 'synced']));
  const times = rows.map((row) => row.createdAt / 1000 - began);
  // A second lies between two of them.
  expect(times.map((ms) => Math.round(ms / 1000))).toEqual([0, 1, 2, 3, ...Array.from({ length: 15 }, (_, i) => i + 5)]);
  expect((await sync.conversations().read()).rows).toMatchObject([{ title: 'Journey', state: 'synced' }]);
}

describe.each(CLOCKS)('a clock that is %s', (_, by) => {
  it('before the first welcome: nothing is rejected, and the order stays', async () => {
    app.server.strict = true;
    app.world.network.mode = 'down';
    const sync = app.open({ environment: wrong(by) });
    const began = app.world.clock.now();
    const home = await writes(sync);
    app.world.network.mode = 'up';
    await app.world.clock.pass(31_000);
    await arrived(sync, home, began);
    // What is written next follows.
    await sync.sendMessage(home, 'next');
    await app.world.clock.pass(0);
    expect((await sync.messages(home).read()).rows.at(-1)).toMatchObject({ content: 'next', state: 'synced' });
  });

  it('local work at an upgrade', async () => {
    app.server.strict = true;
    const sync = app.alone({ environment: wrong(by) });
    const began = app.world.clock.now();
    const home = await writes(sync);
    await sync.upgrade(() => tokenOf(USER));
    await app.world.clock.pass(1_000);
    await arrived(sync, home, began);
  });

  it('set right before the first connection: nothing is rejected', async () => {
    app.server.strict = true;
    const store = new MemoryStore();
    store.close = async () => undefined;
    app.world.network.mode = 'down';
    const before = app.open({ store, environment: wrong(by) });
    const home = await writes(before);
    await app.end(before);
    app.world.network.mode = 'up';
    const sync = app.open({ store });
    await app.world.clock.pass(1_000);
    expect(await sync.status.read()).toMatchObject({ state: 'live', pending: 0, rejected: 0 });
    expect((await sync.messages(home).read()).rows.map((row) => row.content)).toEqual(EXPECTED);
  });
});

it('what may have been sent keeps its instant: the server compares it', async () => {
  const sync = app.open();
  await app.world.clock.pass(0);
  app.world.network.mode = 'dead'; // it is sent, and gets no answer
  const home = await sync.createConversation('x');
  const at = (await sync.conversations().read()).rows[0]?.createdAt;
  app.server.now = () => app.world.clock.now() + HOUR;
  await app.world.clock.pass(60_000);
  app.world.network.mode = 'up';
  await app.world.clock.pass(45_000);
  expect(await sync.status.read()).toMatchObject({ state: 'live', pending: 0 });
  expect(app.server.conversations.get(home)).toMatchObject({ createdAt: at });
});

it('local work after a downgrade, under a clock that went wrong meanwhile', async () => {
  app.server.strict = true;
  let by = 0;
  const real = app.world.tab().environment();
  const sync = app.open({ environment: { ...real, clock: { after: real.clock!.after, now: () => app.world.clock.now() + by } } });
  await app.world.clock.pass(0);
  await sync.createConversation('before');
  await app.world.clock.pass(1_000);
  await sync.downgrade();
  by = 5 * YEAR;
  const began = app.world.clock.now();
  const home = await sync.createConversation('Trip');
  await sync.sendMessage(home, 'local');
  await app.world.clock.pass(10_000);
  await sync.upgrade();
  await app.world.clock.pass(1_000);
  expect(await sync.status.read()).toMatchObject({ state: 'live', pending: 0, rejected: 0 });
  const { rows } = await sync.conversations().read();
  expect(rows.map((row) => [row.title, row.state])).toEqual([
    ['Trip', 'synced'],
    ['before', 'synced'],
  ]);
  expect(Math.abs((rows[0]?.createdAt ?? 0) / 1000 - began)).toBeLessThan(1_000);
});
