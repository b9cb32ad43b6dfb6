/** The frames between server and device, as values (SPEC.md, sections 3 and 4). codec.ts encodes them. */

import type { Mutation, Result } from './mutation.js';
import type { Cursor, Instant, Place, Row, Uuid } from './rows.js';

export interface Limits {
  readonly frameBytes: number;
  readonly pageRows: number;
  readonly pagesInFlight: number;
  readonly mutations: number;
  readonly titleBytes: number;
  readonly contentBytes: number;
}

export interface Welcome {
  readonly t: 'welcome';
  readonly session: string;
  readonly epoch: string;
  readonly tier: string;
  readonly mode: string;
  readonly why: string | null;
  readonly time: Instant;
  readonly expires: Instant;
  readonly keepalive: number;
  readonly limits: Limits;
}
export interface SnapshotFrame {
  readonly t: 'snapshot';
  readonly asOf: number;
  readonly rows: readonly Row[];
  readonly cursor: Cursor | null;
}
export interface ChangesFrame {
  readonly t: 'changes';
  readonly from: Cursor;
  readonly to: Cursor;
  readonly rows: readonly Row[];
  readonly partial: boolean;
  readonly seq: number | null;
}
export interface Live {
  readonly t: 'live';
  readonly cursor: Cursor;
  readonly seq: number;
}
export interface Page {
  readonly t: 'page';
  readonly id: number;
  readonly asOf: number;
  readonly rows: readonly Row[];
  readonly more: boolean;
}
export interface Ack {
  readonly t: 'ack';
  readonly results: readonly Result[];
}
export interface Refreshed {
  readonly t: 'refreshed';
  readonly expires: Instant;
}
export interface ErrorAnswer {
  readonly t: 'error';
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly answers: string | null;
  readonly id: number | null;
  readonly retryAfter: number | null;
  readonly expected: number | null;
}
export interface Pong {
  readonly t: 'pong';
}
export type ToClient = Welcome | SnapshotFrame | ChangesFrame | Live | Page | Ack | Refreshed | ErrorAnswer | Pong;

export interface Window {
  readonly conversations: number;
  readonly messages: number;
}

export type ToServer =
  | {
      readonly t: 'hello';
      readonly token: string;
      readonly clientId: Uuid;
      readonly cursor: Cursor | null;
      readonly window: Window;
      readonly generation: number;
    }
  /** A mutation that is null travels as an empty array. The server rejects it if it has not consumed its number. */
  | {
      readonly t: 'push';
      readonly n: number;
      readonly mutations: readonly (Mutation | null)[];
      readonly held: number;
    }
  | {
      readonly t: 'page';
      readonly id: number;
      readonly conversation: Uuid | null;
      readonly before: Place | null;
      readonly limit: number;
    }
  | { readonly t: 'refresh'; readonly token: string }
  | { readonly t: 'ping' };
