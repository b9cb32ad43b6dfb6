/** The last message of each conversation in a list, from the device's database. */

import { useEffect, useRef, useState } from 'preact/hooks';

import { MESSAGE, showMessages, type ShownConversation } from 'atlas-sync';
import type { Device } from './device.js';

/** How many messages are read, in case the outbox deletes the newest of them. */
const DEEP = 3;
const LENGTH = 120;
/** Milliseconds after which previews are read, so that reading them delays no message. */
const LATER = 80;

async function lastMessages(device: Device, ids: readonly string[]): Promise<Map<string, string | null>> {
  return device.store.read(async (tx) => {
    const entries = await tx.entries();
    const last = new Map<string, string | null>();
    for (const id of ids) {
      const shown = showMessages(id, await tx.newest(MESSAGE, id, null, DEEP), entries, false).at(-1);
      last.set(id, shown?.content.slice(0, LENGTH) ?? null);
    }
    return last;
  });
}

/** By conversation; null: it has no messages. Read again after every change of the list, one reading at a time. */
export function usePreviews(device: Device, rows: readonly ShownConversation[]): ReadonlyMap<string, string | null> {
  const [previews, setPreviews] = useState<ReadonlyMap<string, string | null>>(new Map());
  const wanted = useRef(rows);
  const reading = useRef(false);
  const gone = useRef(false);
  useEffect(() => {
    gone.current = false;
    return () => {
      gone.current = true;
    };
  }, []);
  useEffect(() => {
    wanted.current = rows;
    if (reading.current || rows.length === 0) return;
    reading.current = true;
    const read = async (): Promise<void> => {
      try {
        for (let read: typeof rows | null = null; read !== wanted.current && !gone.current; ) {
          await new Promise((resolve) => setTimeout(resolve, LATER));
          read = wanted.current;
          setPreviews(await lastMessages(device, read.map((row) => row.id)));
        }
      } catch {
        // The device is being closed.
      } finally {
        reading.current = false;
      }
    };
    void read();
  }, [device, rows]);
  return previews;
}
