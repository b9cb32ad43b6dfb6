/** The conversations of a device, the last changed one on top. */

import { useEffect, useRef } from 'preact/hooks';

import type { Certainty, List, Older, ShownConversation, Status } from 'atlas-sync';
import type { Activity } from './activity.js';
import { arrivals } from './arrivals.js';
import { condition } from './condition.js';
import type { Device } from './device.js';
import { useQuery } from './hooks.js';
import { Icon } from './icons.js';
import { usePreviews, type Unsettled } from './previews.js';
import { useWriting } from './streams.js';
import { useNetwork } from './switch.js';
import { useUnread } from './unread.js';
import { briefly, machineTime } from './when.js';

interface Props {
  readonly device: Device;
  readonly list: List<ShownConversation> | undefined;
  readonly loadOlder: (count?: number) => Promise<Older>;
  readonly chosen: string | null;
  readonly activity: Activity;
  readonly onOpen: (id: string) => void;
  readonly onCreate: () => void;
}

const NEAR = 200;
const NONE: readonly ShownConversation[] = [];

/** Counts changes of other conversations as events. */
function useNews({ list, chosen, activity }: Pick<Props, 'list' | 'chosen' | 'activity'>): void {
  const before = useRef<readonly ShownConversation[]>(NONE);
  useEffect(() => {
    const rows = list?.rows ?? NONE;
    if (before.current.length > 0) {
      const oldest = before.current.at(-1)!.updatedAt;
      const { news, seqs } = arrivals(before.current, rows, (row) => row.updatedAt <= oldest);
      activity.painted(seqs);
      const others = news.filter((id) => id !== chosen);
      if (others.length > 0) {
        activity.count('other conversations', others.length, (count) => (count === 1 ? 'News in another conversation' : 'News in other conversations'));
      }
    }
    before.current = rows;
  }, [list]);
}

/** A blank before the store was read, so that the height stays. */
const preview = (text: string | null | undefined): string =>
  text === undefined ? '\u00a0' : (text ?? 'No messages yet');

export function ConversationList(props: Props) {
  const { device, list, loadOlder, chosen, onOpen, onCreate } = props;
  const rows = list?.rows ?? NONE;
  useNews(props);
  const status = useQuery(device.sync.status);
  const writing = useWriting(device.sync);
  const previews = usePreviews(device, rows, `${status?.pending} ${status?.rejected} ${[...writing].join()}`);
  const unread = useUnread(device, list?.rows, chosen, status?.lastLive ?? null);
  /** The item that Tab reaches; arrow keys lead to the others. */
  const entry = rows.some((row) => row.id === chosen) ? chosen : rows[0]?.id;
  const items = useRef<HTMLUListElement>(null);
  const loading = useRef(false);

  const more = (scroller: HTMLElement): void => {
    const left = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
    if (loading.current || list?.more !== true || left > NEAR) return;
    loading.current = true;
    loadOlder()
      .catch(() => undefined) // the strip shows it
      .finally(() => (loading.current = false));
  };
  const move = (event: KeyboardEvent): void => {
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (step === 0) return;
    const buttons = [...(items.current?.querySelectorAll<HTMLElement>('button') ?? [])];
    const next = buttons[buttons.indexOf(document.activeElement as HTMLElement) + step];
    if (next === undefined) return;
    event.preventDefault();
    next.focus();
  };

  return (
    <nav class="list" aria-label="Conversations">
      <div class="list-head">
        <h3>Conversations</h3>
        <button type="button" class="icon-button" data-testid="new-conversation" aria-label="New conversation" title="New conversation" onClick={onCreate}>
          <Icon name="compose" />
        </button>
      </div>
      <ul class="list-items" ref={items} onKeyDown={move} onScroll={({ currentTarget }) => more(currentTarget)}>
        {rows.map((row) => (
          <li key={row.id}>
            <button
              type="button"
              class="list-item"
              data-testid="conversation"
              data-id={row.id}
              data-state={row.state}
              tabIndex={row.id === entry ? 0 : -1}
              aria-current={row.id === chosen ? 'true' : undefined}
              onClick={() => onOpen(row.id)}
            >
              <span class="list-line">
                <span class="list-title">{row.title ?? 'New conversation'}</span>
                <span class="list-mark">
                  <StateMark row={row.state} messages={previews.get(row.id)?.state} />
                  {unread.has(row.id) && (
                    <span class="unread" data-testid="unread">
                      <span class="hidden-words">New messages</span>
                    </span>
                  )}
                </span>
              </span>
              <span class="list-line">
                <span class="list-preview" data-writing={writing.has(row.id) || undefined}>
                  {writing.has(row.id) ? 'Writing …' : preview(previews.get(row.id)?.text)}
                </span>
                <time class="list-time" dateTime={machineTime(row.updatedAt)}>
                  {briefly(row.updatedAt)}
                </time>
              </span>
            </button>
          </li>
        ))}
        {list !== undefined && rows.length === 0 && <Empty device={device} status={status} onCreate={onCreate} />}
      </ul>
    </nav>
  );
}

/** In place of a list: why it is empty, and what can be done. */
function Empty({ device, status, onCreate }: Pick<Props, 'device' | 'onCreate'> & { readonly status: Status | undefined }) {
  const networkOn = useNetwork(device.network);
  const { state, why } = status === undefined ? { state: 'connecting', why: null } : condition(status, networkOn);
  const awaited = (status?.lastLive ?? null) === null && state !== 'local' && state !== 'destroyed';
  const words = !awaited
    ? 'No conversations yet.'
    : !networkOn
      ? 'Your conversations come when this device’s network is on.'
      : why !== null
        ? 'Your conversations come as soon as the server can be reached.'
        : 'Fetching your conversations…';
  return (
    <li class="list-empty" data-testid="list-empty" aria-busy={awaited}>
      {awaited && networkOn && <span class="spinner" aria-hidden="true" />}
      <p role="status">{words}</p>
      {!awaited && (
        <button type="button" class="button" onClick={onCreate}>
          Start a conversation
        </button>
      )}
    </li>
  );
}

/** What is not settled: of the conversation itself, or of its messages. */
function StateMark({ row, messages }: { readonly row: Certainty; readonly messages: Unsettled | undefined }) {
  if (row === 'rejected' || messages === 'rejected') return <Mark icon="alert" words="Not saved" />;
  if (row === 'pending') return <Mark icon="clock" words="Waiting to be saved" />;
  return messages === 'pending' ? <Mark icon="clock" words="A message is waiting to be sent" /> : null;
}

function Mark({ icon, words }: { readonly icon: 'clock' | 'alert'; readonly words: string }) {
  return (
    <span title={words} data-icon={icon}>
      <Icon name={icon} size={14} />
      <span class="hidden-words">{words}</span>
    </span>
  );
}
