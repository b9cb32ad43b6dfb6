/** One message: its text, its state, and its actions. */

import { useLayoutEffect, useRef, useState } from 'preact/hooks';

import type { Certainty, ShownMessage } from 'atlas-sync';
import type { Asked } from './ask.js';
import { grow } from './composer.js';
import type { DemoSync } from './device.js';
import { Icon, type IconName } from './icons.js';
import { excess, inWords, LONGEST_MESSAGE } from './limits.js';
import { Markdown } from './markdown.js';
import { reason, RejectionActions } from './rejections.js';
import { clockTime, machineTime } from './when.js';

interface Props {
  readonly row: ShownMessage;
  /** Belongs to the message above, and to the one below: they form one group. */
  readonly follows: boolean;
  readonly leads: boolean;
  /** Has just arrived. */
  readonly fresh: boolean;
  /** Whether it is the one that the keyboard reached. */
  readonly active: boolean;
  readonly editing: boolean;
  readonly onEdit: (on: boolean) => void;
  readonly onSave: (text: string) => Promise<void>;
  readonly onDelete: () => void;
  readonly sync: DemoSync;
  /** Opens another conversation. */
  readonly onOpen: (id: string) => void;
  /** Of an answer of the assistant: its question. */
  readonly asked: Asked | undefined;
  /** Whether the assistant has yet to answer it. */
  readonly waits: boolean;
  /** Whether this device is connected. */
  readonly live: boolean;
  readonly onAskAgain: ((message: string) => void) | null;
}

const MARKS: Record<Certainty, { readonly icon: IconName; readonly words: string }> = {
  synced: { icon: 'tick', words: 'Sent' },
  acked: { icon: 'tick', words: 'Sent' },
  pending: { icon: 'clock', words: 'Waiting to be sent' },
  rejected: { icon: 'alert', words: 'Not delivered' },
  local: { icon: 'laptop', words: 'On this device only' },
};

export function Bubble(props: Props) {
  const { row, follows, leads, fresh, active, editing, onEdit, onSave, onDelete } = props;
  const [open, setOpen] = useState(false);
  const own = row.role === 'user';
  const { asked, waits, live, onAskAgain } = props;
  // An answer without a text is one to come, unless its question says that it has ended.
  const toCome = row.role === 'assistant' && row.content === '' && !OVER.has(asked?.progress);
  const growing = row.streaming === true || toCome;
  const edited = row.updatedAt > row.createdAt;
  const ended = growing ? undefined : ENDED[row.stream ?? asked?.progress ?? ''];
  const again = asked === undefined || onAskAgain === null ? null : () => onAskAgain(asked.message);
  const confirmed = row.state === 'synced' || row.state === 'acked';
  return (
    <li
      class="message"
      data-testid="message"
      data-id={row.id}
      data-state={row.state}
      data-role={own ? 'user' : row.role}
      data-follows={follows || undefined}
      data-leads={leads || undefined}
      data-fresh={fresh || undefined}
      data-open={open || undefined}
      data-growing={growing || undefined}
      data-ended={ended === undefined ? undefined : true}
      // Not read piece by piece: Progress reads it when it is whole.
      aria-live={growing ? 'off' : undefined}
      aria-busy={growing || undefined}
      tabIndex={-1}
    >
      <span class="hidden-words">{own ? 'You' : row.role}: </span>
      {editing ? (
        <Editor text={row.content} onDone={() => onEdit(false)} onSave={onSave} />
      ) : (
        <div class="message-line">
          <div class="bubble" data-testid="text" onClick={({ target }) => (target as Element).closest('a, button') === null && setOpen(!open)}>
            <Text row={row} growing={growing} live={live} />
          </div>
          <div class="message-actions" hidden={growing}>
            {again !== null && ended === undefined && (
              <button type="button" class="icon-button" data-testid="again" tabIndex={active ? 0 : -1} aria-label="Ask again" title="Ask again" onClick={again}>
                <Icon name="again" size={15} />
              </button>
            )}
            <button type="button" class="icon-button" data-testid="edit" tabIndex={active ? 0 : -1} aria-label="Edit this message" title="Edit" onClick={() => onEdit(true)}>
              <Icon name="pencil" size={15} />
            </button>
            <button type="button" class="icon-button" data-testid="delete" tabIndex={active ? 0 : -1} aria-label="Delete this message" title="Delete" onClick={onDelete}>
              <Icon name="bin" size={15} />
            </button>
          </div>
        </div>
      )}
      {growing && !live && <p class="message-meta">Goes on when this device is online</p>}
      {!editing && !growing && (!leads || !confirmed || edited || ended !== undefined || waits) && (
        <p class="message-meta">
          {ended !== undefined && <span data-testid="ended">{ended}</span>}
          {ended !== undefined && again !== null && (
            <button type="button" class="link" data-testid="again" onClick={again}>
              Ask again
            </button>
          )}
          {waits && confirmed && <span data-testid="waits">Waiting for the assistant</span>}
          {edited && <span>Edited</span>}
          <time dateTime={machineTime(row.createdAt)}>{clockTime(row.createdAt)}</time>
          {(own || !confirmed) && <Mark state={row.state} />}
        </p>
      )}
      {row.state === 'rejected' && (
        <p class="message-problem">
          <span>{reason(row.code, row.reason)}</span>
          {row.key !== undefined && (
            <RejectionActions sync={props.sync} rejected={{ key: row.key, code: row.code, text: row.content }} onOpen={props.onOpen} />
          )}
        </p>
      )}
    </li>
  );
}

