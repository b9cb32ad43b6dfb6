/** Mutations, which a device asks the server to apply, and their results (SPEC.md, 8.3, 8.4). */

import type { Instant } from './rows.js';
import type { Column, ColumnType, Id, Kind, Kinds } from './schema.js';
import { unstorable, utf8Bytes } from './text.js';
import { isUuid } from './uuid.js';

/** Columns by the names of their properties. */
export type Columns = Readonly<Record<string, unknown>>;

/** `at`: the instant of the write. */
export interface Insert {
  readonly op: '+';
  /** The kind's name. */
  readonly kind: string;
  readonly id: Id;
  /** With the parent's id, if the kind has a parent. */
  readonly columns: Columns;
  readonly at: Instant;
}
export interface Update {
  readonly op: '~';
  readonly kind: string;
  readonly id: Id;
  /** The value of the column by which the table is partitioned, if it is. */
  readonly dated?: Instant;
  readonly columns: Columns;
  readonly at: Instant;
}
export interface Delete {
  readonly op: '-';
  readonly kind: string;
  readonly id: Id;
  readonly dated?: Instant;
}
export type Mutation = Insert | Update | Delete;

export type Result =
  | { readonly kind: 'applied' | 'repeated'; readonly n: number; readonly seq: number }
  | {
      readonly kind: 'rejected';
      readonly n: number;
      readonly code: string;
      readonly message: string;
      /** Whose value it is, on the wire. */
      readonly column: string | null;
    };

/** The last number of a mutation: JavaScript's integers are not exact beyond it. */
export const NUMBER_END = Number.MAX_SAFE_INTEGER;
/** `limits.frame_bytes` before a server has said its own. */
export const FRAME_BYTES = 262_144;

/** How large a mutation may be. */
export interface Bounds {
  readonly frameBytes: number;
}

/** The write is invalid, and nothing was written. The message names the field, never its content. */
export class WriteError extends Error {
  override name = 'WriteError';

  constructor(
    message: string,
    /** The code with which the server would reject it (SPEC.md, 8.4); null if it would not get there. */
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** Throws WriteError for a mutation that every server would reject. */
export function check(kinds: Kinds, mutation: Mutation): void {
  const kind = kinds.get(mutation.kind);
  const { op } = mutation;
  const permitted = op === '+' ? kind?.insert : op === '~' ? kind?.update : kind?.delete ? [] : null;
  if (!kind || !permitted) {
    throw new WriteError(`a device may not ${VERBS[op]} this: ${mutation.kind}`, 'not_allowed');
  }
  checkId('id', kind, mutation.id);
  for (const name of ['at', 'dated'] as const) {
    const value = (mutation as Partial<Record<'at' | 'dated', number>>)[name];
    if (value !== undefined && !Number.isSafeInteger(value)) {
      throw new WriteError(`${name} must be an integer of microseconds`, 'malformed');
    }
  }
  if (op === '-') return;
  if (op === '+' && kind.parent !== null) {
    checkId(kind.home as string, kind.parent, mutation.columns[kind.home as string] as Id);
  }
  for (const [name, value] of Object.entries(mutation.columns)) {
    if (op === '+' && name === kind.home) continue;
    const column = kind.columns.get(name);
    if (!column || !permitted.includes(name)) {
      throw new WriteError(`a device may not write this: ${name}`, 'not_allowed');
    }
    checkValue(column, value);
  }
}

const VERBS = { '+': 'insert', '~': 'update', '-': 'delete' } as const;

/** Throws WriteError unless this can be the id of a row. */
export function checkId(name: string, { key }: Kind, id: Id): void {
  const parts: readonly unknown[] = key.length === 1 ? [id] : Array.isArray(id) ? id : [];
  const fits = parts.length === key.length && key.every((type, i) => TYPES[type][0](parts[i]));
  if (!fits) throw new WriteError(`${name} must be ${key.map((type) => TYPES[type][1]).join(' and ')}`, 'malformed');
  for (const part of parts) if (typeof part === 'string') checkText(name, part);
}

type Fits = (value: unknown) => boolean;
const isText: Fits = (value) => typeof value === 'string';
const matches =
  (pattern: RegExp): Fits =>
  (value) =>
    isText(value) && pattern.test(value as string);

/** What fits each type, and what it is called. */
const TYPES: Readonly<Record<ColumnType, readonly [fits: Fits, name: string]>> = {
  uuid: [isUuid, 'a UUID in lower case'],
  text: [isText, 'a string'],
  int: [(value) => Number.isInteger(value) && value === ((value as number) | 0), 'an integer of 32 bits'],
  bigint: [
    (value) => (typeof value === 'bigint' ? BigInt.asIntN(64, value) === value : Number.isSafeInteger(value)),
    'an integer of 64 bits, a bigint beyond 2^53',
  ],
  bool: [(value) => typeof value === 'boolean', 'a boolean'],
  float: [(value) => typeof value === 'number', 'a number'],
  numeric: [matches(/^(-?\d+(\.\d+)?|NaN|-?Infinity)$/), 'decimal digits'],
  instant: [(value) => Number.isSafeInteger(value), 'an integer of microseconds'],
  date: [matches(/^(\d{4,}-\d\d-\d\d( BC)?|-?infinity)$/), 'a date as YYYY-MM-DD'],
  json: [(value) => value !== undefined, 'a JSON value'],
  array: [Array.isArray, 'an array'],
  bytes: [(value) => value instanceof Uint8Array, 'a Uint8Array'],
};

function checkValue({ name, type, nullable, limit }: Column, value: unknown): void {
  if (value === null && (nullable || type === 'json')) return;
  const [fits, called] = TYPES[type];
  if (!fits(value)) throw new WriteError(`${name} must be ${called}`, 'bad_value');
  if (typeof limit === 'object' && !limit.includes(value)) {
    throw new WriteError(`${name} must be one of ${limit.join(', ')}`, 'bad_value');
  }
  const json = type === 'json' || type === 'array';
  if (json) checkJson(name, value);
  else if (type === 'text') checkText(name, value as string);
  if (typeof limit !== 'number') return;
  const size =
    type === 'bytes' ? (value as Uint8Array).length : utf8Bytes(json ? JSON.stringify(value) : String(value));
  if (size > limit) {
    throw new WriteError(`${name} has ${size} bytes, and the server accepts ${limit}: shorten it`, 'too_long');
  }
}

function checkText(name: string, text: string): void {
  const bad = unstorable(text);
  if (bad !== null) {
    throw new WriteError(`${name} contains ${bad}, which the server cannot keep: leave it out`, 'bad_text');
  }
}

/** Every text within, and every name. */
function checkJson(name: string, value: unknown): void {
  JSON.stringify(value, (key, part: unknown) => {
    checkText(name, key);
    if (typeof part === 'string') checkText(name, part);
    return part;
  });
}
