/**
 * Frames, rows and mutations as bytes or text, in both encodings (SPEC.md, sections 2–5, 8). The only module that knows
 * which value is written how. It checks types; session.ts checks meaning and order.
 */

import { fromBase64, toBase64 } from './bytes.js';
import { EXTRAS, type Limits, type SchemaFrame, type StreamFrame, type ToClient, type ToServer } from './frames.js';
import { pack, unpack } from './msgpack.js';
import type { Mutation, Result } from './mutation.js';
import type { Arrival, Cursor } from './rows.js';
import type { Id, Kinds, KindSchema } from './schema.js';
import { utf8Bytes } from './text.js';
import { isUuid, uuidFromBytes, uuidToBytes } from './uuid.js';
import {
  array,
  fail,
  flag,
  idToWire,
  integer,
  ProtocolError,
  text,
  toWire,
  wiredByServer,
  wiredBySchema,
  type Check,
  type Types,
  type Wired,
} from './wire.js';

export { ProtocolError };
export type Encoding = 'msgpack' | 'json';
export type Data = Uint8Array | ArrayBuffer | string;

const natural: Check<number> = (value) => (integer(value) < 0 ? fail('negative') : (value as number));
const seq: Check<number> = (value) => (natural(value) >= 2 ** 53 ? fail('a seq of 2^53 or more') : (value as number));
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

const LIMITS = shape<Limits>({
  frameBytes: natural,
  pageRows: natural,
  pagesInFlight: natural,
  mutations: natural,
});

/** Further columns are ignored. */
const result: Check<Result> = (value) => {
  const [kind, n, ...more] = array(value);
  if (kind === 'applied' || kind === 'repeated') return { kind, n: natural(n), seq: seq(more[0]) };
  if (kind !== 'rejected') return fail('a result of an unknown kind');
  return { kind, n: natural(n), code: text(more[0]), message: text(more[1]), column: optional(text)(more[2]) };
};

/** A kind of the server's schema, as far as a client needs it. */
const kindSchema: Check<KindSchema> = (value) => {
  const { name, tag, key, parent, columns, window } = map(value);
  const base = {
    name: text(name),
    tag: text(tag),
    key: array(key).map(text),
    columns: array(columns).map((column): [string, string] => [text(array(column)[0]), text(array(column)[1])]),
  };
  const [above, most] = [optional(text)(parent), optional(natural)(window)];
  return { ...base, ...(above !== null && { parent: above }), ...(most !== null && { window: most }) };
};

/** What the two encodings write differently. */
interface Dialect extends Types {
  readonly cursor: Check<Cursor>;
  readonly load: (data: Data) => unknown;
  readonly dump: (value: unknown) => Uint8Array | string;
  readonly putCursor: (cursor: Cursor) => unknown;
}

/** One encoding of the protocol, for the kinds of a schema. */
export class Codec {
  readonly subprotocol: string;
  private readonly frames: { readonly [T in ToClient['t']]: Shape };
  private readonly byName: ReadonlyMap<string, Wired>;
  private readonly byTag: ReadonlyMap<string, Wired>;

