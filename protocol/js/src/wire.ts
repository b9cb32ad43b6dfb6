/**
 * Values of columns on the wire (SPEC.md, 2.4), and which column is where in a row: by the server's schema, if it is
 * another one than that of the app.
 */

import type { Uuid } from './rows.js';
import type { Column, ColumnType, Id, Kind, Kinds, KindSchema, Scalar } from './schema.js';

/** Takes a decoded value and returns it typed, or throws ProtocolError. */
export type Check<T> = (value: unknown) => T;

/**
 * The server sent something that the protocol does not allow. The message never contains content: errors end in logs.
 */
export class ProtocolError extends Error {
  override name = 'ProtocolError';
}

export function fail(message: string): never {
  throw new ProtocolError(message);
}

export const integer: Check<number> = (value) => (Number.isInteger(value) ? (value as number) : fail('not an integer'));
/** The server sends no others (SPEC.md, 2.4); a number beyond would be sent back as a float. */
const instant: Check<number> = (value) =>
  Math.min(Math.max(integer(value), -Number.MAX_SAFE_INTEGER), Number.MAX_SAFE_INTEGER);
export const text: Check<string> = (value) => (typeof value === 'string' ? value : fail('not a text'));
export const flag: Check<boolean> = (value) => (typeof value === 'boolean' ? value : fail('not a boolean'));
export const array: Check<readonly unknown[]> = (value) => (Array.isArray(value) ? value : fail('not an array'));

/** What the two encodings write differently. */
export interface Types {
  readonly uuid: Check<Uuid>;
  readonly bytes: Check<Uint8Array>;
  readonly putUuid: (id: Uuid) => unknown;
  readonly putBytes: (bytes: Uint8Array) => unknown;
}

function bigint(value: unknown): number | bigint {
  if (typeof value === 'string' && /^-?\d{1,19}$/.test(value)) return BigInt(value);
  return integer(value);
}

function float(value: unknown): number {
  if (typeof value === 'number') return value;
  return /^(NaN|-?Infinity)$/.test(text(value)) ? Number(value) : fail('not a number');
}

function json(value: unknown): unknown {
  try {
    return JSON.parse(text(value));
  } catch {
    return fail('not JSON');
  }
}

/** A value of the wire as it is here. */
export function valueOf(types: Types, type: ColumnType): Check<unknown> {
  switch (type) {
    case 'uuid':
      return types.uuid;
    case 'bytes':
      return types.bytes;
    case 'bool':
      return flag;
    case 'int':
      return integer;
    case 'instant':
      return instant;
    case 'bigint':
      return bigint;
    case 'float':
      return float;
    case 'json':
      return json;
    case 'array':
      return (value) => array(json(value));
    default:
      return text;
  }
}

/** A value of this device as it travels. */
export function toWire(types: Types, { type, nullable }: Pick<Column, 'type' | 'nullable'>, value: unknown): unknown {
  if (value === null && (nullable || type !== 'json')) return null;
  switch (type) {
    case 'uuid':
      return types.putUuid(value as Uuid);
    case 'bytes':
      return types.putBytes(value as Uint8Array);
    case 'bigint':
      return Number.isSafeInteger(Number(value)) ? Number(value) : String(value);
    case 'float':
      return Number.isFinite(value) ? value : String(value);
    case 'json':
    case 'array':
      return JSON.stringify(value);
    default:
      return value;
  }
}

export const idToWire = (types: Types, { key }: Kind, id: Id): unknown => {
  const put = (part: Scalar, i: number): unknown =>
    toWire(types, { type: key[i] as ColumnType, nullable: false }, part);
  return key.length === 1 ? put(id as Scalar, 0) : (id as readonly Scalar[]).map(put);
};

export function idOf(types: Types, { key }: Kind): Check<Id> {
  const parts = key.map((type) => valueOf(types, type) as Check<Scalar>);
  const [one, two] = parts;
  if (one === undefined || two === undefined) return one as Check<Id>;
  return (value) => {
    const [first, second, ...more] = array(value);
    return more.length === 0 ? [one(first), two(second)] : fail('an id of more than two parts');
  };
}

/** A kind as it travels. */
export interface Wired {
  readonly kind: Kind;
  readonly tag: string;
  readonly id: Check<Id>;
  /** In the order of the wire; `name` is null for a column that this app does not know. */
  readonly columns: readonly { readonly name: string | null; readonly check: Check<unknown> }[];
  /** Columns that this app knows, and the server does not. */
  readonly missing: readonly string[];
}

/** The kinds as this app's schema has them. */
export const wiredBySchema = (types: Types, kinds: Kinds): Wired[] =>
  [...kinds.values()].map((kind) =>
    wired(
      types,
      kind,
      kind.tag,
      [...kind.columns.values()].map((column) => [column, column.nullable]),
    ),
  );

/** The kinds that both schemas have, as the server has them. A column of another type counts as unknown. */
export const wiredByServer = (types: Types, kinds: Kinds, served: readonly KindSchema[]): Wired[] =>
  served.flatMap(({ name, tag, key, parent, columns }) => {
    const kind = kinds.get(name);
    if (kind === undefined || String(kind.key) !== String(key) || kind.parent?.name !== parent) return [];
    const known = new Map([...kind.columns.values()].map((column) => [column.wire, column]));
    const made = wired(
      types,
      kind,
      tag,
      columns.map(([wire, type]) => {
        const column = known.get(wire);
        const same = column?.type === type.replace('?', '') || (column?.type === 'bigint' && type.startsWith('int'));
        return [same ? (column as Column) : null, type.endsWith('?')];
      }),
    );
    // Without the parent's key, a row would belong nowhere.
    return kind.home !== null && made.missing.includes(kind.home) ? [] : [made];
  });

function wired(types: Types, kind: Kind, tag: string, columns: readonly [Column | null, boolean][]): Wired {
  const has = new Set(columns.map(([column]) => column?.name));
  return {
    kind,
    tag,
    id: idOf(types, kind),
    columns: columns.map(([column, nullable]) => {
      const check = column === null ? (): null => null : valueOf(types, column.type);
      return {
        name: column && column.name,
        check: nullable ? (value) => (value === null || value === undefined ? null : check(value)) : check,
      };
    }),
    missing: [...kind.columns.keys()].filter((name) => !has.has(name)),
  };
}
