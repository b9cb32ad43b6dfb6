/**
 * Ingest, session and outbox against a model server, through random failures: lost answers, cuts anywhere, other tabs
 * taking over, restarts, a database that comes back from a backup.
 */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { covers } from '../src/holes.js';
import { WriteError } from '../src/mutation.js';
import { orderOf, type Uuid } from '../src/rows.js';
import { Deposed } from '../src/store.js';
import { showMessages, type Message } from '../src/chat.js';
import * as writes from '../src/write.js';
import { ModelServer, newConversation, newMessage, type Wire } from './support/model.js';
import { C, CHAT_KINDS as kinds, CONVERSATION, id, M, MESSAGE } from './support/rows.js';
import { Device } from './support/stepped.js';
import { type Kind, KINDS } from './support/stores.js';

const HOMES = [C(1), C(2)];

const place = (row: { readonly createdAt: number; readonly id: Uuid }): string =>
  orderOf(MESSAGE, [row.createdAt, row.id]);

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('send' as const),
      home: fc.constantFrom(...HOMES),
      text: fc.constantFrom('a', 'refuse this', 'c'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('edit' as const, 'delete' as const), which: fc.nat(20) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('connect' as const) }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('receive' as const), most: fc.nat(3), answers: fc.boolean() }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('push' as const) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom('cut' as const, 'restart' as const, 'take over' as const, 'busy' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('stranger' as const), text: fc.constantFrom('x', 'y') }) },
);
const steps = fc.array(fc.record({ on: fc.nat(1), step }), { maxLength: 60, size: 'max' });
const coins = fc.tuple(fc.boolean(), fc.boolean(), fc.boolean());
type Step = (typeof steps extends fc.Arbitrary<infer T> ? T : never)[number];

let strangers = 0;

async function perform(devices: readonly Device[], server: ModelServer, { on, step: s }: Step): Promise<void> {
  const device = devices[on] as Device;
  switch (s.do) {
    case 'send':
      return device.send(s.home, s.text);
    case 'edit':
    case 'delete': {
      const message = device.written[s.which];
      // A deletion of a rejected row would take it out of quarantine.
      if (message === undefined || (s.do === 'delete' && message.content === 'refuse this')) return;
      try {
        await device.store.write((tx) =>
          s.do === 'edit'
            ? writes.update(tx, kinds, 5000, MESSAGE, message.id, { content: 'edited' })
            : writes.remove(tx, kinds, MESSAGE, message.id),
        );
      } catch (error) {
        expect(error).toBeInstanceOf(WriteError); // it is gone, or was rejected
      }
      return;
    }
    case 'connect':
      return device.connect();
    case 'receive':
      return device.receive(s.most, s.answers);
    case 'push':
      return void (await device.push());
    case 'cut':
      return device.cut();
    case 'restart':
      return device.restart();
    case 'busy':
      server.pushErrors.push({ code: 'unavailable', retry_after: 10 });
      return;
    case 'take over': {
      // Another tab leads on the same store: nothing that the old one receives or sends may count any more.
      if (device.session === null) return;
      const other = device.newIngest();
      await other.lead();
      const text = device.inbox.shift();
      const event = text === undefined ? null : device.session.receive(text);
      if (event !== null && ['welcome', 'changes', 'live', 'ack'].includes(event.t)) {
        await expect(device.ingest.apply(event)).rejects.toThrow(Deposed);
      }
      await expect(device.ingest.nextPush(device.session.limits)).rejects.toThrow(Deposed);
      device.cut();
      device.ingest = other;
      return;
    }
    case 'stranger':
      server.message(HOMES[0] as Uuid, id(0xfff000 + strangers++), s.text, 2000 + strangers);
      return;
  }
}

async function begin({ make }: Kind): Promise<{ server: ModelServer; devices: Device[] }> {
  const server = new ModelServer();
  server.now = () => 0;
  const devices = [0, 1].map((number) => {
    const { store, reopen, end } = make();
    return new Device(server, number, store, reopen, end);
  });
  HOMES.forEach((home, i) => server.push(id(7), i + 1, [newConversation(home, 'home', 1000)]));
  for (const device of devices) await device.flush();
  return { server, devices };
}

/** Each device shows exactly what the server has. */
async function inStep(server: ModelServer, devices: readonly Device[]): Promise<void> {
  for (const device of devices) {
    await device.store.read(async (tx) => {
      for (const home of HOMES) {
        const rows = await tx.newest(MESSAGE, home, null, 1000);
        const theirs = [...server.messages.values()].filter((row) => row.home === home);
        expect(new Map(rows.map((row) => [row.id, row.content]))).toEqual(
          new Map(theirs.map((row) => [row.id, row.content])),
        );
        const left = await tx.entries();
        const shown = showMessages(home, rows, left, false);
        expect(shown.filter((row) => row.state !== 'rejected')).toHaveLength(theirs.length);
      }
      expect((await tx.counts()).pending).toBe(0);
      expect(await tx.acked()).toEqual([]);
      expect(await tx.gone()).toEqual([]);
    });
  }
}

