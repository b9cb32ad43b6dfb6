/**
 * The messages of a conversation, oldest first. Only a window of them is rendered. It moves with the scroll position,
 * loads older messages near its top, and keeps the visible ones in their place.
 */

import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

import type { ShownMessage } from 'atlas-sync';
import { plural, type Activity } from './activity.js';
import { arrivals } from './arrivals.js';
import type { Questions } from './ask.js';
import { Bubble } from './bubble.js';
import type { Device } from './device.js';
import type { Question } from './dialog.js';
import { useQuery, useStable } from './hooks.js';
import { Icon } from './icons.js';
import { withoutMarks } from './markdown.js';
import { newestGrowing } from './streams.js';
import { moved, slice, STEP } from './window.js';
import { dayName } from './when.js';

interface Props {
  readonly device: Device;
  readonly conversation: string;
  readonly activity: Activity;
  /** Grows with each message sent here. */
  readonly sent: number;
  readonly questions: Questions;
  /** Is told which message is being written; null when none is. */
  readonly onGrowing: (id: string | null) => void;
  /** Asks with this message again. */
  readonly onAskAgain: ((message: string) => void) | null;
  readonly ask: (question: Question) => void;
  /** Opens another conversation. */
  readonly onOpen: (id: string) => void;
}

const NONE: readonly ShownMessage[] = [];
/** Pixels from an end at which the window moves, and at which the end counts as reached. */
const NEAR = 500;
const AT_END = 48;
const PAGE = 50;
/** If more messages are loaded, going back to the newest starts a new, small list. */
const MANY = 400;
/** Milliseconds for which a message counts as just arrived. */
const FRESH_FOR = 2_600;
/** Microseconds: messages of one role within five minutes form a group. */
const TOGETHER = 300_000_000;

/** The messages that just arrived, and how many of them the user has not seen. */
function useNews(rows: readonly ShownMessage[], atEnd: { readonly current: boolean }, activity: Activity) {
  const [fresh, setFresh] = useState<ReadonlySet<string>>(new Set());
  const [unseen, setUnseen] = useState(0);
  const before = useRef<readonly ShownMessage[] | null>(null);
  useLayoutEffect(() => {
    const known = before.current;
    if (rows === NONE || rows.some((row) => row.hole)) return;
    before.current = rows;
    if (known === null) return;
    const oldest = known[0]?.createdAt ?? -Infinity;
    const { news, added, seqs } = arrivals(known, rows, (row) => row.createdAt < oldest);
    activity.painted(seqs);
    if (news.length === 0) return;
    setFresh((old) => new Set([...old, ...news]));
    setTimeout(() => setFresh((old) => new Set([...old].filter((id) => !news.includes(id)))), FRESH_FOR);
    if (added > 0) activity.count('arrived', added, (count) => `${plural(count, 'message')} arrived`);
    if (news.length > added) activity.count('changed', news.length - added, (count) => `${plural(count, 'message')} changed`);
    if (!atEnd.current) setUnseen((count) => count + added);
  }, [rows]);
  return { fresh, unseen, seen: () => setUnseen(0) };
}

