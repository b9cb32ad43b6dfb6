/** The golden frames and texts, with which every implementation of the protocol is checked. */

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { decode as unpack } from '@msgpack/msgpack';

import { CODECS, ProtocolError } from '../src/codec.js';
import type { ToServer } from '../src/frames.js';
import { check, WriteError, type Mutation } from '../src/mutation.js';
import type { Row } from '../src/rows.js';
import { id } from './support/rows.js';

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

const rowColumns: Record<string, readonly string[]> = {
  p: ['seq', 'id', 'tier', 'status'],
  c: ['seq', 'id', 'title', 'createdAt', 'updatedAt'],
  m: ['seq', 'id', 'conversationId', 'role', 'content', 'createdAt', 'updatedAt'],
};
const named = (kind: string, names: readonly string[], columns: readonly unknown[]): Record<string, unknown> => ({
  kind,
  ...Object.fromEntries(names.map((name, i) => [name, columns[i + 1]])),
});
const row = (columns: readonly unknown[]): Row | [] => {
  const kind = columns[0] as string;
  const names = /^-[pcm]$/.test(kind) ? ['seq', 'id'] : rowColumns[kind];
  return names === undefined ? [] : (named(kind, names, columns) as unknown as Row);
};
const result = (columns: readonly unknown[]): Record<string, unknown> =>
  named(columns[0] as string, columns[0] === 'rejected' ? ['n', 'code', 'message'] : ['n', 'seq'], columns);

/** The value that the client must decode, derived from the frame's JSON. */
function expected(f: Record<string, unknown>): unknown {
  const rows = ((f['rows'] as unknown[][] | undefined) ?? []).flatMap(row);
  switch (f['t']) {
    case 'welcome': {
      const limits = f['limits'] as Record<string, number>;
      const { t, session, epoch, tier, mode, time, expires, keepalive } = f;
      return {
        t,
        session,
        epoch,
        tier,
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
          titleBytes: limits['title_bytes'],
          contentBytes: limits['content_bytes'],
        },
      };
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

const mutationColumns: Record<string, readonly string[]> = {
  '+c': ['id', 'title', 'at'],
  '~c': ['id', 'title', 'at'],
  '-c': ['id'],
  '+m': ['id', 'conversationId', 'role', 'content', 'at'],
  '~m': ['id', 'createdAt', 'content', 'at'],
  '-m': ['id', 'createdAt'],
};

/** A frame as this client would say it; null for what it never says. */
function said(f: Record<string, unknown>): ToServer | null {
  // The last number that JavaScript has exactly is one below.
  if (Math.max(...['n', 'generation'].map((name) => (f[name] as number | undefined) ?? 0)) > Number.MAX_SAFE_INTEGER) {
    return null;
  }
  switch (f['t']) {
    case 'hello': {
      const window = f['window'] as { conversations?: number; messages?: number } | undefined | null;
      if (window?.conversations === undefined || window.messages === undefined) return null;
      return {
        t: 'hello',
        token: f['token'] as string,
        clientId: f['client_id'] as string,
        cursor: (f['cursor'] as string | null) ?? null,
        window: { conversations: window.conversations, messages: window.messages },
        generation: (f['generation'] as number | undefined) ?? 1,
      };
    }
    case 'page':
      if (!('limit' in f)) return null;
      return {
        t: 'page',
        id: f['id'] as number,
        conversation: f['conversation'] as string | null,
        before: f['before'] as [number, string] | null,
        limit: f['limit'] as number,
      };
    case 'push': {
      const mutations = (f['mutations'] as unknown[][]).map(
        (m) => named(m[0] as string, mutationColumns[m[0] as string] ?? [], m) as unknown as Mutation,
      );
      return { t: 'push', n: f['n'] as number, mutations, held: (f['held'] as number | undefined) ?? 1 };
    }
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
    expect(['generation', 'held']).toEqual(expect.arrayContaining(more)); // which we always say
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
      { kind: '+c', id: id(1), title: text, at: 1 },
      { kind: '~c', id: id(1), title: text, at: 1 },
      { kind: '+m', id: id(1), conversationId: id(1), role: 'user', content: text, at: 1 },
      { kind: '~m', id: id(1), createdAt: 1, content: text, at: 1 },
    ];
    for (const mutation of mutations) {
      let refusal: unknown = null;
      try {
        check(mutation, { frameBytes: 1000 });
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
