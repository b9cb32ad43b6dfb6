/** The golden frames and texts, with which every implementation of the protocol is checked. */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { decode as unpack } from '@msgpack/msgpack';

import { codecsFor, ProtocolError } from '../src/codec.js';
import type { ToServer } from '../src/frames.js';
import { check, WriteError, type Mutation } from '../src/mutation.js';
import type { Arrival, Place } from '../src/rows.js';
import { camel } from '../src/schema.js';
import { CHAT_KINDS, id } from './support/rows.js';

const CODECS = codecsFor(CHAT_KINDS);

interface Vector {
  readonly name: string;
  readonly direction: 'to_client' | 'to_server';
  readonly frame: Record<string, unknown>;
  readonly msgpack: string;
  readonly decode_only?: boolean;
}

const file = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), 'utf8'));
const vectors = file('frames') as readonly Vector[];
const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'));

const kindOf = (tag: unknown): string | undefined => [...CHAT_KINDS.values()].find((kind) => kind.tag === tag)?.name;
const row = ([tag, seq, id, ...values]: readonly unknown[]): Arrival | [] => {
  const deleted = String(tag).startsWith('-');
  const name = kindOf(deleted ? String(tag).slice(1) : tag);
  if (name === undefined) return [];
  if (deleted) return { kind: `-${name}`, seq: seq as number, id: id as string };
  const columns = [...(CHAT_KINDS.get(name)?.columns.keys() ?? [])];
  return {
    kind: name,
    seq: seq as number,
    id: id as string,
    ...Object.fromEntries(columns.map((column, i) => [column, values[i]])),
  };
};
const result = ([kind, n, ...more]: readonly unknown[]): unknown =>
  kind === 'rejected'
    ? { kind, n, code: more[0], message: more[1], column: more[2] ?? null }
    : { kind, n, seq: more[0] };

/** The value that the client must decode, derived from the frame's JSON. */
function expected(f: Record<string, unknown>): unknown {
  const rows = ((f['rows'] as unknown[][] | undefined) ?? []).flatMap(row);
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
        columns,
        ...(parent !== undefined && { parent }),
        ...(window !== undefined && { window }),
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
  it.each(ours)('$name', ({ frame, msgpack }) => {
    expect(CODECS.msgpack.decode(bytes(msgpack))).toEqual(expected(frame));
    expect(CODECS.json.decode(JSON.stringify(frame))).toEqual(expected(frame));
  });
});

function mutation([op, tag, id, columns, at]: readonly unknown[]): Mutation {
  const named = op !== '+' && tag === 'm';
  const [of, dated] = named ? (id as [string, number]) : [id as string, undefined];
  const base = { kind: kindOf(tag) ?? '', id: of, ...(dated !== undefined && { dated }) };
  if (op === '-') return { op, ...base };
  const given = Object.entries(columns as Record<string, unknown>);
  return {
    op: op as '+',
    ...base,
    columns: Object.fromEntries(given.map(([name, value]) => [camel(name), value])),
    at: at as number,
  };
}

/** A frame as this client would say it; null for what it never says. */
function said(f: Record<string, unknown>): ToServer | null {
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
    case 'page':
      if (!('limit' in f) || !('before' in f)) return null;
      return {
        t: 'page',
        id: f['id'] as number,
        kind: f['kind'] as string,
        parent: (f['parent'] as string | undefined) ?? null,
        before: f['before'] as Place | null,
        limit: f['limit'] as number,
      };
    case 'push':
      return {
        t: 'push',
        n: f['n'] as number,
        mutations: (f['mutations'] as unknown[][]).map(mutation),
        held: (f['held'] as number | undefined) ?? 1,
      };
    case 'refresh':
      return { t: 'refresh', token: f['token'] as string };
    default:
      return { t: 'ping' };
  }
}

describe('to the server', () => {
  const ours = vectors.filter(
    (vector) => vector.direction === 'to_server' && vector.decode_only !== true && said(vector.frame) !== null,
  );
  it('most vectors are checked', () => expect(ours.length).toBeGreaterThan(25));
  it.each(ours)('$name', ({ frame, msgpack }) => {
    const ourFrame = said(frame) as ToServer;
    const { extras: _, ...without } = frame;
    const golden = unpack(bytes(msgpack)) as Record<string, unknown>;
    delete golden['extras']; // version 1 has none, and we name none
    const packed = unpack(CODECS.msgpack.encode(ourFrame) as Uint8Array) as Record<string, unknown>;
    const json = JSON.parse(CODECS.json.encode(ourFrame) as string) as Record<string, unknown>;
    const more = Object.keys(json).filter((name) => !(name in frame));
    expect(['cursor', 'generation', 'held', 'schema']).toEqual(expect.arrayContaining(more)); // which we always say
    for (const name of more) {
      delete packed[name];
      delete json[name];
    }
    expect(packed).toEqual(golden);
    expect(json).toEqual(without);
    if (more.length === 0 && !('extras' in frame))
      expect(Buffer.from(CODECS.msgpack.encode(ourFrame) as Uint8Array).toString('hex')).toBe(msgpack);
  });
});

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
