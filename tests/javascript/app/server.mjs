/** What a server does that renders pages: it imports everything, and renders hooks, where there is no window. */

import assert from 'node:assert';
import * as library from 'atlas-sync';
import { useMessages, useStatus, useSync } from 'atlas-sync/react';
import * as sqlite from 'atlas-sync/sqlite';
import { createElement } from 'react';
import { renderToString } from 'react-dom/server';

const { createChatSync, MemoryStore } = library;
assert(!('window' in globalThis) && typeof sqlite.SqliteStore === 'function');

const sync = createChatSync({ url: 'wss://sync.example.com/sync', user: 'somebody', store: new MemoryStore() });
const Chat = () => {
  const messages = useMessages(sync, library.newId());
  return createElement('p', null, `${useStatus(sync).state} ${messages.rows.length} ${messages.ready}`);
};
const Root = () => {
  const made = useSync(() => assert.fail('a server makes no Sync'), 'somebody');
  return made === null ? createElement(Chat) : null;
};
assert.equal(renderToString(createElement(Root)), '<p>offline 0 false</p>');
await sync.close();
