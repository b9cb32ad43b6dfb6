/** The rows of streams, read from a store. */

import type { Uuid } from './rows.js';
import type { Kinds } from './schema.js';
import type { Reading } from './store.js';
import { streamRow, type HeldStream, type StreamRow } from './streams.js';

/** Of each stream, by its id; null: this device does not hold it. */
export async function streamRows(
  tx: Reading,
  kinds: Kinds,
  streams: Iterable<HeldStream>,
): Promise<ReadonlyMap<Uuid, StreamRow | null>> {
  const found = new Map<Uuid, StreamRow | null>();
  for (const { stream, kind: name, key, column, over } of streams) {
    const kind = kinds.get(name);
    if (kind === undefined || over) continue;
    const [row] = await tx.get(kind, [key]);
    found.set(stream, row === undefined ? null : streamRow(kind, column, row));
  }
  return found;
}
