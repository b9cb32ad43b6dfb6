/** What a person can do about a write that the server did not accept, by its reason. */

import type { Entry } from 'atlas-sync';
import { useRef } from 'preact/hooks';
import { CopyButton } from './copy.js';
import type { DemoSync } from './device.js';
import { titleFrom } from './limits.js';

type Code = string | null | undefined;

/** Codes (SPEC.md, 8.4) of what the server may accept another time. Of the others it will say the same again. */
const ANOTHER_TIME = new Set<Code>(['bad_id', 'bad_time', 'refused', 'too_slow']);
/** Codes of texts that would be accepted in another place, because theirs is gone. */
const ANOTHER_PLACE = new Set<Code>(['unknown_parent', 'unknown_row']);

/** A rejected write, as a message and as an entry of the quarantine know it. */
export interface Rejected {
  readonly key: number;
  readonly code: Code;
  /** The message's text; null if it is none. */
  readonly text: string | null;
}

export function textOf({ mutation }: Entry): string | null {
  const content = mutation.op === '-' || mutation.kind !== 'message' ? null : mutation.columns['content'];
  return typeof content === 'string' ? content : null;
}

/** The server's sentence, or a plainer one where the page knows what the words are about. */
export function reason(code: Code, sentence: string | null | undefined): string {
  if (code === 'unknown_parent') return 'Its conversation was deleted on another device.';
  return sentence == null || sentence === '' ? 'The server did not accept it.' : sentence;
}

interface Props {
  readonly sync: DemoSync;
  readonly rejected: Rejected;
  /** Opens a conversation. */
  readonly onOpen: (id: string) => void;
}

/** The buttons. An entry that another tab has dealt with meanwhile is no error. */
export function RejectionActions({ sync, rejected: { key, code, text }, onOpen }: Props) {
  const busy = useRef(false);
  const act = (work: () => Promise<unknown>) => async (): Promise<void> => {
    if (busy.current) return;
    busy.current = true;
    try {
      await work();
    } catch {
      // It is not rejected any more.
    } finally {
      busy.current = false;
    }
  };
  const saveElsewhere = async (content: string): Promise<void> => {
    const id = await sync.insert('conversation', { title: titleFrom(content) });
    await sync.insert('message', { conversationId: id, role: 'user', content });
    await sync.discard(key);
    onOpen(id);
  };
  return (
    <span class="rejection-actions">
      {ANOTHER_TIME.has(code) && (
        <button type="button" class="link" data-testid="retry" onClick={act(() => sync.retry(key))}>
          Try again
        </button>
      )}
      {text !== null && ANOTHER_PLACE.has(code) && (
        <button type="button" class="link" data-testid="save-elsewhere" onClick={act(() => saveElsewhere(text))}>
          Save in a new conversation
        </button>
      )}
      {text !== null && <CopyButton text={text} what="this text" />}
      <button type="button" class="link" data-testid="discard" onClick={act(() => sync.discard(key))}>
        Discard
      </button>
    </span>
  );
}
