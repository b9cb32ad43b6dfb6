/** A button that copies a text, and says that it did. */

import { useEffect, useState } from 'preact/hooks';

/** Milliseconds for which the button says what became of it. */
const SAID_FOR = 2_000;

export function CopyButton({ text, what }: { readonly text: string; readonly what: string }) {
  const [said, say] = useState<string | null>(null);
  useEffect(() => {
    if (said === null) return;
    const timer = setTimeout(() => say(null), SAID_FOR);
    return () => clearTimeout(timer);
  }, [said]);
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text);
      say('Copied');
    } catch {
      say('Not permitted');
    }
  };
  return (
    <button type="button" class="link" data-testid="copy" aria-label={said === null ? `Copy ${what}` : said} onClick={() => void copy()}>
      <span aria-live="polite">{said ?? 'Copy'}</span>
    </button>
  );
}