/** Messages that the outbox still holds, and the server would not reject. */
const heldBy = (device: Device): Promise<Uuid[]> =>
  device.store.read(async (tx) =>
    (await tx.entries()).flatMap(({ mutation, state }) =>
      mutation.op === '+' && state !== 'rejected' && mutation.columns['content'] !== 'refuse this'
        ? [mutation.id as Uuid]
        : [],
    ),
  );

/** Each message that the device held was applied once, and everything that it wrote, in its order. */
async function appliedOnce(server: ModelServer, device: Device, held: readonly Uuid[]): Promise<void> {
  const { clientId } = await device.store.read((tx) => tx.meta());
  const applied = server.state.applied.filter((write) => write.client === clientId).map((write) => write.id);
  expect(new Set(applied).size).toBe(applied.length);
  const order = device.written.map((write) => write.id);
  expect(applied).toEqual(order.filter((message) => applied.includes(message)));
  for (const message of held) expect(applied).toContain(message);
}

/** Twice, so that each device sees what the other one wrote last. */
async function flushAll(server: ModelServer, devices: readonly Device[]): Promise<void> {
  server.pushErrors.length = 0;
  for (let round = 0; round < 2; round++) for (const device of devices) await device.flush();
}

/** The database becomes `backup`, the devices go on: what they held is applied once, and they end in step with it. */
async function checkRestored(
  server: ModelServer,
  devices: readonly Device[],
  backup: ReturnType<ModelServer['backup']>,
  told: boolean,
  after: readonly Step[],
): Promise<void> {
  const held = await Promise.all(devices.map(heldBy));
  server.restore(backup, told ? undefined : backup.epoch);
  for (const planned of after) await perform(devices, server, planned);
  await flushAll(server, devices);
  await Promise.all(devices.map((device, i) => appliedOnce(server, device, held[i] ?? [])));
  await inStep(server, devices);
  for (const device of devices) await device.end();
}

const RUNS: Readonly<Record<string, number>> = { memory: 300, indexeddb: 10, sqlite: 10 };

describe.each(KINDS)('whatever happens, $name', (kind) => {
  it('each write is applied once, in the order of its device, or is in quarantine', async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (plan) => {
        const { server, devices } = await begin(kind);
        for (const planned of plan) await perform(devices, server, planned);
        await flushAll(server, devices);
        for (const device of devices) {
          const { clientId } = await device.store.read((tx) => tx.meta());
          const applied = server.state.applied.filter((write) => write.client === clientId).map((write) => write.id);
          const entries = await device.store.read((tx) => tx.entries());
          const rejected = entries.flatMap(({ mutation }) => (mutation.op === '+' ? [mutation.id] : []));
          const taken = device.written.filter((write) => write.content !== 'refuse this').map((write) => write.id);
          expect(applied).toEqual(taken);
          expect(rejected).toEqual(
            device.written.filter((write) => write.content === 'refuse this').map((write) => write.id),
          );
        }
        await inStep(server, devices);
        for (const device of devices) await device.end();
      }),
      { numRuns: RUNS[kind.name] ?? 0 },
    );
  });

  it('a database that lost its tail gets all writes that are still held again, and none twice', async () => {
    await fc.assert(
      fc.asyncProperty(steps, steps, steps, fc.boolean(), async (before, lost, after, told) => {
        const { server, devices } = await begin(kind);
        for (const planned of before) await perform(devices, server, planned);
        const backup = server.backup();
        for (const planned of lost) await perform(devices, server, planned);
        for (const device of devices) device.cut(); // what is under way is lost with the database
        await checkRestored(server, devices, backup, told, after);
      }),
      { numRuns: RUNS[kind.name] ?? 0 },
    );
  });
});

it('a database that failed over and was gone back to has each write that is still held, once', async () => {
  await fc.assert(
    fc.asyncProperty(steps, steps, steps, steps, coins, async (before, lost, there, after, chance) => {
      const [told, flushedHere, flushedThere] = chance;
      const { server, devices } = await begin(KINDS[0] as Kind);
      for (const planned of before) await perform(devices, server, planned);
      const behind = server.backup();
      for (const planned of lost) await perform(devices, server, planned);
      if (flushedHere) for (const device of devices) await device.flush();
      for (const device of devices) device.cut();
      const first = server.backup();
      server.restore(behind, told ? undefined : behind.epoch);
      for (const planned of there) await perform(devices, server, planned);
      for (const device of devices) {
        if (flushedThere) await device.flush();
        await device.send(HOMES[0] as Uuid, 'last');
        await device.push();
        if (flushedThere) await device.receive(1, true); // acknowledged, and not seen in the feed
        device.cut();
      }
      await checkRestored(server, devices, first, told, after);
    }),
    { numRuns: 100 },
  );
});

