/** A device for tests, and how to wait for its state: by its notifications, never by a fixed time. */

import { WebSocket } from 'ws';

import type { Environment } from '../../src/environment.js';
import type { Query } from '../../src/query.js';
import { MemoryStore } from '../../src/store/memory.js';
import { createChatSync, type ChatOptions, type ChatSync } from '../../src/chat.js';
import type { WebSocketClass } from '../../src/websocket.js';

export const NodeWebSocket = WebSocket as unknown as WebSocketClass;

export function device(options: Partial<ChatOptions> & Pick<ChatOptions, 'url' | 'user'>): ChatSync {
  const environment: Partial<Environment> = { WebSocket: NodeWebSocket, ...options.environment };
  return createChatSync({ store: new MemoryStore(), ...options, environment });
}

/** The first value that satisfies `will`, beginning with the present one. */
export async function until<T>(query: Query<T>, will: (value: T) => boolean, ms = 15_000): Promise<T> {
  const now = await query.read();
  if (will(now)) return now;
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => {
      stop();
      reject(new Error(`still ${JSON.stringify(query.value)?.slice(0, 600)}`));
    }, ms);
    const stop = query.subscribe(() => {
      if (query.value === undefined || !will(query.value)) return;
      clearTimeout(late);
      stop();
      resolve(query.value);
    });
  });
}

export const live = (sync: ChatSync): Promise<unknown> =>
  until(sync.status, (status) => status.state === 'live' && status.pending === 0);
