/** Runs the examples that are no app: what they did is in `window.did`. */

import { createChatSync, MemoryStore } from 'atlas-sync';
import { adoptingStore } from './adopt';
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

const outcome = (work: Promise<string[]>): Promise<string[]> => work.catch((error: unknown) => [String(error)]);
Object.assign(window, { did: Promise.all([outcome(tasks()), outcome(signedOut())]) });
