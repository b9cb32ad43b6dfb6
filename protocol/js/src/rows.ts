/**
 * The rows of a user's feed, as values (SPEC.md, section 5): their keys, and their order as text that stores can index.
 */

import type { Insert } from './mutation.js';
import type { Column, ColumnType, Id, Kind, Scalar } from './schema.js';

/** In canonical form, lower case. */
export type Uuid = string;
/** Microseconds since 1970-01-01 UTC. */
export type Instant = number;
/** Base64 with padding; opaque. */
export type Cursor = string;

/** A row of any kind. Its columns are further properties. */
export interface Row {
  /** The kind's name. */
  readonly kind: string;
  readonly seq: number;
  readonly id: Id;
  readonly [column: string]: unknown;
}

/** The deletion of a row. */
export interface Deleted {
  readonly kind: `-${string}`;
  readonly seq: number;
  readonly id: Id;
}

/** What a frame brings. */
export type Arrival = Row | Deleted;

export const isDeleted = (arrival: Arrival): arrival is Deleted => arrival.kind.startsWith('-');

/**
 * The `seq` of a local row: made on this device while it worked alone, and unknown to the server. It is below every
 * real seq, so a row of the server replaces it by rule 5.2.
 */
export const LOCAL = -1;

/** A row's place in its history: the value of the kind's `newest` (null: oldest, or there is no such column), its id. */
export type Place = readonly [at: unknown, id: Id];

export const placeOf = (kind: Kind, row: Row): Place => [kind.newest && row[kind.newest.name], row.id];

/** The row that an insert makes, as far as the device knows. `above`: the id of its parent's parent, if that is known. */
export function rowFrom(kind: Kind, { id, columns, at }: Insert, seq: number, above: Id | null): Row {
  const row: Record<string, unknown> = {};
  for (const name of kind.columns.keys()) row[name] = columns[name] ?? null;
  if (kind.above !== null) row[kind.above] = above;
  for (const name of [kind.created, kind.updated, kind.dated]) if (name !== null) row[name] = at;
  return { ...row, kind: kind.name, seq, id };
}

// ---- Texts that stand for keys and places. JavaScript, IndexedDB and SQLite order them as Postgres orders the values ----

/** The key of a row with this id. */
export const keyOf = (kind: Kind, id: Id): string => {
  const parts = kind.key.length === 2 ? (id as readonly Scalar[]) : [id as Scalar];
  return joined(parts.map((part, i) => ordered(kind.key[i] as ColumnType, part)));
};

/** The key of a row's parent; empty for a kind without one. */
export const homeOf = (kind: Kind, row: Row): string =>
  homeKey(kind, kind.home === null ? null : (row[kind.home] as Id));

/** The key of the parent's parent; null if there is none, or if this device does not know it. */
export const aboveOf = ({ parent, above }: Kind, row: Row): string | null => {
  const id = above === null ? null : ((row[above] ?? null) as Id | null);
  return id === null || !parent?.parent ? null : keyOf(parent.parent, id);
};

/** The key of the parent with this id; empty for a kind without one. */
export const homeKey = (kind: Kind, parent: Id | null): string =>
  kind.parent === null || parent === null ? '' : keyOf(kind.parent, parent);

/** Names a row, or the history of a home, among those of all kinds. */
export const nameOf = (kind: Kind, key: string): string => `${kind.name} ${key}`;

/** The order of a place among those of the same home. */
export const orderOf = (kind: Kind, [at, id]: Place): string =>
  joined([orderOfValue(kind.newest, at), keyOf(kind, id)]);

export const orderOfRow = (kind: Kind, row: Row): string => orderOf(kind, placeOf(kind, row));

/** null is the least. */
const orderOfValue = (column: Column | null, value: unknown): string =>
  column === null || value === null || value === undefined ? '' : `+${ordered(column.type, value)}`;

/** U+0001 ends a part that is not the last; within parts it is followed by U+0002. */
const joined = (parts: readonly string[]): string =>
  parts.length === 1 ? (parts[0] as string) : parts.map((part) => part.replaceAll('\x01', '\x01\x02')).join('\x01\x01');

function ordered(type: ColumnType, value: unknown): string {
  switch (type) {
    case 'int':
    case 'bigint':
    case 'instant':
      return hex(BigInt(value as number | bigint) + 2n ** 63n);
    case 'float':
      return orderedFloat(value as number);
    case 'numeric':
      return orderedNumeric(value as string);
    case 'date':
      return orderedDate(value as string);
    case 'bool':
      return value === true ? '1' : '0';
    case 'bytes':
      return Array.from(value as Uint8Array, (byte) => byte.toString(16).padStart(2, '0')).join('');
    case 'json':
    case 'array':
      return orderedText(JSON.stringify(value));
    default:
      return orderedText(String(value));
  }
}

const hex = (value: bigint): string => value.toString(16).padStart(16, '0');

/**
 * By code points, as UTF-8 is ordered: UTF-16 has the characters beyond U+FFFF before those from U+E000 on.
 */
const orderedText = (text: string): string =>
  text.replace(/[\uE000-\uFFFF]/g, '\uE000$&').replace(/[\uD800-\uDBFF]/g, '\uE001$&');

/** NaN is the greatest. */
function orderedFloat(value: number): string {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value + 0); // -0 is 0
  const bits = view.getBigUint64(0);
  return hex(value < 0 ? ~bits & (2n ** 64n - 1n) : bits | (2n ** 63n));
}

const INFINITIES: Readonly<Record<string, string>> = {
  '-infinity': '-',
  '-Infinity': '-',
  infinity: 'x',
  Infinity: 'x',
  NaN: 'y',
};

/** Sign, exponent and digits. The digits and the exponent of a negative number are complements. */
function orderedNumeric(text: string): string {
  const special = INFINITIES[text];
  if (special !== undefined) return special;
  const [, sign, whole = '', rest = ''] = /^(-?)0*(\d*)\.?(\d*)$/.exec(text) ?? [];
  const digits = (whole + rest).replace(/^0+/, '');
  if (digits === '') return '1';
  const exponent = 500_000 + digits.length - rest.length;
  const order = `${String(exponent).padStart(6, '0')}${digits.replace(/0+$/, '')}`;
  return sign === '' ? `2${order}` : `0${order.replace(/\d/g, (digit) => String(9 - Number(digit)))}~`;
}

/** Days before Christ count down. */
function orderedDate(text: string): string {
  const special = INFINITIES[text];
  if (special !== undefined) return special;
  const [, year, month, day, era] = /^(\d+)-(\d+)-(\d+)( BC)?$/.exec(text) ?? [];
  const years = era === undefined ? Number(year) : 1 - Number(year);
  return `0${hex(BigInt(years * 10_000 + Number(month) * 100 + Number(day)) + 2n ** 63n)}`;
}
