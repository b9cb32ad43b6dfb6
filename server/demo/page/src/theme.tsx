/** Light or dark: the system's setting, until the user chooses. */

import { useState } from 'preact/hooks';

import { useMedia } from './hooks.js';
import { Icon } from './icons.js';
import { isText, recall, remember } from './memory.js';

export function applyTheme(): void {
  const theme = recall('theme', isText);
  if (theme === null) delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

export function ThemeToggle() {
  const systemDark = useMedia('(prefers-color-scheme: dark)');
  const [chosen, choose] = useState(() => recall('theme', isText));
  const dark = chosen === null ? systemDark : chosen === 'dark';
  const toggle = (): void => {
    const next = dark ? 'light' : 'dark';
    remember('theme', next);
    choose(next);
    applyTheme();
  };
  const label = dark ? 'Use light colours' : 'Use dark colours';
  return (
    <button type="button" class="icon-button" data-testid="theme" aria-label={label} title={label} onClick={toggle}>
      <Icon name={dark ? 'sun' : 'moon'} />
    </button>
  );
}
