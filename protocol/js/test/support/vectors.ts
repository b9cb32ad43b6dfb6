/** The golden cases, and how the JSON of rows and mutations becomes values: SPEC 2.4, 5 and 8.3, implemented by the tests. */

import { readFileSync } from 'node:fs';

import type { Mutation } from '../../src/mutation.js';
import type { Arrival } from '../../src/rows.js';
import { camel, compile, type Id, type Kind, type Kinds, type Schema } from '../../src/schema.js';

export const file = (name: string): unknown =>
  JSON.parse(readFileSync(new URL(`../../../vectors/${name}.json`, import.meta.url), 'utf8'));

export const schemas = file('schemas') as readonly (Schema & { readonly name: string })[];
export const kindsBy = new Map(schemas.map((schema) => [schema.name, compile(schema)]));

/** A value of the JSON encoding as it is here: SPEC 2.4, implemented by the test. */
export function value(type: string | undefined, carried: unknown): unknown {
  if (carried === null) return null;
  switch (type) {
    case 'bigint':
      return typeof carried === 'string' ? BigInt(carried) : carried;
    case 'float':
      return Number(carried);
    case 'json':
    case 'array':
      return JSON.parse(carried as string);
    case 'bytes':
      return Uint8Array.from(Buffer.from(carried as string, 'base64'));
    default:
      return carried;
  }
}

export const keyOf = ({ key }: Kind, carried: unknown): Id =>
  key.length === 1
    ? (value(key[0], carried) as Id)
    : ((carried as unknown[]).map((part, i) => value(key[i], part)) as unknown as Id);
export const kindOf = (kinds: Kinds, tag: unknown): Kind | undefined => [...kinds.values()].find((kind) => kind.tag === tag);
export const rowBy =
  (kinds: Kinds) =>
  ([tag, seq, id, ...values]: readonly unknown[]): Arrival | [] => {
    const deleted = String(tag).startsWith('-');
    const kind = kindOf(kinds, deleted ? String(tag).slice(1) : tag);
    if (kind === undefined) return [];
    const head = { seq: seq as number, id: keyOf(kind, id) };
    if (deleted) return { kind: `-${kind.name}`, ...head };
    const columns = [...kind.columns.values()].map(({ name, type }, i) => [name, value(type, values[i])]);
    return { kind: kind.name, ...head, ...Object.fromEntries(columns) };
  };

export const mutationBy =
  (kinds: Kinds) =>
  ([op, tag, target, columns, at]: readonly unknown[]): Mutation => {
    const kind = kindOf(kinds, tag) as Kind;
    const dated = op !== '+' && kind.dated !== null;
    const [key, instant] = dated ? (target as [unknown, number]) : [target, undefined];
    const base = { kind: kind.name, id: keyOf(kind, key), ...(instant !== undefined && { dated: instant }) };
    if (op === '-') return { op, ...base };
    const given = Object.entries(columns as Record<string, unknown>).map(([wire, carried]) => {
      const name = camel(wire);
      return [name, value(kind.columns.get(name)?.type, carried)];
    });
    return { op: op as '+', ...base, columns: Object.fromEntries(given), at: at as number };
  };
