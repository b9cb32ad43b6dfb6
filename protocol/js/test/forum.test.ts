/** A schema with text keys, a key of two columns, three levels and every type of column, from the app to the server. */

import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { applyPage, applyRows, applySnapshot, touchedNothing } from '../src/apply.js';
import { Cleaner, UNTOUCHED } from '../src/clean.js';
import { codecsFor, ProtocolError } from '../src/codec.js';
import { addEntry } from '../src/entries.js';
import type { SchemaFrame } from '../src/frames.js';
import { covers } from '../src/holes.js';
import { WriteError } from '../src/mutation.js';
import { homeOf, keyOf, placeOf, type Arrival, type Row } from '../src/rows.js';
import { compile, type Kind, type KindSchema, type Schema } from '../src/schema.js';
import { MemoryStore } from '../src/store/memory.js';
import { createSync, type Sync, type SyncOptions } from '../src/sync.js';
import { FORUM } from './support/forum.js';
import { ModelServer, type WireId } from './support/model.js';
import { id, tokenOf } from './support/rows.js';
import { Device } from './support/stepped.js';
import { World } from './support/world.js';

const kinds = compile(FORUM);
const kind = (name: string): Kind => kinds.get(name) as Kind;
const USER = id(1);

let server: ModelServer;
let world: World;
let syncs: { close(): Promise<void> }[];

function open<const S extends Schema = typeof FORUM>(options: Partial<SyncOptions<S>> = {}): Sync<S> {
  const sync = createSync({
    schema: FORUM as unknown as S,
    url: 'wss://test/sync',
    store: new MemoryStore(),
    user: USER,
    encoding: 'json',
    getToken: () => tokenOf(USER),
    environment: world.tab().environment(),
    ...options,
  } as SyncOptions<S>);
  syncs.push(sync);
  return sync;
}

beforeEach(() => {
  server = new ModelServer(FORUM);
  world = new World(server);
  syncs = [];
});
afterEach(async () => {
  for (const sync of syncs) {
    const closing = sync.close();
    await world.clock.pass(0);
    await closing;
  }
});

/** All columns of the kind `everything`, each with a value that is not the easiest. */
const EVERYTHING = {
  a: 'Grüezi 東京 🚲',
  b: id(5),
  c: false,
  d: -(2 ** 31),
  e: 2n ** 63n - 1n,
  f: -Infinity,
  g: '-123456789012345678901234567890.5',
  h: 2 ** 53 - 1,
  i: '0044-03-15 BC',
  j: { deep: [null, { ü: 1.5 }], text: '"' },
  k: ['1', null, '9007199254740993'],
  l: new Uint8Array([0, 255, 128]),
};
const NOTHING = Object.fromEntries(Object.keys(EVERYTHING).map((name) => [name, null]));