describe('histories', () => {
  const act = fc.oneof(
    { weight: 4, arbitrary: fc.record({ do: fc.constant('write' as const), home: fc.nat(3), at: fc.nat(40) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('edit' as const, 'delete' as const), which: fc.nat(40) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('drop' as const, 'make' as const), home: fc.nat(3) }) },
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant('page' as const),
        home: fc.integer({ min: -1, max: 3 }),
        limit: fc.integer({ min: 1, max: 5 }),
      }),
    },
    { weight: 6, arbitrary: fc.record({ do: fc.constant('receive' as const), most: fc.nat(4) }) },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constantFrom('connect' as const, 'cut' as const, 'forget' as const, 'arrive' as const),
      }),
    },
  );

  it('a history has no hole above its floor, whatever was written, deleted and paged meanwhile', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(act, { minLength: 30, maxLength: 80, size: 'max' }),
        fc.nat(3),
        fc.nat(3),
        async (plan, conversations, messages) => {
          const server = new ModelServer();
          server.now = () => 0;
          server.limits.page_rows = 3;
          const { store, reopen, end } = (KINDS[0] as Kind).make();
          const device = new Device(server, 0, store, reopen, end, { conversation: conversations, message: messages });
          let n = 0;
          let keys = 0;
          const write = (mutation: Wire): unknown => server.push(id(5), ++n, [mutation]);
          const home = (i: number): Uuid => C(i);
          for (let i = 0; i < 3; i++) write(newConversation(home(i), 'c', i * 10));
          for (let i = 0; i < 12; i++) write(newMessage(M(keys++), home(i % 3), 'x', i * 3));
          for (const a of plan) {
            switch (a.do) {
              case 'write':
                write(newMessage(M(keys++), home(a.home), 'x', a.at));
                break;
              case 'edit':
              case 'delete': {
                const row = server.messages.get(M(a.which));
                const dated = [row?.id, row?.createdAt];
                if (row) write(a.do === 'edit' ? ['~', 'm', dated, { content: 'edited' }, 50] : ['-', 'm', dated]);
                break;
              }
              case 'drop':
                write(['-', 'c', home(a.home)]);
                break;
              case 'make':
                write(newConversation(home(a.home), 'again', 40 + n));
                break;
              case 'page': {
                if (device.session === null || !device.session.mayAsk) break;
                const parent = a.home < 0 ? null : home(a.home);
                const kind = parent === null ? CONVERSATION : MESSAGE;
                const [floor] = await store.read((tx) => tx.floors(kind, [parent ?? '']));
                if (floor === 'start') break;
                const request = { kind: kind.name, parent, before: floor ?? null };
                const [page, frame] = device.session.askPage(request, a.limit);
                device.ingest.expectPage(page, request);
                device.peer?.receive(frame as string);
                break;
              }
              case 'receive':
                await device.receive(a.most);
                break;
              case 'arrive':
                device.inbox.push(...device.late.splice(0, 1));
                break;
              case 'connect':
                await device.connect();
                break;
              case 'cut':
                device.cut();
                break;
              case 'forget': // the cursor is too old: a snapshot comes
                device.cut();
                await device.ingest.lead();
                await device.ingest.startOver();
                break;
            }
          }
          await device.flush();
          await store.read(async (tx) => {
            const [list] = await tx.floors(CONVERSATION, ['']);
            const theirs = [...server.conversations.values()];
            for (const row of theirs) {
              if (!covers(CONVERSATION, list, [row.updatedAt, row.id])) continue;
              expect((await tx.get(CONVERSATION, [row.id]))[0]).toMatchObject({ updatedAt: row.updatedAt });
            }
            const held = await tx.newest(CONVERSATION, '', null, 100);
            expect(
              held.every((row) => theirs.some((their) => their.id === row.id && their.updatedAt === row['updatedAt'])),
            ).toBe(true);
            for (let i = 0; i < 4; i++) {
              const [floor] = await tx.floors(MESSAGE, [home(i)]);
              const all = [...server.messages.values()].filter((row) => row.home === home(i));
              const above = all.filter((row) => covers(MESSAGE, floor, [row.createdAt, row.id]));
              const held = (await tx.of(MESSAGE, home(i))) as unknown as Message[];
              const mine = held.filter((row) => covers(MESSAGE, floor, [row.createdAt, row.id]));
              const order = (rows: readonly { createdAt: number; id: Uuid; content: string }[]): string[] =>
                [...rows].sort((x, y) => (place(x) < place(y) ? -1 : 1)).map((row) => row.id + row.content);
              expect(order(mine)).toEqual(order(above));
              const known = new Map(all.map((row) => [row.id, row.content]));
              for (const row of held) expect(known.get(row.id)).toBe(row.content);
            }
          });
        },
      ),
      { numRuns: 300 },
    );
  });
});
