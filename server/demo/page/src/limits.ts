/** How long texts may be, in characters. The schema's limits are bytes of UTF-8, which nobody counts. Pure. */

import { schema } from './schema.js';

/** Of a message's text, in bytes. */
export const LONGEST_MESSAGE: number = schema.kinds.find((kind) => kind.name === 'message')?.limits.content ?? Infinity;

const encoder = new TextEncoder();
const numbers = new Intl.NumberFormat('en-GB');

/** Characters as people count them: a letter with its accents is one. */
const segmenter = new Intl.Segmenter('en', { granularity: 'grapheme' });

export interface Excess {
  /** Characters of the text, and how many of them fit. */
  readonly has: number;
  readonly fits: number;
}

/** How much too long a text is; null if it fits in `bytes`. */
export function excess(text: string, bytes: number): Excess | null {
  // No character takes more than three bytes for each of its UTF-16 units.
  if (text.length * 3 <= bytes || encoder.encode(text).length <= bytes) return null;
  let has = 0;
  let fits = 0;
  let size = 0;
  for (const { segment } of segmenter.segment(text)) {
    has += 1;
    size += encoder.encode(segment).length;
    if (size <= bytes) fits = has;
  }
  return { has, fits };
}

/** What to do about it, in a sentence. */
export const inWords = ({ has, fits }: Excess): string =>
  `This text has ${numbers.format(has)} characters, and ${numbers.format(fits)} of them fit. Shorten it by ${numbers.format(has - fits)}.`;

/** Characters of a title. */
const TITLE = 60;

/** A conversation's title from its first message: its first line, shortened at the end of a word. */
export function titleFrom(message: string): string {
  const line = message.trim().split(/[\r\n]/, 1)[0]!.trim();
  const characters = [...segmenter.segment(line.slice(0, 4 * TITLE))].map(({ segment }) => segment);
  if (characters.length <= TITLE && line.length <= 4 * TITLE) return line;
  const cut = characters.slice(0, TITLE).join('');
  const end = cut.lastIndexOf(' ');
  return `${(end > TITLE / 2 ? cut.slice(0, end) : cut).trimEnd()}…`;
}
