/** A page on tables of its own: folders, their chats, the messages of a chat, and votes for them. */

import { createSync, type HistoryQuery, type ShownOf } from 'atlas-sync';
import { IndexedDbStore } from 'atlas-sync/indexeddb';

import { schema } from './schema.js';

type Row<K extends 'folder' | 'chat' | 'message' | 'vote'> = ShownOf<typeof schema, K>;
/** What this app puts into the JSON column `parts`. */
interface Part {
  readonly type: 'text' | 'link';
  readonly text: string;
}

const { user = '', token = '' } = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const sync = createSync({
  schema,
  url: `ws://${location.host}/sync`,
  store: new IndexedDbStore({ name: user }),
  user,
  getToken: async () => token,
});

const place = (id: string): HTMLElement => document.getElementById(id)!;
const status = (): void => void (place('status').textContent = sync.status.value.state);
sync.status.subscribe(status);

/** Follows a list until it is called again for the same place. */
const following = new Map<string, () => void>();
function follow<T>(id: string, query: HistoryQuery<T>, show: (rows: readonly T[]) => void): void {
  following.get(id)?.();
  following.set(id, query.subscribe(() => show(query.value?.rows ?? [])));
}

function item(id: string, text: string, state: string, act: Readonly<Record<string, () => unknown>>): HTMLElement {
  const made = Object.assign(document.createElement('li'), { id, textContent: text });
  made.dataset['state'] = state;
  for (const [name, onclick] of Object.entries(act)) {
    made.append(Object.assign(document.createElement('button'), { textContent: name, onclick }));
  }
  return made;
}

let folder: string | null = null;
let chat: string | null = null;
let messages: readonly Row<'message'>[] = [];
let votes: readonly Row<'vote'>[] = [];

follow('folders', sync.list('folder'), (rows) =>
  place('folders').replaceChildren(
    ...rows.map(({ id, name, state }) =>
      item(id, name, state, { open: () => openFolder(id), delete: () => sync.remove('folder', id) }),
    ),
  ),
);

function openFolder(id: string): void {
  folder = id;
  follow('chats', sync.list('chat', { parent: id }), (rows) =>
    place('chats').replaceChildren(
      ...rows.map((row) => item(row.id, row.title, row.state, { open: () => openChat(row.id) })),
    ),
  );
}

function openChat(id: string): void {
  chat = id;
  follow('messages', sync.list('message', { parent: id, oldestFirst: true }), (rows) => ((messages = rows), draw()));
  follow('votes', sync.list('vote', { parent: id }), (rows) => ((votes = rows), draw()));
}

function draw(): void {
  const shown = messages.map(({ id, chatId, parts, state }) => {
    const vote = votes.find(({ id: [, message] }) => message === id);
    const cast = (isUp: boolean): unknown =>
      vote ? sync.update('vote', vote.id, { isUp }) : sync.insert('vote', { chatId, isUp }, [chatId, id]);
    const text = (parts as readonly Part[]).map((part) => (part.type === 'link' ? `<${part.text}>` : part.text)).join(' ');
    const made = item(id, text, state, { up: () => cast(true), down: () => cast(false) });
    made.dataset['vote'] = vote === undefined ? 'none' : vote.isUp ? 'up' : 'down';
    return made;
  });
  place('messages').replaceChildren(...shown);
}

const parted = (text: string): readonly Part[] =>
  text.split(' ').map((word): Part => ({ type: word.startsWith('https:') ? 'link' : 'text', text: word }));

for (const form of document.forms) {
  form.onsubmit = (event): void => {
    event.preventDefault();
    const { name, value } = form.elements[0] as HTMLInputElement;
    form.reset();
    if (name === 'folder') void sync.insert('folder', { name: value });
    else if (name === 'chat' && folder !== null) void sync.insert('chat', { folderId: folder, title: value });
    else if (chat !== null) void sync.insert('message', { chatId: chat, parts: parted(value) });
  };
}
