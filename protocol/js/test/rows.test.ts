/** Keys and places as texts: JavaScript, IndexedDB and SQLite order them as Postgres orders the values. */

import fc from 'fast-check';
import { describe, expect, expectTypeOf, it } from 'vitest';

import { homeOf, keyOf, orderOf, type Row } from '../src/rows.js';
import { CHAT } from '../src/schema.chat.js';
import {
  camel,
  compile,
  type ColumnType,
  type IdOf,
  type Kind,
  type NewOf,
  type ParentOf,
  type PatchOf,
  type RowOf,
} from '../src/schema.js';
import { FORUM } from './support/forum.js';

const kindWith = (key: readonly string[], newest?: string): Kind =>
  compile({
    hash: '',
    kinds: [
      {
        name: 'k',
        tag: 'k',
        key,
        columns: newest === undefined ? [] : [['at', `${newest}?`]],
        ...(newest === undefined ? {} : { newest: 'at' }),
      },
    ],
  }).get('k') as Kind;

/** Whether the texts have the order of the values, and none contains U+0000 or half of a surrogate pair. */
function inOrder(texts: readonly string[]): void {
  for (let i = 1; i < texts.length; i++) expect((texts[i - 1] as string) < (texts[i] as string), `${i}`).toBe(true);
  const bytes = texts.map((text) => Buffer.from(text));
  for (let i = 1; i < bytes.length; i++) expect(Buffer.compare(bytes[i - 1] as Buffer, bytes[i] as Buffer)).toBe(-1);
  for (const text of texts) expect(text).not.toMatch(/\0|\p{Surrogate}/u);
}

describe('the order of places', () => {
  const cases: Readonly<Partial<Record<ColumnType, readonly unknown[]>>> = {
    instant: [null, -(2 ** 53) + 1, -1, 0, 1, 1_700_000_000_000_000, 2 ** 53 - 1],
    int: [null, -(2 ** 31), -10, -9, 0, 9, 10, 2 ** 31 - 1],
    bigint: [null, -(2n ** 63n), -(2n ** 53n), -1, 0, 1n, 2 ** 52, 2n ** 53n + 1n, 2n ** 53n + 2n, 2n ** 63n - 1n],
    float: [null, -Infinity, -1e300, -1.5, -1e-300, 0, 5e-324, 1, 1.5, 1e300, Infinity, NaN],
    numeric: [
      null,
      '-Infinity',
      '-100',
      '-99.5',
      '-1.2',
      '-1.19',
      '-0.01',
      '0',
      '0.001',
      '0.01',
      '1',
      '1.19',
      '1.2',
      '2',
      '10',
      '99.5',
      '123456789012345678901234567890',
      'Infinity',
      'NaN',
    ],
    date: [
      null,
      '-infinity',
      '0044-03-15 BC',
      '0001-01-01',
      '1999-12-31',
      '2000-01-01',
      '2000-02-01',
      '10000-01-01',
      'infinity',
    ],
    bool: [null, false, true],
    text: [
      null,
      '',
      '\x01',
      '\x01\x01',
      ' ',
      'A',
      'a',
      'a\x01',
      'a\x02',
      'aa',
      'é',
      '\uD7FF',
      '\uE000',
      '\uFFFD',
      '\uFFFF',
      '\u{10000}',
      '\u{1F6B2}',
    ],
    uuid: [null, '00000000-0000-7000-8000-000000000001', 'f0000000-0000-7000-8000-000000000000'],
  };
  it.each(Object.entries(cases))('%s', (type, values) => {
    const kind = kindWith(['text'], type);
    inOrder(values.map((value) => orderOf(kind, [value, 'x'])));
    // Equal values are ordered by the key.
    for (const value of values) inOrder(['', 'a', 'b', '\uFFFF', '\u{10000}'].map((id) => orderOf(kind, [value, id])));
  });
  it('keys of two columns are ordered by the first, then by the second', () => {
    const kind = kindWith(['text', 'bigint']);
    inOrder(
      (
        [
          ['', 5],
          ['a', -1],
          ['a', 2n ** 60n],
          ['a\x01', 0],
          ['aa', 0],
          ['b', 1],
        ] as const
      ).map((id) => keyOf(kind, id)),
    );
  });
  it('texts are ordered as their bytes in UTF-8', () => {
    const kind = kindWith(['text', 'text']);
    const word = fc.string({
      unit: fc.oneof(
        fc.constantFrom('\x01', '\x02', '\uD7FF', '\uE000', '\uE001', '\uFFFF', '\u{10000}'),
        fc.string({ minLength: 1, maxLength: 1 }),
      ),
      maxLength: 4,
    });
    const sign = (n: number): number => Math.sign(n);
    fc.assert(
      fc.property(word, word, word, word, (a, b, c, d) => {
        const bytes = (text: string): Buffer => Buffer.from(text);
        const wanted = Buffer.compare(bytes(a), bytes(c)) || Buffer.compare(bytes(b), bytes(d));
        const [x, y] = [keyOf(kind, [a, b]), keyOf(kind, [c, d])];
        expect(sign(x < y ? -1 : x > y ? 1 : 0)).toBe(sign(wanted));
      }),
    );
  });
  it('a uuid is its own key, and a row is at home with its parent', () => {
    const kinds = compile(FORUM);
    expect(keyOf(kindWith(['uuid']), '00000000-0000-7000-8000-000000000001')).toBe(
      '00000000-0000-7000-8000-000000000001',
    );
    const thread = kinds.get('thread') as Kind;
    const post = kinds.get('post') as Kind;
    const row = { kind: 'post', seq: 1, id: 'p', threadId: 7n } as unknown as Row;
    expect(homeOf(post, row)).toBe(keyOf(thread, 7));
    expect(homeOf(kinds.get('topic') as Kind, { kind: 'topic', seq: 1, id: 'x' })).toBe('');
  });
});

