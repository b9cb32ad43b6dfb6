/** The exports of `atlas-sync/react`: hooks for any schema, and those of a chat app. */

export * from './chat.react.js';
export * from './hooks.js';