export function Messages(props: Props) {
  const { device, conversation, activity, sent, questions, onGrowing, onAskAgain, ask, onOpen } = props;
  const { sync } = device;
  const [query, setQuery] = useState(() => sync.list('message', { parent: conversation, oldestFirst: true }));
  const list = useQuery(query);
  const status = useQuery(sync.status);
  const rows = list?.rows ?? NONE;
  const [last, setLast] = useState<string | null>(null);
  const [loading, setLoading] = useState(false);
  const [outOfReach, setOutOfReach] = useState(false);
  const [away, setAway] = useState(false);
  const [editing, edit] = useState<string | null>(null);
  /** The message that the keyboard has reached; Tab leads to its actions. */
  const [active, activate] = useState<string | null>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const items = useRef<HTMLOListElement>(null);
  const atEnd = useRef(true);
  const goToEnd = useRef(false);
  /** Whether the user has scrolled up from there, however little; and where the list was then. */
  const leftEnd = useRef(false);
  const lastTop = useRef(0);
  const [goes, go] = useState(0);
  /** The topmost visible message, and its distance from the top in pixels. */
  const anchor = useRef<{ readonly id: string; readonly top: number } | null>(null);
  const { fresh, unseen, seen } = useNews(rows, atEnd, activity);
  const window = slice(rows, last);
  const shown = rows.slice(window.start, window.end);
  const growing = newestGrowing(rows);
  useLayoutEffect(() => onGrowing(growing), [growing]);

  const updateAnchor = useStable((): void => {
    const box = scroller.current;
    if (box === null) return;
    const top = box.getBoundingClientRect().top;
    const left = box.scrollHeight - box.scrollTop - box.clientHeight;
    // Who scrolls up leaves the end at once: else a text that grows there would hold them.
    if (box.scrollTop < lastTop.current && left > 1) leftEnd.current = true;
    else if (left <= 1 || (box.scrollTop > lastTop.current && left < AT_END)) leftEnd.current = false;
    lastTop.current = box.scrollTop;
    anchor.current = null;
    for (const item of items.current?.querySelectorAll<HTMLElement>('[data-id]') ?? []) {
      const place = item.getBoundingClientRect();
      if (place.bottom < top) continue;
      anchor.current = { id: item.dataset.id!, top: place.top - top };
      break;
    }
    atEnd.current = last === null && left < AT_END && !leftEnd.current;
    setAway(!atEnd.current);
    if (atEnd.current && unseen > 0) seen();
  });
  const keepPlace = useStable((): void => {
    const box = scroller.current;
    if (box === null || box.clientHeight === 0) return;
    const kept = anchor.current;
    if ((atEnd.current || goToEnd.current) && last === null) {
      goToEnd.current = leftEnd.current = false;
      box.scrollTop = box.scrollHeight;
    } else if (kept !== null) {
      const item = items.current?.querySelector<HTMLElement>(`[data-id="${kept.id}"]`);
      if (item != null) box.scrollTop += item.getBoundingClientRect().top - box.getBoundingClientRect().top - kept.top;
    }
    lastTop.current = box.scrollTop;
    updateAnchor();
    move();
  });
  const move = useStable((): void => {
    const box = scroller.current;
    if (box === null || box.clientHeight === 0) return;
    if (box.scrollTop < NEAR && (window.start > 0 || list?.more === true)) {
      if (window.start > 0 && !atEnd.current) setLast(moved(rows, window, -STEP));
      else if (window.start === 0) void older();
    } else if (last !== null && box.scrollHeight - box.scrollTop - box.clientHeight < NEAR) {
      setLast(moved(rows, window, STEP));
    }
  });
  const older = async (): Promise<void> => {
    if (loading || outOfReach || list?.more !== true) return;
    setLoading(true);
    try {
      setOutOfReach((await query.loadOlder(PAGE)) === 'offline');
    } catch {
      setOutOfReach(true);
    } finally {
      setLoading(false);
    }
  };
  const toEnd = useStable(async (): Promise<void> => {
    if (rows.length > MANY) {
      const small = sync.list('message', { parent: conversation, oldestFirst: true });
      await small.read();
      setQuery(small);
    }
    goToEnd.current = true;
    setLast(null);
    go((count) => count + 1);
  });

  useLayoutEffect(keepPlace, [rows, last, loading, editing, goes]);
  useEffect(() => {
    if (sent > 0) void toEnd();
  }, [sent]);
  useEffect(() => {
    if (status?.state === 'live') setOutOfReach(false);
  }, [status?.state]);
  useEffect(() => {
    if (!outOfReach) move();
  }, [outOfReach]);
  useEffect(() => {
    const observer = new ResizeObserver(keepPlace);
    for (const element of [scroller.current, items.current]) if (element !== null) observer.observe(element);
    return () => observer.disconnect();
  }, []);

  const walk = (event: KeyboardEvent): void => {
    const step = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (step === 0 || event.target instanceof HTMLTextAreaElement || shown.length === 0) return;
    event.preventDefault();
    const at = shown.findIndex((row) => row.id === active);
    const next = at < 0 ? shown.length - 1 : Math.min(Math.max(at + step, 0), shown.length - 1);
    const { id } = shown[next]!;
    activate(id);
    items.current?.querySelector<HTMLElement>(`[data-id="${id}"]`)?.focus();
  };
  const remove = (row: ShownMessage): void =>
    ask({
      title: 'Delete this message?',
      text: 'It will be deleted on every device.',
      yes: 'Delete',
      act: () => void sync.remove('message', row.id),
    });

  const live = status?.state === 'live' || status?.state === 'catching_up';

  return (
    <div class="messages-frame">
      <div
        class="messages"
        ref={scroller}
        role="log"
        aria-live="polite"
        aria-label="Messages, arrow keys lead from one to the next"
        aria-busy={loading || last !== null}
        tabIndex={0}
        onKeyDown={walk}
        onScroll={() => {
          updateAnchor();
          move();
        }}
      >
        <p class="messages-top">{topWords(list, window.start, loading, outOfReach)}</p>
        <ol ref={items}>
          {shown.map((row, index) => {
            const above = shown[index - 1];
            const below = shown[index + 1];
            const newDay = above === undefined || dayName(above.createdAt) !== dayName(row.createdAt);
            return [
              newDay && (
                <li class="day" key={`day ${row.id}`}>
                  {dayName(row.createdAt)}
                </li>
              ),
              <Bubble
                key={row.id}
                row={row}
                follows={!newDay && together(above, row)}
                leads={below !== undefined && together(row, below)}
                fresh={fresh.has(row.id)}
                active={active === row.id}
                editing={editing === row.id}
                onEdit={(on) => edit(on ? row.id : null)}
                onSave={(text) => sync.update('message', row.id, { content: text })}
                onDelete={() => remove(row)}
                sync={sync}
                onOpen={onOpen}
                asked={questions.byAnswer.get(row.id)}
                waits={questions.waiting === row.id}
                live={live}
                onAskAgain={onAskAgain}
              />,
            ];
          })}
        </ol>
        {list !== undefined && rows.length === 0 && !list.more && <p class="messages-none">No messages yet. Write the first one.</p>}
      </div>
      <Progress rows={rows} growing={growing} />
      {(away || last !== null) && (
        <button type="button" class="to-end" data-testid="to-end" onClick={() => void toEnd()}>
          <Icon name="down" size={15} />
          {unseen > 0 ? plural(unseen, 'new message') : 'Newest messages'}
        </button>
      )}
    </div>
  );
}

