/** One device: its head with the switch, its list, its chosen conversation, its rejected writes, and its strip. */

import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { ShownConversation } from 'atlas-sync';
import { Activity } from './activity.js';
import { ConversationView } from './conversation.js';
import type { Device } from './device.js';
import { ConfirmDialog, type Question } from './dialog.js';
import { isEmpty } from './empty.js';
import { useKeptFocus } from './focus.js';
import { useQuery, useStable, useWidth } from './hooks.js';
import { Icon } from './icons.js';
import type { Kind } from './kinds.js';
import { ConversationList } from './list.js';
import { isText, recall, remember } from './memory.js';
import type { Person } from './people.js';
import { Strip } from './strip.js';
import { NetworkSwitch } from './switch.js';
import { Tray } from './tray.js';

interface Props {
  readonly slot: number;
  readonly kind: Kind;
  readonly device: Device;
  readonly person: Person;
  /** Whether there is an assistant. */
  readonly canAsk: boolean;
  readonly narrow: boolean;
  readonly hidden: boolean;
  readonly onClose: (() => void) | null;
}

/** Width in CSS pixels below which either the list or the conversation is shown. */
const BOTH_FROM = 500;

/** The row of the chosen conversation, also if it is too old for the list; null if it was deleted. */
function useChosenRow(device: Device, rows: readonly ShownConversation[] | undefined, chosen: string | null) {
  const listed = rows?.find((row) => row.id === chosen);
  const [unlisted, setUnlisted] = useState<{ readonly id: string; readonly row: ShownConversation | null } | null>(null);
  useEffect(() => {
    if (chosen === null || rows === undefined || listed !== undefined) return;
    device.sync.get('conversation', chosen).read().then(
      (row) => setUnlisted({ id: chosen, row }),
      () => undefined, // the device is being closed
    );
  }, [device, rows, chosen, listed]);
  if (chosen === null || rows === undefined) return undefined;
  return listed ?? (unlisted?.id === chosen ? unlisted.row : undefined);
}

export function DevicePanel({ slot, kind, device, person, canAsk, narrow, hidden, onClose }: Props) {
  const { sync } = device;
  const activity = useMemo(() => new Activity(device), [device]);
  useEffect(() => () => activity.close(), [activity]);
  const query = useMemo(() => sync.list('conversation'), [sync]);
  const list = useQuery(query);
  const status = useQuery(sync.status);
  const rows = list?.rows;
  const [failure, setFailure] = useState<string | null>(null);
  useEffect(() => {
    sync.ready.catch((error: Error) => setFailure(error.message));
  }, [sync]);

  const own = `${device.name}.open`;
  const shared = `${person.id}.open`;
  const [chosen, setChosen] = useState(() => (narrow ? null : (recall(own, isText) ?? recall(shared, isText))));
  const decided = useRef(narrow);
  const [ref, width] = useWidth<HTMLDivElement>();
  const stacked = width > 0 && width < BOTH_FROM;
  const [question, ask] = useState<Question | null>(null);
  const [focusComposer, setFocusComposer] = useState(0);
  const body = useRef<HTMLElement>(null);
  useKeptFocus(body);

  const choose = useStable((id: string | null): void => {
    decided.current = true;
    remember(own, id);
    if (id !== null) remember(shared, id);
    setChosen(id);
  });
  const row = useChosenRow(device, rows, chosen);
  useEffect(() => {
    if (row === null) {
      if (chosen !== null && decided.current) activity.note('The open conversation was deleted');
      setChosen(null);
    } else if (chosen === null && !decided.current && rows !== undefined && rows.length > 0) {
      // The newest one, once the first synchronisation has brought what there is.
      setChosen(rows[0]!.id);
    } else if (row !== undefined) {
      decided.current = true;
    }
  }, [rows, row, chosen]);

  const creating = useRef(false);
  /** A new conversation without messages is used again, so that a double click makes one. */
  const create = async (): Promise<void> => {
    if (creating.current) return;
    creating.current = true;
    try {
      choose((await emptyOne()) ?? (await sync.insert('conversation', { title: null })));
      setFocusComposer((count) => count + 1);
    } finally {
      creating.current = false;
    }
  };
  const emptyOne = async (): Promise<string | null> => {
    const { rows: all } = await query.read();
    for (const { id, title, state } of all) {
      if (title === null && state !== 'rejected' && (await isEmpty(sync, id))) return id;
    }
    return null;
  };
  const open = (id: string): void => {
    choose(id);
    if (matchMedia('(hover: hover)').matches) setFocusComposer((count) => count + 1);
  };
  const back = (): void => {
    const from = chosen;
    choose(null);
    requestAnimationFrame(() => body.current?.querySelector<HTMLElement>(`[data-id="${from}"]`)?.focus());
  };
  const remove = (target: ShownConversation): void =>
    ask({
      title: 'Delete this conversation?',
      text: `“${target.title ?? 'New conversation'}” and all its messages will be deleted on every device.`,
      yes: 'Delete',
      act: () => {
        if (chosen === target.id) choose(null);
        void sync.remove('conversation', target.id);
      },
    });

  const shows = !stacked ? 'both' : chosen === null ? 'list' : 'conversation';
  return (
    <section
      ref={body}
      class="device"
      id={`device-${slot}`}
      data-testid={`device-${slot}`}
      data-look={kind.look}
      data-shows={shows}
      role={narrow ? 'tabpanel' : undefined}
      aria-label={kind.name}
      hidden={hidden}
    >
      <header class="device-head">
        <Icon name={kind.icon} />
        <h2>{kind.name}</h2>
        <NetworkSwitch network={device.network} device={kind.name} />
        {onClose !== null && slot > 2 && (
          <button type="button" class="icon-button" data-testid="close-device" aria-label={`Close ${kind.name}`} title="Close this device" onClick={onClose}>
            <Icon name="close" />
          </button>
        )}
      </header>
      {failure !== null && (
        <p class="failure" role="alert">
          This device’s database cannot be opened: {failure}
        </p>
      )}
      <div class="device-body" ref={ref}>
        <ConversationList
          device={device}
          list={list}
          loadOlder={query.loadOlder}
          chosen={chosen}
          activity={activity}
          onOpen={open}
          onCreate={() => void create()}
        />
        {row != null ? (
          <ConversationView
            key={row.id}
            device={device}
            row={row}
            activity={activity}
            canAsk={canAsk && status?.state !== 'local'}
            focusComposer={focusComposer}
            onBack={back}
            onDelete={() => remove(row)}
            ask={ask}
            onOpen={open}
          />
        ) : (
          <div class="conversation empty">
            {rows !== undefined && rows.length > 0 && chosen === null && <p>Choose a conversation.</p>}
            {rows?.length === 0 && (status?.lastLive != null || status?.reason?.code === 'local_only') && <p>Messages appear here.</p>}
          </div>
        )}
      </div>
      <Tray sync={sync} open={row?.id ?? null} onOpen={open} />
      <Strip device={device} activity={activity} />
      <ConfirmDialog question={question} onDone={() => ask(null)} />
    </section>
  );
}
