/** The golden courses of a device: what it holds, sends and shows after certain frames (protocol/vectors/README.md). */

import { afterEach, describe, expect, it } from 'vitest';

import { codecsFor, ProtocolError } from '../src/codec.js';
import { serverOffset } from '../src/clock.js';
import { addEntry, rowsAbove } from '../src/entries.js';
import type { Window } from '../src/frames.js';
import { Ingest } from '../src/ingest.js';
import type { Mutation } from '../src/mutation.js';
import type { EntryState } from '../src/outbox.js';
import { homeKey, type Place, type Row } from '../src/rows.js';
import { camel, type Id, type Kind, type Kinds, type Schema } from '../src/schema.js';
import { Session } from '../src/session.js';
import type { Store } from '../src/store.js';
import { Streaming } from '../src/streaming.js';
import { placed, shows, stateOf } from '../src/streams.js';
import { createSync } from '../src/sync.js';
import { show } from '../src/view.js';
import { MemoryStore } from '../src/store/memory.js';
import * as writes from '../src/write.js';
import { KINDS as STORES } from './support/stores.js';
import { file, keyOf, kindsBy, mutationBy, rowBy, value } from './support/vectors.js';

type Wire = readonly unknown[];
type Step = Readonly<Record<string, unknown>>;

interface Case {
  readonly name: string;
  readonly schema?: string;
  readonly window?: Window;
  readonly steps: readonly Step[];
  readonly rows?: readonly Wire[];
  readonly floors?: readonly (readonly [kind: string, parent: unknown, floor: unknown])[];
  readonly cursor?: string;
  readonly outbox?: readonly (readonly unknown[])[];
  readonly streams?: readonly string[];
}

interface Decision {
  readonly name: string;
  readonly row: { readonly seq: number; readonly value: string | null } | null;
  readonly since: number;
  readonly base: string | null;
  readonly text: string;
  readonly state: string;
  readonly shows: 'nothing' | 'row' | 'stream' | 'lags';
}

const STREAMS = file('streams') as readonly (Case | Decision)[];

const NOW = 1_750_000_010_000;
const LIMITS = { frame_bytes: 262_144, page_rows: 1000, pages_in_flight: 2, mutations: 256 };

const parentOf = ({ parent }: Kind, carried: unknown): Id | null =>
  parent && carried !== null ? keyOf(parent, carried) : null;
const placeOf = (kind: Kind, carried: unknown): Place => {
  const [at, key] = carried as readonly unknown[];
  return [value(kind.newest?.type, at), keyOf(kind, key)];
};

interface ShownStep {
  readonly kind: string;
  readonly parent: unknown;
  readonly rows: readonly (readonly [
    id: unknown,
    columns: Readonly<Record<string, unknown>>,
    certainty: string,
    stream: string | null,
  ])[];
}

/** A device of the client's own parts, without a network. */
class Course {
  readonly kinds: Kinds;
  private ingest: Ingest;
  readonly streaming: { now: Streaming };
  private session: Session | null = null;
  private now = NOW;

  constructor(
    private readonly given: Case,
    private store: Store,
    private readonly reopen: () => Promise<Store>,
  ) {
    this.kinds = kindsBy.get(given.schema ?? 'chat') as Kinds;
    this.streaming = { now: this.newStreaming() };
    this.ingest = this.newIngest();
  }

  get held(): Store {
    return this.store;
  }

  async take(step: Step): Promise<void> {
    if ('t' in step) return this.receive(step);
    if ('write' in step) return this.write(mutationBy(this.kinds)(step['write'] as Wire));
    if ('ask' in step) return this.ask(step['ask'] as Readonly<Record<string, unknown>>);
    if ('shown' in step) return this.shown(step['shown'] as ShownStep);
    if ('sends' in step) return expect(await this.sends()).toEqual(step['sends']);
    if ('after' in step) this.now += step['after'] as number;
    else if ('end' in step) await this.end();
    else if ('breaks' in step) await expect(this.receive(step['breaks'] as Step)).rejects.toThrow(ProtocolError);
    else throw new Error(JSON.stringify(step));
  }

  private newIngest(): Ingest {
    return new Ingest({
      store: this.store,
      codec: codecsFor(this.kinds).json,
      window: this.given.window ?? {},
      now: () => this.now,
      random: () => 0.9,
      onTouched: () => undefined,
      streams: this.streaming.now,
    });
  }

