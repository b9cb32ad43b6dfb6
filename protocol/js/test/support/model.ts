/** A model server for one user, by SPEC.md, in memory: JSON frames, plain maps. */

import type { Uuid } from '../../src/rows.js';

type Columns = (string | number | null)[];
interface ConversationRow {
  seq: number;
  id: Uuid;
  title: string | null;
  createdAt: number;
  updatedAt: number;
}
interface MessageRow extends Omit<ConversationRow, 'title'> {
  home: Uuid;
  role: string;
  content: string;
}
interface Consumed {
  n: number;
  results: Map<number, Columns>;
  /** The mutations of numbers that the device may push again. */
  mutations: Map<number, string>;
}
interface State {
  epoch: number;
  seq: number;
  tier: string;
  conversations: Map<Uuid, ConversationRow>;
  messages: Map<Uuid, MessageRow>;
  log: { seq: number; rows: Columns[] }[];
  clients: Map<Uuid, Consumed>;
  /** Every creation of a message that was applied, in order. */
  applied: { client: Uuid; id: Uuid }[];
}

type Said = { readonly t: string } & Readonly<Record<string, unknown>>;

const uuid = /^[0-9a-f-]{36}$/;
const cColumns = (row: ConversationRow): Columns => ['c', row.seq, row.id, row.title, row.createdAt, row.updatedAt];
const mColumns = (row: MessageRow): Columns => [
  'm',
  row.seq,
  row.id,
  row.home,
  row.role,
  row.content,
  row.createdAt,
  row.updatedAt,
];
const byOrder =
  (at: 'createdAt' | 'updatedAt') =>
  (a: ConversationRow | MessageRow, b: ConversationRow | MessageRow): number =>
    b[at] - a[at] || (a.id < b.id ? 1 : -1);

export class ModelServer {
  state: State = {
    epoch: 1,
    seq: 1,
    tier: 'pro',
    conversations: new Map(),
    messages: new Map(),
    log: [],
    clients: new Map(),
    applied: [],
  };
  readonly peers = new Set<Peer>();
  /** Grows over all epochs, as time does. */
  private clock = 1;
  limits = { frame_bytes: 20_000, page_rows: 7, pages_in_flight: 2, mutations: 3, title_bytes: 20, content_bytes: 100 };
  keepalive = 25_000;
  /** Milliseconds for which a token is valid. */
  tokenLife = 3_600_000;
  now: () => number = () => Date.now();
  tokens: (token: string) => boolean = () => true;
  /** Errors that answer the next pushes, one each, instead of applying them. */
  readonly pushErrors: object[] = [];
  /** How many mutations were pushed although they had been answered. */
  repeats = 0;
  /** The generation of each `hello`, in their order. */
  readonly generations: number[] = [];
  rejects: (content: string) => boolean = (content) => content.includes('refuse');

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

  /** One transaction. `change` returns the rows for the feed. */
  commit(change: (state: State, seq: number) => Columns[]): number {
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
    this.commit((state, seq) => this.apply(state, seq, ['+m', id, home, 'assistant', content, at]).rows);
  }

  push(client: Uuid, n: number, mutations: Columns[], held: number | null = null): object {
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
    const results = mutations.map((mutation, i): Columns => {
      const number = n + i;
      const text = JSON.stringify(mutation);
      const former = [...consumed.mutations].find(([, known]) => known === text && mutation.length > 0)?.[0];
      if (number <= consumed.n || former !== undefined) {
        const before = consumed.results.get(number <= consumed.n ? number : (former ?? 0));
        const result: Columns =
          before?.[0] === 'rejected' ? ['rejected', number, ...before.slice(2)] : ['repeated', number, this.state.seq];
        if (number <= consumed.n) this.repeats++;
        else this.consume(consumed, number, text, result);
        return result;
      }
      let refused: string | null = null;
      const seq = this.commit((state, at) => {
        const outcome = this.apply(state, at, mutation);
        refused = outcome.refused;
        if (mutation[0] === '+m' && refused === null && outcome.rows.length > 0) {
          state.applied.push({ client, id: mutation[1] as Uuid });
        }
        return outcome.rows;
      });
      const result: Columns =
        refused === null ? ['applied', number, seq] : ['rejected', number, refused, 'It cannot be.'];
      this.consume(consumed, number, text, result);
      return result;
    });
    return { t: 'ack', results };
  }

  private consume(consumed: Consumed, number: number, mutation: string, result: Columns): void {
    consumed.n = number;
    consumed.results.set(number, result);
    consumed.mutations.set(number, mutation);
  }

