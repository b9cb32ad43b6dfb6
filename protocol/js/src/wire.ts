/**
 * Frames, rows and mutations as bytes or text, in both encodings (SPEC.md, sections 2–5, 8). The only module that knows
 * MessagePack and JSON. It checks types; what a frame means, and whether it may come now, is session.ts's.
 */

import { decode as unpack, encode as pack } from '@msgpack/msgpack';

import { isUuid, utf8Bytes, type Mutation, type Result } from './mutation.js';
import type { Cursor, Instant, Place, Row, Uuid } from './rows.js';
import { uuidFromBytes, uuidToBytes } from './uuid.js';

export type Encoding = 'msgpack' | 'json';
export type Data = Uint8Array | ArrayBuffer | string;

/** The server sent what the protocol does not allow. Its words never contain content: errors end in logs. */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}

export interface Limits {
  readonly frameBytes: number;
  readonly pageRows: number;
  readonly pagesInFlight: number;
  readonly mutations: number;
  readonly titleBytes: number;
  readonly contentBytes: number;
}

export interface Welcome {
  readonly t: 'welcome';
  readonly session: string;
  readonly epoch: string;
  readonly tier: string;
  readonly mode: string;
  readonly why: string | null;
  readonly time: Instant;
  readonly expires: Instant;
  readonly keepalive: number;
  readonly limits: Limits;
}
export interface SnapshotFrame {
  readonly t: 'snapshot';
  readonly asOf: number;
  readonly rows: readonly Row[];
  readonly cursor: Cursor | null;
}
export interface ChangesFrame {
  readonly t: 'changes';
  readonly from: Cursor;
  readonly to: Cursor;
  readonly rows: readonly Row[];
  readonly partial: boolean;
  readonly seq: number | null;
}
export interface Live {
  readonly t: 'live';
  readonly cursor: Cursor;
  readonly seq: number;
}
export interface Page {
  readonly t: 'page';
  readonly id: number;
  readonly asOf: number;
  readonly rows: readonly Row[];
  readonly more: boolean;
}
export interface Ack {
  readonly t: 'ack';
  readonly results: readonly Result[];
}
export interface Refreshed {
  readonly t: 'refreshed';
  readonly expires: Instant;
}
export interface Refusal {
  readonly t: 'error';
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly answers: string | null;
  readonly id: number | null;
  readonly retryAfter: number | null;
  readonly expected: number | null;
}
export interface Pong {
  readonly t: 'pong';
}
export type ToClient = Welcome | SnapshotFrame | ChangesFrame | Live | Page | Ack | Refreshed | Refusal | Pong;

export interface Window {
  readonly conversations: number;
  readonly messages: number;
}

export type ToServer =
  | {
      readonly t: 'hello';
      readonly token: string;
      readonly clientId: Uuid;
      readonly cursor: Cursor | null;
      readonly window: Window;
      readonly generation: number;
    }
  /** A mutation that is nil travels as an empty array, which the server rejects if it does not have its number. */
  | {
      readonly t: 'push';
      readonly n: number;
      readonly mutations: readonly (Mutation | null)[];
      readonly held: number;
    }
  | {
      readonly t: 'page';
      readonly id: number;
      readonly conversation: Uuid | null;
      readonly before: Place | null;
      readonly limit: number;
    }
  | { readonly t: 'refresh'; readonly token: string }
  | { readonly t: 'ping' };

// ---- Checks: each takes a decoded value and returns it typed, or throws. ----

type Check<T> = (value: unknown) => T;
type Fields = Readonly<Record<string, unknown>>;

function fail(words: string): never {
  throw new ProtocolError(words);
}

const integer: Check<number> = (value) => (Number.isInteger(value) ? (value as number) : fail('not an integer'));
const natural: Check<number> = (value) => (integer(value) < 0 ? fail('negative') : (value as number));
const seq: Check<number> = (value) => (natural(value) >= 2 ** 53 ? fail('a seq of 2^53 or more') : (value as number));
const flag: Check<boolean> = (value) => (typeof value === 'boolean' ? value : fail('not a boolean'));
const text: Check<string> = (value) => (typeof value === 'string' ? value : fail('not a text'));
const textOrNil: Check<string | null> = (value) => (value === null || value === undefined ? null : text(value));
const array: Check<readonly unknown[]> = (value) => (Array.isArray(value) ? value : fail('not an array'));
const map: Check<Fields> = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value)
    ? (value as Fields)
    : fail('not a map');

function read<T>(fields: Fields, name: string, check: Check<T>): T {
  if (!Object.hasOwn(fields, name)) fail(`${name}: missing`);
  try {
    return check(fields[name]);
  } catch (error) {
    return fail(`${name}: ${error instanceof ProtocolError ? error.message : 'unreadable'}`);
  }
}

