/**
 * The streams of a user: texts that grow in columns of rows while the app's backend writes them (SPEC.md, section 13).
 * Frames and rows in, streams out. Pure.
 */

import type { StreamFrame } from './frames.js';
import { homeOf, keyOf, nameOf, type Row, type Uuid } from './rows.js';
import type { Id, Kind } from './schema.js';
import { codePoints, firstPoints } from './text.js';

/** open: the text may grow · done, failed, stopped: it does not any more. */
export type StreamState = 'open' | 'done' | 'failed' | 'stopped';

/** How an app marks a row in which a stream is shown. */
export interface StreamMarks {
  /** Whether the text may still grow. Absent if no stream is shown in the row. */
  readonly streaming?: boolean;
  /** The state of the stream. */
  readonly stream?: StreamState;
}

/** The row of a stream, as far as its stream depends on it. */
export interface StreamRow {
  readonly seq: number;
  /** Of the stream's column. */
  readonly value: unknown;
  /** The row's history, by `nameOf`. */
  readonly history: string;
  /** The row's parent; null if its kind has none. */
  readonly parent: Id | null;
}

export interface HeldStream {
  readonly stream: Uuid;
  /** The kind's name. */
  readonly kind: string;
  readonly id: Id;
  readonly key: string;
  /** Its name here. */
  readonly column: string;
  /** The feed's position when it was opened. */
  readonly since: number;
  readonly text: string;
  /** Of the text, in code points. */
  readonly length: number;
  readonly state: StreamState;
  /** The column's value in the last row that was held and was not newer than the stream; null if there was none. */
  readonly base: unknown;
  /** As far as it was read; null: it is not held, or was not read. */
  readonly row: StreamRow | null;
  /** Whether the server still names it. */
  readonly listed: boolean;
  /** Whether it is shown no more. It is held until the server does not name it. */
  readonly over: boolean;
}

/** As a store keeps it: without its text if it is over. */
export type KeptStream = Omit<HeldStream, 'row' | 'listed' | 'length'>;

/** By their ids, in the order in which they were first held. */
export type Streams = ReadonlyMap<Uuid, HeldStream>;

export const NO_STREAMS: Streams = new Map();

/** What is shown: the stream, or the row for good · lags: the row's value, until the stream is as far · nothing: no row. */
export function shows(
  row: Pick<StreamRow, 'seq' | 'value'> | null,
  { since, base, text, state }: Pick<HeldStream, 'since' | 'base' | 'text' | 'state'>,
): 'nothing' | 'row' | 'stream' | 'lags' {
  const isOpen = state === 'open';
  if (row === null) return 'nothing';
  if (!isOpen && text === '') return 'row';
  const { seq, value } = row;
  if (seq <= since || value === null || value === undefined || value === '' || value === base) return 'stream';
  if (typeof value !== 'string') return 'row';
  if (value.length < text.length && text.startsWith(value)) return 'stream';
  return isOpen && value.startsWith(text) ? 'lags' : 'row';
}

const STATES: readonly string[] = ['open', 'done', 'failed', 'stopped'] satisfies StreamState[];

/** A state of a later version is an end. */
export const stateOf = (state: string): StreamState => (STATES.includes(state) ? (state as StreamState) : 'done');

/** With what it shows decided anew. */
const decided = (stream: HeldStream): HeldStream =>
  shows(stream.row, stream) === 'row' ? { ...stream, over: true } : stream;

const changed = (streams: Streams, some: readonly HeldStream[]): Streams =>
  some.length === 0 ? streams : new Map([...streams, ...some.map((each) => [each.stream, each] as const)]);

/** After a frame. A frame behind the end of the text that is held changes nothing: null. */
export function received(streams: Streams, kind: Kind, frame: StreamFrame): Streams | null {
  const { stream, id, column, since, offset } = frame;
  const held = streams.get(stream);
  if (held?.over) return streams;
  const { text: before, length: had } = held ?? { text: '', length: 0 };
  if (offset > had) return null;
  // The whole text is not counted anew with each frame.
  const text = (offset === had ? before : firstPoints(before, offset)) + frame.text;
  const length = offset + codePoints(frame.text);
  const state = stateOf(frame.state);
  if (held?.listed && text === before && state === held.state) return streams;
  if (held !== undefined) return changed(streams, [decided({ ...held, text, length, state, listed: true })]);
  const made = { stream, kind: kind.name, id, key: keyOf(kind, id), column, since, text, length, state };
  return changed(streams, [{ ...made, base: null, row: null, listed: true, over: false }]);
}

