/** Messages that are being written: what the library shows in a row while its answer grows. */

import type { ShownMessage } from 'atlas-sync';
import type { DemoSync } from './device.js';

/** Whether its text is still growing, as far as this device knows. */
export const isGrowing = (row: ShownMessage): boolean => (row as { readonly streaming?: boolean }).streaming === true;

/** The newest of them, of rows of which the oldest is the first. */
export function newestGrowing(rows: readonly ShownMessage[]): string | null {
  for (let at = rows.length - 1; at >= 0; at -= 1) if (isGrowing(rows[at]!)) return rows[at]!.id;
  return null;
}

/** Tells whoever writes it to stop: now, or with the next connection. What is written stays. */
export async function stopWriting(sync: DemoSync, message: string): Promise<void> {
  await (sync as unknown as { stop(kind: string, id: string): Promise<boolean> }).stop('message', message);
}
