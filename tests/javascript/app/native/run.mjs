/** Runs the examples for React Native: the drivers have the interfaces of the real ones, and the SQLite of Node.js. */

import assert from 'node:assert';
import { registerHooks } from 'node:module';

const standIns = {
  'expo-sqlite': `
    import { DatabaseSync } from 'node:sqlite';
    export async function openDatabaseAsync(name, { useNewConnection }) {
      if (!useNewConnection) throw new Error('a connection of its own is needed');
      const db = new DatabaseSync(name);
      return {
        runAsync: async (sql, values) => db.prepare(sql).run(...values),
        getAllAsync: async (sql, values) => db.prepare(sql).all(...values),
        closeAsync: async () => db.close(),
      };
    }`,
  '@op-engineering/op-sqlite': `
    import { DatabaseSync } from 'node:sqlite';
    export function open({ name }) {
      const db = new DatabaseSync(name);
      return { execute: async (sql, values) => ({ rows: db.prepare(sql).all(...values) }), close: () => db.close() };
    }`,
  'react-native': `
    export const AppState = { currentState: 'active', addEventListener: () => ({ remove: () => {} }) };`,
};
registerHooks({
  resolve: (name, context, next) =>
    name in standIns ? { url: `stand-in:${name}`, shortCircuit: true } : next(name, context),
  load: (url, context, next) =>
    url.startsWith('stand-in:')
      ? { format: 'module', source: standIns[url.slice('stand-in:'.length)], shortCircuit: true }
      : next(url, context),
});

const { expoStore } = await import('./expo.ts');
const { opStore } = await import('./op.ts');
const { openSync } = await import('./sync.ts');
const { BOT_USER: user, SYNC_URL: url, SYNC_TOKEN: token } = process.env;

for (const [open, name] of [
  [expoStore, 'from Expo'],
  [opStore, 'from op'],
]) {
  const sync = openSync(url, user, () => token, await open(`${user} ${name}`));
  const id = await sync.createConversation(name);
  await new Promise((resolve) => {
    sync.status.subscribe(() => sync.status.value.state === 'live' && sync.status.value.pending === 0 && resolve());
  });
  await sync.close();
  const again = openSync(url, user, () => Promise.reject(new Error('offline')), await open(`${user} ${name}`));
  const { rows } = await again.conversations().read();
  assert(rows.some((row) => row.id === id && row.title === name));
  await again.close();
}
