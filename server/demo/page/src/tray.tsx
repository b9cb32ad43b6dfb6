/** Rejected writes that no open conversation shows, to retry or discard. */

import type { Entry } from 'atlas-sync';
import type { DemoSync } from './device.js';
import { useQuery } from './hooks.js';
import { Icon } from './icons.js';

const LENGTH = 60;

const quote = (text: unknown): string => {
  const words = typeof text === 'string' ? text : 'New conversation';
  return `“${words.length > LENGTH ? `${words.slice(0, LENGTH)}…` : words}”`;
};

function inWords({ mutation }: Entry): string {
  if (mutation.op === '-') return `Deleting a ${mutation.kind}`;
  const { title, content } = mutation.columns;
  if (mutation.kind === 'conversation') return `${mutation.op === '+' ? 'New conversation' : 'Renaming to'} ${quote(title)}`;
  return `${mutation.op === '+' ? 'Message' : 'Edit'} ${quote(content)}`;
}

export function Tray({ sync, open }: { readonly sync: DemoSync; readonly open: string | null }) {
  const entries = (useQuery(sync.quarantine) ?? []).filter(
    ({ mutation }) => mutation.op !== '+' || mutation.columns['conversationId'] !== open,
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
