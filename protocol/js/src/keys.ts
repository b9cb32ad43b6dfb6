/**
 * The keys of mutations, each computed once: every query looks at all that wait, and with 5,000 of them computing keys
 * took most of its time.
 */

import type { Insert, Mutation } from './mutation.js';
import { homeKey, keyOf, orderOfRow, rowFrom } from './rows.js';
import type { Id, Kind } from './schema.js';

/** Of a function of a kind and a mutation of it, the values so far. */
function once<M extends Mutation>(compute: (kind: Kind, mutation: M) => string): (kind: Kind, mutation: M) => string {
  const kinds = new WeakMap<Kind, WeakMap<M, string>>();
  return (kind, mutation) => {
    let values = kinds.get(kind);
    if (values === undefined) kinds.set(kind, (values = new WeakMap()));
    let value = values.get(mutation);
    if (value === undefined) values.set(mutation, (value = compute(kind, mutation)));
    return value;
  };
}

export const keyOfMutation = once((kind: Kind, { id }: Mutation) => keyOf(kind, id));

/** The home of the row that an insert makes. */
export const homeOfInsert = once((kind: Kind, { columns }: Insert) =>
  homeKey(kind, kind.home === null ? null : ((columns[kind.home] ?? null) as Id | null)),
);

/** The order of that row, as far as the device knows. */
export const orderOfInsert = once((kind: Kind, mutation: Insert) => orderOfRow(kind, rowFrom(kind, mutation, 0, null)));
