/** A model server for one user, by SPEC.md, in memory: JSON frames, plain maps, for the kinds of any schema. */

import { EARLIEST } from '../../src/clock.js';
import type { Uuid } from '../../src/rows.js';
import { CHAT } from '../../src/schema.chat.js';
import type { KindSchema, Schema } from '../../src/schema.js';

type Value = string | number | boolean | null;
export type WireId = Value | Value[];
type Columns = Readonly<Record<string, Value>>;
export type Wire = readonly unknown[];
/** Columns by their names on the wire. */
export interface ModelRow {
  readonly seq: number;
  readonly id: WireId;
  readonly values: Record<string, Value>;
}
interface Consumed {
  n: number;
  results: Map<number, Wire>;
  /** The mutations of numbers that the device may push again. */
  mutations: Map<number, string>;
}
interface State {
  epoch: number;
  seq: number;
  tier: string;
  /** By kind, then by id. */
  rows: Map<string, Map<string, ModelRow>>;
  log: { seq: number; rows: Wire[] }[];
  clients: Map<Uuid, Consumed>;
  /** Every creation of a row with a parent that was applied, in order. */
  applied: { client: Uuid; id: WireId }[];
}

/** A text that is being written. */
export interface ModelStream {
  readonly stream: Uuid;
  readonly kind: string;
  readonly id: WireId;
  readonly column: string;
  readonly since: number;
  text: string;
  state: string;
}

type Said = { readonly t: string } & Readonly<Record<string, unknown>>;
export interface PageAsked {
  readonly id: number;
  readonly kind: string;
  readonly parent?: WireId;
  readonly before: readonly [Value, WireId] | null;
  readonly limit: number;
}

/** A chat row with its columns, for tests. */
export interface ChatRow {
  readonly id: Uuid;
  readonly home: Uuid;
  readonly title: string;
  readonly role: string;
  readonly content: string;
  readonly createdAt: number;
  readonly updatedAt: number;
}

export const newConversation = (id: Uuid, title: string | null, at: number): Wire => ['+', 'c', id, { title }, at];
export const newMessage = (id: Uuid, home: Uuid, content: string, at: number, role = 'user'): Wire => [
  '+',
  'm',
  id,
  { conversation_id: home, role, content },
  at,
];

const name = (id: WireId): string => JSON.stringify(id);

/** As Postgres orders them: nil first, texts by their bytes, decimal texts of a bigint as numbers. */
function compare(type: string | undefined, a: Value, b: Value): number {
  if (a === null || b === null) return a === b ? 0 : a === null ? -1 : 1;
  if (type === 'bigint')
    return BigInt(a as number) < BigInt(b as number) ? -1 : BigInt(a as number) > BigInt(b as number) ? 1 : 0;
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  return Buffer.compare(Buffer.from(String(a)), Buffer.from(String(b)));
}

export class ModelServer {
  state: State = {
    epoch: 1,
    seq: 1,
    tier: 'pro',
    rows: new Map(),
    log: [],
    clients: new Map(),
    applied: [],
  };
  readonly peers = new Set<Peer>();
  /** Grows over all epochs, as time does. */
  private clock = 1;
  limits = { frame_bytes: 20_000, page_rows: 7, pages_in_flight: 2, mutations: 3 };
  keepalive = 25_000;
  /** Milliseconds for which a token is valid. */
  tokenLife = 3_600_000;
  now: () => number = () => Date.now();
  tokens: (token: string) => boolean = () => true;
  /** Errors that answer the next pushes, one each, instead of applying them. */
  readonly pushErrors: object[] = [];
  /** How many mutations were pushed although they had been answered. */
  repeats = 0;
  /** Whether a mutation out of its time is rejected. */
  strict = false;
  /** The generation of each `hello`, in their order. */
  readonly generations: number[] = [];
  /** By the columns' values, as JSON. */
  rejects: (columns: string) => boolean = (columns) => columns.includes('refuse');

  /** Those that are not settled, by their ids. */
  readonly streams = new Map<Uuid, ModelStream>();
  /** How many `stop` frames came. */
  stops = 0;
  /** Errors that answer the next stops, one each; null: they are not answered. */
  readonly stopErrors: (object | null)[] = [];

  constructor(public schema: Schema = CHAT) {}

  backup(): State {
    return structuredClone(this.state);
  }

