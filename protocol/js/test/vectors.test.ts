/** The golden frames and texts, with which every implementation of the protocol is checked. */

import { describe, expect, it } from 'vitest';

import { decode as unpack, encode as pack } from '@msgpack/msgpack';

import { codecsFor, ProtocolError } from '../src/codec.js';
import type { ToServer } from '../src/frames.js';
import { check, WriteError, type Mutation } from '../src/mutation.js';
import type { Arrival, Place } from '../src/rows.js';
import { compile, type Id, type Kind, type Kinds, type Schema } from '../src/schema.js';
import { CHAT_KINDS, id } from './support/rows.js';
import { file, keyOf, kindOf, kindsBy, mutationBy, rowBy, value } from './support/vectors.js';

interface Vector {
  readonly name: string;
  readonly direction: 'to_client' | 'to_server';
  readonly frame: Record<string, unknown>;
  readonly msgpack: string;
  readonly decode_only?: boolean;
  /** The name of the schema of its rows and mutations; absent: the chat schema. */
  readonly schema?: string;
}

const vectors = file('frames') as readonly Vector[];
const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));

const kindsOf = (vector: Vector): Kinds => kindsBy.get(vector.schema ?? 'chat') as Kinds;

const result = ([kind, n, ...more]: readonly unknown[]): unknown =>
  kind === 'rejected'
    ? { kind, n, code: more[0], message: more[1], column: more[2] ?? null }
    : { kind, n, seq: more[0] };

/** The value that the client must decode, derived from the frame's JSON. */
function expected(vector: Vector): unknown {
  const f = vector.frame;
  const rows = ((f['rows'] as unknown[][] | undefined) ?? []).flatMap(rowBy(kindsOf(vector)));
  switch (f['t']) {
    case 'welcome': {
      const limits = f['limits'] as Record<string, number>;
      const { t, session, epoch, mode, time, expires, keepalive } = f;
      return {
        t,
        session,
        epoch,
        schema: f['schema'] ?? null,
        tier: f['tier'] ?? null,
        mode,
        time,
        expires,
        keepalive,
        why: f['why'] ?? null,
        limits: {
          frameBytes: limits['frame_bytes'],
          pageRows: limits['page_rows'],
          pagesInFlight: limits['pages_in_flight'],
          mutations: limits['mutations'],
        },
      };
    }
    case 'schema': {
      const kinds = (f['kinds'] as Record<string, unknown>[]).map(({ name, tag, key, parent, columns, window }) => ({
        name,
        tag,
        key,
        columns: (columns as unknown[][]).map(([wire, type]) => [wire, type]),
        ...(parent !== undefined && { parent }),
        ...(typeof window === 'number' && { window }),
      }));
      return { t: 'schema', hash: f['hash'], kinds };
    }
    case 'snapshot':
      return { t: 'snapshot', asOf: f['as_of'], rows, cursor: f['cursor'] ?? null };
    case 'changes':
      return {
        t: 'changes',
        from: f['from'],
        to: f['to'],
        rows,
        partial: f['partial'] ?? false,
        seq: f['seq'] ?? null,
      };
    case 'live':
      return { t: 'live', cursor: f['cursor'], seq: f['seq'] };
    case 'page':
      return { t: 'page', id: f['id'], asOf: f['as_of'], rows, more: f['more'] };
    case 'ack':
      return { t: 'ack', results: (f['results'] as unknown[][]).map(result) };
    case 'refreshed':
      return { t: 'refreshed', expires: f['expires'] };
    case 'streams':
    case 'stopped':
      return f;
    case 'stream': {
      const kind = kindOf(kindsOf(vector), f['kind']);
      const column = [...(kind?.columns.values() ?? [])].find(({ wire, type }) => wire === f['column'] && type === 'text');
      return kind && column ? { ...f, kind: kind.name, id: keyOf(kind, f['id']), column: column.name } : null;
    }
    case 'error':
      return {
        t: 'error',
        code: f['code'],
        message: f['message'],
        retryable: f['retryable'],
        answers: f['answers'] ?? null,
        id: f['id'] ?? null,
        retryAfter: f['retry_after'] ?? null,
        expected: f['expected'] ?? null,
      };
    default:
      return { t: f['t'] };
  }
}

describe('to the client', () => {
  const ours = vectors.filter((vector) => vector.direction === 'to_client');
  it.each(ours)('$name', (vector) => {
    const codecs = codecsFor(kindsOf(vector));
    expect(codecs.msgpack.decode(bytes(vector.msgpack))).toEqual(expected(vector));
    expect(codecs.json.decode(JSON.stringify(vector.frame))).toEqual(expected(vector));
  });
});