describe('an app', () => {
  it('rows of every level are written offline, sent in order, and shown on another device', async () => {
    world.network.mode = 'down';
    const sync = open();
    await sync.insert('topic', { titleText: 'Rust' }, 'rust');
    await sync.insert('thread', { topicId: 'rust', name: 'Borrowing' }, 2n ** 60n);
    const post = await sync.insert('post', { threadId: 2n ** 60n, parts: [{ text: 'Why?' }], rank: 5n });
    await sync.insert('vote', { threadId: 2n ** 60n, isUp: true }, [post, 7]);
    const votes = (await sync.list('vote', { parent: 2n ** 60n }).read()).rows;
    expect(votes).toMatchObject([{ topicId: 'rust', isUp: true, state: 'pending' }]);
    world.network.mode = 'up';
    await world.clock.pass(2_000);
    const other = open({ environment: { ...world.tab().environment(), locks: null, channel: null } });
    await world.clock.pass(0);
    expect((await other.list('topic').read()).rows).toMatchObject([
      { id: 'rust', titleText: 'Rust', _hiddenFlag: null },
    ]);
    expect((await other.list('thread', { parent: 'rust' }).read()).rows).toMatchObject([
      { id: 2n ** 60n, state: 'synced' },
    ]);
    expect((await other.list('post', { parent: 2n ** 60n }).read()).rows).toMatchObject([
      { id: post, parts: [{ text: 'Why?' }], state_: null, rank: 5, state: 'synced' },
    ]);
    expect(await other.get('vote', [post, 7n]).read()).toMatchObject({ id: [post, 7], topicId: 'rust', isUp: true });
    await other.update('vote', [post, 7], { isUp: false });
    await world.clock.pass(0);
    expect(await sync.get('vote', [post, 7]).read()).toMatchObject({ isUp: false, state: 'synced' });
    await sync.remove('topic', 'rust');
    expect((await sync.list('post', { parent: 2n ** 60n }).read()).rows).toEqual([]);
    await world.clock.pass(0);
    for (const name of ['topic', 'thread', 'post', 'vote']) expect(server.rows(name).size).toBe(0);
    expect(await other.get('post', post).read()).toBeNull();
    expect(await sync.status.read()).toMatchObject({ pending: 0, rejected: 0 });
  });

  it('a deletion that is not sent yet hides the rows at every level below it, also those that come later', async () => {
    const sync = open();
    await sync.insert('topic', { titleText: 'x' }, 'x');
    await sync.insert('thread', { topicId: 'x', name: 'y' }, 1);
    await sync.insert('post', { threadId: 1, parts: 1 }, 'p');
    await world.clock.pass(0);
    world.network.mode = 'down';
    world.network.cut();
    await sync.remove('topic', 'x');
    await sync.insert('post', { threadId: 1, parts: 2 }, 'q');
    for (const rows of [
      await sync.list('topic').read(),
      await sync.list('thread', { parent: 'x' }).read(),
      await sync.list('post', { parent: 1 }).read(),
    ]) {
      expect(rows.rows).toEqual([]);
    }
    expect(await sync.get('post', 'p').read()).toBeNull();
  });

  it('also where the device does not hold the row between', async () => {
    server.write('topic', 'x', { titleText: 'x' });
    for (let n = 0; n < 4; n++) server.write('thread', n, { topic_id: 'x', name: `${n}`, last: n });
    server.write('post', 'p', { thread_id: 0, parts: '1', rank: 1 });
    const sync = open();
    await world.clock.pass(0);
    const posts = sync.list('post', { parent: 0 });
    void posts.read();
    await world.clock.pass(0);
    expect((await sync.list('thread', { parent: 'x' }).read()).rows.map(({ id: key }) => key)).toEqual([3, 2]);
    expect((await posts.read()).rows).toMatchObject([{ id: 'p', topicId: 'x' }]);
    world.network.mode = 'down';
    world.network.cut();
    await sync.insert('post', { threadId: 0, parts: 2, rank: 2 }, 'q');
    expect((await posts.read()).rows).toMatchObject([
      { id: 'q', topicId: 'x', state: 'pending' },
      { id: 'p', topicId: 'x' },
    ]);
    await sync.remove('topic', 'x');
    expect((await posts.read()).rows).toEqual([]);
    expect(await sync.get('post', 'p').read()).toBeNull();
  });

  it('a deletion by another device removes the rows two levels below it, of threads that are not held, too', async () => {
    for (const key of ['x', 'y']) server.write('topic', key, { titleText: key });
    for (let n = 0; n < 4; n++) server.write('thread', n, { topic_id: 'x', name: `${n}`, last: n });
    server.write('post', 'p', { thread_id: 0, parts: '1', rank: 1 });
    const [store, other] = [new MemoryStore(), open()];
    const sync = open({ store, environment: { ...world.tab().environment(), locks: null, channel: null } });
    await world.clock.pass(0);
    void sync.loadOlder('post', 0, 5);
    await world.clock.pass(0);
    const held = (): Promise<unknown[]> =>
      store.read(async (tx) => [await tx.all(kind('thread')), await tx.all(kind('post'))]);
    expect(await held()).toMatchObject([[{ id: 3 }, { id: 2 }], [{ id: 'p', topicId: 'x' }]]);
    await other.remove('topic', 'x');
    await world.clock.pass(0);
    expect(await held()).toEqual([[], []]);
  });

  it('an insert raises the column of its parent that it touches', async () => {
    world.network.mode = 'down';
    const sync = open();
    await sync.insert('topic', { titleText: 'x' }, 'x');
    for (const n of [1, 2]) await sync.insert('thread', { topicId: 'x', name: `${n}` }, n);
    const names = async (): Promise<unknown[]> =>
      (await sync.list('thread', { parent: 'x' }).read()).rows.map((row) => row.name);
    expect(await names()).toEqual(['2', '1']);
    await sync.insert('post', { threadId: 1, parts: null });
    expect(await names()).toEqual(['1', '2']);
  });

  it('every type of column arrives as it was written, in both encodings', async () => {
    const sync = open();
    await sync.insert('everything', EVERYTHING, 1);
    await sync.insert('everything', {}, -1);
    await world.clock.pass(0);
    expect(server.rows('everything').get('1')?.values).toMatchObject({
      e: '9223372036854775807',
      f: '-Infinity',
      l: 'AP+A',
    });
    const rows = (await sync.list('everything').read()).rows;
    expect(rows).toMatchObject([
      { id: 1, ...EVERYTHING, state: 'synced' },
      { id: -1, ...NOTHING },
    ]);
    await sync.update('everything', 1, { e: 5n, f: NaN, j: null, k: null });
    await world.clock.pass(0);
    expect(await sync.get('everything', 1).read()).toMatchObject({ e: 5, f: NaN, j: null, k: null, a: EVERYTHING.a });
    const { msgpack } = codecsFor(kinds);
    const mutation = { op: '+' as const, kind: 'everything', id: 1, columns: EVERYTHING, at: 1 };
    expect(msgpack.size(mutation)).toBeGreaterThan(100);
  });

  it('JSON is kept as it was when it was written', async () => {
    world.network.mode = 'down';
    const sync = open();
    const j = { list: [1] };
    await sync.insert('everything', { j }, 1);
    j.list.push(2);
    expect(await sync.get('everything', 1).read()).toMatchObject({ j: { list: [1] } });
  });

  it.each<readonly [string, (sync: Sync) => Promise<unknown>, string]>([
    ['a kind that devices only read', (s) => s.insert('setting', { value: 1 }, 'x'), 'not_allowed'],
    ['a kind without updates', (s) => s.update('topic', 'x', { titleText: 'y' }), 'not_allowed'],
    [
      'a column that devices do not write',
      (s) => s.insert('topic', { titleText: 'a', _hiddenFlag: true }, 'y'),
      'not_allowed',
    ],
    ['a column that there is not', (s) => s.insert('topic', { titleText: 'a', nothing: 1 }, 'y'), 'not_allowed'],
    ['a value of another type', (s) => s.insert('topic', { titleText: 5 }, 'y'), 'bad_value'],
    ['null where it may not be', (s) => s.insert('topic', { titleText: null }, 'y'), 'bad_value'],
    ['a value that is not permitted', (s) => s.insert('post', { threadId: 1, parts: 1, state_: 'gone' }), 'bad_value'],
    ['JSON that is too long', (s) => s.insert('post', { threadId: 1, parts: 'x'.repeat(199) }), 'too_long'],
    [
      'JSON with half of a surrogate pair',
      (s) => s.insert('post', { threadId: 1, parts: { a: ['\ud800'] } }),
      'bad_text',
    ],
    ['JSON with U+0000 in a name', (s) => s.insert('post', { threadId: 1, parts: { '\0': 1 } }), 'bad_text'],
    ['what is no JSON', (s) => s.insert('post', { threadId: 1, parts: 1n }), 'bad_value'],
    ['an integer that is too large', (s) => s.insert('everything', { d: 2 ** 31 }, 1), 'bad_value'],
    ['a bigint that is too large', (s) => s.insert('everything', { e: 2n ** 63n }, 1), 'bad_value'],
    ['a number that is no decimal text', (s) => s.insert('everything', { g: '1,5' }, 1), 'bad_value'],
    ['a parent of another type', (s) => s.insert('post', { threadId: 'one', parts: 1 }), 'malformed'],
    ['no parent', (s) => s.insert('post', { parts: 1 }), 'malformed'],
    ['an id of another type', (s) => s.insert('everything', {}, 'one'), 'malformed'],
    ['half of an id', (s) => s.insert('vote', { threadId: 1, isUp: true }, 'p'), 'malformed'],
    [
      'the key of the parent’s parent',
      (s) => s.insert('vote', { threadId: 1, topicId: 'x', isUp: true }, ['p', 1]),
      'not_allowed',
    ],
    ['no id', (s) => s.insert('everything', {}), 'bad_id'],
  ])('%s is refused, and nothing is stored', async (_, write, code) => {
    world.network.mode = 'down';
    const sync = open();
    await sync.insert('topic', { titleText: 'x' }, 'x');
    await sync.insert('thread', { topicId: 'x', name: 'y' }, 1);
    const error: unknown = await write(sync as unknown as Sync).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(WriteError);
    expect(error).toMatchObject({ code });
    expect(await sync.status.read()).toMatchObject({ pending: 2 });
  });

  it('a row without an id, where the library makes none, says what the id must be', async () => {
    world.network.mode = 'down';
    const sync = open() as unknown as Sync;
    await expect(sync.insert('thread', { topicId: 'x', name: 'y' })).rejects.toThrow(/needs an id of type (int|bigint) /);
    await expect(sync.insert('vote', { threadId: 1, isUp: true })).rejects.toThrow('needs an id [text, bigint] that no row has');
  });

  it('rows with a value that a device may not write cannot be updated by a device', async () => {
    const sync = open();
    await sync.insert('topic', { titleText: 'x' }, 'x');
    await sync.insert('thread', { topicId: 'x', name: 'y' }, 1);
    await world.clock.pass(0);
    server.write('post', 'p', { thread_id: 1, parts: '1', state: 'system', rank: 1 });
    await world.clock.pass(0);
    await expect(sync.update('post', 'p', { parts: 2 })).rejects.toMatchObject({ code: 'bad_value' });
  });

  it('a rejected row can be written again with other values', async () => {
    const sync = open();
    await sync.insert('topic', { titleText: 'refuse' }, 'x');
    await world.clock.pass(0);
    const [shown] = (await sync.list('topic').read()).rows;
    expect(shown).toMatchObject({ state: 'rejected', code: 'refused' });
    await sync.retry(shown?.key ?? -1, { titleText: 'fine' });
    await world.clock.pass(0);
    expect((await sync.list('topic').read()).rows).toMatchObject([{ titleText: 'fine', state: 'synced' }]);
  });

  it('work of a device that was alone is pushed at an upgrade, parents first, and once', async () => {
    const sync = open({ getToken: undefined } as never);
    await sync.insert('topic', { titleText: 'x' }, 'x');
    for (const n of [1, 2]) await sync.insert('thread', { topicId: 'x', name: `${n}` }, n);
    await sync.update('thread', 2, { name: 'two' });
    await sync.insert('post', { threadId: 2, parts: { a: 1 }, state_: 'draft' }, 'p');
    await sync.update('post', 'p', { rank: 9 });
    await sync.insert('vote', { threadId: 2, isUp: true }, ['p', 1]);
    await sync.remove('thread', 1);
    expect((await sync.list('post', { parent: 2 }).read()).rows).toMatchObject([
      { topicId: 'x', rank: 9, state: 'local' },
    ]);
    expect(await sync.status.read()).toMatchObject({ state: 'local', pending: 0 });
    await sync.upgrade(() => tokenOf(USER));
    await world.clock.pass(1_000);
    expect(await sync.status.read()).toMatchObject({ state: 'live', pending: 0, rejected: 0 });
    expect([...server.rows('thread').values()].map((row) => row.values['name'])).toEqual(['two']);
    expect(server.rows('post').get('"p"')?.values).toMatchObject({ rank: 9, parts: '{"a":1}' });
    expect((await sync.list('vote', { parent: 2 }).read()).rows).toMatchObject([{ isUp: true, state: 'synced' }]);
  });

  it('older rows come by pages in the order of a bigint column, null last, equal ones by their text keys', async () => {
    server.write('topic', 'x', { titleText: 'x' });
    server.write('thread', 1, { topic_id: 'x', name: 'y', last: null });
    const ranks = [null, null, '-9223372036854775808', -5, 0, 0, 3, '9007199254740993', '9007199254740994'];
    ranks.forEach((rank, i) =>
      server.write('post', `${i % 2 ? '\uFFFF' : '\u{1F6B2}'}${i}`, { thread_id: 1, parts: `${i}`, rank }),
    );
    const sync = open();
    await world.clock.pass(0);
    const query = sync.list('post', { parent: 1, limit: 3 });
    expect((await query.read()).rows.map((row) => row.rank)).toEqual([2n ** 53n + 2n, 2n ** 53n + 1n, 3]);
    expect(query.value?.more).toBe(true);
    for (let i = 0; i < 4; i++) {
      void query.loadOlder(3);
      await world.clock.pass(0);
    }
    const { rows, more } = await query.read();
    expect(more).toBe(false);
    expect(rows.map((row) => row.parts)).toEqual([8, 7, 6, 4, 5, 3, 2, 0, 1]);
    const [last] = (await sync.list('post', { parent: 1, oldestFirst: true, limit: 9 }).read()).rows;
    expect(last?.parts).toBe(1);
  });
});

