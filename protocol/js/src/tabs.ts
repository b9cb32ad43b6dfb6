/**
 * The tabs of one browser that share a store: the messages between them, and what the leading tab does for the others.
 * Knows neither the store nor the connection.
 */

import { touchedAll, type Touched } from './apply.js';
import type { Environment } from './environment.js';
import { Leader, type ChannelLike, type LeaderMessage } from './leader.js';
import type { StreamFrame } from './frames.js';
import { PageError, type PageRequest } from './pages.js';
import type { Uuid } from './rows.js';
import type { ConnectionStatus } from './status.js';
import type { Stop } from './stops.js';
import type { HeldStream } from './streams.js';
import { newId } from './uuid.js';

/** Messages without content, to all other tabs; only the leading tab obeys `reconnect` and answers `streamed`. */
type Signal = 'kick' | 'awake' | 'reconnect' | 'downgrade' | 'destroyed' | 'streamed';

type Message =
  | LeaderMessage
  | { readonly k: 'touched'; readonly all: boolean; readonly histories: readonly string[] }
  | { readonly k: 'state'; readonly connection: ConnectionStatus }
  | { readonly k: 'page'; readonly id: Uuid; readonly asked: PageRequest; readonly limit: number }
  | { readonly k: 'paged'; readonly id: Uuid; readonly error: string | null }
  | { readonly k: 'stream'; readonly frame: StreamFrame }
  | { readonly k: 'streams'; readonly streams: readonly HeldStream[] }
  | { readonly k: 'stop'; readonly id: Uuid; readonly stop: Stop }
  | { readonly k: 'stopped'; readonly id: Uuid; readonly found: boolean }
  | { readonly k: Signal };

export interface TabsOptions {
  /** The store's. */
  readonly name: string;
  readonly environment: Environment;
  readonly onLead: () => void;
  readonly onDeposed: () => void;
  /** Another tab changed the store. */
  readonly onTouched: (touched: Touched) => void;
  /** The leading tab reported its connection. */
  readonly onConnection: (connection: ConnectionStatus) => void;
  readonly connection: () => ConnectionStatus;
  /** Another tab asked this one, which leads, for a page. */
  readonly page: (request: PageRequest, limit: number) => Promise<void>;
  /** The leading tab received a frame of a stream, or tells all streams. */
  readonly onStream: (what: StreamFrame | readonly HeldStream[]) => void;
  /** Another tab asked this one, which leads, to end a stream. */
  readonly onStop: (id: Uuid, stop: Stop) => Promise<boolean>;
  readonly onStopped: (id: Uuid, found: boolean) => void;
  readonly onTick: () => void;
  readonly on: Readonly<Record<Signal, () => void>>;
}

const nothing = (): void => undefined;

export class Tabs {
  private readonly leader: Leader;
  private readonly channel: ChannelLike | null;
  private closed = false;
  private readonly waiting = new Map<
    Uuid,
    { readonly done: () => void; readonly failed: (error: PageError) => void }
  >();

  constructor(private readonly options: TabsOptions) {
    const { locks, clock, random, visible, channel } = options.environment;
    const name = `atlas-sync ${options.name}`;
    this.channel = channel?.(name) ?? null;
    if (this.channel !== null) this.channel.onmessage = ({ data }) => this.receive(data as Message);
    const post = (message: LeaderMessage): void => {
      this.post(message);
      if (message.k === 'here') this.postStatus();
    };
    const { onLead, onDeposed } = options;
    this.leader = new Leader({ name, locks, clock, random, visible, post, onLead, onDeposed });
  }

  /** Whether this tab is the one that connects. */
  get leading(): boolean {
    return this.leader.leading;
  }

  /** From now on this tab may lead: it has a getToken. */
  start(): void {
    this.leader.start();
  }

  /** Takes the lead from the tab that has it. */
  steal(): void {
    this.leader.steal();
  }

  /** Another tab leads now. */
  resign(): void {
    this.leader.resign();
  }

  /** This tab became visible, or the network came back. */
  awake(): void {
    this.leader.awake();
    if (!this.leading) this.signal('awake');
  }

  touched({ all, histories }: Touched): void {
    this.post({ k: 'touched', all, histories: [...histories] });
  }

  postStatus(): void {
    if (this.leading) this.post({ k: 'state', connection: this.options.connection() });
  }

  /** Tells the other tabs a frame of a stream, or all streams. */
  postStream(what: StreamFrame | readonly HeldStream[]): void {
    if (this.leading) this.post('t' in what ? { k: 'stream', frame: what } : { k: 'streams', streams: what });
  }

  /** Asks the leading tab to end a stream. It may be asked again. */
  stop(id: Uuid, stop: Stop): void {
    this.post({ k: 'stop', id, stop });
  }

  /** The leading tab connects now. */
  reconnect(): void {
    if (this.leading) this.options.on.reconnect();
    else this.signal('reconnect');
  }

  signal(k: Signal): void {
    this.post({ k });
  }

  /** Has the leading tab fetch a page into the store. Rejects with PageError. */
  page(request: PageRequest, limit: number): Promise<void> {
    if (this.channel === null) return Promise.reject(new PageError('offline'));
    const id = newId();
    return new Promise<void>((done, failed) => {
      this.waiting.set(id, { done, failed });
      this.post({ k: 'page', id, asked: request, limit });
    });
  }

  /** Also gives up the lead. */
  close(): void {
    this.closed = true;
    this.leader.stop();
    for (const waiting of this.waiting.values()) waiting.failed(new PageError('offline'));
    this.channel?.close();
  }

  private post(message: Message): void {
    if (!this.closed) this.channel?.postMessage(message);
  }

  private receive(message: Message): void {
    const { options, leading } = this;
    switch (message.k) {
      case 'ask':
      case 'here':
        this.leader.receive(message);
        options.onTick();
        break;
      case 'touched':
        options.onTouched(message.all ? touchedAll() : { histories: new Set(message.histories), all: false });
        break;
      case 'state':
        if (!leading) options.onConnection(message.connection);
        break;
      case 'page':
        if (leading) void this.answer(message.id, options.page(message.asked, message.limit));
        break;
      case 'paged': {
        const waiting = this.waiting.get(message.id);
        this.waiting.delete(message.id);
        if (message.error === null) waiting?.done();
        else waiting?.failed(new PageError(message.error));
        break;
      }
      case 'stream':
        if (!leading) options.onStream(message.frame);
        break;
      case 'streams':
        if (!leading) options.onStream(message.streams);
        break;
      case 'stop': {
        const { id, stop } = message;
        if (leading) options.onStop(id, stop).then((found) => this.post({ k: 'stopped', id, found }), nothing);
        break;
      }
      case 'stopped':
        options.onStopped(message.id, message.found);
        break;
      default:
        // A tab of a newer version may send other messages.
        if ((message.k !== 'reconnect' && message.k !== 'streamed') || leading) options.on[message.k]?.();
    }
  }

  private async answer(id: Uuid, page: Promise<void>): Promise<void> {
    let error: string | null = null;
    try {
      await page;
    } catch (reason) {
      error = reason instanceof PageError ? reason.code : 'offline';
    }
    this.post({ k: 'paged', id, error });
  }
}
