/** Our MessagePack beside the package that many use. */

import { decode, encode, ExtData } from '@msgpack/msgpack';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { pack, unpack } from '../src/msgpack.js';

/** Sizes on both sides of each border between two forms. */
const SIZES = [0, 1, 15, 16, 31, 32, 63, 64, 255, 256, 65_535, 65_536];
const NUMBERS = [7, 8, 15, 16, 31, 32, 53].flatMap((bits) => [-2, -1, 0, 1].map((off) => 2 ** bits + off));
const text = fc.oneof(fc.string(), fc.string({ unit: 'grapheme', maxLength: 200 }));
const key = text.filter((name) => name !== '__proto__');
const { value } = fc.letrec((again) => ({
  value: fc.oneof(
    { maxDepth: 5, withCrossShrink: true },
    fc.constantFrom<unknown>(null, true, false, ...NUMBERS, ...NUMBERS.map((n) => -n), NaN, Infinity, -Infinity),
    fc.maxSafeInteger(),
    fc.double(),
    text,
    fc.uint8Array({ maxLength: 300 }),
    fc.array(again('value')),
    fc.dictionary(key, again('value'), { noNullPrototype: true }),
  ),
}));

const border = (size: number): readonly unknown[] => [
  'a'.repeat(size),
  'ü'.repeat(size),
  `${'a'.repeat(size)}😀`,
  new Uint8Array(size).fill(7),
  Array(size).fill(null),
  Object.fromEntries(Array.from({ length: size }, (_, i) => [`k${i}`, i])),
];

describe('MessagePack', () => {
  it('is written byte for byte as by the package, and read as it was written', () => {
    fc.assert(
      fc.property(value, (given) => {
        const packed = pack(given);
        expect(Buffer.from(packed).equals(encode(given))).toBe(true);
        expect(unpack(packed)).toEqual(decode(packed));
      }),
      { numRuns: 500 },
    );
  });

  it.each(SIZES)('has every form of a size: %d', (size) => {
    for (const given of border(size)) {
      const packed = pack(given);
      expect(Buffer.from(packed).equals(encode(given))).toBe(true);
      expect(Buffer.from(packed).equals(encode(unpack(packed)))).toBe(true);
    }
  });

  it('reads forms that it does not write: of 32 bits, larger than they must be, and beyond 2^53', () => {
    const floats = Uint8Array.from([0xca, 0x3f, 0xc0, 0, 0]);
    const larger = [...[0xd9, 0xda, 0xdb].keys()].map((i) => [0xd9 + i, ...Array<number>((1 << i) - 1).fill(0), 1, 0x61]);
    const beyond = encode([2n ** 63n, -(2n ** 63n), 2n ** 53n + 1n], { useBigInt64: true });
    for (const bytes of [floats, beyond, ...larger.map((each) => Uint8Array.from(each))]) {
      expect(unpack(bytes)).toEqual(decode(bytes));
    }
  });

  it('refuses what ends too early, what goes on, and what is no value', () => {
    fc.assert(
      fc.property(value, (given) => {
        const packed = pack(given);
        for (let size = 0; size < Math.min(packed.length, 50); size++) {
          expect(() => unpack(packed.subarray(0, size))).toThrow(RangeError);
        }
        expect(() => unpack(Uint8Array.from([...packed, 0xc0]))).toThrow(RangeError);
      }),
      { numRuns: 50 },
    );
    const proto = [0x81, 0xa9, ...Buffer.from('__proto__'), 0x80];
    for (const bytes of [[0xc1], [0x91, 0xc1], [0x81, 0x01, 0x01], [0xdd, 0xff, 0xff, 0xff, 0xff], proto]) {
      expect(() => unpack(Uint8Array.from(bytes))).toThrow(RangeError);
    }
    expect(() => pack(() => 1)).toThrow(TypeError);
    expect(() => pack(1n)).toThrow(TypeError);
  });

  it('skips an extension type, which is nothing that a check takes', () => {
    for (const size of [1, 2, 3, 4, 8, 16, 17, 300, 70_000]) {
      const [first, last] = unpack(encode([new ExtData(5, new Uint8Array(size)), 'after'])) as unknown[];
      expect([typeof first, last]).toEqual(['symbol', 'after']);
    }
  });

  it('reads a part of a larger buffer, and keeps U+FEFF at the beginning of any text', () => {
    for (const size of [0, 10, 100, 300]) {
      const said = `\ufeff${'é'.repeat(size)}`;
      const packed = pack([said]);
      const larger = new Uint8Array(packed.length + 6);
      larger.set(packed, 3);
      expect(unpack(larger.subarray(3, 3 + packed.length))).toEqual([said]);
      expect(unpack(packed.buffer as ArrayBuffer)).toEqual([said]);
    }
  });
});
