/** Rejected writes that no open conversation shows. */

import type { Entry } from 'atlas-sync';
import type { DemoSync } from './device.js';
import { useQuery } from './hooks.js';
import { Icon } from './icons.js';
import { reason, RejectionActions, textOf } from './rejections.js';

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

interface Props {
  readonly sync: DemoSync;
  readonly open: string | null;
  readonly onOpen: (id: string) => void;
}

export function Tray({ sync, open, onOpen }: Props) {
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
              <span class="tray-reason">{reason(entry.code, entry.message)}</span>
            </p>
            <RejectionActions sync={sync} rejected={{ key: entry.key, code: entry.code, text: textOf(entry) }} onOpen={onOpen} />
          </li>
        ))}
      </ul>
    </section>
  );
}
