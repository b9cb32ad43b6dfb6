/** Turns a device's network on and off. */

import { useEffect, useState } from 'preact/hooks';

import type { Network } from './network.js';

/** Whether a device's network is on. */
export function useNetwork(network: Network): boolean {
  const [on, setOn] = useState(network.on);
  useEffect(() => {
    setOn(network.on);
    return network.subscribe(() => setOn(network.on));
  }, [network]);
  return on;
}

export function NetworkSwitch({ network, device }: { readonly network: Network; readonly device: string }) {
  const on = useNetwork(network);
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
      <span class="switch-words">{on ? 'Network on' : 'Network off'}</span>
      <span class="switch-track">
        <span class="switch-knob" />
      </span>
    </button>
  );
}
