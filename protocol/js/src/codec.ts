/**
 * Frames, rows and mutations as bytes or text, in both encodings (SPEC.md, sections 2–5, 8). The only module that knows
 * MessagePack and JSON. It checks types; session.ts checks meaning and order.
 */

import { decode as unpack, encode as pack } from '@msgpack/msgpack';

import type { Limits, ToClient, ToServer } from './frames.js';
import type { Mutation, Result } from './mutation.js';
import type { Conversation, Cursor, Deleted, Message, Profile, Row, Uuid } from './rows.js';
import { utf8Bytes } from './text.js';
import { isUuid, uuidFromBytes, uuidToBytes } from './uuid.js';

export type Encoding = 'msgpack' | 'json';
export type Data = Uint8Array | ArrayBuffer | string;

/**
 * The server sent something that the protocol does not allow. The message never contains content: errors end in logs.
 */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}

// ---- Checks: each takes a decoded value and returns it typed, or throws. ----

type Check<T> = (value: unknown) => T;

function fail(message: string): never {
  throw new ProtocolError(message);
}

const integer: Check<number> = (value) => (Number.isInteger(value) ? (value as number) : fail('not an integer'));
const natural: Check<number> = (value) => (integer(value) < 0 ? fail('negative') : (value as number));
const seq: Check<number> = (value) => (natural(value) >= 2 ** 53 ? fail('a seq of 2^53 or more') : (value as number));
const flag: Check<boolean> = (value) => (typeof value === 'boolean' ? value : fail('not a boolean'));
const text: Check<string> = (value) => (typeof value === 'string' ? value : fail('not a text'));
const array: Check<readonly unknown[]> = (value) => (Array.isArray(value) ? value : fail('not an array'));
/** A field marked «?»: absent and nil are the same. */
const optional =
  <T>(check: Check<T>): Check<T | null> =>
  (value) =>
    value === undefined || value === null ? null : check(value);

/** Checks by the name that a field has here, in the order of the columns where the value travels as an array. */
type Checks<T> = { readonly [K in Exclude<keyof T, 't' | 'kind'>]: Check<T[K]> };
type Shape = readonly (readonly [name: string, onWire: string, check: Check<unknown>])[];

