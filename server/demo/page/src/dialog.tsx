/** Asks before a deletion. It is the browser's own dialog, which keeps the focus and closes with Escape. */

import { useLayoutEffect, useRef } from 'preact/hooks';

export interface Question {
  readonly title: string;
  readonly text: string;
  readonly yes: string;
  readonly act: () => void;
}

export function ConfirmDialog({ question, onDone }: { readonly question: Question | null; readonly onDone: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    if (question !== null && dialog.current?.open === false) dialog.current.showModal();
  }, [question]);
  if (question === null) return null;
  const finish = (act: boolean): void => {
    dialog.current?.close();
    if (act) question.act();
  };
  return (
    <dialog ref={dialog} class="dialog" aria-labelledby="dialog-title" onClose={onDone}>
      <h2 id="dialog-title">{question.title}</h2>
      <p>{question.text}</p>
      <div class="dialog-actions">
        <button type="button" class="button" data-testid="cancel" onClick={() => finish(false)}>
          Cancel
        </button>
        <button type="button" class="button danger" data-testid="confirm" onClick={() => finish(true)}>
          {question.yes}
        </button>
      </div>
    </dialog>
  );
}