describe('a schema', () => {
  it('properties are the camel case of the names on the wire, and are never those of every row', () => {
    const names = {
      created_at: 'createdAt',
      createdAt: 'createdAt',
      _hidden_flag: '_hiddenFlag',
      a__b: 'a__b',
      a_1: 'a_1',
      a_b_c: 'aBC',
      kind: 'kind_',
      state: 'state_',
      key: 'key_',
      id: 'id_',
      Id: 'Id',
    };
    for (const [wire, name] of Object.entries(names)) expect(camel(wire)).toBe(name);
  });
  it('each kind comes after its parent, whatever the order of the schema', () => {
    expect([...compile(FORUM).keys()]).toEqual(['topic', 'everything', 'setting', 'thread', 'vote', 'post']);
    expect(() =>
      compile({ hash: '', kinds: [{ name: 'a', tag: 'a', key: ['int'], parent: 'b', columns: [['b', 'int']] }] }),
    ).toThrow('no such parent');
    const below = { name: 'a', tag: 'a', key: ['int'], parent: 'post', columns: [['b', 'text'], ['c', 'bigint']] } as const; // prettier-ignore
    expect(() => compile({ hash: '', kinds: [...FORUM.kinds, below] })).toThrow('more than two kinds above it');
    expect(() =>
      compile({
        hash: '',
        kinds: [
          {
            name: 'a',
            tag: 'a',
            key: ['int'],
            columns: [
              ['a_b', 'int'],
              ['aB', 'int'],
            ],
          },
        ],
      }),
    ).toThrow('two columns aB');
  });
  it('the types of rows and writes derive from it', () => {
    type Post = RowOf<typeof FORUM, 'post'>;
    expectTypeOf<Post['id']>().toEqualTypeOf<string>();
    expectTypeOf<Post['kind']>().toEqualTypeOf<'post'>();
    expectTypeOf<Post['threadId']>().toEqualTypeOf<number | bigint>();
    expectTypeOf<Post['state_']>().toEqualTypeOf<string | null>();
    expectTypeOf<Post['parts']>().toEqualTypeOf<unknown>();
    expectTypeOf<RowOf<typeof FORUM, 'topic'>['_hiddenFlag']>().toEqualTypeOf<boolean | null>();
    expectTypeOf<IdOf<typeof FORUM, 'vote'>>().toEqualTypeOf<readonly [string, number | bigint]>();
    expectTypeOf<ParentOf<typeof FORUM, 'vote'>>().toEqualTypeOf<number | bigint>();
    expectTypeOf<keyof NewOf<typeof FORUM, 'vote'>>().toEqualTypeOf<'threadId' | 'isUp'>();
    expectTypeOf<ParentOf<typeof FORUM, 'topic'>>().toEqualTypeOf<null>();
    expectTypeOf<NewOf<typeof CHAT, 'message'>>().toExtend<{ conversationId: string; role: string; content: string }>();
    expectTypeOf<{ conversationId: string; role: string; content: string }>().toExtend<NewOf<typeof CHAT, 'message'>>();
    expectTypeOf<Record<never, never>>().toExtend<NewOf<typeof CHAT, 'conversation'>>();
    expectTypeOf<PatchOf<typeof CHAT, 'message'>>().toExtend<{ content?: string }>();
    expectTypeOf<keyof PatchOf<typeof CHAT, 'message'>>().toEqualTypeOf<'content'>();
    expectTypeOf<keyof PatchOf<typeof FORUM, 'topic'>>().toEqualTypeOf<never>();
    expectTypeOf<RowOf<typeof FORUM, 'everything'>['l']>().toEqualTypeOf<Uint8Array | null>();
  });
});
