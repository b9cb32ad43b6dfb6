/** A device of which the test performs each step: what is sent, what arrives and when, and when it ends. */

import { touchedNothing } from '../../src/apply.js';
import { codecsFor } from '../../src/codec.js';
import type { Window } from '../../src/frames.js';
import { Ingest } from '../../src/ingest.js';
import type { Uuid } from '../../src/rows.js';
import type { Kinds } from '../../src/schema.js';
import { Session, together, type Event } from '../../src/session.js';
import type { Store } from '../../src/store.js';
import * as writes from '../../src/write.js';
import { type ModelServer, Peer } from './model.js';
import { CHAT_KINDS, id, MESSAGE, WITHOUT_STREAMS } from './rows.js';

export class Device {
  readonly inbox: string[] = [];
  /** Answers to pushes, which may come before the changes that they are about, or after them. */
  readonly answers: string[] = [];
  /** Pages that were read, and arrive late. */
  readonly late: string[] = [];
  readonly written: { id: Uuid; content: string }[] = [];
  session: Session | null = null;
  peer: Peer | null = null;
  clock = 0;
  private made: Ingest | null = null;

  get ingest(): Ingest {
    return (this.made ??= this.newIngest());
  }

  set ingest(ingest: Ingest) {
    this.made = ingest;
  }

  constructor(
    readonly server: ModelServer,
    readonly number: number,
    public store: Store,
    private readonly reopen: () => Promise<Store>,
    readonly end: () => Promise<void>,
    readonly window: Window = {},
    readonly kinds: Kinds = CHAT_KINDS,
  ) {}

  /** The app ends wherever it is, and starts again from its store. */
  async restart(): Promise<void> {
    this.cut();
    this.store = await this.reopen();
    this.ingest = this.newIngest();
  }

  newIngest(): Ingest {
    return new Ingest({
      store: this.store,
      codec: codecsFor(this.kinds).json,
      window: this.window,
      now: () => this.clock,
      random: () => 0,
      onTouched: () => touchedNothing(),
      streams: WITHOUT_STREAMS,
    });
  }

  async send(home: Uuid, content: string): Promise<void> {
    const message = id(0x10000 * (this.number + 1) + this.written.length);
    const columns = { conversationId: home, role: 'user', content };
    const now = 1000 + this.written.length;
    await this.store.write((tx) => writes.insert(tx, this.kinds, now, MESSAGE, message, columns));
    this.written.push({ id: message, content });
  }

  cut(): void {
    this.peer?.shut(1006);
    this.session = this.peer = null;
    this.inbox.length = this.late.length = this.answers.length = 0;
  }

  async connect(): Promise<void> {
    this.cut();
    await this.ingest.lead();
    this.session = new Session({
      kinds: this.kinds,
      token: 't',
      ...(await this.ingest.begin()),
      window: this.window,
      encoding: 'json',
    });
    const peer = new Peer(
      this.server,
      (text) =>
        (/^."t":"page"/.test(text)
          ? this.late
          : /^."t":"ack"|"answers":"push"/.test(text)
            ? this.answers
            : this.inbox
        ).push(text),
      () => undefined,
    );
    this.peer = peer;
    peer.receive(this.session.hello() as string);
  }

  async receive(most: number, answersFirst = false): Promise<void> {
    const events: Event[] = [];
    for (let i = 0; i < most && this.session !== null; i++) {
      const text = answersFirst
        ? (this.answers.shift() ?? this.inbox.shift())
        : (this.inbox.shift() ?? this.answers.shift());
      if (text === undefined) break;
      const event = this.session.receive(text);
      if (event === null) continue;
      const last = events.at(-1);
      const both = last && together(last, event);
      if (both) events[events.length - 1] = both;
      else events.push(event);
    }
    for (const event of events) await this.ingest.apply(event);
    if (this.peer?.open === false && this.inbox.length + this.answers.length === 0) this.cut();
  }

  async push(): Promise<boolean> {
    if (this.session === null || !this.session.mayPush || this.session.limits.mutations === 0) return false;
    const push = await this.ingest.nextPush(this.session.limits);
    if (push === null) return false;
    if (typeof push === 'number') {
      this.clock += push;
      return true;
    }
    this.peer?.receive(this.session.push(push) as string);
    return true;
  }

  /** Exchanges frames until there are none left. */
  async flush(): Promise<void> {
    if (this.session === null) await this.connect();
    do {
      this.inbox.push(...this.late.splice(0));
      await this.receive(Infinity);
      if (this.session === null) await this.connect();
    } while ((await this.push()) || this.inbox.length + this.answers.length > 0);
  }
}