describe('another schema at the server', () => {
  const change = (name: string, how: (given: KindSchema) => object): Schema => ({
    hash: 'other',
    kinds: FORUM.kinds.map((each) =>
      each.name === name ? { ...(each as KindSchema), ...how(each) } : each,
    ) as KindSchema[],
  });

  it('columns are taken by their names: others are ignored, missing ones are null, whatever the tag is', async () => {
    const topic = {
      tag: 'Z',
      columns: [
        ['extra', 'json'],
        ['titleText', 'text'],
        ['more', 'text?'],
      ],
    };
    server.schema = {
      ...change('topic', () => topic),
      kinds: [...change('topic', () => topic).kinds, { name: 'new', tag: 'T', key: ['int'], columns: [] }],
    };
    server.write('topic', 'a', { titleText: 'A', extra: '{}' });
    server.write('new', 5, {});
    const store = new MemoryStore();
    const sync = open({ store });
    await world.clock.pass(0);
    await sync.insert('topic', { titleText: 'B' }, 'b');
    await world.clock.pass(0);
    expect((await sync.list('topic').read()).rows).toMatchObject([
      { id: 'b', titleText: 'B', _hiddenFlag: null, state: 'synced' },
      { id: 'a', titleText: 'A', _hiddenFlag: null },
    ]);
    expect((await store.read((tx) => tx.meta())).schema).toBe('other');
  });

  it.each<readonly [string, object]>([
    ['another key', { key: ['uuid'] }],
    ['another parent', { parent: 'setting' }],
    ['no column for its parent', { columns: [['titleText', 'text']] }],
  ])('a kind with %s is unknown: its rows are ignored, and its mutations are rejected', async (_, how) => {
    server.schema = change('thread', () => how);
    const sync = open();
    await world.clock.pass(0);
    await sync.insert('topic', { titleText: 'x' }, 'x');
    await sync.insert('thread', { topicId: 'x', name: 'y' }, 1);
    await world.clock.pass(0);
    expect(await sync.status.read()).toMatchObject({ state: 'live', pending: 0, rejected: 1 });
  });

  it('a column of another type is null, but an int is a bigint', () => {
    const frame = (columns: KindSchema['columns']): SchemaFrame => ({
      t: 'schema',
      hash: 'h',
      kinds: [{ name: 'everything', tag: 'e', key: ['int'], columns }],
    });
    const rows = (columns: KindSchema['columns'], ...values: unknown[]): unknown => {
      const page = { t: 'page', id: 1, as_of: 1, more: false, rows: [['e', 1, 1, ...values]] };
      const read = codecsFor(kinds).json.servedBy(frame(columns)).decode(JSON.stringify(page));
      return (read as unknown as { rows: unknown[] }).rows[0];
    };
    expect(
      rows(
        [
          ['a', 'int'],
          ['e', 'int'],
        ],
        5,
        6,
      ),
    ).toMatchObject({ a: null, e: 6, b: null });
    expect(
      rows(
        [
          ['a', 'text'],
          ['nothing', 'bytes'],
        ],
        'x',
        5,
      ),
    ).toMatchObject({ a: 'x' });
    expect(() => rows([['a', 'text']])).toThrow(ProtocolError);
    expect(() => rows([['a', 'text']], null)).toThrow('not a text');
    expect(() => rows([['j', 'json']], '{')).toThrow('not JSON');
  });
});