  /** The database becomes a backup of itself. With the same epoch, devices cannot see that. */
  restore(backup: State, epoch = ++this.clock): void {
    this.state = structuredClone(backup);
    this.state.epoch = epoch;
    for (const peer of [...this.peers]) peer.shut(1006);
  }

  cursor(seq = this.state.seq): string {
    return btoa(`${this.state.epoch}:${seq}`);
  }

  kind(name: string): KindSchema {
    return this.schema.kinds.find((kind) => kind.name === name) as KindSchema;
  }

  rows(kind: string, state = this.state): Map<string, ModelRow> {
    const rows = state.rows.get(kind) ?? new Map<string, ModelRow>();
    state.rows.set(kind, rows);
    return rows;
  }

  get conversations(): Map<Uuid, ChatRow> {
    return this.chat('conversation');
  }

  get messages(): Map<Uuid, ChatRow> {
    return this.chat('message');
  }

  private chat(kind: string): Map<Uuid, ChatRow> {
    return new Map(
      [...this.rows(kind).values()].map(({ id, values: v }) => [
        id as Uuid,
        {
          id: id as Uuid,
          home: v['conversation_id'] as Uuid,
          title: v['title'] as string,
          role: v['role'] as string,
          content: v['content'] as string,
          createdAt: v['created_at'] as number,
          updatedAt: v['updated_at'] as number,
        },
      ]),
    );
  }

  /** One transaction. `change` returns the rows for the feed. */
  commit(change: (state: State, seq: number) => Wire[]): number {
    const seq = ++this.clock;
    const from = this.cursor();
    const rows = change(this.state, seq);
    if (rows.length === 0) return this.state.seq;
    this.state.seq = seq;
    this.state.log.push({ seq, rows });
    for (const peer of this.peers) {
      if (peer.following) peer.say({ t: 'changes', from, to: this.cursor(), rows, seq });
    }
    return seq;
  }

  setTier(tier: string): void {
    this.state.tier = tier;
    if (tier === 'free') for (const peer of [...this.peers]) peer.localOnly();
  }

  /** A message from another writer. */
  message(home: Uuid, id: Uuid, content: string, at: number): void {
    this.commit((state, seq) => this.apply(state, seq, newMessage(id, home, content, at)).rows);
  }

  /** Another writer writes any row. */
  write(kind: string, id: WireId, values: Record<string, Value>): void {
    this.commit((state, seq) => {
      const row = { seq, id, values };
      this.rows(kind, state).set(name(id), row);
      return [this.columns(this.kind(kind), row)];
    });
  }

  /** The app's backend begins to write a message's content, or another column. */
  begin(stream: Uuid, id: WireId, column = 'content', kind = 'm'): void {
    const begun = { stream, kind, id, column, since: this.state.seq, text: '', state: 'open' };
    this.streams.set(stream, begun);
    for (const peer of this.peers) peer.tell(begun, 0);
  }

  append(stream: Uuid, text: string, state = 'open'): void {
    const written = this.streams.get(stream) as ModelStream;
    const offset = [...written.text].length;
    written.text += text;
    written.state = state;
    for (const peer of this.peers) peer.tell(written, offset);
  }

  settle(stream: Uuid): void {
    this.streams.delete(stream);
    for (const peer of this.peers) peer.tellAll();
  }

  beat(): void {
    for (const peer of this.peers) peer.beat();
  }

  /** Returns whether there was an open stream. */
  stop(kind: unknown, id: unknown, column: unknown): boolean {
    const open = [...this.streams.values()].filter(
      (each) => each.kind === kind && name(each.id) === name(id as WireId) && each.state === 'open',
    );
    const some = open.filter((each) => column === null || each.column === column);
    for (const { stream } of some) this.append(stream, '', 'stopped');
    return some.length > 0;
  }

