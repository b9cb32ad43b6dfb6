/**
 * What a device has written and the server has not yet confirmed, in order and numbered (SPEC.md, section 8). Pure
 * decisions over entries: knows neither where they are kept nor when they are sent.
 */

import { check, NUMBER_END, WriteError, type Bounds, type Mutation, type Result } from './mutation.js';
import type { Codec } from './codec.js';
import type { Limits } from './frames.js';
import { CODECS } from './codec.js';

/**
 * pending: no result yet · acked: durable on the server, the synced rows need not have it yet · rejected: will never be
 * applied, and waits in quarantine for a person.
 */
export type EntryState = 'pending' | 'acked' | 'rejected';

/**
 * A mutation and how far it has come. `key` names it on this device for ever; `n` is its number for the server, 0 if it
 * has none for this client_id. `seq` is where the feed has it (acked; null: in distrustAcks, because an earlier connection was
 * told so, and the database of this one may be another).
 */
export interface Entry {
  readonly key: number;
  readonly n: number;
  readonly mutation: Mutation;
  readonly state: EntryState;
  readonly seq: number | null;
  readonly code: string | null;
  readonly message: string | null;
}

/** What an outbox keeps besides its entries. */
export interface Head {
  readonly nextKey: number;
  readonly nextN: number;
  readonly bounds: Bounds;
}

/**
 * What to send: mutations with the numbers from `n` on; nil stands for one that outgrew the limits, or is not held any
 * more. `held` is the lowest number of which the mutation is.
 */
export interface Push {
  readonly n: number;
  readonly mutations: readonly (Mutation | null)[];
  readonly held: number;
}

/** What is to be stored, in one transaction. */
export interface Change {
  readonly put: readonly Entry[];
  readonly drop: readonly number[];
}

/** Bytes of a push at most, besides its mutations: its kind, its numbers, the head of its list. */
const ENVELOPE = 80;
/** Bytes at most of an empty array in the place of a mutation, with what parts it from the next one. */
const NIL = 3;

/** A new entry, numbered for good. Throws WriteError for what no server would take. */
export function add(head: Head, mutation: Mutation): Entry {
  check(mutation, head.bounds);
  const size = Math.max(...Object.values(CODECS).map((codec) => codec.size(mutation)));
  if (size + ENVELOPE > head.bounds.frameBytes) {
    throw new WriteError(`it fits in no frame of ${head.bounds.frameBytes} bytes: shorten it`, 'too_long');
  }
  if (head.nextN > NUMBER_END) throw new WriteError('every number is given: start anew with another client_id');
  return { key: head.nextKey, n: head.nextN, mutation, state: 'pending', seq: null, code: null, message: null };
}

/** Whether the server has to say, on this connection, what becomes of it. */
const isDue = ({ state, seq }: Entry): boolean => state === 'pending' || (state === 'acked' && seq === null);

/**
 * What to send now; null if nothing is to be sent, or the limits permit none. `entries` are those acked, then those
 * pending, which is the order of their numbers. A mutation that fits no frame any more, because the limits shrank,
 * would hold up those behind it: nil stands in its place, and the server consumes its number with a rejection, or says
 * that it had applied it already.
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

/** The answer to `push`: one result for each mutation. Those of numbers whose mutation is not held mean nothing. */
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
        message: outgrown ? 'It is longer than the server takes now.' : result.message,
      });
    } else if (position !== null && result.seq <= position) {
      drop.push(entry.key);
    } else {
      put.push({ ...entry, state: 'acked', seq: result.seq });
    }
  });
  return { put, drop };
}

/** The synced rows stand at this position: what is acked up to there is settled, and goes. */
export const advance = (entries: readonly Entry[], position: number): Change => ({
  put: [],
  drop: entries
    .filter((entry) => entry.state === 'acked' && entry.seq !== null && entry.seq <= position)
    .map((entry) => entry.key),
});

/**
 * Another connection, and perhaps another database, which need not have what an earlier one acknowledged. What has no
 * number cannot be asked for: it goes with the position.
 */
export const distrustAcks = (acked: readonly Entry[]): Change => ({
  put: acked.map((entry) => ({ ...entry, seq: entry.n > 0 ? null : (entry.seq ?? 0) })),
  drop: [],
});

/**
 * After a gap, the answer to a push from `n` on: the database lost its tail, or it has other mutations under these
 * numbers. All that it does not have under them is sent again from `expected` on; what it had rejected stays in
 * quarantine.
 */
export function renumber(entries: readonly Entry[], n: number, expected: number): Change & { readonly nextN: number } {
  const least = expected < n ? expected : 1;
  const put = entries
    .filter((entry) => entry.state === 'pending' || (entry.state === 'acked' && entry.n >= least))
    .map((entry, i): Entry => ({ ...entry, n: expected + i, state: 'pending', seq: null }));
  return { put, drop: [], nextN: expected + put.length };
}

/**
 * For a store that was restored from a backup, or copied: numbers start at 1 again, for another client_id. What was
 * acknowledged gets none: under that client_id the server would not recognise it, and apply it once more.
 */
export function renew(entries: readonly Entry[]): Change & { readonly nextN: number } {
  let n = 0;
  const put = entries.map((entry): Entry => ({ ...entry, n: entry.state === 'pending' ? ++n : 0 }));
  return { put, drop: [], nextN: n + 1 };
}

/** A rejected mutation once more, corrected: with another text, at another time or under another id, as `code` asks. */
export function corrected(entry: Entry, text: string | undefined, now: number, id: string): Mutation {
  const { mutation } = entry;
  const changed: Record<string, unknown> = { ...mutation };
  if ('at' in mutation && entry.code === 'bad_time') changed['at'] = now;
  if (mutation.kind.startsWith('+') && entry.code === 'bad_id') changed['id'] = id;
  if (text !== undefined && 'title' in mutation) changed['title'] = text;
  if (text !== undefined && 'content' in mutation) changed['content'] = text;
  return changed as unknown as Mutation;
}