/** A field marked «?»: absent and nil are the same. */
const maybe = <T>(fields: Fields, name: string, check: Check<T>): T | null =>
  Object.hasOwn(fields, name) && fields[name] !== null && fields[name] !== undefined ? read(fields, name, check) : null;

/** What the two encodings write differently. */
interface Dialect {
  readonly uuid: Check<Uuid>;
  readonly cursor: Check<Cursor>;
  readonly load: (data: Data) => unknown;
  readonly dump: (value: unknown) => Uint8Array | string;
  readonly putUuid: (id: Uuid) => unknown;
  readonly putCursor: (cursor: Cursor) => unknown;
}

type Shape = readonly [names: readonly string[], checks: readonly Check<unknown>[]];

/** An array that starts with its kind, as the value that it says; null for a kind that we do not know. */
function shaped<T>(value: unknown, shapes: Readonly<Record<string, Shape>>): T | null {
  const columns = array(value);
  if (columns.length === 0) fail('an array without its kind');
  const kind = text(columns[0]);
  const shape = Object.hasOwn(shapes, kind) ? shapes[kind] : undefined;
  if (shape === undefined) return null;
  const [names, checks] = shape;
  if (columns.length <= names.length) fail('too few columns');
  const made: Record<string, unknown> = { kind };
  for (let i = 0; i < names.length; i++) made[names[i] as string] = (checks[i] as Check<unknown>)(columns[i + 1]);
  return made as T;
}

const columnsOf: { readonly [K in Mutation['kind']]: readonly string[] } = {
  '+c': ['id', 'title', 'at'],
  '~c': ['id', 'title', 'at'],
  '-c': ['id'],
  '+m': ['id', 'conversationId', 'role', 'content', 'at'],
  '~m': ['id', 'createdAt', 'content', 'at'],
  '-m': ['id', 'createdAt'],
};

/** One encoding of the protocol. */
export class Codec {
  readonly subprotocol: string;
  private readonly rowShapes: Readonly<Record<string, Shape>>;

  constructor(
    readonly encoding: Encoding,
    private readonly dialect: Dialect,
  ) {
    this.subprotocol = `atlas-sync.v1.${encoding}`;
    const { uuid } = dialect;
    const gone: Shape = [
      ['seq', 'id'],
      [seq, uuid],
    ];
    this.rowShapes = {
      p: [
        ['seq', 'id', 'tier', 'status'],
        [seq, uuid, text, textOrNil],
      ],
      c: [
        ['seq', 'id', 'title', 'createdAt', 'updatedAt'],
        [seq, uuid, textOrNil, integer, integer],
      ],
      m: [
        ['seq', 'id', 'conversationId', 'role', 'content', 'createdAt', 'updatedAt'],
        [seq, uuid, uuid, text, text, integer, integer],
      ],
      '-p': gone,
      '-c': gone,
      '-m': gone,
    };
  }

  encode(frame: ToServer): Uint8Array | string {
    const { putUuid, putCursor, dump } = this.dialect;
    switch (frame.t) {
      case 'hello':
        return dump({
          t: frame.t,
          token: frame.token,
          client_id: putUuid(frame.clientId),
          cursor: frame.cursor === null ? null : putCursor(frame.cursor),
          window: { conversations: frame.window.conversations, messages: frame.window.messages },
          generation: frame.generation,
        });
      case 'push':
        return dump({ ...frame, mutations: frame.mutations.map((mutation) => this.columns(mutation)) });
      case 'page':
        return dump({
          ...frame,
          conversation: frame.conversation === null ? null : putUuid(frame.conversation),
          before: frame.before === null ? null : [frame.before[0], putUuid(frame.before[1])],
        });
      default:
        return dump(frame);
    }
  }

