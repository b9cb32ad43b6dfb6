/**
 * Removes old synced rows from a device whose storage runs low, with the rows below them. Paging brings them back. Rows
 * with unsent work stay.
 */

import type { Clock } from './clock.js';
import { keysAbout } from './entries.js';
import { covers } from './holes.js';
import { homeOf, keyOf, LOCAL, orderOf, orderOfRow, type Place, type Row } from './rows.js';
import type { Id, KeyType, Kind, Kinds } from './schema.js';
import type { Reading, Transactions, Writing } from './store.js';

export interface Estimate {
  readonly usage?: number;
  readonly quota?: number;
}

/** Storage runs low above this fraction of the quota. */
const LOW = 0.8;
/** What was not changed for so long may be removed: half a year, in microseconds. */
export const UNTOUCHED = 183 * 86_400_000_000;
/** Rows without parent in one transaction. */
const AT_ONCE = 100;
/** Milliseconds. */
const CLEAN_EVERY = 3_600_000;

const runsLow = ({ usage, quota }: Estimate): boolean =>
  usage !== undefined && quota !== undefined && quota > 0 && usage / quota > LOW;

const LEAST = {
  uuid: '00000000-0000-0000-0000-000000000000',
  text: '',
  int: -(2 ** 31),
  bigint: -(2n ** 63n),
  instant: -(2 ** 53),
};

/** The least id: a place with it comes before all others of its instant. */
function leastId({ key: [one, two] }: Kind): Id {
  const least = LEAST[one as KeyType];
  return two === undefined ? least : [least, LEAST[two]];
}

/** Whether rows of this kind can be removed, and paging brings them back. */
const isPaged = ({ parent, newest, window }: Kind): boolean =>
  parent === null && newest?.type === 'instant' && window !== undefined;

/** Removes some of the rows of a kind that are older than `cutoff`. Returns how many; 0: none is left. */
async function cleanSome(tx: Writing, kind: Kind, cutoff: Place): Promise<number> {
  const [list] = await tx.floors(kind, ['']);
  if ((await tx.meta()).local || list === undefined) return 0;
  // Rows with entries (unsent, acknowledged but not in the feed yet, or rejected), or with local rows below them.
  const keep = await keysAbout(tx, kind, await tx.entries());
  for (const key of await homesOfLocal(tx, kind)) keep.add(key);
  const going: Row[] = [];
  for (let before = orderOf(kind, cutoff); going.length < AT_ONCE;) {
    const rows = await tx.newest(kind, '', before, AT_ONCE);
    const last = rows.at(-1);
    if (last === undefined) break;
    before = orderOfRow(kind, last);
    going.push(...rows.filter((row) => row.seq !== LOCAL && !keep.has(keyOf(kind, row.id))));
  }
  for (const row of going) await remove(tx, kind, row);
  if (going.length > 0 && covers(kind, list, cutoff)) await tx.putFloors(kind, [['', cutoff]]);
  return going.length;
}

/** With the rows below it. */
async function remove(tx: Writing, kind: Kind, row: Row): Promise<void> {
  const key = keyOf(kind, row.id);
  for (const child of kind.children) {
    for (const below of await tx.of(child, key)) await remove(tx, child, below);
    await tx.dropFloors(child, [key]);
    for (const lower of child.children) await dropAll(tx, lower, await tx.under(lower, key));
  }
  await tx.drop(kind, [key]);
}

/** Rows whose parents are not held. Their histories are not complete any more. */
async function dropAll(tx: Writing, kind: Kind, rows: readonly Row[]): Promise<void> {
  await tx.dropFloors(
    kind,
    rows.map((row) => homeOf(kind, row)),
  );
  await tx.drop(
    kind,
    rows.map((row) => keyOf(kind, row.id)),
  );
}

/** The keys of this kind's rows that have local rows below them. */
async function homesOfLocal(tx: Reading, kind: Kind): Promise<Set<string>> {
  const keys = new Set<string>();
  for (const child of kind.children) {
    const below = [...(await homesOfLocal(tx, child))];
    const rows = [...(await tx.local(child)), ...(await tx.get(child, below))];
    for (const row of rows) if (row) keys.add(homeOf(child, row));
  }
  return keys;
}

export interface CleanerOptions {
  readonly kinds: Kinds;
  readonly store: Transactions;
  readonly clock: Clock;
  readonly estimate: () => Promise<Estimate>;
  /** Whether this tab may clean. Rejects if the store cannot be used. */
  readonly permitted: () => Promise<boolean>;
  readonly onCleaned: () => void;
  readonly onError: (error: unknown) => void;
}

/** Cleans when storage runs low: at the start, every hour, and when a write found no room. */
export class Cleaner {
  private cleaning = false;
  private cancel: (() => void) | null = null;

  constructor(private readonly options: CleanerOptions) {}

  start(): void {
    this.cancel = this.options.clock.after(CLEAN_EVERY, () => {
      void this.clean(false).finally(() => this.cancel && this.start());
    });
  }

  stop(): void {
    this.cancel?.();
    this.cancel = null;
  }

  /** Returns how many rows without parent were removed. `full`: storage is known to be full. */
  async clean(full: boolean): Promise<number> {
    if (this.cleaning) return 0;
    this.cleaning = true; // deletions need room, too: where the disk is full, they must not start another cleaning
    const { kinds, store, clock, estimate, permitted, onCleaned, onError } = this.options;
    let count = 0;
    try {
      if (!(await permitted()) || !(full || runsLow(await estimate()))) return 0;
      for (const kind of kinds.values()) {
        if (!isPaged(kind)) continue;
        const cutoff: Place = [clock.now() * 1000 - UNTOUCHED, leastId(kind)];
        for (let some = 1; some > 0; count += some) {
          some = await store.write((tx) => cleanSome(tx, kind, cutoff), 'relaxed');
        }
      }
    } catch (error) {
      onError(error);
    } finally {
      this.cleaning = false;
    }
    if (count > 0) onCleaned();
    return count;
  }
}
