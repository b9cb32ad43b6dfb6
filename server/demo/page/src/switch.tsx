/** Turns a device's network on and off. */

import { useEffect, useState } from 'preact/hooks';

import type { Network } from './network.js';

export function NetworkSwitch({ network, device }: { readonly network: Network; readonly device: string }) {
  const [on, setOn] = useState(network.on);
  useEffect(() => network.subscribe(() => setOn(network.on)), [network]);
  return (
    <button
      type="button"
      role="switch"
      class="switch"
      data-testid="offline"
      aria-checked={on}
      aria-label={`Network of ${device}`}
      onClick={() => network.set(!on)}
    >
      <span class="switch-words">{on ? 'Online' : 'Offline'}</span>
      <span class="switch-track">
        <span class="switch-knob" />
      </span>
    </button>
  );
}
