/** What an app shows on a status line. Pure, but for the reading of a store. */

import type { ConnectionState } from './connection.js';
import type { Reason } from './reason.js';
import type { Instant } from './rows.js';
import { Destroyed, type Reading } from './store.js';

/** The state of the connection, which is the same in all tabs. */
export interface ConnectionStatus {
  readonly state: ConnectionState;
  /** Why there is no connection, or will be none soon, and what to do. null: nothing is wrong, or nothing was tried. */
  readonly reason: Reason | null;
  /** When the next attempt begins, in milliseconds by the device's clock; null: none is due, or one is under way. */
  readonly retryAt: number | null;
}

export const DISCONNECTED: ConnectionStatus = { state: 'offline', reason: null, retryAt: null };

export interface Status {
  /**
   * local: this user's work stays on the device · destroyed: this Sync is of no more use, because the store was deleted,
   * or a tab with another version of the app stored its rows by another schema · else the state of the connection.
   */
  readonly state: ConnectionState | 'local' | 'destroyed';
  /** How many mutations wait for an answer of the server. */
  readonly pending: number;
  /** How many mutations the server rejected; they are in the quarantine. */
  readonly rejected: number;
  /** When the device last held everything, in microseconds. */
  readonly lastLive: Instant | null;
  /** How many of the mutations of an upgrade are done; null when there is no upgrade. */
  readonly progress: { readonly done: number; readonly total: number } | null;
  /** As the last connection began; null if it is not known, or the server has no tiers. */
  readonly tier: string | null;
  readonly reason: ConnectionStatus['reason'];
  readonly retryAt: ConnectionStatus['retryAt'];
}

/** Before the store was read. */
export const UNKNOWN: Status = {
  ...DISCONNECTED,
  pending: 0,
  rejected: 0,
  lastLive: null,
  progress: null,
  tier: null,
};
const GONE = { code: 'destroyed', message: new Destroyed().message };
export const DESTROYED: Status = { ...UNKNOWN, state: 'destroyed', reason: GONE };

export const isConnected = (state: ConnectionState): boolean => state === 'catching_up' || state === 'live';

export async function readStatus(tx: Reading, { state, reason, retryAt }: ConnectionStatus): Promise<Status> {
  const { local, lastLive, merging, tier } = await tx.meta();
  const { pending, rejected } = await tx.counts();
  return {
    state: local && state === 'offline' ? 'local' : state,
    pending,
    rejected,
    lastLive,
    progress: merging === 0 ? null : { done: Math.max(0, merging - pending), total: merging },
    tier,
    reason,
    retryAt,
  };
}