  constructor(
    readonly encoding: Encoding,
    readonly kinds: Kinds,
    private readonly dialect: Dialect,
    wired: readonly Wired[] = wiredBySchema(dialect, kinds),
  ) {
    this.subprotocol = `atlas-sync.v1.${encoding}`;
    this.byName = new Map(wired.map((each) => [each.kind.name, each]));
    const byTag = (this.byTag = new Map(wired.map((each) => [each.tag, each])));
    const { cursor } = dialect;
    /** Rows of unknown kinds are left out. */
    const rows: Check<readonly Arrival[]> = (value) => array(value).flatMap((item) => row(byTag, array(item)));
    const of = <T extends ToClient['t']>(checks: Checks<Extract<ToClient, { t: T }>>): Shape => shape(checks);
    this.frames = {
      welcome: of<'welcome'>({
        session: text,
        epoch: text,
        schema: optional(text),
        tier: optional(text),
        mode: text,
        why: optional(text),
        time: integer,
        expires: integer,
        keepalive: natural,
        limits: (value) => fromMap<Limits>(value, LIMITS),
      }),
      schema: of<'schema'>({ hash: text, kinds: (value) => array(value).map(kindSchema) }),
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
      ack: of<'ack'>({ results: (value) => array(value).map(result) }),
      refreshed: of<'refreshed'>({ expires: integer }),
      streams: of<'streams'>({ open: (value) => array(value).map(dialect.uuid) }),
      stream: [
        ...of<'stream'>({
          stream: dialect.uuid,
          id: (value) => value as Id,
          column: text,
          since: seq,
          offset: natural,
          text,
          state: text,
        }),
        ['kind', 'kind', text],
      ],
      stopped: of<'stopped'>({ n: natural, found: flag }),
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

  /** The same for a server with another schema. */
  servedBy({ kinds }: SchemaFrame): Codec {
    return new Codec(this.encoding, this.kinds, this.dialect, wiredByServer(this.dialect, this.kinds, kinds));
  }

  encode(frame: ToServer): Uint8Array | string {
    const { dialect } = this;
    const { putUuid, putCursor, dump } = dialect;
    switch (frame.t) {
      case 'hello':
        return dump({
          t: frame.t,
          token: frame.token,
          client_id: putUuid(frame.clientId),
          cursor: frame.cursor === null ? null : putCursor(frame.cursor),
          window: frame.window,
          generation: frame.generation,
          schema: frame.schema,
          extras: EXTRAS,
        });
      case 'push':
        return dump({ ...frame, mutations: frame.mutations.map((mutation) => this.columns(mutation)) });
      case 'page': {
        const kind = this.kinds.get(frame.kind);
        if (kind === undefined) throw new RangeError(`no such kind: ${frame.kind}`);
        const { parent, before } = frame;
        return dump({
          t: frame.t,
          id: frame.id,
          kind: kind.name,
          ...(kind.parent !== null && parent !== null && { parent: idToWire(dialect, kind.parent, parent) }),
          before: before && [
            kind.newest && toWire(dialect, { ...kind.newest, nullable: true }, before[0]),
            idToWire(dialect, kind, before[1]),
          ],
          limit: frame.limit,
        });
      }
      case 'stop': {
        const { kind, tag } = this.byName.get(frame.kind) as Wired;
        const column = frame.column === null ? null : (kind.columns.get(frame.column)?.wire ?? frame.column);
        return dump({ t: frame.t, n: frame.n, kind: tag, id: idToWire(dialect, kind, frame.id), column });
      }
      default:
        return dump(frame);
    }
  }

  /** Whether the server has this kind, by its name. */
  knows(kind: string): boolean {
    return this.byName.has(kind);
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
    if (!Object.hasOwn(this.frames, t)) return null;
    const frame = { t, ...fromMap<object>(loaded, this.frames[t]) } as ToClient;
    return frame.t === 'stream' ? this.stream(frame) : frame;
  }

  /** null for a kind, or a column, that this app does not know. */
  private stream(frame: StreamFrame): StreamFrame | null {
    const wired = this.byTag.get(frame.kind);
    const column = [...(wired?.kind.columns.values() ?? [])].find(({ wire }) => wire === frame.column);
    if (wired === undefined || column?.type !== 'text') return null;
    return { ...frame, kind: wired.kind.name, id: wired.id(frame.id), column: column.name };
  }

  /** Bytes of a mutation in a push, with the separator after it. */
  size(mutation: Mutation): number {
    return byteLength(this.dialect.dump(this.columns(mutation))) + 1;
  }

  /** An empty array for a mutation of a kind that the server does not know: it consumes its number. */
  private columns(mutation: Mutation | null): readonly unknown[] {
    const wired = this.byName.get(mutation?.kind ?? '');
    if (mutation === null || wired === undefined) return [];
    const { kind, tag } = wired;
    const id = idToWire(this.dialect, kind, mutation.id);
    if (mutation.op === '+') return ['+', tag, id, this.written(wired, mutation.columns), mutation.at];
    const named = mutation.dated === undefined ? id : [id, mutation.dated].flat();
    return mutation.op === '-'
      ? ['-', tag, named]
      : ['~', tag, named, this.written(wired, mutation.columns), mutation.at];
  }

  private written({ kind }: Wired, columns: Readonly<Record<string, unknown>>): Record<string, unknown> {
    return Object.fromEntries(
      Object.entries(columns).flatMap(([name, value]) => {
        const column = kind.columns.get(name);
        return column === undefined ? [] : [[column.wire, toWire(this.dialect, column, value)]];
      }),
    );
  }
}

/** A row of a known kind, or its deletion. Columns beyond those that are known are ignored. */
function row(byTag: ReadonlyMap<string, Wired>, columns: readonly unknown[]): Arrival | [] {
  if (columns.length === 0) fail('an array without its kind');
  const tag = text(columns[0]);
  const deleted = tag.startsWith('-');
  const wired = byTag.get(deleted ? tag.slice(1) : tag);
  if (wired === undefined) return [];
  const { kind, id, columns: known, missing } = wired;
  if (columns.length < (deleted ? 3 : 3 + known.length)) fail('too few columns');
  const head = { seq: seq(columns[1]), id: id(columns[2]) };
  if (deleted) return { kind: `-${kind.name}`, ...head };
  const made: Record<string, unknown> = {};
  known.forEach(({ name, check }, i) => {
    if (name !== null) made[name] = check(columns[3 + i]);
  });
  for (const name of missing) made[name] = null;
  return { ...made, kind: kind.name, ...head };
}

export const byteLength = (data: Uint8Array | string): number =>
  typeof data === 'string' ? utf8Bytes(data) : data.length;

const CURSOR_BYTES = 128;

/** A copy, because the value is a part of the frame's buffer. */
const bytes: Check<Uint8Array> = (value) => (value instanceof Uint8Array ? value.slice() : fail('not bytes'));
const toCursor = (value: unknown): Cursor =>
  value instanceof Uint8Array && value.length <= CURSOR_BYTES
    ? toBase64(value)
    : fail('not a cursor of at most 128 bytes');

const DIALECTS: Readonly<Record<Encoding, Dialect>> = {
  msgpack: {
    uuid: (value) =>
      value instanceof Uint8Array && value.length === 16 ? uuidFromBytes(value) : fail('not a uuid of 16 bytes'),
    bytes,
    cursor: toCursor,
    load: (data) => (typeof data === 'string' ? fail('a text message') : unpack(data)),
    dump: pack,
    putUuid: uuidToBytes,
    putBytes: (value) => value,
    putCursor: fromBase64,
  },
  json: {
    uuid: (value) => {
      const id = text(value).toLowerCase();
      return isUuid(id) ? id : fail('not a uuid in canonical form');
    },
    bytes: (value) => fromBase64(text(value)),
    cursor: (value) => toCursor(fromBase64(text(value))),
    load: (data) => (typeof data === 'string' ? JSON.parse(data) : fail('a binary message')),
    dump: (value) => JSON.stringify(value),
    putUuid: (id) => id,
    putBytes: toBase64,
    putCursor: (cursor) => cursor,
  },
};

const made = new WeakMap<Kinds, Readonly<Record<Encoding, Codec>>>();

/** Both encodings for these kinds. */
export function codecsFor(kinds: Kinds): Readonly<Record<Encoding, Codec>> {
  const codecs = made.get(kinds) ?? {
    msgpack: new Codec('msgpack', kinds, DIALECTS.msgpack),
    json: new Codec('json', kinds, DIALECTS.json),
  };
  made.set(kinds, codecs);
  return codecs;
}