  push(client: Uuid, n: number, mutations: readonly Wire[], held: number | null = null): object {
    const consumed = this.state.clients.get(client) ?? { n: 0, results: new Map(), mutations: new Map() };
    this.state.clients.set(client, consumed);
    const others = mutations.some((mutation, i) => {
      const known = consumed.mutations.get(n + i);
      const same = known === undefined ? held === null : known === JSON.stringify(mutation);
      return n + i <= consumed.n && mutation.length > 0 && !same;
    });
    if (n > consumed.n + 1 || others) {
      return {
        t: 'error',
        code: 'gap',
        message: '',
        retryable: true,
        answers: 'push',
        id: n,
        expected: consumed.n + 1,
      };
    }
    for (const number of consumed.mutations.keys()) if (number < (held ?? 0)) consumed.mutations.delete(number);
    const results = mutations.map((mutation, i): Wire => {
      const number = n + i;
      const text = JSON.stringify(mutation);
      const former = [...consumed.mutations].find(([, known]) => known === text && mutation.length > 0)?.[0];
      if (number <= consumed.n || former !== undefined) {
        const before = consumed.results.get(number <= consumed.n ? number : (former ?? 0));
        const result: Wire =
          before?.[0] === 'rejected' ? ['rejected', number, ...before.slice(2)] : ['repeated', number, this.state.seq];
        if (number <= consumed.n) this.repeats++;
        else this.consume(consumed, number, text, result);
        return result;
      }
      let refused: string | null = null;
      const seq = this.commit((state, at) => {
        const outcome = this.apply(state, at, mutation);
        refused = outcome.refused;
        if (mutation[0] === '+' && outcome.below && refused === null && outcome.rows.length > 0) {
          state.applied.push({ client, id: mutation[2] as WireId });
        }
        return outcome.rows;
      });
      const result: Wire = refused === null ? ['applied', number, seq] : ['rejected', number, refused, 'It cannot be.'];
      this.consume(consumed, number, text, result);
      return result;
    });
    return { t: 'ack', results };
  }

  private consume(consumed: Consumed, number: number, mutation: string, result: Wire): void {
    consumed.n = number;
    consumed.results.set(number, result);
    consumed.mutations.set(number, mutation);
  }

  private columns({ tag, parent, columns }: KindSchema, row: ModelRow): Wire {
    const values = columns.map(([column]) => row.values[column] ?? null);
    // The second column of a row whose parent has a parent is that one's key.
    const above = parent === undefined ? undefined : this.kind(parent);
    if (above?.parent !== undefined) {
      const held = this.rows(above.name).get(name(values[0] ?? null));
      values[1] = held?.values[above.columns[0]?.[0] ?? ''] ?? null;
    }
    return [tag, row.seq, row.id, ...values];
  }

  private below(state: State, kind: KindSchema, id: WireId): [KindSchema, ModelRow][] {
    return this.schema.kinds
      .filter((child) => child.parent === kind.name)
      .flatMap((child) =>
        [...this.rows(child.name, state).values()]
          .filter((row) => name(row.values[child.columns[0]?.[0] ?? ''] ?? null) === name(id))
          .map((row): [KindSchema, ModelRow] => [child, row]),
      );
  }

  private drop(state: State, kind: KindSchema, id: WireId): void {
    for (const [child, row] of this.below(state, kind, id)) this.drop(state, child, row.id);
    this.rows(kind.name, state).delete(name(id));
  }

  private apply(state: State, seq: number, m: Wire): { rows: Wire[]; refused: string | null; below: boolean } {
    const kind = this.schema.kinds.find(({ tag }) => tag === m[1]);
    const refused = (code: string): { rows: Wire[]; refused: string; below: boolean } => ({
      rows: [],
      refused: code,
      below: false,
    });
    if (kind === undefined) return refused('malformed');
    const { devices = {}, dated, parent } = kind;
    const held = this.rows(kind.name, state);
    const rows: Wire[] = [];
    const [id, instant] = dated !== undefined && m[0] !== '+' ? (m[2] as [WireId, number]) : [m[2] as WireId, null];
    const values = m[0] === '-' ? {} : (m[3] as Columns);
    const at = m[4] as number;
    if (this.rejects(JSON.stringify(values))) return refused('refused');
    if (this.strict && m[0] !== '-' && !(at >= EARLIEST && at <= this.now() * 1000 + 300_000_000)) return refused('bad_time');
    const row = held.get(name(id));
    const named = row !== undefined && (dated === undefined || row.values[dated] === instant);
    switch (m[0]) {
      case '+': {
        if (row) break;
        const above =
          parent === undefined
            ? undefined
            : this.rows(parent, state).get(name(values[kind.columns[0]?.[0] ?? ''] ?? null));
        if (parent !== undefined && !above) return refused('unknown_parent');
        const made: Record<string, Value> = { ...values };
        for (const column of [devices.created, devices.updated]) if (column !== undefined) made[column] = at;
        held.set(name(id), { seq, id, values: made });
        rows.push(this.columns(kind, { seq, id, values: made }));
        if (above && devices.touches !== undefined) {
          const raised = Math.max((above.values[devices.touches] as number | null) ?? at, at);
          const changed = { ...above, seq, values: { ...above.values, [devices.touches]: raised } };
          this.rows(parent as string, state).set(name(above.id), changed);
          rows.push(this.columns(this.kind(parent as string), changed));
        }
        break;
      }
      case '~': {
        if (!named) return refused('unknown_row');
        const { updated } = devices;
        const raised =
          updated === undefined ? {} : { [updated]: Math.max((row.values[updated] as number | null) ?? at, at) };
        const changed = { seq, id, values: { ...row.values, ...values, ...raised } };
        held.set(name(id), changed);
        rows.push(this.columns(kind, changed));
        break;
      }
      case '-':
        if (!named) break;
        this.drop(state, kind, id);
        rows.push([`-${kind.tag}`, seq, id]);
        break;
      default:
        return refused('malformed');
    }
    return { rows, refused: null, below: parent !== undefined };
  }

