/** Rejected writes that no open conversation shows, to retry or discard. */

import type { Entry, Sync } from 'atlas-sync';
import { useQuery } from './hooks.js';
import { Icon } from './icons.js';

const LENGTH = 60;

const quote = (text: string | null): string => {
  const words = text ?? 'New conversation';
  return `“${words.length > LENGTH ? `${words.slice(0, LENGTH)}…` : words}”`;
};

function inWords({ mutation }: Entry): string {
  switch (mutation.kind) {
    case '+c':
      return `New conversation ${quote(mutation.title)}`;
    case '~c':
      return `Renaming to ${quote(mutation.title)}`;
    case '-c':
      return 'Deleting a conversation';
    case '+m':
      return `Message ${quote(mutation.content)}`;
    case '~m':
      return `Edit ${quote(mutation.content)}`;
    case '-m':
      return 'Deleting a message';
  }
}

export function Tray({ sync, open }: { readonly sync: Sync; readonly open: string | null }) {
  const entries = (useQuery(sync.quarantine) ?? []).filter(
    ({ mutation }) => mutation.kind !== '+m' || mutation.conversationId !== open,
  );
  if (entries.length === 0) return null;
  return (
    <section class="tray" data-testid="tray" aria-label="Not saved">
      <h3>
        <Icon name="alert" size={15} /> Not saved
      </h3>
      <ul>
        {entries.map((entry) => (
          <li key={entry.key}>
            <p>
              {inWords(entry)}
              <span class="tray-reason">{entry.message}</span>
            </p>
            <button type="button" class="link" data-testid="retry" onClick={() => void sync.retry(entry.key)}>
              Try again
            </button>
            <button type="button" class="link" data-testid="discard" onClick={() => void sync.discard(entry.key)}>
              Discard
            </button>
          </li>
        ))}
      </ul>
    </section>
  );
}
