/** A network with a switch: while it is off, WebSockets are cut, and new ones fail, as without a real network. */

import type { WebSocketClass, WebSocketLike } from 'atlas-sync';

const ABNORMAL = 1006;

export class Network {
  private readonly sockets = new Set<{ cut(): void }>();
  private readonly listeners = new Set<() => void>();

  constructor(private connected: boolean) {}

  get on(): boolean {
    return this.connected;
  }

  set(on: boolean): void {
    if (on === this.connected) return;
    this.connected = on;
    if (!on) for (const socket of [...this.sockets]) socket.cut();
    for (const listener of [...this.listeners]) listener();
  }

  /** Calls `listener` whenever the switch is operated. The returned function ends that. */
  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** A class for the client, in place of the browser's WebSocket. */
  socketClass(): WebSocketClass {
    const network = this;
    const { sockets } = this;
    return class SwitchedSocket implements WebSocketLike {
      onopen: WebSocketLike['onopen'] = null;
      onmessage: WebSocketLike['onmessage'] = null;
      onclose: WebSocketLike['onclose'] = null;
      onerror: WebSocketLike['onerror'] = null;
      private real: WebSocket | null = null;

      constructor(url: string, protocols: string[]) {
        if (!network.on) {
          setTimeout(() => this.ended(new CloseEvent('close', { code: ABNORMAL })));
          return;
        }
        sockets.add(this);
        const real = new WebSocket(url, protocols);
        this.real = real;
        real.onopen = (event) => this.onopen?.(event as never);
        real.onmessage = (event) => this.onmessage?.(event as never);
        real.onerror = (event) => this.onerror?.(event as never);
        real.onclose = (event) => this.ended(event);
      }

      get binaryType(): string {
        return this.real?.binaryType ?? 'arraybuffer';
      }
      set binaryType(type: string) {
        if (this.real !== null) this.real.binaryType = type as BinaryType;
      }

      send(data: Uint8Array | string): void {
        this.real?.send(data as Uint8Array<ArrayBuffer> | string);
      }

      close(code?: number): void {
        sockets.delete(this);
        this.real?.close(code);
      }

      cut(): void {
        const { real } = this;
        this.real = null;
        if (real !== null) {
          real.onopen = real.onmessage = real.onerror = real.onclose = null;
          real.close();
        }
        this.ended(new CloseEvent('close', { code: ABNORMAL }));
      }

      private ended(event: CloseEvent): void {
        sockets.delete(this);
        this.onclose?.(event as never);
      }
    };
  }
}
