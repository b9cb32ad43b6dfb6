/**
 * The exports of `atlas-sync`. The stores with dependencies, and the hooks for React, have entry points of their own.
 */

export { createSync, Sync, type Export, type ListOptions, type OpenStream, type SyncOptions } from './sync.js';
export * from './chat.js';
export { CHAT } from './schema.chat.js';
export {
  compile,
  type Id,
  type IdOf,
  type Kind,
  type KindName,
  type KindSchema,
  type NewOf,
  type ParentOf,
  type PatchOf,
  type RowOf,
  type Schema,
} from './schema.js';
export type { Reason } from './reason.js';
export type { Status } from './status.js';
export type { HistoryQuery, List, Older } from './history.js';
export { MemoryStore } from './store/memory.js';
export { StoreError, type Store } from './store.js';
export type { StreamMarks, StreamState } from './streams.js';
export type { Json, Unsent } from './unsent.js';
export { UnsentError } from './wipe.js';
export { WriteError, type Mutation } from './mutation.js';
export type { Entry } from './outbox.js';
export { PageError } from './pages.js';
export { TokenError, type GetToken, type TokenReason } from './token.js';
export { environment, type Environment } from './environment.js';
export type { Query } from './query.js';
export type { Instant, Row, Uuid } from './rows.js';
export type { Certainty, Marks, Shown, ShownOf } from './view.js';
export type { WebSocketClass, WebSocketLike } from './websocket.js';
export { newId } from './uuid.js';