/** A frame as this client would say it; null for what it never says. */
function said(vector: Vector): ToServer | null {
  const f = vector.frame;
  // The last number that JavaScript has exactly is one below.
  if (Math.max(...['n', 'generation'].map((name) => (f[name] as number | undefined) ?? 0)) > Number.MAX_SAFE_INTEGER) {
    return null;
  }
  switch (f['t']) {
    case 'hello': {
      const window = f['window'] as Record<string, number> | undefined | null;
      if (!window || Object.values(window).includes(null as never)) return null;
      return {
        t: 'hello',
        token: f['token'] as string,
        clientId: f['client_id'] as string,
        cursor: (f['cursor'] as string | null) ?? null,
        window,
        generation: (f['generation'] as number | undefined) ?? 1,
        schema: (f['schema'] as string | undefined) ?? '',
      };
    }
    case 'page': {
      if (!('limit' in f) || !('before' in f)) return null;
      const kind = kindsOf(vector).get(f['kind'] as string) as Kind;
      const [at, key] = f['before'] as readonly unknown[];
      return {
        t: 'page',
        id: f['id'] as number,
        kind: kind.name,
        parent: kind.parent && keyOf(kind.parent, f['parent']),
        before: [value(kind.newest?.type, at), keyOf(kind, key)] as Place,
        limit: f['limit'] as number,
      };
    }
    case 'push':
      return {
        t: 'push',
        n: f['n'] as number,
        mutations: (f['mutations'] as unknown[][]).map(mutationBy(kindsOf(vector))),
        held: (f['held'] as number | undefined) ?? 1,
      };
    case 'refresh':
      return { t: 'refresh', token: f['token'] as string };
    case 'stop': {
      const kind = kindOf(kindsOf(vector), f['kind']);
      if (kind === undefined) return null;
      const column = [...kind.columns.values()].find(({ wire }) => wire === f['column']);
      return { t: 'stop', n: f['n'] as number, kind: kind.name, id: keyOf(kind, f['id']), column: column?.name ?? null };
    }
    default:
      return { t: 'ping' };
  }
}

describe('to the server', () => {
  const ours = vectors.filter(
    (vector) => vector.direction === 'to_server' && vector.decode_only !== true && said(vector) !== null,
  );
  it('most vectors are checked', () => expect(ours.length).toBeGreaterThan(25));
  it.each(ours)('$name', (vector) => {
    const { frame, msgpack } = vector;
    const CODECS = codecsFor(kindsOf(vector));
    const ourFrame = said(vector) as ToServer;
    const { extras: _, ...without } = frame;
    const golden = unpack(bytes(msgpack)) as Record<string, unknown>;
    delete golden['extras']; // we name those that we know
    const packed = unpack(CODECS.msgpack.encode(ourFrame) as Uint8Array) as Record<string, unknown>;
    const json = JSON.parse(CODECS.json.encode(ourFrame) as string) as Record<string, unknown>;
    const more = Object.keys(json).filter((name) => !(name in frame) && name !== 'extras');
    expect(['cursor', 'generation', 'held', 'schema']).toEqual(expect.arrayContaining(more)); // which we always say
    for (const name of more) {
      delete packed[name];
      delete json[name];
    }
    if (ourFrame.t === 'hello') {
      expect([packed['extras'], json['extras']]).toEqual([['streams'], ['streams']]);
      delete packed['extras'];
      delete json['extras'];
    }
    expect(packed).toEqual(golden);
    expect(json).toEqual(without);
    if (more.length === 0 && ourFrame.t !== 'hello')
      expect(Buffer.from(CODECS.msgpack.encode(ourFrame) as Uint8Array).toString('hex')).toBe(msgpack);
  });
});

interface Mapped {
  readonly name: string;
  readonly theirs: Schema['kinds'];
  readonly ours: Schema['kinds'];
  readonly rows: readonly unknown[];
  /** Kind, seq, id, and columns; null: deleted. */
  readonly read: readonly (readonly [string, number, Id, Record<string, unknown> | null])[];
}

describe('rows of another schema', () => {
  it.each(file('mapped') as readonly Mapped[])('$name', ({ theirs, ours, rows, read }) => {
    const kinds = compile({ hash: 'ours', kinds: ours });
    const codec = codecsFor(kinds).json.servedBy({ t: 'schema', hash: 'theirs', kinds: theirs });
    expect(codec.decode(JSON.stringify({ t: 'changes', from: '', to: '', rows }))).toMatchObject({
      rows: read.map(([kind, seq, id, columns]) => ({ kind: columns ? kind : `-${kind}`, seq, id, ...columns })),
    });
  });
});

const CODECS = codecsFor(CHAT_KINDS);

