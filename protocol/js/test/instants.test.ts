/**
 * Rows of all times against a real server (SPEC.md, 2.4): ATLAS_URL, ATLAS_TOKEN, and ATLAS_HOME, a conversation whose
 * messages say in their content when they were made.
 */

import { describe, expect, it } from 'vitest';

import type { Encoding } from '../src/codec.js';
import { device, live } from './support/device.js';
import { KINDS } from './support/stores.js';

const { ATLAS_URL: url, ATLAS_TOKEN: token, ATLAS_HOME: home, ATLAS_ORDER: order } = process.env;

describe.skipIf(home === undefined)('rows of all times', () => {
  const encodings: Encoding[] = ['msgpack', 'json'];
  it.each(KINDS.flatMap(({ name, make }) => encodings.map((encoding) => ({ name, make, encoding }))))(
    'are paged up without a gap or a repeat: $name, $encoding',
    async ({ make, encoding }) => {
      const { store, end } = make();
      const user = (JSON.parse(atob(token?.split('.')[1] ?? '')) as { sub: string }).sub;
      const window = { conversation: 1, message: 1 };
      const sync = device({ url: url ?? '', user, store, encoding, window, getToken: () => token ?? '' });
      await live(sync);
      const history = sync.messages(home ?? '', { limit: 1 });
      await history.read();
      for (let i = 0; i < 40 && (await history.loadOlder(1)) === 'here'; i++);
      const { rows, more } = await history.read();
      expect(more).toBe(false);
      const expected = (order ?? '').split('|');
      expect(rows.map((row) => row.content).sort()).toEqual([...expected].sort());
      // Those beyond the bounds have the same instant here, and are in the order of their ids.
      const within = rows.filter(({ createdAt }) => Math.abs(createdAt) < Number.MAX_SAFE_INTEGER);
      expect(within.map((row) => row.content)).toEqual(expected.filter((each) => /^2026|^2255.*0990$/.test(each)));
      const list = sync.conversations({ limit: 1 });
      await list.read();
      for (let i = 0; i < 40 && (await list.loadOlder(1)) === 'here'; i++);
      expect((await list.read()).more).toBe(false);
      expect((await sync.status.read()).reason).toBeNull();
      for (const row of rows) if (row.content.includes('2026')) await sync.editMessage(row.id, row.content);
      await live(sync);
      expect((await sync.status.read()).rejected).toBe(0);
      await sync.close();
      await end();
    },
  );
});
