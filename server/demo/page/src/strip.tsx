/** The strip under a device: its state, figures and last events. */

import { useEffect, useReducer } from 'preact/hooks';

import type { Status } from 'atlas-sync';
import type { Activity } from './activity.js';
import type { Device } from './device.js';
import { useQuery, useLasting } from './hooks.js';
import { Icon } from './icons.js';
import { UsedToday } from './usage.js';
import { positionTime, secondTime } from './when.js';

const STATES: Record<Status['state'], string> = {
  offline: 'Offline',
  connecting: 'Connecting',
  'catching_up': 'Catching up',
  live: 'Live',
  local: 'This device only',
  destroyed: 'Deleted',
};
/** Milliseconds after which an attempt to connect is shown. */
const PASSING = 500;

function useActivity(activity: Activity): Activity['seen'] {
  const [, changed] = useReducer((count: number) => count + 1, 0);
  useEffect(() => activity.subscribe(() => changed(undefined as never)), [activity]);
  return activity.seen;
}

function useShownState(device: Device): Status['state'] {
  const state = useQuery(device.sync.status)?.state ?? 'offline';
  return useLasting(state, state === 'connecting' ? PASSING : 0);
}

/** The state as a dot, with its name for screen readers. */
export function StateDot({ device }: { readonly device: Device }) {
  const state = useShownState(device);
  return (
    <span class="state-dot" data-state={state} title={STATES[state]}>
      <span class="hidden-words">{STATES[state]}</span>
    </span>
  );
}

export function Strip({ device, activity }: { readonly device: Device; readonly activity: Activity }) {
  const state = useShownState(device);
  const status = useQuery(device.sync.status);
  const { position, latency, happenings } = useActivity(activity);
  const [newest, ...earlier] = happenings;
  const waits = state === 'offline' && device.network.on && status !== undefined;
  return (
    <footer class="strip">
      <dl class="figures">
        <div class="figure-state">
          <dt>State</dt>
          <dd>
            <span class="state-dot" data-state={state} aria-hidden="true" />
            <span data-testid="status" data-state={state} role="status">
              {STATES[state]}
            </span>
          </dd>
        </div>
        <div>
          <dt>Pending</dt>
          <dd data-testid="pending">{status?.pending ?? 0}</dd>
        </div>
        <div>
          <dt>
            <abbr title="From the commit in Postgres to this screen">Latency</abbr>
          </dt>
          <dd data-testid="latency">{latency === null ? '–' : inMilliseconds(latency)}</dd>
        </div>
        <div class="figure-position">
          <dt>
            <abbr title="This device’s position in its user’s feed: the instant of the last change it holds">Position</abbr>
          </dt>
          <dd data-testid="position" data-value={position ?? ''} title={position === null ? undefined : String(position)}>
            {position === null ? '–' : positionTime(position)}
          </dd>
        </div>
      </dl>
      <UsedToday device={device} />
      <div class="strip-foot">
        <details class="happenings">
          <summary>
            <span class="happening">
              {newest === undefined ? (
                'Starting'
              ) : (
                <>
                  <time>{secondTime(newest.at)}</time> {newest.words}
                </>
              )}
            </span>
            <Icon name="chevron" size={16} />
          </summary>
          <ol data-testid="happenings">
            {earlier.map(({ key, at, words }) => (
              <li key={key} class="happening">
                <time>{secondTime(at)}</time> {words}
              </li>
            ))}
          </ol>
        </details>
          {waits && (
            <button
              type="button"
              class="link"
              data-testid="reconnect"
              onClick={() => device.sync.reconnect()}
            >
              Connect now
            </button>
          )}
      </div>
    </footer>
  );
}

const inMilliseconds = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : String(Math.round(ms))} ms`;
