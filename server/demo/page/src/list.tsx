/** The conversations of a device, the last changed one on top. */

import { useEffect, useRef, useState } from 'preact/hooks';

import type { List, Older, ShownConversation } from 'atlas-sync';
import type { Activity } from './activity.js';
import { arrivals } from './arrivals.js';
import type { Device } from './device.js';
import { useQuery } from './hooks.js';
import { Icon } from './icons.js';
import { usePreviews } from './previews.js';
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

/** The conversations with changes that were not opened on this device. */
function useUnread({ list, chosen, activity }: Pick<Props, 'list' | 'chosen' | 'activity'>): ReadonlySet<string> {
  const [unread, setUnread] = useState<ReadonlySet<string>>(new Set());
  const before = useRef<readonly ShownConversation[]>(NONE);
  useEffect(() => {
    const rows = list?.rows ?? NONE;
    if (before.current.length > 0) {
      const oldest = before.current.at(-1)!.updatedAt;
      const { news, seqs } = arrivals(before.current, rows, (row) => row.updatedAt <= oldest);
      activity.painted(seqs);
      const others = news.filter((id) => id !== chosen);
      if (others.length > 0) {
        setUnread((known) => new Set([...known, ...others]));
        activity.count('other conversations', others.length, (count) => (count === 1 ? 'News in another conversation' : 'News in other conversations'));
      }
    }
    before.current = rows;
  }, [list]);
  useEffect(() => {
    setUnread((known) => (chosen !== null && known.has(chosen) ? new Set([...known].filter((id) => id !== chosen)) : known));
  }, [chosen, unread]);
  return unread;
}

/** A blank before the store was read, so that the height stays. */
const preview = (text: string | null | undefined): string =>
  text === undefined ? '\u00a0' : (text ?? 'No messages yet');

export function ConversationList(props: Props) {
  const { device, list, loadOlder, chosen, onOpen, onCreate } = props;
  const rows = list?.rows ?? NONE;
  const previews = usePreviews(device, rows);
  const unread = useUnread(props);
  const status = useQuery(device.sync.status);
  const awaited = status?.lastLive === null && (status.state === 'connecting' || status.state === 'catching_up');
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
              <span class="list-title">{row.title ?? 'New conversation'}</span>
              <time class="list-time" dateTime={machineTime(row.updatedAt)}>
                {briefly(row.updatedAt)}
              </time>
              <span class="list-preview">{preview(previews.get(row.id))}</span>
              <span class="list-mark">
                {row.state === 'pending' && <Mark icon="clock" words="Not saved yet" />}
                {row.state === 'rejected' && <Mark icon="alert" words="Not accepted" />}
                {unread.has(row.id) && (
                  <span class="unread">
                    <span class="hidden-words">New messages</span>
                  </span>
                )}
              </span>
            </button>
          </li>
        ))}
        {list !== undefined && rows.length === 0 && (
          <li class="list-empty">
            <p>{awaited ? 'Fetching your conversations …' : 'Nothing here yet.'}</p>
            {!awaited && (
              <button type="button" class="button" onClick={onCreate}>
                Start a conversation
              </button>
            )}
          </li>
        )}
      </ul>
    </nav>
  );
}

function Mark({ icon, words }: { readonly icon: 'clock' | 'alert'; readonly words: string }) {
  return (
    <span title={words}>
      <Icon name={icon} size={14} />
      <span class="hidden-words">{words}</span>
    </span>
  );
}
