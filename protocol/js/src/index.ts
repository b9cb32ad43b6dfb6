/**
 * The exports of `atlas-sync`. The stores with dependencies, and the hooks for React, have entry points of their own.
 */

export { createSync, Sync, type SyncOptions } from './sync.js';
export type { Status } from './status.js';
export type { HistoryQuery, List, Older } from './history.js';
export { MemoryStore } from './store/memory.js';
export { StoreError, type Store } from './store.js';
export { UnsentError } from './wipe.js';
export { WriteError, type Mutation } from './mutation.js';
export type { Entry } from './outbox.js';
export { PageError } from './pages.js';
export { TokenError, type GetToken, type TokenReason } from './token.js';
export { environment, type Environment } from './environment.js';
export type { Query } from './query.js';
export type { Conversation, Instant, Message, Profile, Uuid } from './rows.js';
export { showConversations, showMessages, type Certainty, type ShownConversation, type ShownMessage } from './view.js';
export type { WebSocketClass, WebSocketLike } from './websocket.js';
export { newId } from './uuid.js';
