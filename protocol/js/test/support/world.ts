/** A browser's clock, network, locks and channels, controlled by the test. */

import type { Clock } from '../../src/clock.js';
import type { Environment } from '../../src/environment.js';
import type { ChannelLike, LocksLike } from '../../src/leader.js';
import type { WebSocketClass, WebSocketLike } from '../../src/websocket.js';
import { type ModelServer, Peer } from './model.js';

/** A clock that `pass` moves on; timers are called in their order. */
export class FakeClock implements Clock {
  time = 1_700_000_000_000;
  private readonly timers = new Map<number, { readonly at: number; readonly call: () => void }>();
  private last = 0;

  now = (): number => this.time;
  after = (ms: number, call: () => void): (() => void) => {
    const key = ++this.last;
    this.timers.set(key, { at: this.time + Math.max(0, ms), call });
    return () => this.timers.delete(key);
  };

  async pass(ms: number): Promise<void> {
    const end = this.time + ms;
    for (;;) {
      await quiet();
      const due = [...this.timers]
        .filter(([, timer]) => timer.at <= end)
        .sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (due === undefined) break;
      this.timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].call();
    }
    this.time = end;
    await quiet();
  }
}

/** Waits until all promises and immediates under way have run. */
export async function quiet(): Promise<void> {
  for (let i = 0; i < 40; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** The network to a model server. up · down: no WebSocket opens · dead: nothing arrives, in either direction. */
export class Network {
  mode: 'up' | 'down' | 'dead' = 'up';
  readonly sockets = new Set<FakeWebSocket>();
  /** The times at which WebSockets were opened. */
  readonly attempts: number[] = [];

  constructor(
    readonly server: ModelServer,
    readonly clock: Clock,
  ) {}

  readonly WebSocket: WebSocketClass = ((network: Network) =>
    class extends FakeWebSocket {
      constructor(_url: string, _protocols: string[]) {
        super(network);
      }
    })(this);

  cut(): void {
    for (const socket of [...this.sockets]) socket.drop(1006);
  }
}

export class FakeWebSocket implements WebSocketLike {
  binaryType = '';
  onopen: ((event: never) => unknown) | null = null;
  onmessage: ((event: never) => unknown) | null = null;
  onclose: ((event: never) => unknown) | null = null;
  onerror: ((event: never) => unknown) | null = null;
  private peer: Peer | null = null;
  readonly closedWith: number[] = [];

  constructor(private readonly network: Network) {
    network.attempts.push(network.clock.now());
    network.sockets.add(this);
    setImmediate(() => {
      if (network.mode === 'down') return this.drop(1006);
      if (network.mode === 'dead') return;
      this.peer = new Peer(
        network.server,
        (text) => {
          if (network.mode === 'up') setImmediate(() => this.onmessage?.({ data: text } as never));
        },
        (code) => setImmediate(() => this.drop(code)),
      );
      this.onopen?.({} as never);
    });
  }

  send(data: Uint8Array | string): void {
    if (this.network.mode === 'up') this.peer?.receive(data as string);
  }

  close(code = 1000): void {
    this.closedWith.push(code);
    this.network.sockets.delete(this);
    if (this.network.mode !== 'dead') this.peer?.shut(code);
  }

  drop(code: number): void {
    this.network.sockets.delete(this);
    this.peer?.shut(code);
    this.onclose?.({ code } as never);
  }
}

/** The Web Locks of one browser, with one lock. */
export class FakeLocks {
  private holder: { readonly reject: (error: Error) => void } | null = null;
  private readonly waiting: { readonly grant: () => void; readonly reject: (error: Error) => void }[] = [];

  /** The locks as a tab sees them. A frozen tab learns that a lock was granted when it thaws. */
  readonly forTab = (tab: { readonly run: (call: () => void) => void; readonly dead: () => boolean }): LocksLike => ({
    request: (_name, options, held) =>
      new Promise((resolve, reject) => {
        const request = {
          reject: (error: Error) => tab.run(() => reject(error)),
          grant: () => {
            const holder = { reject: request.reject };
            this.holder = holder;
            tab.run(() =>
              held().then(() => {
                resolve(undefined);
                if (this.holder === holder) this.next();
              }, reject),
            );
          },
        };
        options.signal?.addEventListener('abort', () => {
          const at = this.waiting.indexOf(request);
          if (at >= 0) this.waiting.splice(at, 1);
          reject(new Error('AbortError'));
        });
        if (options.steal === true) {
          this.holder?.reject(new Error('AbortError'));
          request.grant();
        } else if (this.holder === null) {
          request.grant();
        } else {
          this.waiting.push(request);
        }
      }),
  });

  /** The tab that holds the lock crashed. */
  crash(): void {
    this.next();
  }

  private next(): void {
    this.holder = null;
    this.waiting.shift()?.grant();
  }
}

/** A tab. While it is frozen, nothing runs in it; that runs when it thaws. */
export class Tab {
  private frozen = false;
  private crashed = false;
  private readonly late: (() => void)[] = [];
  seen = true;
  private awake: () => void = () => undefined;

  constructor(private readonly world: World) {}

  readonly run = (call: () => void): void => {
    if (this.crashed) return;
    if (this.frozen) this.late.push(call);
    else setImmediate(call);
  };

  environment(): Partial<Environment> {
    const { world } = this;
    return {
      clock: { now: world.clock.now, after: (ms, call) => world.clock.after(ms, () => this.run(call)) },
      random: () => 0.5,
      frame: this.run, // the screen is drawn all the time
      WebSocket: world.network.WebSocket,
      fetch: null,
      online: () => true,
      locks: world.locks.forTab({ run: this.run, dead: () => this.crashed }),
      channel: () => world.channel(this),
      visible: () => this.seen,
      onAwake: (call) => {
        this.awake = () => this.run(call);
        return () => undefined;
      },
      estimate: async () => world.estimate,
    };
  }

  /** The tab becomes visible, or the network came back. */
  show(): void {
    this.seen = true;
    this.awake();
  }

  freeze(): void {
    this.frozen = true;
  }

  thaw(): void {
    this.frozen = false;
    for (const call of this.late.splice(0)) setImmediate(call);
  }

  crash(): void {
    this.crashed = true;
    this.world.locks.crash();
  }
}

export class World {
  readonly clock = new FakeClock();
  readonly network: Network;
  readonly locks = new FakeLocks();
  estimate: { usage?: number; quota?: number } = {};
  private readonly channels = new Map<ChannelLike, Tab>();

  constructor(readonly server: ModelServer) {
    this.network = new Network(server, this.clock);
    server.now = this.clock.now;
  }

  tab(): Tab {
    return new Tab(this);
  }

  channel(tab: Tab): ChannelLike {
    const channel: ChannelLike = {
      onmessage: null,
      postMessage: (message) => {
        if (!this.channels.has(channel)) throw new DOMException('Channel is closed', 'InvalidStateError');
        const data: unknown = structuredClone(message);
        for (const [other, theirs] of this.channels)
          if (other !== channel) theirs.run(() => other.onmessage?.({ data }));
      },
      close: () => this.channels.delete(channel),
    };
    this.channels.set(channel, tab);
    return channel;
  }
}