  /** A frame of the server; null for one from the future. Throws ProtocolError for what is none. */
  decode(data: Data): ToClient | null {
    let loaded: unknown;
    try {
      loaded = this.dialect.load(data);
    } catch (error) {
      return fail(error instanceof ProtocolError ? error.message : 'not a frame');
    }
    const f = map(loaded);
    const { cursor } = this.dialect;
    const t = read(f, 't', text);
    switch (t) {
      case 'welcome': {
        const l = read(f, 'limits', map);
        return {
          t,
          session: read(f, 'session', text),
          epoch: read(f, 'epoch', text),
          tier: read(f, 'tier', text),
          mode: read(f, 'mode', text),
          why: maybe(f, 'why', text),
          time: read(f, 'time', integer),
          expires: read(f, 'expires', integer),
          keepalive: read(f, 'keepalive', natural),
          limits: {
            frameBytes: read(l, 'frame_bytes', natural),
            pageRows: read(l, 'page_rows', natural),
            pagesInFlight: read(l, 'pages_in_flight', natural),
            mutations: read(l, 'mutations', natural),
            titleBytes: read(l, 'title_bytes', natural),
            contentBytes: read(l, 'content_bytes', natural),
          },
        };
      }
      case 'snapshot':
        return { t, asOf: read(f, 'as_of', seq), rows: read(f, 'rows', this.rows), cursor: maybe(f, 'cursor', cursor) };
      case 'changes':
        return {
          t,
          from: read(f, 'from', cursor),
          to: read(f, 'to', cursor),
          rows: read(f, 'rows', this.rows),
          partial: maybe(f, 'partial', flag) ?? false,
          seq: maybe(f, 'seq', seq),
        };
      case 'live':
        return { t, cursor: read(f, 'cursor', cursor), seq: read(f, 'seq', seq) };
      case 'page':
        return {
          t,
          id: read(f, 'id', natural),
          asOf: read(f, 'as_of', seq),
          rows: read(f, 'rows', this.rows),
          more: read(f, 'more', flag),
        };
      case 'ack':
        return { t, results: read(f, 'results', results) };
      case 'refreshed':
        return { t, expires: read(f, 'expires', integer) };
      case 'error':
        return {
          t,
          code: read(f, 'code', text),
          message: read(f, 'message', text),
          retryable: read(f, 'retryable', flag),
          answers: maybe(f, 'answers', text),
          id: maybe(f, 'id', natural),
          retryAfter: maybe(f, 'retry_after', natural),
          expected: maybe(f, 'expected', natural),
        };
      case 'pong':
        return { t };
      default:
        return null;
    }
  }

  /** The bytes that a mutation takes up in a push, with what parts it from the next one. */
  size(mutation: Mutation): number {
    return byteLength(this.dialect.dump(this.columns(mutation))) + 1;
  }

  private columns(mutation: Mutation | null): readonly unknown[] {
    if (mutation === null) return [];
    const fields = mutation as unknown as Fields;
    return [
      mutation.kind,
      ...columnsOf[mutation.kind].map((name) =>
        name === 'id' || name === 'conversationId' ? this.dialect.putUuid(fields[name] as Uuid) : fields[name],
      ),
    ];
  }

  /** Rows of kinds that we do not know are left out, columns beyond ours too. */
  private readonly rows: Check<readonly Row[]> = (value) =>
    array(value).flatMap((item) => shaped<Row>(item, this.rowShapes) ?? []);
}

const settled: Shape = [
  ['n', 'seq'],
  [natural, seq],
];
const resultShapes: Readonly<Record<string, Shape>> = {
  applied: settled,
  repeated: settled,
  rejected: [
    ['n', 'code', 'message'],
    [natural, text, text],
  ],
};

const results: Check<readonly Result[]> = (value) =>
  array(value).map((item) => shaped<Result>(item, resultShapes) ?? fail('a result of an unknown kind'));

export const byteLength = (data: Uint8Array | string): number =>
  typeof data === 'string' ? utf8Bytes(data) : data.length;

const CURSOR_BYTES = 128;
const toBase64 = (bytes: Uint8Array): string => btoa(String.fromCharCode(...bytes));
const fromBase64 = (base64: string): Uint8Array => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));

const bytes = (value: unknown, size: (length: number) => boolean, name: string): Uint8Array =>
  value instanceof Uint8Array && size(value.length) ? value : fail(name);
const toCursor = (value: unknown): Cursor =>
  toBase64(bytes(value, (length) => length <= CURSOR_BYTES, 'not a cursor of at most 128 bytes'));

export const CODECS: Readonly<Record<Encoding, Codec>> = {
  msgpack: new Codec('msgpack', {
    uuid: (value) => uuidFromBytes(bytes(value, (length) => length === 16, 'not a uuid of 16 bytes')),
    cursor: toCursor,
    load: (data) => (typeof data === 'string' ? fail('a text message') : unpack(data)),
    dump: pack,
    putUuid: uuidToBytes,
    putCursor: fromBase64,
  }),
  json: new Codec('json', {
    uuid: (value) => {
      const id = text(value).toLowerCase();
      return isUuid(id) ? id : fail('not a uuid in canonical form');
    },
    cursor: (value) => toCursor(fromBase64(text(value))),
    load: (data) => (typeof data === 'string' ? JSON.parse(data) : fail('a binary message')),
    dump: (value) => JSON.stringify(value),
    putUuid: (id) => id,
    putCursor: (cursor) => cursor,
  }),
};
