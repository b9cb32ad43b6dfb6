/**
 * What a device has written and the server has not yet confirmed, in order and numbered (SPEC.md, section 8). Pure
 * decisions over entries: knows neither where they are kept nor when they are sent.
 */

import { check, NUMBER_END, WriteError, type Bounds, type Mutation, type Result } from './mutation.js';
import type { Codec, Limits } from './wire.js';
import { CODECS } from './wire.js';

/**
 * pending: no result yet · acked: durable on the server, the synced rows need not have it yet · rejected: will never be
 * applied, and waits in quarantine for a person.
 */
export type Standing = 'pending' | 'acked' | 'rejected';

/**
 * A mutation and how far it has come. `key` names it on this device for ever; `n` is its number for the server. `seq`
 * is where the feed has it (acked; null: in doubt since the database changed its history).
 */
export interface Entry {
  readonly key: number;
  readonly n: number;
  readonly mutation: Mutation;
  readonly state: Standing;
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

/** What to send: mutations with the numbers from `n` on; nil stands for one that outgrew the limits. */
export interface Push {
  readonly n: number;
  readonly mutations: readonly (Mutation | null)[];
}

/** What is to be stored, in one transaction. */
export interface Change {
  readonly put: readonly Entry[];
  readonly drop: readonly number[];
}

/** Bytes of a push at most, besides its mutations: its kind, its number, the head of its list. */
const ENVELOPE = 64;

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

const inDoubt = (entry: Entry): boolean => entry.state === 'acked' && entry.seq === null;

/** Whether a push is due; an empty one if all that is left to learn is whether the server has what it acknowledged. */
export const isDue = (entries: readonly Entry[]): boolean =>
  entries.some((entry) => entry.state === 'pending' || inDoubt(entry));

/**
 * What to send now; null if nothing is to be sent, or the limits permit none. `entries` begin with the lowest pending
 * one. A mutation that fits no frame any more, because the limits shrank, would hold up those behind it: nil stands in
 * its place, and the server consumes its number with a rejection, or says that it had applied it already.
 */
export function nextPush(head: Head, entries: readonly Entry[], limits: Limits, codec: Codec): Push | null {
  if (limits.mutations < 1 || !isDue(entries)) return null;
  const pending = entries.filter((entry) => entry.state === 'pending');
  const first = pending[0];
  if (first === undefined) return { n: head.nextN, mutations: [] };
  const mutations: (Mutation | null)[] = [];
  let room = limits.frameBytes - ENVELOPE;
  for (const entry of pending) {
    if (mutations.length === limits.mutations || entry.n !== first.n + mutations.length) break;
    const size = codec.size(entry.mutation);
    const fits = size + ENVELOPE <= limits.frameBytes;
    room -= fits ? size : 2;
    if (room < 0) break;
    mutations.push(fits ? entry.mutation : null);
  }
  return { n: first.n, mutations };
}

/**
 * The answer to `push`: one result for each mutation. What was in doubt is so no longer: its number is below one that
 * this history awaits, and the snapshot was read after that.
 */
export function acknowledge(
  entries: readonly Entry[],
  push: Push,
  results: readonly Result[],
  position: number | null,
): Change {
  const put: Entry[] = [];
  const drop = entries.filter(inDoubt).map((entry) => entry.key);
  const waiting = new Map(entries.flatMap((entry) => (entry.state === 'pending' ? [[entry.n, entry]] : [])));
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
export const reach = (entries: readonly Entry[], position: number): Change => ({
  put: [],
  drop: entries
    .filter((entry) => entry.state === 'acked' && entry.seq !== null && entry.seq <= position)
    .map((entry) => entry.key),
});

/** The server has another history than before, and may have lost what it had acknowledged. */
export const doubt = (entries: readonly Entry[]): Change => ({
  put: entries.filter((entry) => entry.state === 'acked').map((entry) => ({ ...entry, seq: null })),
  drop: [],
});

/**
 * After a gap: the database lost its tail. What it had acked from `expected` on, and we still hold, is sent again.
 * What it had rejected stays in quarantine.
 */
export function renumber(entries: readonly Entry[], expected: number): Change & { readonly nextN: number } {
  const put = entries
    .filter((entry) => entry.state === 'pending' || (entry.state === 'acked' && entry.n >= expected))
    .map((entry, i): Entry => ({ ...entry, n: expected + i, state: 'pending', seq: null }));
  return { put, drop: [], nextN: expected + put.length };
}

/** For a store that was restored from a backup, or copied: numbers start at 1 again, for another client_id. */
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
