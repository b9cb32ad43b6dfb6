/** What the library needs from its platform: browser, React Native or Node. An app may replace each part. */

import type { Estimate } from './clean.js';
import { systemClock, type Clock } from './clock.js';
import type { ChannelLike, LocksLike } from './leader.js';
import type { FetchLike } from './reason.js';
import type { WebSocketClass } from './websocket.js';

export interface Environment {
  readonly clock: Clock;
  readonly random: () => number;
  /** Calls `call` before the screen is drawn the next time; soon, if it is not drawn. */
  readonly frame: (call: () => void) => void;
  /** Node.js has none before version 22. What connects must have one. */
  readonly WebSocket: WebSocketClass;
  /** Asks by HTTP why no WebSocket opens. null: that is not asked. */
  readonly fetch: FetchLike | null;
  /** Whether there is a network, as far as the platform knows. */
  readonly online: () => boolean;
  /** null: there are no other tabs. */
  readonly locks: LocksLike | null;
  readonly channel: ((name: string) => ChannelLike) | null;
  /** Whether the user sees this tab. */
  readonly visible: () => boolean;
  /** Calls `call` when the network came back or the app became visible. The returned function ends that. */
  readonly onAwake: (call: () => void) => () => void;
  readonly estimate: () => Promise<Estimate>;
}

/** Milliseconds. */
const FRAME = 16;
const UNDRAWN_AFTER = 100;

type Listening = Pick<EventTarget, 'addEventListener' | 'removeEventListener'>;

function listen(pairs: readonly (readonly [Listening | undefined, string])[], call: () => void): () => void {
  for (const [target, name] of pairs) target?.addEventListener?.(name, call);
  return () => {
    for (const [target, name] of pairs) target?.removeEventListener?.(name, call);
  };
}

export function environment(given: Partial<Environment> = {}): Environment {
  const page = typeof document === 'undefined' ? undefined : document;
  const tab = typeof window === 'undefined' ? undefined : window;
  const device = typeof navigator === 'undefined' ? undefined : navigator;
  const visible = (): boolean => page === undefined || page.visibilityState === 'visible';
  const { clock = systemClock } = given;
  return {
    clock: systemClock,
    random: Math.random,
    frame(call) {
      let left = call;
      const once = (): void => {
        cancel();
        left();
        left = () => undefined;
      };
      const isDrawn = typeof requestAnimationFrame !== 'undefined' && visible();
      // A page that is hidden meanwhile draws no frame before it is visible again.
      const cancel = clock.after(isDrawn ? UNDRAWN_AFTER : FRAME, once);
      if (isDrawn) requestAnimationFrame(once);
    },
    WebSocket: globalThis.WebSocket as unknown as WebSocketClass,
    fetch: typeof fetch === 'undefined' ? null : (url, options) => fetch(url, options),
    online: () => device?.onLine !== false,
    // Node and React Native may have locks, too, but only a browser has several tabs on one store.
    locks: page !== undefined ? ((device?.locks as LocksLike | undefined) ?? null) : null,
    channel:
      page !== undefined && typeof BroadcastChannel !== 'undefined'
        ? (name) => new BroadcastChannel(name) as unknown as ChannelLike
        : null,
    visible,
    onAwake: (call) =>
      listen(
        [
          [tab, 'online'],
          [tab, 'pageshow'],
          [page, 'visibilitychange'],
        ],
        () => {
          if (visible()) call();
        },
      ),
    estimate: async () => (await device?.storage?.estimate?.()) ?? {},
    ...given,
  };
}