/** After the server named the streams that are not settled. */
export function named(streams: Streams, open: readonly Uuid[]): Streams {
  const some = [...streams.values()].filter(({ stream, listed }) => listed !== open.includes(stream));
  return changed(
    streams,
    some.map((each) => ({ ...each, listed: !each.listed })),
  );
}

export const kept = ({ row: _, listed: __, length: ___, text, ...stream }: HeldStream): KeptStream => ({
  ...stream,
  text: stream.over ? '' : text,
});

/** What a store kept. Whether the server still names it is not known. */
export const restored = (streams: readonly KeptStream[]): Streams =>
  new Map(
    streams.map((stream) => [stream.stream, { ...stream, length: codePoints(stream.text), row: null, listed: true }]),
  );

export const without = (streams: Streams, ids: readonly Uuid[]): Streams =>
  new Map([...streams].filter(([id]) => !ids.includes(id)));

/** Those that the server does not name any more: the next `live` ends them. */
export const unnamed = (streams: Streams): Uuid[] =>
  [...streams.values()].flatMap(({ stream, listed }) => (listed ? [] : [stream]));

/** The row of a stream, as far as the stream depends on it. */
export const streamRow = (kind: Kind, column: string, row: Row): StreamRow => ({
  seq: row.seq,
  value: row[column] ?? null,
  history: nameOf(kind, homeOf(kind, row)),
  parent: kind.home === null ? null : (row[kind.home] as Id),
});

/** After rows were read, by the ids of the streams; null: it is not held. `isGone`: then it was deleted. */
export function withRows(streams: Streams, rows: ReadonlyMap<Uuid, StreamRow | null>, isGone: boolean): Streams {
  return changed(
    streams,
    [...rows].flatMap(([id, row]) => {
      const held = streams.get(id);
      if (held === undefined || held.over) return [];
      const { row: before } = held;
      if (row === null) return before === null ? [] : [{ ...held, row, over: isGone }];
      if (before !== null && row.seq === before.seq && row.value === before.value && row.history === before.history)
        return [];
      const base = row.seq <= held.since ? row.value : held.base;
      return [decided({ ...held, base, row })];
    }),
  );
}

/** By kind and key, then by column: the stream to show there, which is the one that was held last. */
export type Places = ReadonlyMap<string, ReadonlyMap<string, HeldStream>>;

export const NO_PLACES: Places = new Map();

export function placed(streams: Streams): Places {
  const places = new Map<string, Map<string, HeldStream>>();
  for (const stream of streams.values()) {
    const name = `${stream.kind} ${stream.key}`;
    const columns = places.get(name) ?? new Map<string, HeldStream>();
    places.set(name, columns.set(stream.column, stream));
  }
  return places;
}

/** The state of the streams of one row, of which one is shown; null: none is. */
export function shownState(streams: ReadonlyMap<string, HeldStream> = new Map()): StreamState | null {
  const shown = [...streams.values()].filter((stream) => !stream.over && shows(stream.row, stream) !== 'nothing');
  return (shown.find(({ state }) => state === 'open') ?? shown[0])?.state ?? null;
}

/** A row with the texts of its streams, and the marks of the streams that it shows. */
export function streamed(row: Row, streams: ReadonlyMap<string, HeldStream>): readonly [Row, StreamMarks] {
  const texts: Record<string, string> = {};
  let state: StreamState | undefined;
  for (const [column, stream] of streams) {
    const what = stream.over ? 'row' : shows({ seq: row.seq, value: row[column] ?? null }, stream);
    if (what === 'row') continue;
    if (what === 'stream') texts[column] = stream.text;
    if (state !== 'open') state = stream.state;
  }
  return state === undefined ? [row, {}] : [{ ...row, ...texts }, { streaming: state === 'open', stream: state }];
}

/**
 * The streams that fit rows which were read after `before` was taken: with each text as it is now. A stream that is over
 * since, or forgotten, counts as it was: the rows may be those from before.
 */
export function fitting(before: Streams, now: Streams): Streams {
  const made = new Map(before);
  for (const [id, stream] of now) if (!stream.over || (before.get(id)?.over ?? true)) made.set(id, stream);
  return made;
}
