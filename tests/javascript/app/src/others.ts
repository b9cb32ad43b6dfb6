/** Runs the examples that are no app: what they did is in `window.did`. */

import { createChatSync, MemoryStore } from 'atlas-sync';
import { createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { adoptingStore } from './adopt';
import { Answers, Writing } from './Answers';
import { onSignedOut, signOut } from './signOut';
import { getToken, supabase } from './supabase';
import { saveUnsent } from './support';
import { openTasks, tidy } from './tasks';
import { user } from './user';

async function tasks(): Promise<string[]> {
  const sync = openTasks('somebody', new MemoryStore(), () => Promise.reject(new Error('signed out')));
  const project = await sync.insert('project', { name: 'Home' });
  const rows = await tidy(sync, project);
  await sync.close();
  return rows.map(({ text, tags }) => `${text} ${JSON.stringify(tags)}`);
}

async function signedOut(): Promise<string[]> {
  const { error } = await supabase.auth.signInWithPassword({ email: 'a@example.com', password: 'secret' });
  if (error !== null) throw error;
  await getToken('refused');
  const sync = createChatSync({ url: import.meta.env.VITE_SYNC_URL, user: user.id, getToken, store: adoptingStore(user.id) });
  await new Promise<void>((resolve) => sync.status.subscribe(() => sync.status.value.state === 'live' && resolve()));
  await saveUnsent(sync);
  const told = new Promise<void>((resolve) => onSignedOut(sync, resolve));
  const gone = await signOut(sync);
  await told;
  return [`gone: ${gone}`];
}

async function answered(): Promise<string[]> {
  const sync = createChatSync({ url: '', user: 'somebody', store: new MemoryStore() });
  const conversation = await sync.createConversation('Hi');
  const place = document.createElement('div');
  const isShown = new Promise<void>((resolve) => {
    new MutationObserver(() => place.textContent && resolve()).observe(place, { childList: true, subtree: true });
  });
  const props = { sync, conversation };
  createRoot(place).render(createElement('div', null, createElement(Answers, props), createElement(Writing, props)));
  await sync.sendMessage(conversation, 'Hello.');
  await isShown;
  return [place.textContent];
}

const outcome = (work: Promise<string[]>): Promise<string[]> => work.catch((error: unknown) => [String(error)]);
Object.assign(window, { did: Promise.all([outcome(tasks()), outcome(signedOut()), outcome(answered())]) });
