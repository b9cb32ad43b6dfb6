/**
 * Which part of a history the device holds without a hole (SPEC.md, 7.3, 7.6, 7.7): from a floor up to now, because the
 * feed brings every new row. Paging moves the floor down. Pure.
 */

import { homeOf, keyOf, orderOf, placeOf, type Place, type Row } from './rows.js';
import type { Kind, Kinds } from './schema.js';

/** No row is missing from this place on; `start`: none is missing at all; undefined: nothing is known. */
export type Floor = Place | 'start';

/** Whether no row is missing from this place up to now. */
export const covers = (kind: Kind, floor: Floor | undefined, place: Place): boolean =>
  floor === 'start' || (floor !== undefined && orderOf(kind, floor) <= orderOf(kind, place));

function lowest(kind: Kind, rows: readonly Row[]): Place | undefined {
  const places = rows.map((row) => placeOf(kind, row));
  return places.reduce<Place | undefined>((least, at) => (least && covers(kind, least, at) ? least : at), undefined);
}

/** The floor of one history. */
export type HomeFloor = readonly [kind: Kind, home: string, floor: Floor];

/**
 * A snapshot has the newest rows of each history, as many as `window` says. Fewer than that are all there are. `rows`: all
 * that came, also two with one key: a row that moved while the parts were read counts in both histories.
 */
export function afterSnapshot(
  kinds: Kinds,
  rows: ReadonlyMap<Kind, readonly Row[]>,
  window: (kind: Kind) => number,
): HomeFloor[] {
  return [...kinds.values()].flatMap((kind) => {
    const { parent } = kind;
    const homes = parent === null ? [''] : (rows.get(parent) ?? []).map((row) => keyOf(parent, row.id));
    const held = new Map<string, Row[]>(homes.map((home) => [home, []]));
    for (const row of rows.get(kind) ?? []) held.get(homeOf(kind, row))?.push(row);
    return [...held].flatMap(([home, some]): HomeFloor[] => {
      const floor = some.length < window(kind) ? 'start' : lowest(kind, some);
      return floor === undefined ? [] : [[kind, home, floor]];
    });
  });
}

/** A page asked for with `before` (null: the newest) moves the floor only if no row is missing from `before` on. */
export function afterPage(
  kind: Kind,
  floor: Floor | undefined,
  before: Place | null,
  last: Place | undefined,
  more: boolean,
): Floor | undefined {
  if (before !== null && !covers(kind, floor, before)) return floor;
  const end = more ? (last ?? before) : 'start';
  if (floor === 'start' || end === 'start') return 'start';
  if (end === null) return floor;
  // Rows beyond what an instant can hold (SPEC.md, 2.4) have the same one here, and the server's order is another.
  if (before !== null && floor !== undefined && orderOf(kind, before) === orderOf(kind, floor)) return end;
  return covers(kind, floor, end) ? floor : end;
}

/**
 * Whether a row that the feed brought, and that was not held, was made after the snapshot. Then the feed brought all
 * rows below it, too. A row that existed before would be above the floor of its history, and be held.
 */
export function isNew({ newest, created, updated }: Kind, floor: Floor | undefined, row: Row): boolean {
  if (floor === 'start' || floor === undefined) return floor === 'start';
  if (created === null || (newest?.name !== created && newest?.name !== updated)) return false;
  return floor[0] !== null && (row[created] as number) > (floor[0] as number);
}
