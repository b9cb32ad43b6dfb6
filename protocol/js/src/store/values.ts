/** Rows, floors and mutations as JSON text, with the values that JSON lacks: bigint, bytes, NaN, the infinities and -0. */

import { fromBase64, toBase64 } from '../bytes.js';

/** Begins each text that stands for another value, or that begins with it itself. The next character says which. */
const MARK = '\x01';

export const toJson = (value: unknown): string =>
  JSON.stringify(value, function (this: Record<string, unknown>, key, given: unknown) {
    const value = this[key]; // `given` is what a toJSON has made of it
    switch (typeof value) {
      case 'bigint':
        return `${MARK}i${value}`;
      case 'number':
        return Number.isFinite(value) && !Object.is(value, -0)
          ? value
          : `${MARK}n${Object.is(value, -0) ? '-0' : value}`;
      case 'string':
        return value.startsWith(MARK) ? `${MARK}s${value}` : value;
      default:
        return value instanceof Uint8Array ? `${MARK}b${toBase64(value)}` : given;
    }
  });

export const fromJson = (json: unknown): unknown =>
  JSON.parse(json as string, (_, value: unknown) => {
    if (typeof value !== 'string' || !value.startsWith(MARK)) return value;
    const rest = value.slice(2);
    switch (value[1]) {
      case 'i':
        return BigInt(rest);
      case 'n':
        return Number(rest);
      case 'b':
        return fromBase64(rest);
      default:
        return rest;
    }
  });
