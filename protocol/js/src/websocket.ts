/** The parts of the browser's WebSocket that this library uses. */

import { Trouble } from './reason.js';

export interface WebSocketLike {
  binaryType: string;
  onopen: ((event: never) => unknown) | null;
  onmessage: ((event: never) => unknown) | null;
  onclose: ((event: never) => unknown) | null;
  onerror: ((event: never) => unknown) | null;
  send(data: Uint8Array | string): void;
  close(code?: number): void;
}
export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike;

/**
 * Throws on a platform without WebSocket: what connects needs one. A page that a server renders makes its Sync on the
 * device, and a Sync that works locally never connects.
 */
export function mustConnect(given: WebSocketClass | undefined): void {
  if (given !== undefined) return;
  throw new Trouble(
    'platform',
    'this platform has no WebSocket: use Node.js 22 or later, or pass the class of the package ws as ' +
      '`environment: { WebSocket }`',
  );
}
