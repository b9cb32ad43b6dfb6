/** The tabs of a narrow screen, which shows one device at a time. */

import type { Device } from './device.js';
import { Icon } from './icons.js';
import type { Kind } from './kinds.js';
import { StateDot } from './strip.js';

interface Props {
  readonly slots: readonly number[];
  readonly devices: ReadonlyMap<number, Device>;
  readonly kindOf: (slot: number) => Kind;
  readonly shown: number;
  readonly onShow: (slot: number) => void;
}

export function Tabs({ slots, devices, kindOf, shown, onShow }: Props) {
  const move = (event: KeyboardEvent): void => {
    const step = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
    if (step === 0) return;
    event.preventDefault();
    const next = slots[(slots.indexOf(shown) + step + slots.length) % slots.length]!;
    onShow(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return (
    <div class="tabs" role="tablist" aria-label="Devices" onKeyDown={move}>
      {slots.map((slot) => {
        const { name, icon } = kindOf(slot);
        const device = devices.get(slot);
        return (
          <button
            key={slot}
            type="button"
            role="tab"
            id={`tab-${slot}`}
            data-testid={`tab-${slot}`}
            aria-selected={slot === shown}
            aria-controls={`device-${slot}`}
            tabIndex={slot === shown ? 0 : -1}
            onClick={() => onShow(slot)}
          >
            <Icon name={icon} size={16} />
            {name}
            {device !== undefined && <StateDot device={device} />}
          </button>
        );
      })}
    </div>
  );
}
