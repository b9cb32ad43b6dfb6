// @vitest-environment jsdom
/** The hooks for React, in components. */

import { act, cleanup, render, screen } from '@testing-library/react';
import { StrictMode } from 'react';
import { afterEach, expect, it } from 'vitest';

import { createChatSync, type ChatSync } from '../src/chat.js';
import { useConversations, useMessages, useStatus, useStreaming, useSync } from '../src/react.js';
import { MemoryStore } from '../src/store/memory.js';
import { ModelServer, newConversation } from './support/model.js';
import { C, id, M, tokenOf } from './support/rows.js';
import { quiet, World } from './support/world.js';

afterEach(cleanup);
(globalThis as { IS_REACT_ACT_ENVIRONMENT?: boolean }).IS_REACT_ACT_ENVIRONMENT = true;

function Chat({ sync }: { readonly sync: ChatSync }) {
  const { state, pending } = useStatus(sync);
  const conversations = useConversations(sync);
  const messages = useMessages(sync, C(1), 2);
  return (
    <div>
      <p role="status">{`${state} ${pending}`}</p>
      <p role="list">{conversations.rows.map((row) => row.title).join()}</p>
      <p role="log">{messages.rows.map((row) => `${row.content}:${row.state}`).join()}</p>
      {messages.more && <button onClick={messages.loadOlder}>{messages.loading ? '…' : 'older'}</button>}
    </div>
  );
}

it('the hooks show the rows of the store, and their changes', async () => {
  const server = new ModelServer();
  const world = new World(server);
  server.push(id(9), 1, [newConversation(C(1), 'Trip', 5)]);
  for (let i = 1; i <= 4; i++) server.message(C(1), M(i), `${i}`, 1_500_000_000_000_000 + i);
  const made: ChatSync[] = [];
  function App() {
    const sync = useSync(() => {
      const each = createChatSync({
        url: 'wss://test/sync',
        store: new MemoryStore(),
        user: id(1),
        encoding: 'json',
        getToken: () => tokenOf(id(1)),
        environment: world.tab().environment(),
      });
      made.push(each);
      return each;
    }, 'user 1');
    return sync === null ? null : <Chat sync={sync} />;
  }
  const { unmount } = render(
    <StrictMode>
      <App />
    </StrictMode>,
  );
  const pass = (): Promise<void> => act(() => world.clock.pass(2_000));
  await pass();
  expect(screen.getByRole('status').textContent).toBe('live 0');
  expect(screen.getByRole('list').textContent).toBe('Trip');
  expect(screen.getByRole('log').textContent).toBe('3:synced,4:synced');
  await act(async () => {
    screen.getByText('older').click();
    await quiet();
  });
  expect(screen.getByRole('log').textContent).toBe('1:synced,2:synced,3:synced,4:synced');
  world.network.mode = 'down';
  world.network.cut();
  await act(async () => {
    await made.at(-1)?.sendMessage(C(1), 'five');
    await quiet();
  });
  expect(screen.getByRole('log').textContent).toMatch(/4:synced,five:pending$/);
  expect(screen.getByRole('status').textContent).toMatch(/ 1$/);
  world.network.mode = 'up';
  await pass();
  expect(screen.getByRole('log').textContent).toMatch(/five:synced$/);
  unmount();
  await pass();
  expect(world.network.sockets.size).toBe(0);
});

it('a row says whether its text still grows; the stop of its hook ends that', async () => {
  const server = new ModelServer();
  const world = new World(server);
  server.push(id(9), 1, [newConversation(C(1), 'Trip', 5)]);
  server.message(C(1), M(1), '', 1_500_000_000_000_000);
  const sync = createChatSync({
    url: 'wss://test/sync',
    store: new MemoryStore(),
    user: id(1),
    encoding: 'json',
    getToken: () => tokenOf(id(1)),
    environment: world.tab().environment(),
  });
  let renders = 0;
  function Stop() {
    const { streaming, state, stop } = useStreaming(sync, 'message', M(1));
    renders++;
    return <button onClick={stop}>{`${streaming} ${state}`}</button>;
  }
  function Text() {
    return <p role="log">{useMessages(sync, C(1)).rows.map((row) => `${row.content}:${row.streaming}`).join()}</p>;
  }
  const { unmount } = render(
    <>
      <Stop />
      <Text />
    </>,
  );
  const pass = (): Promise<void> => act(() => world.clock.pass(0));
  await pass();
  expect(screen.getByRole('button').textContent).toBe('false null');
  server.begin(id(5), M(1));
  await pass();
  const before = renders;
  for (const part of ['Hel', 'lo', '!']) {
    server.append(id(5), part);
    await pass();
  }
  expect(screen.getByRole('log').textContent).toBe('Hello!:true');
  expect(screen.getByRole('button').textContent).toBe('true open');
  expect(renders).toBe(before);
  await act(async () => {
    screen.getByRole('button').click();
    await quiet();
  });
  expect(screen.getByRole('log').textContent).toBe('Hello!:false');
  expect(screen.getByRole('button').textContent).toBe('false stopped');
  unmount();
  await sync.close();
});
