/**
 * Stands in for packages of markdown-it, of which the page uses little: build.mjs puts this module in their places. With
 * them the page's script was 23 KB larger, compressed: tables of all entities and of Unicode, which browsers have built
 * in, and the finding of bare addresses, which is off.
 */

/** entities: the text of one reference, like `&amp;`. The document that it is read in runs and fetches nothing. */
export const decodeHTMLStrict = (reference: string): string =>
  new DOMParser().parseFromString(reference, 'text/html').body.textContent ?? reference;

/** linkify-it. */
export class LinkifyIt {}

/** uc.micro. */
export const P = /\p{P}/u;
export const S = /\p{S}/u;

/** punycode.js: markdown.tsx shows addresses as they are. */
export default { toASCII: (host: string): string => host, toUnicode: (host: string): string => host };
