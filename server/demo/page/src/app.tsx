/** The page: its head with the chosen user, and that user's devices side by side, or in tabs on a narrow screen. */

import { useEffect, useState } from 'preact/hooks';

import { openDevice, type Device } from './device.js';
import { useMedia } from './hooks.js';
import { Icon } from './icons.js';
import { kindOf, KINDS } from './kinds.js';
import { isNumbers, isText, recall, remember } from './memory.js';
import { DevicePanel } from './panel.js';
import { askForPeople, knownPeople, type People, type Person } from './people.js';
import { Tabs } from './tabs.js';
import { ThemeToggle } from './theme.js';

const FIRST_SLOTS = [1, 2];
const ASK_AGAIN_AFTER = 3_000;

/** The users as the server names them; until it answers, those of the last visit. */
function usePeople(): People | null {
  const [people, setPeople] = useState(knownPeople);
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let gone = false;
    const ask = (): void => {
      askForPeople().then(
        (fresh) => gone || setPeople(fresh),
        () => {
          if (!gone) timer = setTimeout(ask, ASK_AGAIN_AFTER);
        },
      );
    };
    ask();
    return () => {
      gone = true;
      clearTimeout(timer);
    };
  }, []);
  return people;
}

/** The user's open devices, by slot. */
function useDevices(url: string | null, person: Person | null, slots: readonly number[]): ReadonlyMap<number, Device> {
  const [devices, setDevices] = useState<ReadonlyMap<number, Device>>(new Map());
  const [opened] = useState(() => new Map<string, { readonly slot: number; readonly device: Device }>());
  useEffect(() => {
    const wanted = new Map(url === null || person === null ? [] : slots.map((slot) => [`${url} ${person.id} ${slot}`, slot]));
    for (const [key, { device }] of opened) {
      if (wanted.has(key)) continue;
      device.close();
      opened.delete(key);
    }
    for (const [key, slot] of wanted) {
      if (!opened.has(key)) opened.set(key, { slot, device: openDevice(url!, person!, slot) });
    }
    setDevices(new Map([...opened.values()].map(({ slot, device }) => [slot, device])));
  }, [url, person?.id, slots.join()]);
  return devices;
}

export function App() {
  const people = usePeople();
  const [chosenId, choose] = useState(() => recall('user', isText));
  const [slots, setSlots] = useState(() => {
    const known = (recall('devices', isNumbers) ?? []).filter((slot) => slot >= 1 && slot <= KINDS.length);
    return known.length > 0 ? [...new Set(known)].sort() : FIRST_SLOTS;
  });
  const narrow = useMedia('(max-width: 759px)');
  const [front, setFront] = useState(slots[0]!);
  const person = people === null ? null : (people.users.find(({ id }) => id === chosenId) ?? people.users[0] ?? null);
  const devices = useDevices(people?.url ?? null, person, slots);

  const keepSlots = (next: readonly number[]): void => {
    const sorted = [...next].sort();
    remember('devices', sorted);
    setSlots(sorted);
  };
  const free = KINDS.findIndex((_, index) => !slots.includes(index + 1)) + 1;
  const add = (): void => {
    keepSlots([...slots, free]);
    setFront(free);
  };
  const remove = (slot: number): void => {
    const left = slots.filter((other) => other !== slot);
    keepSlots(left);
    if (front === slot) setFront(left[0]!);
  };
  const shown = slots.includes(front) ? front : slots[0]!;

  return (
    <div class="page">
      <header class="masthead">
        <div class="brand">
          <span class="brand-mark">
            <Icon name="sync" size={20} />
          </span>
          <h1>Atlas Sync</h1>
        </div>
        <p class="lede">Each device below has its own database and its own connection; Atlas Sync keeps them in step.</p>
        <div class="tools">
          <label class="picker">
            <span class="picker-label">User</span>
            <select
              data-testid="user"
              value={person?.id ?? ''}
              disabled={person === null}
              onChange={({ currentTarget }) => {
                remember('user', currentTarget.value);
                choose(currentTarget.value);
              }}
            >
              {people?.users.map(({ id, name, tier }) => (
                <option key={id} value={id}>
                  {tier === 'free' ? `${name} (free)` : name}
                </option>
              ))}
            </select>
          </label>
          <button
            type="button"
            class="button"
            data-testid="add-device"
            disabled={free === 0 || person === null}
            onClick={add}
            aria-label="Add a device"
          >
            <Icon name="plus" size={16} />
            <span class="button-words">Add a device</span>
          </button>
          <ThemeToggle />
        </div>
        <ol class="steps" aria-label="Things to try">
          <li>Type on one device.</li>
          <li>Switch the phone off, write on both.</li>
          <li>Switch it on, and watch both agree.</li>
          {people?.ask === true && <li>Ask for a story, and stop it on the phone.</li>}
        </ol>
      </header>
      <main class="stage">
        {narrow && slots.length > 1 && devices.size > 0 && (
          <Tabs slots={slots} devices={devices} kindOf={kindOf} shown={shown} onShow={setFront} />
        )}
        <div class="devices" data-count={slots.length}>
          {people === null && <p class="waiting" role="status">Waiting for the server…</p>}
          {people !== null && person === null && <p class="waiting" role="status">The server knows no users yet.</p>}
          {slots.map((slot) => {
            const device = devices.get(slot);
            if (device === undefined || person === null) return null;
            return (
              <DevicePanel
                key={device.number}
                slot={slot}
                kind={kindOf(slot)}
                device={device}
                person={person}
                canAsk={people?.ask === true}
                narrow={narrow}
                hidden={narrow && slot !== shown}
                onClose={slots.length > 1 ? () => remove(slot) : null}
              />
            );
          })}
        </div>
      </main>
    </div>
  );
}