describe('data that is no frame', () => {
  const refused = [
    '',
    'c1',
    'c0',
    '01',
    '93010203',
    '80',
    '81a17401',
    '81a17491a470696e67',
    'ddffffffff',
    'dfffffffff',
    '81a174c6ffffffff',
    '82a174a46c697665a373657101', // live without a cursor
    '83a174a46c697665a6637572736f72c40101a3736571cb3ff8000000000000', // seq 1.5
  ];
  it.each(refused)('%s throws ProtocolError', (hex) =>
    expect(() => CODECS.msgpack.decode(bytes(hex))).toThrow(ProtocolError),
  );
  it('an error message never contains content', () => {
    const f = {
      t: 'changes',
      from: '',
      to: '',
      rows: [['m', 1, 'not a uuid: my secret', 'x', 'user', 'my secret', 1, 1]],
    };
    expect(() => CODECS.json.decode(JSON.stringify(f))).toThrow('rows: not a uuid in canonical form');
    expect(() => CODECS.json.decode('{"secret"')).toThrow(/^not a frame$/);
    expect(() => CODECS.json.decode(new Uint8Array([1]))).toThrow('a binary message');
    expect(() => CODECS.msgpack.decode('x')).toThrow('a text message');
  });
  it('an unknown kind of result breaks the protocol, an unknown row or frame does not', () => {
    expect(() => CODECS.json.decode('{"t":"ack","results":[["perhaps",1,2]]}')).toThrow('a result of an unknown kind');
    expect(CODECS.json.decode('{"t":"typing","rows":7}')).toBeNull();
    expect(CODECS.json.decode('{"t":"page","id":1,"as_of":1,"more":false,"rows":[["toString",1]]}')).toMatchObject({
      rows: [],
    });
  });
});

describe('a text that no server keeps is refused, by the character that it is', () => {
  const texts = file('texts') as readonly { name: string; text: string; code: string | null }[];
  it.each(texts)('$name', ({ text, code }) => {
    const mutations: readonly Mutation[] = [
      { op: '+', kind: 'conversation', id: id(1), columns: { title: text }, at: 1 },
      { op: '~', kind: 'conversation', id: id(1), columns: { title: text }, at: 1 },
      { op: '+', kind: 'message', id: id(1), columns: { conversationId: id(1), role: 'user', content: text }, at: 1 },
      { op: '~', kind: 'message', id: id(1), dated: 1, columns: { content: text }, at: 1 },
    ];
    for (const mutation of mutations) {
      let refusal: unknown = null;
      try {
        check(CHAT_KINDS, mutation);
      } catch (error) {
        refusal = error;
      }
      if (code === null) {
        expect(refusal).toBeNull();
      } else {
        expect(refusal).toBeInstanceOf(WriteError);
        const blamed = text.includes('\0') ? 'U+0000' : 'half of a surrogate pair';
        expect(refusal).toMatchObject({ code, message: expect.stringContaining(`contains ${blamed}`) });
      }
    }
  });
});

describe('values that no device holds exactly', () => {
  const row = (at: number | bigint): unknown[] => ['c', 5, id(1), 'x', at, at];
  it.each<readonly [number | bigint, number]>([
    [2 ** 53, 2 ** 53 - 1],
    [-62_135_596_800_000_000, 1 - 2 ** 53],
    [2n ** 63n - 1n, 2 ** 53 - 1],
    [-(2n ** 63n), 1 - 2 ** 53],
  ])('an instant of %s is taken as the nearest bound, and is sent back as an integer', (at, nearest) => {
    const frame = { t: 'page', id: 1, as_of: 5, rows: [row(at)], more: false };
    const packed = { ...frame, rows: [row(at).map((each, i) => (i === 2 ? new Uint8Array(16) : each))] };
    const read = [
      codecsFor(CHAT_KINDS).msgpack.decode(pack(packed, { useBigInt64: true })),
      codecsFor(CHAT_KINDS).json.decode(JSON.stringify(frame, (_, each) => (typeof each === 'bigint' ? Number(each) : each))),
    ];
    for (const page of read) {
      const [found] = (page as { readonly rows: readonly Arrival[] }).rows;
      expect(found).toMatchObject({ createdAt: nearest, updatedAt: nearest });
      const ask = { t: 'page', id: 1, kind: 'conversation', parent: null, before: [nearest, id(1)], limit: 1 } as const;
      const { before } = unpack(codecsFor(CHAT_KINDS).msgpack.encode(ask) as Uint8Array, { useBigInt64: true }) as {
        before: unknown[];
      };
      expect(before[0]).toBe(BigInt(nearest)); // a float would be a number
    }
  });
});
