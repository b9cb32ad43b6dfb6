/** The frames between server and device, as values (SPEC.md, sections 3 and 4). codec.ts encodes them. */

import type { Mutation, Result } from './mutation.js';
import type { Arrival, Cursor, Instant, Place, Uuid } from './rows.js';
import type { Id, KindSchema } from './schema.js';

export interface Limits {
  readonly frameBytes: number;
  readonly pageRows: number;
  readonly pagesInFlight: number;
  readonly mutations: number;
}

export interface Welcome {
  readonly t: 'welcome';
  readonly session: string;
  readonly epoch: string;
  /** The hash of the server's schema. */
  readonly schema: string | null;
  readonly tier: string | null;
  readonly mode: string;
  readonly why: string | null;
  readonly time: Instant;
  readonly expires: Instant;
  readonly keepalive: number;
  readonly limits: Limits;
}
/** The server's schema, sent to a client that was built with another one. */
export interface SchemaFrame {
  readonly t: 'schema';
  readonly hash: string;
  readonly kinds: readonly KindSchema[];
}
export interface SnapshotFrame {
  readonly t: 'snapshot';
  readonly asOf: number;
  readonly rows: readonly Arrival[];
  readonly cursor: Cursor | null;
}
export interface ChangesFrame {
  readonly t: 'changes';
  readonly from: Cursor;
  readonly to: Cursor;
  readonly rows: readonly Arrival[];
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
  readonly rows: readonly Arrival[];
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
/** The streams of the user that are not settled (section 13). */
export interface StreamsFrame {
  readonly t: 'streams';
  readonly open: readonly Uuid[];
}
/** A part of a stream's text. */
export interface StreamFrame {
  readonly t: 'stream';
  readonly stream: Uuid;
  /** The kind's name. */
  readonly kind: string;
  readonly id: Id;
  /** Its name here. */
  readonly column: string;
  readonly since: number;
  /** In code points. */
  readonly offset: number;
  readonly text: string;
  readonly state: string;
}
export interface Stopped {
  readonly t: 'stopped';
  readonly n: number;
  readonly found: boolean;
}
export type ToClient =
  | Welcome
  | SchemaFrame
  | SnapshotFrame
  | ChangesFrame
  | Live
  | Page
  | Ack
  | Refreshed
  | StreamsFrame
  | StreamFrame
  | Stopped
  | ErrorAnswer
  | Pong;

/** Asks for the frames of section 13. */
export const EXTRAS = ['streams'] as const;

/** How many rows of a kind a snapshot brings, of each parent; by the kind's name. */
export type Window = Readonly<Record<string, number>>;

export type ToServer =
  | {
      readonly t: 'hello';
      readonly token: string;
      readonly clientId: Uuid;
      readonly cursor: Cursor | null;
      readonly window: Window;
      readonly generation: number;
      /** The hash of the client's schema. */
      readonly schema: string;
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
      /** The kind's name. */
      readonly kind: string;
      readonly parent: Id | null;
      readonly before: Place | null;
      readonly limit: number;
    }
  | { readonly t: 'refresh'; readonly token: string }
  | {
      readonly t: 'stop';
      readonly n: number;
      /** The kind's name. */
      readonly kind: string;
      readonly id: Id;
      /** Its name here; null: all streams of the row. */
      readonly column: string | null;
    }
  | { readonly t: 'ping' };
