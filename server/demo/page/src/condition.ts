/** What a device's status means to a person: one word, and where something is wrong a sentence with what comes next. Pure. */

import type { Status } from 'atlas-sync';

export interface Condition {
  /** For the dot's colour. */
  readonly state: Status['state'];
  readonly word: string;
  /** Why there is no connection; null where the word says everything. */
  readonly why: string | null;
  /** When the next attempt is, in milliseconds since 1970; null if none is planned. */
  readonly retryAt: number | null;
  /** Whether connecting now could help. */
  readonly canConnect: boolean;
}

const WORDS: Record<Status['state'], string> = {
  offline: 'Offline',
  connecting: 'Connecting',
  'catching_up': 'Catching up',
  live: 'Live',
  local: 'This device only',
  destroyed: 'Deleted',
};

export const FREE = 'This person is on the free plan: what is written here stays on this device. Syncing begins with a paid plan.';

/** `networkOn`: the device's switch. */
export function condition(status: Status, networkOn: boolean): Condition {
  const { state, error } = status;
  const plain: Condition = { state, word: WORDS[state], why: null, retryAt: null, canConnect: false };
  if (error?.code === 'local_only' || (state === 'local' && networkOn)) {
    return { ...plain, state: 'local', word: WORDS.local, why: FREE };
  }
  if (state !== 'offline' || !networkOn) return plain;
  return { ...plain, word: 'Unreachable', why: 'Server unreachable', canConnect: true };
}
