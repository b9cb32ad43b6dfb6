/** Finds the rows that the feed brought between two states of a list. Pure. */

import type { Certainty } from 'atlas-sync';

export interface Watched {
  readonly id: string;
  readonly seq: number;
  readonly state: Certainty;
  readonly createdAt: number;
  readonly updatedAt: number;
}

export interface Arrivals {
  /** Ids of rows that others made or changed. */
  readonly news: readonly string[];
  /** How many of them are new. */
  readonly added: number;
  /** The seqs of all rows that came by the feed, including this device's confirmed ones. */
  readonly seqs: readonly number[];
}

const NONE: Arrivals = { news: [], added: 0, seqs: [] };

/** `isHistory`: whether a row came by a page. Such rows do not count. */
export function arrivals(before: readonly Watched[], now: readonly Watched[], isHistory: (row: Watched) => boolean): Arrivals {
  if (before === now) return NONE;
  const known = new Map(before.map((row) => [row.id, row]));
  const news: string[] = [];
  const seqs: number[] = [];
  let added = 0;
  for (const row of now) {
    if (row.state !== 'synced') continue;
    const old = known.get(row.id);
    if (old === undefined) {
      if (isHistory(row)) continue;
      news.push(row.id);
      added += 1;
    } else if (old.state !== 'synced') {
      if (row.seq > old.seq) seqs.push(row.seq);
      continue;
    } else if (row.seq > old.seq && row.updatedAt !== old.updatedAt) {
      news.push(row.id);
    } else {
      continue;
    }
    seqs.push(row.seq);
  }
  return { news, added, seqs };
}
