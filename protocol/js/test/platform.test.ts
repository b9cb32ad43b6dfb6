/** Platforms that lack something. */

import { afterEach, expect, it, vi } from 'vitest';

import { createChatSync, MemoryStore } from '../src/index.js';
import { id, tokenOf } from './support/rows.js';

afterEach(() => vi.unstubAllGlobals());

it('a platform without WebSocket says so at the first call, and works locally', async () => {
  vi.stubGlobal('WebSocket', undefined);
  const options = { url: 'wss://test/sync', user: id(1) };
  const getToken = () => tokenOf(id(1));
  const refused = createChatSync({ ...options, store: new MemoryStore(), getToken });
  await expect(refused.ready).rejects.toThrow(/no WebSocket: .*environment: \{ WebSocket \}/);
  await expect(refused.createConversation('Trip')).rejects.toThrow(/no WebSocket/);
  const told = new Promise((resolve) => refused.status.subscribe(() => resolve(refused.status.value.reason?.code)));
  expect(await told).toBe('platform');
  await refused.close();
  const local = createChatSync({ ...options, store: new MemoryStore() });
  const conversation = await local.createConversation('Trip');
  expect((await local.conversations().read()).rows.map((row) => row.id)).toEqual([conversation]);
  await expect(local.upgrade(getToken)).rejects.toThrow(/no WebSocket/);
  await local.close();
});
