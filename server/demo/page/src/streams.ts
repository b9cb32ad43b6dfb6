/** Messages that are being written: the library shows the text so far in their rows. */

import { useMemo } from 'preact/hooks';

import type { ShownMessage } from 'atlas-sync';
import type { DemoSync } from './device.js';
import { useQuery } from './hooks.js';

/** The newest message whose text is growing, of rows of which the oldest is the first; null if there is none. */
export function newestGrowing(rows: readonly ShownMessage[]): string | null {
  for (let at = rows.length - 1; at >= 0; at -= 1) if (rows[at]!.streaming === true) return rows[at]!.id;
  return null;
}

/** The conversations in which a message is being written. */
export function useWriting(sync: DemoSync): ReadonlySet<unknown> {
  const open = useQuery(useMemo(() => sync.streams(), [sync]));
  return useMemo(() => new Set(open?.map(({ parent }) => parent)), [open]);
}
