/**
 * Texts that the server can keep: their size in UTF-8, and the characters that Postgres does not accept (SPEC.md, 8.3).
 */

const encoder = new TextEncoder();
export const utf8Bytes = (text: string): number => encoder.encode(text).length;

/** The name of what the server cannot keep of this text; null if it can keep all of it. */
export const unstorable = (text: string): string | null =>
  text.includes('\0') ? 'U+0000' : /\p{Surrogate}/u.test(text) ? 'half of a surrogate pair' : null;

/** The text without what the server cannot keep. */
export const storable = (text: string): string => text.replaceAll('\0', '').replace(/\p{Surrogate}/gu, '\ufffd');

/** How many code points a text has. */
export const codePoints = (text: string): number => text.length - (text.match(/[\ud800-\udbff][\udc00-\udfff]/g) ?? []).length;

/** The first `count` code points of a text. */
export function firstPoints(text: string, count: number): string {
  let end = 0;
  for (let left = count; left > 0 && end < text.length; left--) end += (text.codePointAt(end) as number) > 0xffff ? 2 : 1;
  return text.slice(0, end);
}
