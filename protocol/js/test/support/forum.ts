/** A schema unlike a chat's: text keys, three levels, a key of two columns, every type of column. */

import type { Schema } from '../../src/schema.js';

export const FORUM = {
  hash: 'f0f0f0f0f0f0f0f0',
  kinds: [
    {
      name: 'vote',
      tag: 'v',
      key: ['text', 'bigint'],
      parent: 'thread',
      columns: [
        ['thread_id', 'bigint'],
        ['topic_id', 'text'],
        ['is_up', 'bool'],
      ],
      devices: { insert: ['is_up'], update: ['is_up'], delete: true },
    },
    {
      name: 'post',
      tag: 'P',
      key: ['text'],
      parent: 'thread',
      columns: [
        ['thread_id', 'bigint'],
        ['topic_id', 'text'],
        ['parts', 'json'],
        ['state', 'text?'],
        ['rank', 'bigint?'],
        ['made_at', 'instant?'],
      ],
      newest: 'rank',
      window: 3,
      devices: {
        insert: ['parts', 'state', 'rank'],
        update: ['parts', 'rank'],
        delete: true,
        created: 'made_at',
        touches: 'last',
      },
      limits: { parts: 200, state: ['draft', 'sent'] },
    },
    {
      name: 'thread',
      tag: 't',
      key: ['bigint'],
      parent: 'topic',
      columns: [
        ['topic_id', 'text'],
        ['name', 'text'],
        ['last', 'instant?'],
      ],
      newest: 'last',
      window: 2,
      devices: { insert: ['name'], update: ['name'], delete: true, updated: 'last' },
    },
    {
      name: 'topic',
      tag: 'T',
      key: ['text'],
      columns: [
        ['titleText', 'text'],
        ['_hidden_flag', 'bool?'],
      ],
      devices: { insert: ['titleText'], delete: true },
    },
    {
      name: 'everything',
      tag: 'e',
      key: ['int'],
      columns: [
        ['a', 'text?'],
        ['b', 'uuid?'],
        ['c', 'bool?'],
        ['d', 'int?'],
        ['e', 'bigint?'],
        ['f', 'float?'],
        ['g', 'numeric?'],
        ['h', 'instant?'],
        ['i', 'date?'],
        ['j', 'json?'],
        ['k', 'array?'],
        ['l', 'bytes?'],
      ],
      devices: {
        insert: ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'],
        update: ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'],
      },
    },
    { name: 'setting', tag: 's', key: ['text'], columns: [['value', 'json']] },
  ],
} as const satisfies Schema;