/** How a question ends. */
const OVER: ReadonlySet<string | undefined> = new Set(['done', 'failed', 'stopped']);
/** What became of an answer that is not whole. */
const ENDED: Readonly<Record<string, string>> = {
  stopped: 'Stopped',
  failed: 'Not finished',
};

function Text({ row, growing, live }: { readonly row: ShownMessage; readonly growing: boolean; readonly live: boolean }) {
  if (row.role !== 'assistant') return row.content;
  if (row.content !== '') return <Markdown text={row.content} growing={growing} typing={growing && live} />;
  if (!growing) return 'Nothing was written';
  return (
    <span class="dots">
      <span class="hidden-words">Writing</span>
      <i />
      <i />
      <i />
    </span>
  );
}

function Mark({ state }: { readonly state: Certainty }) {
  const { icon, words } = MARKS[state];
  return (
    <span class="mark" title={words}>
      <Icon name={icon} size={13} />
      <span class={state === 'rejected' || state === 'local' ? undefined : 'hidden-words'}>{words}</span>
    </span>
  );
}

function Editor({ text, onSave, onDone }: { readonly text: string } & Pick<Props, 'onSave'> & { readonly onDone: () => void }) {
  const field = useRef<HTMLTextAreaElement>(null);
  const [problem, setProblem] = useState<string | null>(null);
  useLayoutEffect(() => {
    const { current } = field;
    if (current === null) return;
    grow(current);
    current.focus();
    current.setSelectionRange(current.value.length, current.value.length);
  }, []);
  const save = async (): Promise<void> => {
    const next = field.current?.value.trim() ?? '';
    if (next === '') return;
    const tooLong = excess(next, LONGEST_MESSAGE);
    if (tooLong !== null) return setProblem(inWords(tooLong));
    try {
      if (next !== text) await onSave(next);
      onDone();
    } catch (error) {
      setProblem((error as Error).message);
    }
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
    >
      <textarea
        ref={field}
        rows={1}
        data-testid="edit-text"
        aria-label="Message"
        defaultValue={text}
        onInput={({ currentTarget }) => grow(currentTarget)}
        onKeyDown={(event) => {
          if (event.key === 'Escape') onDone();
          if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          void save();
        }}
      />
      {problem !== null && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      <div class="editor-actions">
        <button type="button" class="button" onClick={onDone}>
          Cancel
        </button>
        <button type="submit" class="button primary" data-testid="save">
          Save
        </button>
      </div>
    </form>
  );
}