describe('a new version of the app', () => {
  it('with another schema keeps rows, unsent and local work, and gets a snapshot', async () => {
    server.write('topic', 'x', { titleText: 'Synced' });
    const store = new MemoryStore();
    store.close = async () => undefined;
    const before = open({ store });
    await world.clock.pass(0);
    world.network.mode = 'down';
    world.network.cut();
    await before.insert('topic', { titleText: 'Unsent' }, 'y');
    await before.insert('everything', { a: 'lost' }, 1);
    await before.close();

    const NEXT = {
      hash: 'next',
      kinds: [
        {
          name: 'topic',
          tag: 'T',
          key: ['text'],
          columns: [
            ['color', 'text?'],
            ['titleText', 'text'],
            ['_hidden_flag', 'text?'],
          ],
          newest: 'titleText',
          devices: { insert: ['titleText'], delete: true },
        },
      ],
    } as const satisfies Schema;
    const after = open({ schema: NEXT, store });
    expect((await after.list('topic').read()).rows).toMatchObject([
      { id: 'y', titleText: 'Unsent', color: null, state: 'pending' },
      { id: 'x', titleText: 'Synced', color: null, _hiddenFlag: null, state: 'synced' },
    ]);
    expect(await after.quarantine.read()).toMatchObject([{ code: 'not_allowed', mutation: { kind: 'everything' } }]);
    server.schema = NEXT;
    server.rows('topic').set('"x"', { seq: 1, id: 'x', values: { titleText: 'Synced', color: 'red' } });
    world.network.mode = 'up';
    await world.clock.pass(31_000);
    expect(await after.status.read()).toMatchObject({ state: 'live', pending: 0 });
    expect(await after.get('topic', 'x').read()).toMatchObject({ color: 'red', state: 'synced' });
    expect(await after.get('topic', 'y').read()).toMatchObject({ titleText: 'Unsent', state: 'synced' });
  });

  it('with the same rows and another hash gets no snapshot', async () => {
    const store = new MemoryStore();
    store.close = async () => undefined;
    await open({ store }).ready;
    await world.clock.pass(0);
    const { cursor } = await store.read((tx) => tx.meta());
    await open({ store, schema: { ...FORUM, hash: 'limits changed' } }).ready;
    expect((await store.read((tx) => tx.meta())).cursor).toBe(cursor);
  });
});

