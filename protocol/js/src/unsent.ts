/** What is on this device only, as plain JSON: for a person who helps when it cannot be sent. */

import { toBase64 } from './bytes.js';
import type { Entry } from './outbox.js';
import { keyOf, type Row } from './rows.js';
import type { Kinds } from './schema.js';
import type { Reading } from './store.js';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json };

/** One write that the server has not confirmed, or a row that never left the device. */
export interface Unsent {
  /** As in the outbox (acked: in doubt); local: a row that was made while the device worked alone. */
  readonly state: Entry['state'] | 'local';
  readonly kind: string;
  readonly id: Json;
  /** What is to be done: + insert, ~ update, - delete. */
  readonly op: '+' | '~' | '-';
  /** Microseconds by the server's clock, as far as that is known; null for a deletion. */
  readonly at: number | null;
  readonly columns: Json;
  /** The row as this device holds it; null if it does not. */
  readonly row: Json;
  /** The number for the server; 0: none. */
  readonly n: number;
  /** Why it was rejected. */
  readonly code: string | null;
  readonly message: string | null;
}

/** The entries that the server has not confirmed: the others are in its feed. */
export const unconfirmed = (entries: readonly Entry[]): readonly Entry[] =>
  entries.filter(({ state, seq }) => state !== 'acked' || seq === null);

export async function readUnsent(tx: Reading, kinds: Kinds): Promise<readonly Unsent[]> {
  const found: Unsent[] = [];
  for (const { n, state, mutation, code, message } of unconfirmed(await tx.entries())) {
    const kind = kinds.get(mutation.kind);
    const [row] = kind === undefined ? [] : await tx.get(kind, [keyOf(kind, mutation.id)]);
    const { op } = mutation;
    found.push({
      state,
      kind: mutation.kind,
      id: plain(mutation.id),
      op,
      at: op === '-' ? null : mutation.at,
      columns: op === '-' ? {} : plain(mutation.columns),
      row: row === undefined ? null : columnsOf(row),
      n,
      code,
      message,
    });
  }
  for (const kind of kinds.values()) {
    for (const row of await tx.local(kind)) {
      const at = kind.created === null ? null : (row[kind.created] as number | null);
      const of = { state: 'local', kind: kind.name, id: plain(row.id), op: '+', at } as const;
      found.push({ ...of, columns: columnsOf(row), row: null, n: 0, code: null, message: null });
    }
  }
  return found;
}

function columnsOf({ kind: _kind, seq: _seq, id: _id, ...columns }: Row): Json {
  return plain(columns);
}

/** As JSON has it: a large integer and a number that is none as a text, bytes as base64. */
export function plain(value: unknown): Json {
  if (typeof value === 'bigint' || (typeof value === 'number' && !Number.isFinite(value))) return String(value);
  if (value instanceof Uint8Array) return toBase64(value);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]));
  }
  return (value ?? null) as Json;
}
