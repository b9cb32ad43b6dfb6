/** The field for a new message. Enter sends, Shift+Enter begins a new line. Drafts survive a reload. */

import { useLayoutEffect, useRef, useState } from 'preact/hooks';

import { Icon } from './icons.js';
import { excess, inWords, LONGEST_MESSAGE } from './limits.js';
import { isText, recall, remember } from './memory.js';

interface Props {
  readonly draftName: string;
  readonly focus: number;
  /** Whether what is sent asks the assistant; what changes that, null if there is none. */
  readonly asking: boolean;
  readonly onAsking: ((on: boolean) => void) | null;
  /** Whether the answer that is being written was told to stop; what tells it, null if none is written. */
  readonly stopping: boolean;
  readonly onStop: (() => void) | null;
  readonly onSend: (text: string) => Promise<void>;
}

export function Composer({ draftName, focus, asking, onAsking, stopping, onStop, onSend }: Props) {
  const [text, setText] = useState(() => recall(draftName, isText) ?? '');
  const [problem, setProblem] = useState<string | null>(null);
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    if (focus > 0) field.current?.focus();
  }, [focus]);
  useLayoutEffect(() => grow(field.current), [text]);

  const keep = (next: string): void => {
    setText(next);
    setProblem(null);
    remember(draftName, next === '' ? null : next);
  };
  const send = async (): Promise<void> => {
    const sending = text.trim();
    if (sending === '') return;
    const tooLong = excess(sending, LONGEST_MESSAGE);
    if (tooLong !== null) return setProblem(inWords(tooLong));
    keep('');
    field.current?.focus();
    try {
      await onSend(sending);
    } catch (error) {
      keep(sending);
      setProblem((error as Error).message);
    }
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      {problem !== null && (
        <p class="problem" role="alert">
          Not sent: {problem}
        </p>
      )}
      <div class="composer-box" data-asks={onAsking !== null || undefined}>
        {onAsking !== null && (
          <button
            type="button"
            class="ask"
            data-testid="ask"
            aria-pressed={asking}
            title={asking ? 'The assistant answers' : 'The assistant does not answer'}
            onClick={() => onAsking(!asking)}
          >
            <Icon name="spark" size={15} />
            Ask
          </button>
        )}
        <textarea
          ref={field}
          rows={1}
          data-testid="composer"
          aria-label="Message"
          placeholder={onAsking !== null && asking ? 'Ask something' : 'Write a message'}
          autocomplete="off"
          enterkeyhint="send"
          value={text}
          onInput={({ currentTarget }) => keep(currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            void send();
          }}
        />
        {onStop !== null && (
          <button
            type="button"
            class="stop"
            data-testid="stop"
            aria-label={stopping ? 'Stopping' : 'Stop the answer'}
            title={stopping ? 'Stopping' : 'Stop (Escape)'}
            disabled={stopping}
            onClick={onStop}
          >
            <Icon name="stop" />
          </button>
        )}
        <button type="submit" class="send" hidden={onStop !== null && text.trim() === ''} data-testid="send" aria-label="Send" title="Send" disabled={text.trim() === ''}>
          <Icon name="up" />
        </button>
      </div>
    </form>
  );
}

/** Makes a field as high as its text, up to the limit in the style sheet. */
export function grow(field: HTMLTextAreaElement | null): void {
  if (field === null) return;
  field.style.height = 'auto';
  field.style.height = `${field.scrollHeight}px`;
}