  /** Negative if `a` is older than `b`. */
  private order({ key, newest, columns }: KindSchema, a: ModelRow, b: ModelRow): number {
    const type = columns.find(([column]) => column === newest)?.[1].replace('?', '');
    const at = (row: ModelRow): Value => row.values[newest ?? ''] ?? null;
    const parts = ({ id }: ModelRow): Value[] => (Array.isArray(id) ? id : [id]);
    const byKey = parts(a).map((part, i) => compare(key[i], part, parts(b)[i] ?? null));
    return compare(type, at(a), at(b)) || byKey.find((sign) => sign !== 0) || 0;
  }

  /** The rows of a history, newest first. */
  private history(kind: KindSchema, parent: WireId | null): ModelRow[] {
    const home = kind.columns[0]?.[0] ?? '';
    return [...this.rows(kind.name).values()]
      .filter((row) => kind.parent === undefined || name(row.values[home] ?? null) === name(parent))
      .sort((a, b) => this.order(kind, b, a));
  }

  page({ id, kind: asked, parent = null, before, limit }: PageAsked): object {
    const kind = this.kind(asked);
    const last = before && { seq: 0, id: before[1], values: { [kind.newest ?? '']: before[0] } };
    const older = this.history(kind, parent).filter((row) => last === null || this.order(kind, row, last) < 0);
    const some = older.slice(0, Math.min(limit, this.limits.page_rows));
    const rows = some.map((row) => this.columns(kind, { ...row, seq: this.state.seq }));
    return { t: 'page', id, as_of: this.state.seq, rows, more: older.length > some.length };
  }

  snapshot(window: Readonly<Record<string, number>>): object[] {
    const { seq } = this.state;
    const most = (kind: KindSchema): number => window[kind.name] ?? kind.window ?? Infinity;
    const tree = (kind: KindSchema, parent: WireId | null): Wire[] =>
      this.history(kind, parent)
        .slice(0, most(kind))
        .flatMap((row) => [
          this.columns(kind, { ...row, seq }),
          ...this.schema.kinds.filter((child) => child.parent === kind.name).flatMap((child) => tree(child, row.id)),
        ]);
    const parts = this.schema.kinds
      .filter((kind) => kind.parent === undefined)
      .map((kind) => ({ t: 'snapshot', as_of: seq, rows: tree(kind, null) }))
      .filter((part) => part.rows.length > 0);
    return [...parts, { t: 'snapshot', as_of: seq, rows: [], cursor: this.cursor() }];
  }
}

/** One connection, at the server's end. */
export class Peer {
  following = false;
  open = true;
  client: Uuid = '';
  generation = 0;
  private streams = false;

  constructor(
    private readonly server: ModelServer,
    private readonly send: (text: string) => void,
    private readonly close: (code: number) => void,
  ) {
    server.peers.add(this);
  }

  say(frame: object): void {
    if (this.open) this.send(JSON.stringify(frame));
  }

  /** What follows the character `offset` of a stream. */
  tell({ text, ...stream }: ModelStream, offset: number): void {
    if (this.following && this.streams)
      this.say({ t: 'stream', ...stream, offset, text: [...text].slice(offset).join('') });
  }