  private apply(state: State, seq: number, m: Columns): { rows: Columns[]; refused: string | null } {
    const refused = (code: string): { rows: Columns[]; refused: string } => ({ rows: [], refused: code });
    const { conversations, messages } = state;
    const rows: Columns[] = [];
    const id = m[1] as Uuid;
    if (typeof id !== 'string' || !uuid.test(id)) return refused('malformed');
    switch (m[0]) {
      case '+c': {
        if (conversations.has(id)) break;
        const row = { seq, id, title: m[2] as string, createdAt: m[3] as number, updatedAt: m[3] as number };
        conversations.set(id, row);
        rows.push(cColumns(row));
        break;
      }
      case '~c': {
        const row = conversations.get(id);
        if (!row) return refused('unknown_conversation');
        Object.assign(row, { seq, title: m[2], updatedAt: Math.max(row.updatedAt, m[3] as number) });
        rows.push(cColumns(row));
        break;
      }
      case '-c':
        if (!conversations.delete(id)) break;
        for (const row of [...messages.values()]) if (row.home === id) messages.delete(row.id);
        rows.push(['-c', seq, id]);
        break;
      case '+m': {
        const [, , home, role, content, at] = m as [string, Uuid, Uuid, string, string, number];
        const there = conversations.get(home);
        if (this.rejects(content)) return refused('refused');
        if (messages.has(id)) break;
        if (!there) return refused('unknown_conversation');
        const row = { seq, id, home, role, content, createdAt: at, updatedAt: at };
        messages.set(id, row);
        rows.push(mColumns(row));
        Object.assign(there, { seq, updatedAt: Math.max(there.updatedAt, at) });
        rows.push(cColumns(there));
        break;
      }
      case '~m': {
        const row = messages.get(id);
        if (!row || row.createdAt !== m[2]) return refused('unknown_message');
        Object.assign(row, { seq, content: m[3], updatedAt: Math.max(row.updatedAt, m[4] as number) });
        rows.push(mColumns(row));
        break;
      }
      case '-m':
        if (messages.get(id)?.createdAt !== m[2]) break;
        messages.delete(id);
        rows.push(['-m', seq, id]);
        break;
      default:
        return refused('malformed');
    }
    return { rows, refused: null };
  }

  page(f: { id: number; conversation: Uuid | null; before: [number, Uuid] | null; limit: number }): object {
    const { conversations, messages, seq } = this.state;
    const at = f.conversation === null ? 'updatedAt' : 'createdAt';
    const all: (ConversationRow | MessageRow)[] =
      f.conversation === null
        ? [...conversations.values()]
        : [...messages.values()].filter((row) => row.home === f.conversation);
    const { before } = f;
    const older = all
      .sort(byOrder(at))
      .filter((row) => before === null || row[at] < before[0] || (row[at] === before[0] && row.id < before[1]));
    const some = older.slice(0, Math.min(f.limit, this.limits.page_rows)).map((row) => ({ ...row, seq }));
    const rows = some.map((row) => ('home' in row ? mColumns(row) : cColumns(row)));
    return { t: 'page', id: f.id, as_of: seq, rows, more: older.length > some.length };
  }

  snapshot(window: { conversations: number; messages: number }): object[] {
    const { conversations, messages, seq } = this.state;
    const newest = [...conversations.values()].sort(byOrder('updatedAt')).slice(0, window.conversations);
    const parts = newest.map((row) => ({
      t: 'snapshot',
      as_of: seq,
      rows: [
        cColumns({ ...row, seq }),
        ...[...messages.values()]
          .filter((message) => message.home === row.id)
          .sort(byOrder('createdAt'))
          .slice(0, window.messages)
          .map((message) => mColumns({ ...message, seq })),
      ],
    }));
    return [...parts, { t: 'snapshot', as_of: seq, rows: [], cursor: this.cursor() }];
  }
}

/** One connection, at the server's end. */
export class Peer {
  following = false;
  open = true;
  client: Uuid = '';
  generation = 0;

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
        return this.say(server.page(f as unknown as Parameters<ModelServer['page']>[0]));
      case 'push': {
        const error = server.pushErrors.shift();
        return this.say(
          error === undefined
            ? server.push(this.client, f['n'] as number, f['mutations'] as Columns[], f['held'] as number)
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
      tier: state.tier,
      mode: why === null ? 'resumed' : 'snapshot',
      why,
      time,
      expires: time + server.tokenLife * 1000,
      keepalive: server.keepalive,
      limits: server.limits,
    });
    if (why !== null)
      for (const part of server.snapshot(f['window'] as { conversations: number; messages: number })) this.say(part);
    else {
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
    this.say({ t: 'live', cursor: server.cursor(), seq: state.seq });
    this.following = true;
  }
}
