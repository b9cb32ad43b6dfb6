/** What is synced: `atlas-sync schema --typescript` wrote this. Write it again when the declaration changed. */

export const schema = {
  hash: 'cab7ec36c09b107d',
  kinds: [
    { name: 'profile', tag: 'p', key: ['uuid'], columns: [['tier', 'text'], ['status', 'text?']] },
    {
      name: 'conversation',
      tag: 'c',
      key: ['uuid'],
      columns: [['title', 'text?'], ['created_at', 'instant'], ['updated_at', 'instant']],
      newest: 'updated_at',
      window: 50,
      devices: { insert: ['title'], update: ['title'], delete: true, created: 'created_at', updated: 'updated_at' },
      limits: { title: 1000 },
    },
    {
      name: 'message',
      tag: 'm',
      key: ['uuid'],
      parent: 'conversation',
      columns: [
        ['conversation_id', 'uuid'],
        ['role', 'text'],
        ['content', 'text'],
        ['created_at', 'instant'],
        ['updated_at', 'instant'],
      ],
      newest: 'created_at',
      window: 50,
      dated: 'created_at',
      devices: {
        insert: ['role', 'content'],
        update: ['content'],
        delete: true,
        created: 'created_at',
        updated: 'updated_at',
        touches: 'updated_at',
      },
      limits: { content: 100000, role: ['user'] },
    },
    {
      name: 'usage',
      tag: 'u',
      key: ['bigint'],
      columns: [['date', 'date'], ['conversations', 'int'], ['tokens', 'bigint'], ['cost', 'numeric']],
      window: 7,
    },
  ],
} as const;
