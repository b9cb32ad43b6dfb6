/** The strip under a device: its state, figures and last events. */

import { useEffect, useReducer, useState } from 'preact/hooks';

import type { Activity } from './activity.js';
import { condition, type Condition } from './condition.js';
import type { Device } from './device.js';
import { useQuery, useLasting } from './hooks.js';
import { Icon } from './icons.js';
import { useNetwork } from './switch.js';
import { UsedToday } from './usage.js';
import { positionTime, secondTime } from './when.js';

/** Milliseconds after which an attempt to connect is shown. */
const PASSING = 500;

function useActivity(activity: Activity): Activity['seen'] {
  const [, changed] = useReducer((count: number) => count + 1, 0);
  useEffect(() => activity.subscribe(() => changed(undefined as never)), [activity]);
  return activity.seen;
}

function useCondition(device: Device): Condition {
  const status = useQuery(device.sync.status) ?? device.sync.status.value;
  const networkOn = useNetwork(device.network);
  const passing = status.state === 'connecting' && networkOn;
  return condition(useLasting(status, passing ? PASSING : 0), networkOn);
}

/** The state as a dot, with its name for screen readers. */
export function StateDot({ device }: { readonly device: Device }) {
  const { state, word } = useCondition(device);
  return (
    <span class="state-dot" data-state={state} title={word}>
      <span class="hidden-words">{word}</span>
    </span>
  );
}

/** Why there is no connection, with the seconds until the next attempt. Only the reason is read aloud. */
function Trouble({ device, condition: { state, why, retryAt, canConnect } }: { readonly device: Device; readonly condition: Condition }) {
  const left = useCountdown(retryAt);
  return (
    <div class="trouble" data-state={state} data-testid="trouble" hidden={why === null}>
      <p>
        <span role="status">{why}</span>
        {left !== null && <span aria-hidden="true">{left === 0 ? ', trying again now' : `, trying again in ${left} s`}</span>}
      </p>
      {canConnect && (
        <button type="button" class="link" data-testid="reconnect" onClick={() => device.sync.reconnect()}>
          Try now
        </button>
      )}
    </div>
  );
}

/** Whole seconds until an instant in milliseconds; 0 once it has passed. */
function useCountdown(at: number | null): number | null {
  const [now, setNow] = useState(Date.now);
  const left = at === null ? null : Math.max(0, at - now);
  useEffect(() => {
    if (at === null) return;
    const ahead = at - Date.now();
    setNow(Date.now());
    if (ahead <= 0) return;
    const timer = setTimeout(() => setNow(Date.now()), ahead % 1_000 || 1_000);
    return () => clearTimeout(timer);
  }, [at, left === null ? null : Math.ceil(left / 1_000)]);
  return left === null ? null : Math.ceil(left / 1_000);
}

export function Strip({ device, activity }: { readonly device: Device; readonly activity: Activity }) {
  const now = useCondition(device);
  const { state, word } = now;
  const status = useQuery(device.sync.status);
  const { position, latency, happenings } = useActivity(activity);
  const [newest, ...earlier] = happenings;
  return (
    <footer class="strip">
      <Trouble device={device} condition={now} />
      <dl class="figures">
        <div class="figure-state">
          <dt>State</dt>
          <dd>
            <span class="state-dot" data-state={state} aria-hidden="true" />
            <span data-testid="status" data-state={state} role="status">
              {word}
            </span>
          </dd>
        </div>
        <div>
          <dt>Pending</dt>
          <dd data-testid="pending">{status?.pending ?? 0}</dd>
        </div>
        <div class="figure-latency">
          <dt>
            <abbr title="From the commit in Postgres to this screen">Latency</abbr>
          </dt>
          <dd data-testid="latency">{latency === null ? '–' : inMilliseconds(latency)}</dd>
        </div>
        <div class="figure-position">
          <dt>
            <abbr title="When the newest change was made that this device holds">Last change</abbr>
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
      </div>
    </footer>
  );
}

const inMilliseconds = (ms: number): string => `${ms < 10 ? ms.toFixed(1) : String(Math.round(ms))} ms`;
