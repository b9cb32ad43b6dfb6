/** What an app imports from `atlas-sync`; the stores with dependencies, and the hooks, have entries of their own. */

export { createSync, Sync, type HistoryQuery, type List, type Older, type Status, type SyncOptions } from './sync.js';
export { MemoryStore } from './store/memory.js';
export { StoreError, type Store } from './store.js';
export { WriteError, type Mutation } from './mutation.js';
export type { Entry } from './outbox.js';
export { PageError, type GetToken, type TokenReason } from './socket.js';
export type { Environment } from './environment.js';
export type { Query } from './query.js';
export type { Conversation, Instant, Message, Profile, Uuid } from './rows.js';
export type { RowState, ShownConversation, ShownMessage } from './view.js';
export { newId } from './uuid.js';
