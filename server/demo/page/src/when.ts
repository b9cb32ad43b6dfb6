/** Instants (microseconds) in words, in British English. */

const time = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const exact = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const weekday = new Intl.DateTimeFormat('en-GB', { weekday: 'long' });
const date = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'long' });
const dateOfYear = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'long', year: 'numeric' });
const shortDate = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const shortDateOfYear = new Intl.DateTimeFormat('en-GB', { day: '2-digit', month: '2-digit', year: '2-digit' });

const toDate = (instant: number): Date => new Date(instant / 1000);
const midnight = (day: Date): number => new Date(day.getFullYear(), day.getMonth(), day.getDate()).getTime();
const daysAgo = (day: Date): number => Math.round((midnight(new Date()) - midnight(day)) / 86_400_000);

export const clockTime = (instant: number): string => time.format(toDate(instant));
export const secondTime = (ms: number): string => exact.format(new Date(ms));
export const machineTime = (instant: number): string => toDate(instant).toISOString();

/** The name of a day, the same for all of its instants. */
export function dayName(instant: number): string {
  const day = toDate(instant);
  const ago = daysAgo(day);
  if (ago === 0) return 'Today';
  if (ago === 1) return 'Yesterday';
  if (ago > 1 && ago < 7) return weekday.format(day);
  return (day.getFullYear() === new Date().getFullYear() ? date : dateOfYear).format(day);
}

/** A time or a day, short enough for a list. */
export function briefly(instant: number): string {
  const day = toDate(instant);
  const ago = daysAgo(day);
  if (ago <= 0) return time.format(day);
  if (ago === 1) return 'Yesterday';
  if (ago < 7) return weekday.format(day).slice(0, 3);
  return (day.getFullYear() === new Date().getFullYear() ? shortDate : shortDateOfYear).format(day);
}

/** A position in the feed, which is about an instant, to the millisecond. */
export const positionTime = (position: number): string =>
  `${secondTime(position / 1000)}.${String(Math.floor(position / 1000) % 1000).padStart(3, '0')}`;