  private newStreaming(): Streaming {
    const fail = (error?: unknown): void => expect.fail(String(error));
    return new Streaming({
      kinds: this.kinds,
      store: this.store,
      clock: { now: () => this.now, after: () => () => undefined },
      leading: () => true,
      keep: (put, drop) => this.ingest.keepStreams(put, drop),
      onChange: () => undefined,
      post: () => undefined,
      ask: fail,
      onError: fail,
    });
  }

  /** The connection and the app end. */
  private async end(): Promise<void> {
    this.session = null;
    await this.streaming.now.close();
    this.store = await this.reopen();
    this.streaming.now = this.newStreaming();
    await this.streaming.now.restore();
    this.ingest = this.newIngest();
  }

  private async shown({ kind: name, parent, rows }: ShownStep): Promise<void> {
    const kind = this.kinds.get(name) as Kind;
    const home = homeKey(kind, parentOf(kind, parent));
    const shown = await this.store.read(async (tx) => {
      const entries = await tx.entries();
      const held = await tx.newest(kind, home, null, 100);
      const streams = placed(this.streaming.now.now);
      return show(kind, home, await rowsAbove(tx, kind, home, entries), held, entries, false, streams);
    });
    expect(shown.map(({ id, state, stream, streaming }) => [id, state, stream ?? null, streaming])).toEqual(
      rows.map(([id, , state, stream]) => [keyOf(kind, id), state, stream, stream ? stream === 'open' : undefined]),
    );
    rows.forEach(([, columns], i) => expect(shown[i]).toMatchObject(columns));
  }

  private async connect(): Promise<Session> {
    await this.ingest.lead();
    const point = await this.ingest.begin();
    const { window = {} } = this.given;
    const session = new Session({ kinds: this.kinds, token: 't', ...point, window, encoding: 'json' });
    session.hello();
    return (this.session = session);
  }

  private async receive(step: Step): Promise<void> {
    let frame = step;
    if (step['t'] === 'welcome') {
      const time = this.now * 1000;
      const filled = { session: 's', epoch: 'e', schema: this.hash, time, expires: time + 1e9, keepalive: 25_000 };
      frame = { ...filled, ...step, limits: { ...LIMITS, ...(step['limits'] as object | undefined) } };
    }
    const session = this.session ?? (await this.connect());
    const event = session.receive(JSON.stringify(frame));
    const { now: streaming } = this.streaming;
    if (event?.t === 'stream') streaming.receive(event);
    else if (event?.t === 'streams') streaming.name(event.open);
    else if (event !== null) await this.ingest.apply(event);
    if (event?.t === 'live') streaming.forget(streaming.unnamed());
    await this.store.read((tx) => tx.meta()); // after the row of a new stream was read
    await new Promise(setImmediate);
  }

  private get hash(): string {
    return (file('schemas') as readonly (Schema & { name: string })[]).find(
      ({ name }) => name === (this.given.schema ?? 'chat'),
    )?.hash as string;
  }

  private async write(mutation: Mutation): Promise<void> {
    const kind = this.kinds.get(mutation.kind) as Kind;
    await this.store.write(async (tx) => {
      if (mutation.op !== '+') return void (await addEntry(tx, this.kinds, mutation));
      await tx.setMeta({ lastAt: 0 }); // or the instant would be later than the last one
      await writes.insert(tx, this.kinds, mutation.at / 1000, kind, mutation.id, mutation.columns);
    });
  }

  private async ask(page: Readonly<Record<string, unknown>>): Promise<void> {
    const kind = this.kinds.get(page['kind'] as string) as Kind;
    const before = page['before'] === null ? null : placeOf(kind, page['before']);
    const request = { kind: kind.name, parent: parentOf(kind, page['parent']), before };
    const [id] = (this.session as Session).askPage(request, 50);
    this.ingest.expectPage(id, request);
  }

  private async sends(): Promise<unknown> {
    const { session } = this;
    if (session === null || !session.mayPush) return null;
    const push = await this.ingest.nextPush(session.limits);
    return push === null || typeof push === 'number' ? null : JSON.parse(session.push(push) as string);
  }
}

const ends: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

