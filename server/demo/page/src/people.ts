/** The users that the server offers, and the address of its sync endpoint. Kept for the time when it is away. */

import { recall, remember } from './memory.js';

export interface Person {
  readonly id: string;
  readonly name: string;
  readonly tier: string;
  readonly token: string;
}

export interface People {
  readonly url: string;
  readonly users: readonly Person[];
  /** Whether there is an assistant. */
  readonly ask?: boolean;
}

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

const isPerson = (value: unknown): value is Person =>
  isRecord(value) && ['id', 'name', 'tier', 'token'].every((field) => typeof value[field] === 'string');

const isPeople = (value: unknown): value is People =>
  isRecord(value) && typeof value.url === 'string' && Array.isArray(value.users) && value.users.every(isPerson);

export const knownPeople = (): People | null => recall('people', isPeople);

/** Asks the server. Throws if it does not answer, or answers something else. */
export async function askForPeople(): Promise<People> {
  const answer = await fetch('/demo.json', { cache: 'no-cache' });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const people: unknown = await answer.json();
  if (!isPeople(people)) throw new Error('the server answered something else');
  remember('people', people);
  return people;
}

/** The address to connect to. `url` is absolute, or a path on this page's server. */
export function socketUrl(url: string): string {
  const absolute = new URL(url, location.href);
  absolute.protocol = absolute.protocol.replace('http', 'ws');
  return absolute.href;
}

/** The user's token: a new one from the server if `again`, or the one of the last answer. */
export async function tokenOf(person: Person, again: boolean): Promise<string> {
  const people = again ? await askForPeople() : knownPeople();
  return people?.users.find(({ id }) => id === person.id)?.token ?? person.token;
}
