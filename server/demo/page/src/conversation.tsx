/** The chosen conversation: its title with its actions, its messages, and the composer. */

import { useLayoutEffect, useRef, useState } from 'preact/hooks';

import type { ShownConversation } from 'atlas-sync';
import type { Activity } from './activity.js';
import { useAsking, useQuestions } from './ask.js';
import { Composer } from './composer.js';
import type { Device } from './device.js';
import type { Question } from './dialog.js';
import { isEmpty } from './empty.js';
import { Icon } from './icons.js';
import { titleFrom } from './limits.js';
import { Messages } from './messages.js';

interface Props {
  readonly device: Device;
  readonly row: ShownConversation;
  readonly activity: Activity;
  readonly canAsk: boolean;
  /** Each change moves the focus to the composer. */
  readonly focusComposer: number;
  readonly onBack: () => void;
  readonly onDelete: () => void;
  readonly ask: (question: Question) => void;
  /** Opens another conversation. */
  readonly onOpen: (id: string) => void;
}

export function ConversationView({ device, row, activity, canAsk, focusComposer, onBack, onDelete, ask, onOpen }: Props) {
  const { sync } = device;
  const [renaming, rename] = useState(false);
  const renameButton = useRef<HTMLButtonElement>(null);
  /** Whether the title was written by keyboard, which goes on where it was. */
  const returns = useRef(false);
  useLayoutEffect(() => {
    if (renaming || !returns.current) return;
    returns.current = false;
    renameButton.current?.focus();
  }, [renaming]);
  const [sent, setSent] = useState(0);
  const [asking, setAsking] = useAsking();
  const questions = useQuestions(sync, row.id);
  /** The message that is being written here. */
  const [growing, setGrowing] = useState<string | null>(null);
  const [stopping, setStopping] = useState<string | null>(null);
  const title = row.title ?? 'New conversation';
  const send = async (text: string): Promise<void> => {
    const untitled = row.title === null && (await isEmpty(sync, row.id));
    const message = await sync.insert('message', { conversationId: row.id, role: 'user', content: text });
    if (canAsk && asking) await askFor(message);
    if (untitled) await sync.update('conversation', row.id, { title: titleFrom(text) });
    setSent((count) => count + 1);
  };
  const askFor = async (message: string): Promise<void> => {
    await sync.insert('question', { conversationId: row.id, messageId: message });
  };
  const stop = (): void => {
    if (growing === null) return;
    setStopping(growing);
    // Now, or with the next connection. What is written stays.
    sync.stop('message', growing).catch(() => undefined); // the device is being closed
  };
  return (
    <div
      class="conversation"
      onKeyDown={(event) => {
        if (event.key !== 'Escape' || event.isComposing || growing === null) return;
        if ((event.target as Element).closest('.editor, .title-field') !== null) return;
        event.preventDefault();
        stop();
      }}
    >
      <div class="conversation-head">
        <button type="button" class="icon-button back" data-testid="back" aria-label="Back to the conversations" onClick={onBack}>
          <Icon name="back" />
        </button>
        {renaming ? (
          <TitleField
            title={row.title ?? ''}
            onDone={(next, byKey) => {
              returns.current = byKey;
              rename(false);
              if (next !== null && next !== title) void sync.update('conversation', row.id, { title: next });
            }}
          />
        ) : (
          <h3 data-testid="title" onDblClick={() => rename(true)}>
            {title}
          </h3>
        )}
        {!renaming && (
          <>
            <button ref={renameButton} type="button" class="icon-button" data-testid="rename" aria-label="Rename this conversation" title="Rename" onClick={() => rename(true)}>
              <Icon name="pencil" />
            </button>
            <button type="button" class="icon-button" data-testid="delete-conversation" aria-label="Delete this conversation" title="Delete" onClick={onDelete}>
              <Icon name="bin" />
            </button>
          </>
        )}
      </div>
      <Messages
        device={device}
        conversation={row.id}
        activity={activity}
        sent={sent}
        questions={questions}
        onGrowing={setGrowing}
        onAskAgain={canAsk ? (message) => void askFor(message) : null}
        ask={ask}
        onOpen={onOpen}
      />
      <Composer
        draftName={`${device.name}.draft.${row.id}`}
        focus={focusComposer}
        asking={asking}
        onAsking={canAsk ? setAsking : null}
        stopping={growing !== null && growing === stopping}
        onStop={growing === null ? null : stop}
        onSend={send}
      />
    </div>
  );
}

function TitleField({ title, onDone }: { readonly title: string; readonly onDone: (title: string | null, byKey: boolean) => void }) {
  const field = useRef<HTMLInputElement>(null);
  const done = useRef(false);
  useLayoutEffect(() => {
    field.current?.focus();
    field.current?.select();
  }, []);
  const finish = (keep: boolean, byKey: boolean): void => {
    if (done.current) return;
    done.current = true;
    const next = field.current?.value.trim() ?? '';
    onDone(keep && next !== '' ? next : null, byKey);
  };
  return (
    <input
      ref={field}
      class="title-field"
      data-testid="title-field"
      aria-label="Title"
      maxLength={200}
      defaultValue={title}
      placeholder="New conversation"
      onBlur={() => finish(true, false)}
      onKeyDown={(event) => {
        if (event.isComposing || (event.key !== 'Enter' && event.key !== 'Escape')) return;
        // The button that gets the focus would take the same key as a click.
        event.preventDefault();
        finish(event.key === 'Enter', true);
      }}
    />
  );
}
