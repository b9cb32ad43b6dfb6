/** Conversations without messages. */

import type { DemoSync } from './device.js';

/** Whether a conversation has no messages, on this device and, as far as it knows, anywhere. */
export async function isEmpty(sync: DemoSync, conversation: string): Promise<boolean> {
  const { rows, more } = await sync.list('message', { parent: conversation, limit: 1 }).read();
  return rows.length === 0 && !more;
}
