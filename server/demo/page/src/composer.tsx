/** The field for a new message. Enter sends, Shift+Enter begins a new line. Drafts survive a reload. */

import { useLayoutEffect, useRef, useState } from 'preact/hooks';

import { Icon } from './icons.js';
import { excess, inWords, LONGEST_MESSAGE } from './limits.js';
import { isText, recall, remember } from './memory.js';

interface Props {
  readonly draftName: string;
  readonly focus: number;
  readonly onSend: (text: string) => Promise<void>;
}

export function Composer({ draftName, focus, onSend }: Props) {
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
      <div class="composer-box">
        <textarea
          ref={field}
          rows={1}
          data-testid="composer"
          aria-label="Message"
          placeholder="Write a message"
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
        <button type="submit" class="send" data-testid="send" aria-label="Send" title="Send" disabled={text.trim() === ''}>
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