/** Says to those who do not see it that an answer is being written, and reads it to them once it is whole. */
function Progress({ rows, growing }: { readonly rows: readonly ShownMessage[]; readonly growing: string | null }) {
  const [said, say] = useState('');
  const before = useRef<string | null>(null);
  useEffect(() => {
    const written = growing === null ? rows.find((row) => row.id === before.current) : undefined;
    if (growing !== null) say('The assistant is writing. Escape stops it.');
    else if (written !== undefined) say(`The assistant has answered: ${withoutMarks(written.content)}`);
    before.current = growing;
  }, [growing]);
  return (
    <p class="hidden-words" role="status" data-testid="progress">
      {said}
    </p>
  );
}

const together = (above: ShownMessage | undefined, below: ShownMessage): boolean =>
  above !== undefined && above.role === below.role && below.createdAt - above.createdAt < TOGETHER;

function topWords(
  list: { readonly rows: readonly ShownMessage[]; readonly more: boolean } | undefined,
  start: number,
  loading: boolean,
  outOfReach: boolean,
): string {
  if (list === undefined) return '';
  if (outOfReach) return 'Older messages come when this device is online.';
  if (loading || start > 0 || list.more) return 'Loading older messages…';
  return list.rows.length > 0 ? 'The beginning of this conversation' : '';
}
