/**
 * The outbox: mutations that the server has not confirmed yet, numbered in order (SPEC.md, section 8). Pure functions
 * over entries. Where entries are kept and when they are sent is decided elsewhere.
 */

import type { Codec } from './codec.js';
import { codecsFor } from './codec.js';
import type { Limits } from './frames.js';
import { check, NUMBER_END, WriteError, type Bounds, type Columns, type Mutation, type Result } from './mutation.js';
import type { Id, Kinds } from './schema.js';

/**
 * pending: there is no result yet · acked: durable on the server, but perhaps not in the synced rows yet · rejected:
 * will never be applied, and waits in quarantine for a decision of the user.
 */
export type EntryState = 'pending' | 'acked' | 'rejected';

/** A mutation and its state. */
export interface Entry {
  /** Identifies the entry on this device; never given twice. */
  readonly key: number;
  /** Its number for the server; 0 if it has none under this client_id. */
  readonly n: number;
  readonly mutation: Mutation;
  readonly state: EntryState;
  /**
   * Of an acked entry: the position at which the feed contains it. null: in doubt, because the acknowledgement came on
   * an earlier connection, and the database of this one may be another.
   */
  readonly seq: number | null;
  /** Why it was rejected: a code of SPEC.md, 8.4, and a sentence to show. */
  readonly code: string | null;
  readonly message: string | null;
}

/** The state of an outbox besides its entries. */
export interface Head {
  readonly nextKey: number;
  readonly nextN: number;
  readonly bounds: Bounds;
}

/**
 * What to send: mutations with the numbers from `n` on. null stands for a mutation that exceeds the limits now, or is
 * not held any more. `held` is the lowest number whose mutation is held.
 */
export interface Push {
  readonly n: number;
  readonly mutations: readonly (Mutation | null)[];
  readonly held: number;
}

/** A change of the outbox, for one transaction: entries to store, and keys of entries to delete. */
export interface Change {
  readonly put: readonly Entry[];
  readonly drop: readonly number[];
}

/** Bytes of a push besides its mutations, at most: its kind, its numbers, the head of its list. */
const ENVELOPE = 80;
/** Bytes of an empty array in the place of a mutation, with its separator, at most. */
const NIL = 3;

/** A new entry with the next number. Throws WriteError for a mutation that every server would reject. */
export function add(head: Head, kinds: Kinds, mutation: Mutation): Entry {
  check(kinds, mutation);
  const size = Math.max(...Object.values(codecsFor(kinds)).map((codec) => codec.size(mutation)));
  if (size + ENVELOPE > head.bounds.frameBytes) {
    throw new WriteError(`it fits in no frame of ${head.bounds.frameBytes} bytes: shorten it`, 'too_long');
  }
  if (head.nextN > NUMBER_END) throw new WriteError('this client_id has no numbers left: call renew()');
  return { key: head.nextKey, n: head.nextN, mutation, state: 'pending', seq: null, code: null, message: null };
}

/** Whether the entry still needs a result on this connection. */
const isDue = ({ state, seq }: Entry): boolean => state === 'pending' || (state === 'acked' && seq === null);

/**
 * The next push; null if none is due, or the limits permit none. `entries` are the acked ones, then the pending ones,
 * which is the order of their numbers. If the limits shrank, a mutation may fit no frame any more, and would hold up
 * those behind it. null stands in its place: the server consumes its number with a rejection, or answers that it had
 * applied it already.
 */
export function nextPush(entries: readonly Entry[], limits: Limits, codec: Codec): Push | null {
  const due = entries.filter(isDue);
  const n = due[0]?.n;
  if (n === undefined || limits.mutations < 1) return null;
  const mutations: (Mutation | null)[] = [];
  let room = limits.frameBytes - ENVELOPE;
  for (const entry of due) {
    const at = entry.n - n;
    const size = codec.size(entry.mutation);
    const fits = size + ENVELOPE <= limits.frameBytes;
    room -= NIL * (at - mutations.length) + (fits ? size : NIL);
    if (room < 0 || at >= limits.mutations) break;
    while (mutations.length < at) mutations.push(null);
    mutations.push(fits ? entry.mutation : null);
  }
  return { n, mutations, held: entries.find((entry) => entry.n > 0)?.n ?? n };
}

/** Applies the results of `push`, one for each mutation. Results of mutations that are not held are ignored. */
export function acknowledge(
  entries: readonly Entry[],
  push: Push,
  results: readonly Result[],
  position: number | null,
): Change {
  const put: Entry[] = [];
  const drop: number[] = [];
  const waiting = new Map(entries.filter(isDue).map((entry) => [entry.n, entry]));
  results.forEach((result, i) => {
    const entry = waiting.get(result.n);
    if (entry === undefined) return;
    if (result.kind === 'rejected') {
      const outgrown = push.mutations[i] === null;
      put.push({
        ...entry,
        state: 'rejected',
        code: outgrown ? 'too_long' : result.code,
        message: outgrown ? 'It is longer than the server accepts now.' : result.message,
      });
    } else if (position !== null && result.seq <= position) {
      drop.push(entry.key);
    } else {
      put.push({ ...entry, state: 'acked', seq: result.seq });
    }
  });
  return { put, drop };
}

/** The synced rows have reached this position: entries that were acked up to it are done, and are deleted. */
export const advance = (entries: readonly Entry[], position: number): Change => ({
  put: [],
  drop: entries
    .filter((entry) => entry.state === 'acked' && entry.seq !== null && entry.seq <= position)
    .map((entry) => entry.key),
});

/**
 * For a new connection: its database may be another one, and lack what an earlier one acknowledged. Acked entries are
 * in doubt until they get a result again. Entries without a number cannot be pushed again: they keep their seq.
 */
export const distrustAcks = (acked: readonly Entry[]): Change => ({
  put: acked.map((entry) => ({ ...entry, seq: entry.n > 0 ? null : (entry.seq ?? 0) })),
  drop: [],
});

/**
 * After a gap, which answered a push from `n` on (8.5): the database lost its tail, or it has other mutations under
 * these numbers. Entries that it does not have get new numbers from `expected` on. Rejected ones stay in quarantine.
 */
export function renumber(entries: readonly Entry[], n: number, expected: number): Change & { readonly nextN: number } {
  const least = expected < n ? expected : 1;
  const put = entries
    .filter((entry) => entry.state === 'pending' || (entry.state === 'acked' && entry.n >= least))
    .map((entry, i): Entry => ({ ...entry, n: expected + i, state: 'pending', seq: null }));
  return { put, drop: [], nextN: expected + put.length };
}

/**
 * For a store that was restored from a backup, or copied: numbers start at 1 again, under another client_id. Acked
 * entries get no number: under that client_id the server would not recognise them, and apply them a second time.
 */
export function renew(entries: readonly Entry[]): Change & { readonly nextN: number } {
  let n = 0;
  const put = entries.map((entry): Entry => ({ ...entry, n: entry.state === 'pending' ? ++n : 0 }));
  return { put, drop: [], nextN: n + 1 };
}

/** The rejected mutation for a retry: with other columns, if given, and with another time or id if `code` asks for one. */
export function corrected({ mutation, code }: Entry, columns: Columns, now: number, id: Id): Mutation {
  if (mutation.op === '-') return mutation;
  const changed = {
    ...mutation,
    columns: { ...mutation.columns, ...columns },
    ...(code === 'bad_time' ? { at: now } : {}),
  };
  return mutation.op === '+' && code === 'bad_id' ? { ...changed, id } : changed;
}