  tellAll(): void {
    if (this.following && this.streams) this.say({ t: 'streams', open: [...this.server.streams.keys()] });
  }

  /** Cuts the connection (1006), or closes it. */
  shut(code: number): void {
    if (!this.open) return;
    this.open = this.following = false;
    this.server.peers.delete(this);
    this.close(code);
  }

  localOnly(): void {
    this.say({ t: 'error', code: 'local_only', message: 'Your plan works on this device.', retryable: false });
    this.shut(4301);
  }

  receive(text: string): void {
    const { server } = this;
    const f = JSON.parse(text) as Said;
    switch (f.t) {
      case 'hello':
        return this.hello(f);
      case 'ping':
        return this.say({ t: 'pong' });
      case 'refresh':
        return this.say(
          server.tokens(f['token'] as string)
            ? { t: 'refreshed', expires: (server.now() + server.tokenLife) * 1000 }
            : { t: 'error', code: 'token_refused', message: '', retryable: true, answers: 'refresh' },
        );
      case 'page':
        return this.say(server.page(f as unknown as PageAsked));
      case 'stop': {
        const { n } = f;
        server.stops++;
        const error = server.stopErrors.shift();
        if (error === null) return;
        if (error !== undefined)
          return this.say({ t: 'error', message: '', retryable: true, answers: 'stop', id: n, ...error });
        return this.say({ t: 'stopped', n, found: server.stop(f['kind'], f['id'], f['column'] ?? null) });
      }
      case 'push': {
        const error = server.pushErrors.shift();
        return this.say(
          error === undefined
            ? server.push(this.client, f['n'] as number, f['mutations'] as Wire[], f['held'] as number)
            : { t: 'error', message: '', retryable: true, answers: 'push', id: f['n'], ...error },
        );
      }
    }
  }

  private hello(f: Said): void {
    const { server } = this;
    const { state } = server;
    if (!server.tokens(f['token'] as string)) {
      this.say({ t: 'error', code: 'token_refused', message: '', retryable: true, answers: 'hello' });
      return this.shut(4101);
    }
    if (state.tier === 'free') return this.localOnly();
    this.client = f['client_id'] as Uuid;
    this.generation = f['generation'] as number;
    this.streams = ((f['extras'] ?? []) as string[]).includes('streams');
    server.generations.push(this.generation);
    for (const peer of [...server.peers]) {
      if (peer === this || peer.client !== this.client) continue;
      const older = peer.generation > this.generation ? this : peer;
      older.say({ t: 'error', code: 'replaced', message: '', retryable: false });
      older.shut(4302);
      if (older === this) return;
    }
    const cursor = f['cursor'] as string | null;
    const [epoch, seq] = cursor === null ? [0, 0] : (atob(cursor).split(':').map(Number) as [number, number]);
    const known = seq === 1 || state.log.some((logged) => logged.seq === seq);
    const why = cursor === null ? 'new' : epoch !== state.epoch ? 'epoch' : known ? null : 'ahead';
    const time = server.now() * 1000;
    this.say({
      t: 'welcome',
      session: 's',
      epoch: `${state.epoch}`,
      schema: server.schema.hash,
      tier: state.tier,
      mode: why === null ? 'resumed' : 'snapshot',
      why,
      time,
      expires: time + server.tokenLife * 1000,
      keepalive: server.keepalive,
      limits: server.limits,
    });
    if (f['schema'] !== undefined && f['schema'] !== server.schema.hash) this.say({ t: 'schema', ...server.schema });
    if (why !== null) {
      for (const part of server.snapshot((f['window'] ?? {}) as Record<string, number>)) this.say(part);
    } else {
      let from = seq;
      for (const entry of state.log.filter((logged) => logged.seq > seq)) {
        this.say({
          t: 'changes',
          from: server.cursor(from),
          to: server.cursor(entry.seq),
          rows: entry.rows,
          seq: entry.seq,
        });
        from = entry.seq;
      }
    }
    this.following = true;
    this.tellAll();
    for (const stream of server.streams.values()) this.tell(stream, 0);
    this.beat();
  }

  beat(): void {
    if (this.following) this.say({ t: 'live', cursor: this.server.cursor(), seq: this.server.state.seq });
  }
}
