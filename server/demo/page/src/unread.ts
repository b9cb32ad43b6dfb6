/** Which conversations have changes that this device has not shown. What was shown is remembered over reloads. */

import { useEffect, useMemo, useState } from 'preact/hooks';

import type { ShownConversation } from 'atlas-sync';
import type { Device } from './device.js';
import { onRemembered, recall, remember } from './memory.js';

/** Instants in microseconds. */
export interface Seen {
  /** Changes until then count as seen: what the first synchronisation brought. */
  readonly since: number;
  /** The last change that was shown, of conversations that changed later. */
  readonly shown: Readonly<Record<string, number>>;
}

/** More than these are not remembered: of the oldest ones, changes until then count as seen. */
const REMEMBERED = 300;

const isSeen = (value: unknown): value is Seen => {
  const { since, shown } = Object(value) as Partial<Seen>;
  return typeof since === 'number' && typeof shown === 'object' && shown !== null;
};

/** After this change of this conversation was shown. */
export function afterShowing({ since, shown }: Seen, id: string, changedAt: number): Seen {
  const known = Object.entries({ ...shown, [id]: changedAt }).filter(([, at]) => at > since);
  const [left, right] = [known.sort(([, one], [, other]) => other - one).slice(0, REMEMBERED), known[REMEMBERED]];
  return { since: Math.max(since, right?.[1] ?? since), shown: Object.fromEntries(left) };
}

export const isUnread = ({ since, shown }: Seen, id: string, changedAt: number): boolean =>
  changedAt > Math.max(since, shown[id] ?? since);

/** `chosen`: the conversation that is shown. `lastLive`: when the device last held everything; null: never. */
export function useUnread(
  device: Device,
  rows: readonly ShownConversation[] | undefined,
  chosen: string | null,
  lastLive: number | null,
): ReadonlySet<string> {
  const name = `${device.name}.seen`;
  const [seen, setSeen] = useState(() => recall(name, isSeen));
  useEffect(() => onRemembered(name, () => setSeen(recall(name, isSeen))), [name]);
  const keep = (next: Seen): void => {
    remember(name, next);
    setSeen(next);
  };
  useEffect(() => {
    if (rows === undefined) return;
    if (seen === null) {
      if (lastLive !== null) keep({ since: Math.max(lastLive, ...rows.map((row) => row.updatedAt)), shown: {} });
      return;
    }
    const row = rows.find(({ id }) => id === chosen);
    if (row !== undefined && isUnread(seen, row.id, row.updatedAt)) keep(afterShowing(seen, row.id, row.updatedAt));
  }, [rows, chosen, seen, lastLive]);
  return useMemo(() => {
    if (seen === null || rows === undefined) return new Set();
    const news = rows.filter((row) => row.id !== chosen && row.state === 'synced' && isUnread(seen, row.id, row.updatedAt));
    return new Set(news.map(({ id }) => id));
  }, [rows, chosen, seen]);
}
