/** One device of a user, with a database, a network and a client of its own, independent of others in this browser. */

import { createSync, environment, type Sync } from 'atlas-sync';
import { IndexedDbStore } from 'atlas-sync/indexeddb';
import { isFlag, onRemembered, recall, remember } from './memory.js';
import { Network } from './network.js';
import { socketUrl, tokenOf, type Person } from './people.js';
import { schema } from './schema.js';

export type DemoSync = Sync<typeof schema>;

export interface Device {
  /** Another one each time that the device is opened. */
  readonly number: number;
  /** Also of its database. */
  readonly name: string;
  readonly sync: DemoSync;
  readonly store: IndexedDbStore;
  readonly network: Network;
  close(): void;
}

let opened = 0;

export function openDevice(url: string, person: Person, slot: number): Device {
  const name = `demo-${person.id}-${slot}`;
  const switchName = `${name}.online`;
  const network = new Network(recall(switchName, isFlag) ?? true);
  const real = environment();
  const { locks, channel } = real;
  const store = new IndexedDbStore({ name });
  const sync = createSync({
    schema,
    url: socketUrl(url),
    store,
    user: person.id,
    getToken: (reason) => tokenOf(person, reason !== 'connecting'),
    environment: {
      WebSocket: network.socketClass(),
      online: () => network.on && real.online(),
      // Tabs share a device, but devices share nothing: each has channels and locks of its own.
      locks: locks && { request: (lock, options, held) => locks.request(`${name} ${lock}`, options, held) },
      channel: channel && ((topic) => channel(`${name} ${topic}`)),
      onAwake: (call) => {
        const off = [real.onAwake(call), network.subscribe(() => comeBack(network, call))];
        return () => off.forEach((end) => end());
      },
    },
  });
  const off = [
    network.subscribe(() => remember(switchName, network.on)),
    onRemembered(switchName, () => network.set(recall(switchName, isFlag) ?? true)),
  ];
  return {
    number: ++opened,
    name,
    sync,
    store,
    network,
    close: () => {
      off.forEach((end) => end());
      void sync.close();
    },
  };
}

/** Milliseconds. */
const MOMENT = 200;

/** Calls twice, because an attempt that failed a moment ago may not have ended yet. */
function comeBack(network: Network, call: () => void): void {
  if (!network.on) return;
  call();
  setTimeout(() => network.on && call(), MOMENT);
}