describe('rows of three levels', () => {
  const topic = (key: string, seq: number): Row => ({ kind: 'topic', seq, id: key, titleText: key, _hiddenFlag: null });
  const thread = (n: number, home: string, seq: number): Row => ({
    kind: 'thread',
    seq,
    id: n,
    topicId: home,
    name: '',
    last: n,
  });
  const post = (key: string, home: number, seq: number, above = 'a'): Row => ({
    kind: 'post',
    seq,
    id: key,
    threadId: home,
    topicId: above,
    parts: null,
    state_: null,
    rank: 1,
    madeAt: null,
  });
  const gone = (name: string, key: string | number, seq: number): Arrival => ({ kind: `-${name}`, seq, id: key });
  let store: MemoryStore;
  const apply = (remember: boolean, ...rows: Arrival[]): Promise<void> =>
    store.write((tx) => applyRows(tx, kinds, rows, remember, touchedNothing()));
  const held = (): Promise<unknown[]> =>
    store.read(async (tx) =>
      (await Promise.all(['topic', 'thread', 'post'].map((name) => tx.all(kind(name))))).flat().map((row) => row.id),
    );
  beforeEach(() => {
    store = new MemoryStore();
  });

  it('a deletion removes what is below it and not newer, at every level', async () => {
    await apply(
      false,
      topic('a', 1),
      thread(1, 'a', 1),
      post('p', 1, 1),
      post('q', 1, 5),
      thread(2, 'a', 5),
      post('r', 2, 1),
    );
    await apply(false, gone('topic', 'a', 3));
    expect(await held()).toEqual([2, 'q']);
    await apply(false, gone('thread', 2, 9), gone('post', 'q', 9));
    expect(await held()).toEqual([]);
  });
  it('also where the row between is not held, or is newer', async () => {
    await apply(false, post('p', 1, 1), post('q', 1, 5), post('r', 2, 1, 'b'));
    await apply(false, gone('topic', 'a', 3));
    expect(await held()).toEqual(['q', 'r']);
    await apply(false, thread(1, 'a', 9), post('p', 1, 6), gone('topic', 'a', 7));
    expect(await held()).toEqual([1, 'r']);
  });
  it('also when a newer row of the deleted one is held', async () => {
    await apply(false, thread(1, 'a', 1), post('p', 1, 1), topic('a', 9));
    await apply(false, gone('topic', 'a', 3));
    expect(await held()).toEqual(['a']);
  });
  it('rows are applied in their order, also within one batch', async () => {
    await apply(
      false,
      topic('a', 4),
      thread(1, 'a', 4),
      post('p', 1, 4),
      gone('topic', 'a', 4),
      topic('a', 4),
      thread(1, 'a', 4),
    );
    expect(await held()).toEqual(['a', 1]);
  });
  it('the memory of a deletion keeps out rows at every level that a page still brings', async () => {
    await apply(true, thread(1, 'a', 1), gone('topic', 'a', 5));
    await apply(true, post('p', 1, 3), thread(1, 'a', 3), post('q', 1, 3), topic('a', 3), post('r', 1, 3, 'b'));
    expect(await held()).toEqual(['r']);
    store = new MemoryStore();
    await apply(true, thread(1, 'a', 6), gone('topic', 'a', 5));
    await apply(true, post('p', 1, 3), post('q', 1, 6));
    expect(await held()).toEqual([1, 'q']);
  });
  it('a row that moves takes nothing with it that is not sent again', async () => {
    await apply(false, topic('a', 1), topic('b', 1), thread(1, 'a', 1), post('p', 1, 1), post('q', 1, 1));
    await apply(false, gone('thread', 1, 4), thread(1, 'b', 4), post('p', 1, 4, 'b'));
    expect(await held()).toEqual(['a', 'b', 1, 'p']);
    await apply(false, gone('topic', 'a', 5));
    expect(await held()).toEqual(['b', 1, 'p']);
  });
  it('what was made after the snapshot is complete at every level', async () => {
    await store.write((tx) => applySnapshot(tx, kinds, [[topic('a', 1)]], () => 5, touchedNothing()));
    await apply(false, thread(1, 'a', 2), post('p', 1, 2), topic('b', 3), thread(2, 'b', 3));
    await store.read(async (tx) => {
      const [one, two] = [1, 2].map((n) => keyOf(kind('thread'), n)) as [string, string];
      expect(await tx.floors(kind('post'), [one, two, 'other'])).toEqual(['start', 'start', undefined]);
      expect(await tx.floors(kind('thread'), ['a', 'b', 'c'])).toEqual(['start', 'start', undefined]);
    });
  });
  it('cleaning removes old rows with all below them, but not above unsent work', async () => {
    const OLD = {
      hash: '',
      kinds: FORUM.kinds.map((each) =>
        each.name === 'topic'
          ? { ...each, columns: [...each.columns, ['last', 'instant'] as const], newest: 'last', window: 9 }
          : each,
      ),
    } as const satisfies Schema;
    const all = compile(OLD);
    const of = (name: string): Kind => all.get(name) as Kind;
    const home = keyOf(of('thread'), 1);
    await store.write(async (tx) => {
      await tx.put(
        of('topic'),
        ['a', 'b'].map((key) => ({ ...topic(key, 1), last: 1 })),
      );
      await tx.put(of('thread'), [thread(2, 'a', 1)]);
      await tx.put(of('post'), [post('p', 1, 1), post('q', 2, 1), post('r', 3, 1, 'b'), post('s', 3, 1, 'b')]);
      await tx.putFloors(of('topic'), [['', 'start']]);
      await tx.putFloors(of('post'), [[home, 'start']]);
      await addEntry(tx, all, { op: '~', kind: 'post', id: 'r', columns: { rank: 5 }, at: 5 });
    });
    const cleaner = new Cleaner({
      kinds: all,
      store,
      clock: { ...world.clock, now: () => UNTOUCHED },
      estimate: async () => ({}),
      permitted: async () => true,
      onCleaned: () => undefined,
      onError: (error) => expect(error).toBeUndefined(),
    });
    expect(await cleaner.clean(true)).toBe(1);
    expect(await held()).toEqual(['b', 'r', 's']);
    expect(await store.read((tx) => tx.floors(of('post'), [home]))).toEqual([undefined]);
  });
  it('a page of one parent moves the floor of that history alone', async () => {
    const request = { kind: 'post', parent: 1n, before: null };
    await store.write((tx) => applyPage(tx, kinds, request, { rows: [post('p', 1, 1)], more: true }, touchedNothing()));
    const home = keyOf(kind('thread'), 1);
    expect(await store.read((tx) => tx.floors(kind('post'), [home, 'x']))).toEqual([[1, 'p'], undefined]);
  });
});

