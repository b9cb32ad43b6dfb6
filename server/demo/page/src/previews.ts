/** The last message of each conversation in a list, from the device's database. */

import { useEffect, useRef, useState } from 'preact/hooks';

import { MESSAGE, showMessages, type Entry, type ShownConversation, type ShownMessage } from 'atlas-sync';
import type { Device } from './device.js';
import { withoutMarks } from './markdown.js';

/** How many messages are read, in case the outbox deletes the newest of them. */
const DEEP = 3;
const LENGTH = 120;
/** Milliseconds after which previews are read, so that reading them delays no message. */
const LATER = 80;

/** What is not settled among a conversation's messages: one waits to be sent, or one was rejected. */
export type Unsettled = 'pending' | 'rejected';

export interface Preview {
  /** null: it has no messages. */
  readonly text: string | null;
  readonly state: Unsettled | undefined;
}

/** By conversation: of what was written here and is not confirmed. */
function unsettled(entries: readonly Entry[]): ReadonlyMap<unknown, Unsettled> {
  const found = new Map<unknown, Unsettled>();
  for (const { state, mutation } of entries) {
    if (state === 'acked' || mutation.op !== '+') continue;
    const conversation = mutation.columns['conversationId'];
    if (found.get(conversation) !== 'rejected') found.set(conversation, state);
  }
  return found;
}

async function lastMessages(device: Device, ids: readonly string[]): Promise<Map<string, Preview>> {
  return device.store.read(async (tx) => {
    const entries = await tx.entries();
    const states = unsettled(entries);
    const last = new Map<string, Preview>();
    for (const id of ids) {
      const shown = showMessages(id, await tx.newest(MESSAGE, id, null, DEEP), entries, false);
      const newest = shown.at(-1);
      // An edit names its message only; of older messages it is not seen here.
      const edited = shown.some(({ state }) => state === 'pending') ? 'pending' : undefined;
      last.set(id, { text: newest === undefined ? null : inOneLine(newest), state: states.get(id) ?? edited });
    }
    return last;
  });
}

const inOneLine = ({ role, content }: ShownMessage): string =>
  (role === 'assistant' ? withoutMarks(content.slice(0, 4 * LENGTH)) : content).slice(0, LENGTH);

/** By conversation. Read again after every change of the list and of `outbox`, one reading at a time. */
export function usePreviews(
  device: Device,
  rows: readonly ShownConversation[],
  outbox: string,
): ReadonlyMap<string, Preview> {
  const [previews, setPreviews] = useState<ReadonlyMap<string, Preview>>(new Map());
  const wanted = useRef({ rows });
  const reading = useRef(false);
  const gone = useRef(false);
  useEffect(() => {
    gone.current = false;
    return () => {
      gone.current = true;
    };
  }, []);
  useEffect(() => {
    wanted.current = { rows };
    if (reading.current || rows.length === 0) return;
    reading.current = true;
    const read = async (): Promise<void> => {
      try {
        for (let read: { rows: typeof rows } | null = null; read !== wanted.current && !gone.current; ) {
          await new Promise((resolve) => setTimeout(resolve, LATER));
          read = wanted.current;
          setPreviews(await lastMessages(device, read.rows.map((row) => row.id)));
        }
      } catch {
        // The device is being closed.
      } finally {
        reading.current = false;
      }
    };
    void read();
  }, [device, rows, outbox]);
  return previews;
}
