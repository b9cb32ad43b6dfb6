/**
 * Which part of a history the device holds without a hole (SPEC.md, 7.3, 7.6, 7.7): from a floor up to now, because the
 * feed brings every new row. Paging moves the floor down. Pure.
 */

import type { Window } from './frames.js';
import { compare, placeOf, type Conversation, type Message, type Place, type Uuid } from './rows.js';

/** No row is missing from this place on; `start`: none is missing at all; undefined: nothing is known. */
export type Floor = Place | 'start';

/** Whether no row is missing from this place up to now. */
export const covers = (floor: Floor | undefined, place: Place): boolean =>
  floor === 'start' || (floor !== undefined && compare(floor, place) <= 0);

const lower = (a: Floor | undefined, b: Floor): Floor =>
  a === undefined ? b : a === 'start' || b === 'start' ? 'start' : compare(a, b) <= 0 ? a : b;

const lowest = (rows: readonly (Conversation | Message)[]): Place | undefined =>
  rows
    .map(placeOf)
    .reduce<Place | undefined>((least, at) => (!least || compare(at, least) < 0 ? at : least), undefined);

/** A snapshot holds the newest rows, as many as the window says. Fewer than that are all there are. */
export function afterSnapshot(
  conversations: readonly Conversation[],
  messages: readonly Message[],
  window: Window,
): { readonly list: Floor | undefined; readonly floors: ReadonlyMap<Uuid, Floor> } {
  const byHome = new Map<Uuid, Message[]>(conversations.map((conversation) => [conversation.id, []]));
  for (const message of messages) byHome.get(message.conversationId)?.push(message);
  const floors = new Map<Uuid, Floor>();
  for (const [id, held] of byHome) {
    const floor = held.length < window.messages ? 'start' : lowest(held);
    if (floor !== undefined) floors.set(id, floor);
  }
  return { list: conversations.length < window.conversations ? 'start' : lowest(conversations), floors };
}

/** A page asked for with `before` (null: the newest) moves the floor only if no row is missing from `before` on. */
export function afterPage(
  floor: Floor | undefined,
  before: Place | null,
  last: Place | undefined,
  more: boolean,
): Floor | undefined {
  if (before !== null && !covers(floor, before)) return floor;
  const end = more ? (last ?? before) : 'start';
  return end === null ? floor : lower(floor, end);
}

/**
 * Whether a conversation that the feed brought, and that was not held, was made after the snapshot. Then the feed
 * brought all of its messages, too. A conversation that existed before would be above the list's floor, and be held.
 */
export const isNew = (list: Floor | undefined, conversation: Conversation): boolean =>
  list === 'start' || (list !== undefined && conversation.createdAt > list[0]);