describe.each(STORES)('$name', ({ make }) => {
  const withStreams = STREAMS.filter((each) => 'steps' in each);
  it.each([...(file('store') as readonly Case[]), ...(file('outbox') as readonly Case[]), ...withStreams])('$name', async (given) => {
    const { store, reopen, end } = make();
    ends.push(end);
    const course = new Course(given, store, reopen);
    for (const step of given.steps) await course.take(step);
    const { kinds } = course;
    if (given.streams) {
      const held = [...course.streaming.now.now.values()].filter(({ over }) => !over);
      expect(held.map(({ stream }) => stream).sort()).toEqual([...given.streams].sort());
    }
    await course.held.read(async (tx) => {
      if (given.rows) {
        const held: Row[] = [];
        for (const kind of kinds.values()) held.push(...(await tx.all(kind)));
        expect(held).toHaveLength(given.rows.length);
        expect(held).toEqual(expect.arrayContaining(given.rows.map(rowBy(kinds))));
      }
      for (const [name, parent, floor] of given.floors ?? []) {
        const kind = kinds.get(name) as Kind;
        const [known] = await tx.floors(kind, [homeKey(kind, parentOf(kind, parent))]);
        const wanted = Array.isArray(floor) ? placeOf(kind, floor) : (floor ?? undefined);
        expect(known, JSON.stringify([name, parent])).toEqual(wanted);
      }
      if (given.cursor !== undefined) expect((await tx.meta()).cursor).toBe(given.cursor);
      if (given.outbox) {
        const entries = await tx.entries();
        expect(entries.map(({ n, state, code }) => [n, state, ...(code === null ? [] : [code])])).toEqual(given.outbox);
      }
    });
  });
});

describe('what a stream shows', () => {
  it.each(STREAMS.filter((each) => 'shows' in each))('$name', ({ row, shows: shown, state, ...stream }) => {
    expect(shows(row, { ...stream, state: stateOf(state) })).toBe(shown);
  });
});

interface ViewCase {
  readonly name: string;
  readonly schema?: string;
  readonly rows: readonly Wire[];
  readonly outbox: readonly (readonly [mutation: Wire, state: EntryState, code?: string])[];
  readonly shown: readonly {
    readonly kind: string;
    readonly parent: unknown;
    readonly rows: readonly (readonly [id: unknown, columns: Readonly<Record<string, unknown>>, certainty: string])[];
  }[];
}

describe('what is shown', () => {
  it.each(file('view') as readonly ViewCase[])('$name', async (given) => {
    const named = given.schema ?? 'chat';
    const kinds = kindsBy.get(named) as Kinds;
    const schemas = file('schemas') as readonly (Schema & { name: string })[];
    const schema = schemas.find(({ name }) => name === named) as Schema;
    const store = new MemoryStore();
    const user = '00000000-0000-0000-0000-000000000abc';
    // Without a token nothing is sent, and what waits stays as it is.
    const sync = createSync({ schema, store, user, url: 'ws://127.0.0.1:1/sync' });
    await sync.ready;
    await store.write(async (tx) => {
      for (const arrival of given.rows.map(rowBy(kinds)) as Row[]) {
        await tx.put(kinds.get(arrival.kind) as Kind, [arrival]);
      }
      await tx.putEntries(
        given.outbox.map(([mutation, state, code], i) => ({
          key: i + 1,
          n: i + 1,
          mutation: mutationBy(kinds)(mutation),
          state,
          seq: null,
          code: code ?? null,
          message: code ?? null,
        })),
      );
    });
    for (const { kind: name, parent, rows } of given.shown) {
      const kind = kinds.get(name) as Kind;
      const options = kind.parent === null ? {} : { parent: parentOf(kind, parent) };
      const query = sync.list as (name: string, options: object) => ReturnType<typeof sync.list>;
      const list = await query.call(sync, name, options).read();
      expect(list.rows.map(({ id, state }) => [id, state])).toEqual(
        rows.map(([id, , certainty]) => [keyOf(kind, id), certainty]),
      );
      rows.forEach(([, columns], i) =>
        expect(list.rows[i]).toMatchObject(
          Object.fromEntries(
            Object.entries(columns).map(([wire, carried]) => {
              const name = camel(wire);
              return [name, value(kind.columns.get(name)?.type, carried)];
            }),
          ),
        ),
      );
    }
    await sync.close();
  });
});

interface ClockCase {
  readonly name: string;
  readonly offset: number;
  readonly sent: number;
  readonly received: number;
  readonly time: number;
  readonly result: number;
}

it.each(file('clock') as readonly ClockCase[])('$name', ({ offset, sent, received, time, result }) => {
  expect(serverOffset(offset, time, sent / 1000, received / 1000)).toBe(result);
});