const shape = <T>(checks: Checks<T>): Shape =>
  Object.entries<Check<unknown>>(checks).map(([name, check]) => [
    name,
    name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`),
    check,
  ]);

type Fields = Readonly<Record<string, unknown>>;

const map: Check<Fields> = (value) =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value)
    ? (value as Fields)
    : fail('not a map');

function fromMap<T>(value: unknown, shape: Shape): T {
  const fields = map(value);
  const made: Record<string, unknown> = {};
  for (const [name, onWire, check] of shape) {
    try {
      made[name] = check(fields[onWire]);
    } catch (error) {
      fail(`${onWire}: ${error instanceof ProtocolError ? error.message : 'unreadable'}`);
    }
  }
  return made as T;
}

/** The value of an array that starts with its kind; null for an unknown kind. Columns beyond the shape are ignored. */
function fromArray<T>(value: unknown, shapes: Readonly<Record<string, Shape>>): T | null {
  const columns = array(value);
  if (columns.length === 0) fail('an array without its kind');
  const kind = text(columns[0]);
  const shape = Object.hasOwn(shapes, kind) ? shapes[kind] : undefined;
  if (shape === undefined) return null;
  if (columns.length <= shape.length) fail('too few columns');
  const made: Record<string, unknown> = { kind };
  shape.forEach(([name, , check], i) => (made[name] = check(columns[i + 1])));
  return made as T;
}

const LIMITS = shape<Limits>({
  frameBytes: natural,
  pageRows: natural,
  pagesInFlight: natural,
  mutations: natural,
  titleBytes: natural,
  contentBytes: natural,
});

const APPLIED = shape<Exclude<Result, { kind: 'rejected' }>>({ n: natural, seq });
const RESULTS: Readonly<Record<Result['kind'], Shape>> = {
  applied: APPLIED,
  repeated: APPLIED,
  rejected: shape<Extract<Result, { kind: 'rejected' }>>({ n: natural, code: text, message: text }),
};

const COLUMNS: { readonly [K in Mutation['kind']]: readonly string[] } = {
  '+c': ['id', 'title', 'at'],
  '~c': ['id', 'title', 'at'],
  '-c': ['id'],
  '+m': ['id', 'conversationId', 'role', 'content', 'at'],
  '~m': ['id', 'createdAt', 'content', 'at'],
  '-m': ['id', 'createdAt'],
};

/** What the two encodings write differently. */
interface Dialect {
  readonly uuid: Check<Uuid>;
  readonly cursor: Check<Cursor>;
  readonly load: (data: Data) => unknown;
  readonly dump: (value: unknown) => Uint8Array | string;
  readonly putUuid: (id: Uuid) => unknown;
  readonly putCursor: (cursor: Cursor) => unknown;
}

/** One encoding of the protocol. */
export class Codec {
  readonly subprotocol: string;
  private readonly frames: { readonly [T in ToClient['t']]: Shape };

  constructor(
    readonly encoding: Encoding,
    private readonly dialect: Dialect,
  ) {
    this.subprotocol = `atlas-sync.v1.${encoding}`;
    const { uuid, cursor } = dialect;
    const deleted = shape<Deleted>({ seq, id: uuid });
    const shapes: { readonly [K in Row['kind']]: Shape } = {
      p: shape<Profile>({ seq, id: uuid, tier: text, status: optional(text) }),
      c: shape<Conversation>({
        seq,
        id: uuid,
        title: optional(text),
        createdAt: integer,
        updatedAt: integer,
      }),
      m: shape<Message>({
        seq,
        id: uuid,
        conversationId: uuid,
        role: text,
        content: text,
        createdAt: integer,
        updatedAt: integer,
      }),
      '-p': deleted,
      '-c': deleted,
      '-m': deleted,
    };
    /** Rows of unknown kinds are left out. */
    const rows: Check<readonly Row[]> = (value) => array(value).flatMap((item) => fromArray<Row>(item, shapes) ?? []);
    const of = <T extends ToClient['t']>(checks: Checks<Extract<ToClient, { t: T }>>): Shape => shape(checks);
    this.frames = {
      welcome: of<'welcome'>({
        session: text,
        epoch: text,
        tier: text,
        mode: text,
        why: optional(text),
        time: integer,
        expires: integer,
        keepalive: natural,
        limits: (value) => fromMap<Limits>(value, LIMITS),
      }),
      snapshot: of<'snapshot'>({ asOf: seq, rows, cursor: optional(cursor) }),
      changes: of<'changes'>({
        from: cursor,
        to: cursor,
        rows,
        partial: (value) => optional(flag)(value) ?? false,
        seq: optional(seq),
      }),
      live: of<'live'>({ cursor, seq }),
      page: of<'page'>({ id: natural, asOf: seq, rows, more: flag }),
      ack: of<'ack'>({
        results: (value) =>
          array(value).map((item) => fromArray<Result>(item, RESULTS) ?? fail('a result of an unknown kind')),
      }),
      refreshed: of<'refreshed'>({ expires: integer }),
      error: of<'error'>({
        code: text,
        message: text,
        retryable: flag,
        answers: optional(text),
        id: optional(natural),
        retryAfter: optional(natural),
        expected: optional(natural),
      }),
      pong: [],
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

  /** A frame of the server; null for a kind of a later version. Throws ProtocolError if the data is no frame. */
  decode(data: Data): ToClient | null {
    let loaded: unknown;
    try {
      loaded = this.dialect.load(data);
    } catch (error) {
      return fail(error instanceof ProtocolError ? error.message : 'not a frame');
    }
    const t = text(map(loaded)['t']) as ToClient['t'];
    return Object.hasOwn(this.frames, t) ? ({ t, ...fromMap<object>(loaded, this.frames[t]) } as ToClient) : null;
  }

  /** Bytes of a mutation in a push, with the separator after it. */
  size(mutation: Mutation): number {
    return byteLength(this.dialect.dump(this.columns(mutation))) + 1;
  }

  private columns(mutation: Mutation | null): readonly unknown[] {
    if (mutation === null) return [];
    const fields = mutation as unknown as Fields;
    return [
      mutation.kind,
      ...COLUMNS[mutation.kind].map((name) =>
        name === 'id' || name === 'conversationId' ? this.dialect.putUuid(fields[name] as Uuid) : fields[name],
      ),
    ];
  }
}

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
