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
  const { state, reason, retryAt } = status;
  const plain: Condition = { state, word: WORDS[state], why: null, retryAt: null, canConnect: false };
  if (state === 'local' || reason?.code === 'local_only') return { ...plain, state: 'local', word: WORDS.local, why: FREE };
  if (!networkOn) return { ...plain, state: 'offline', word: WORDS.offline };
  if (reason === null || (state !== 'offline' && state !== 'connecting')) return plain;
  return { ...plain, word: state === 'offline' ? 'No server' : WORDS[state], why: why(reason), retryAt, canConnect: true };
}

/** Codes of a server that is away; what to check is for those who run it, and this page is served by it. */
const AWAY = /^(unreachable|cut|closed|going_away|internal|http_5\d\d)$/;

function why({ code, message }: NonNullable<Status['reason']>): string {
  if (AWAY.test(code)) return 'Server unreachable';
  if (code === 'no_network') return 'This computer has no network';
  return message.charAt(0).toUpperCase() + message.slice(1);
}