describe('histories of three levels', () => {
  const topics = ['a', 'ü'];
  const act = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({ do: fc.constant('post' as const), home: fc.nat(4), at: fc.nat(9), seq: fc.nat(30) }),
    },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('thread' as const), home: fc.nat(1) }) },
    {
      weight: 3,
      arbitrary: fc.record({
        do: fc.constantFrom('-post' as const, '-thread' as const, '-topic' as const),
        which: fc.nat(30),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('topic' as const), which: fc.nat(1) }) },
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant('page' as const),
        level: fc.nat(2),
        home: fc.nat(4),
        limit: fc.integer({ min: 1, max: 4 }),
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

  it('no row is missing above a floor, and no row is held that the server does not have', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(act, { minLength: 30, maxLength: 70, size: 'max' }),
        fc.nat(3),
        async (plan, window) => {
          const model = new ModelServer(FORUM);
          model.now = () => 0;
          model.limits.page_rows = 3;
          model.rejects = () => false;
          const store = new MemoryStore();
          const device = new Device(
            model,
            0,
            store,
            async () => store,
            async () => undefined,
            { thread: window, post: window },
            kinds,
          );
          let n = 0;
          let made = 0;
          // Each has a key of its own. One that was deleted stays so.
          const threads = [0, 1, 2, 3, 4];
          const threadOf = (home: number): number => threads[threads.length - 1 - home] as number;
          const write = (...mutation: unknown[]): unknown => model.push(id(5), ++n, [mutation]);
          topics.forEach((topic) => write('+', 'T', topic, { titleText: topic }, 1));
          for (let i = 0; i < 5; i++) write('+', 't', i, { topic_id: topics[i % 2], name: 'x' }, ++made);
          for (let i = 0; i < 30; i++) {
            const rank = i % 7 === 0 ? null : i % 7;
            write('+', 'P', `${i}`, { thread_id: i % 3, parts: '1', rank }, ++made);
          }
          await device.flush();
          for (const a of plan) {
            switch (a.do) {
              case 'topic':
                write('+', 'T', topics[a.which], { titleText: 'again' }, 1);
                break;
              case 'thread':
                write('+', 't', threads.length, { topic_id: topics[a.home], name: 'x' }, ++made);
                threads.push(threads.length);
                break;
              case 'post':
                write(
                  '+',
                  'P',
                  `${a.seq}`,
                  { thread_id: threadOf(a.home), parts: '1', rank: a.at === 0 ? null : a.at },
                  ++made,
                );
                break;
              case '-post':
                write('-', 'P', `${a.which}`);
                break;
              case '-thread':
                write('-', 't', threadOf(a.which % 5));
                break;
              case '-topic':
                write('-', 'T', topics[a.which % 2]);
                break;
              case 'page': {
                if (device.session === null || !device.session.mayAsk) break;
                const of = kind(['topic', 'thread', 'post'][a.level] as string);
                const parent = a.level === 0 ? null : a.level === 1 ? (topics[a.home % 2] as string) : threadOf(a.home);
                const home = of.parent === null ? '' : keyOf(of.parent, parent as string | number);
                const [floor] = await store.read((tx) => tx.floors(of, [home]));
                if (floor === 'start') break;
                const request = { kind: of.name, parent, before: floor ?? null };
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
              case 'forget':
                device.cut();
                await device.ingest.lead();
                await device.ingest.startOver();
                break;
            }
          }
          await device.flush();
          await store.read(async (tx) => {
            for (const name of ['topic', 'thread', 'post']) {
              const of = kind(name);
              const theirs = [...model.rows(name).values()].map((row) => rowOf(of, row.id, row.values));
              const mine = await tx.all(of);
              const byKey = new Map(theirs.map((row) => [keyOf(of, row.id), row]));
              for (const row of mine) {
                const there = byKey.get(keyOf(of, row.id));
                // The server takes it from the parent.
                const topicId = model.rows('thread').get(JSON.stringify(row['threadId']))?.values['topic_id'];
                const whole = name === 'post' ? { ...there, topicId } : there;
                expect(there && whole, `${name} ${String(row.id)}`).toMatchObject({ ...row, seq: 0 });
              }
              const held = new Set(mine.map((row) => keyOf(of, row.id)));
              for (const row of theirs) {
                const [floor] = await tx.floors(of, [homeOf(of, row)]);
                if (covers(of, floor, placeOf(of, row))) expect(held).toContain(keyOf(of, row.id));
              }
            }
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  function rowOf(of: Kind, key: WireId, values: Readonly<Record<string, unknown>>): Row {
    const row: Record<string, unknown> = {};
    for (const { name, wire, type } of of.columns.values()) {
      const value = values[wire] ?? null;
      row[name] = type === 'json' && typeof value === 'string' ? JSON.parse(value) : value;
    }
    return { ...row, kind: of.name, seq: 0, id: key as string };
  }
});
