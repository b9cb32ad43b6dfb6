/** What the person used today, as the backend reported it: `atlas-sync demo --with usage`. */

import { useEffect, useMemo, useState } from 'preact/hooks';

import type { Device } from './device.js';
import { useQuery } from './hooks.js';

const DAY = 86_400_000;
const numbers = new Intl.NumberFormat('en-GB');
const costs = new Intl.NumberFormat('en-GB', { minimumFractionDigits: 2, maximumFractionDigits: 4 });

/** The day of UTC, as YYYY-MM-DD. */
function useToday(): string {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setTimeout(() => setNow(Date.now()), DAY - (now % DAY));
    return () => clearTimeout(timer);
  }, [now]);
  return new Date(now).toISOString().slice(0, 10);
}

/** Nothing, if nothing is known of this person's usage. */
export function UsedToday({ device: { sync } }: { readonly device: Device }) {
  const rows = useQuery(useMemo(() => sync.list('usage'), [sync]))?.rows ?? [];
  const today = useToday();
  if (rows.length === 0) return null;
  const { conversations, tokens, cost } = rows.find(({ date }) => date === today) ?? { conversations: 0, tokens: 0, cost: '0' };
  return (
    <p class="used" data-testid="used-today">
      Used today: {numbers.format(conversations)} {conversations === 1 ? 'conversation' : 'conversations'},{' '}
      {numbers.format(tokens)} tokens, cost {costs.format(Number(cost))}
    </p>
  );
}
