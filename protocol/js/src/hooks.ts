/** Hooks for React: the queries of a Sync in components. */

import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from 'react';

import type { HistoryQuery, List, Older } from './history.js';
import type { Query } from './query.js';
import type { IdOf, KindName, Schema } from './schema.js';
import type { Status } from './status.js';
import type { StreamState } from './streams.js';
import type { ListOptions, Sync } from './sync.js';
import type { ShownOf } from './view.js';

/** The query's value; undefined until it was loaded. The component renders again at every change. */
export function useQuery<T>(query: Query<T>): T | undefined {
  return useSyncExternalStore(query.subscribe, query.get, query.get);
}

export const useStatus = (sync: Pick<Sync, 'status'>): Status => useQuery(sync.status) ?? sync.status.value;

export interface History<T> extends List<T> {
  /** Whether the store was read; `rows` are empty until then. */
  readonly ready: boolean;
  readonly loading: boolean;
  /** Whether the last `loadOlder` could not ask the server. */
  readonly offline: boolean;
  readonly loadOlder: () => void;
}

/** The newest rows of a kind; of a kind with a parent, those of one parent. */
export function useList<S extends Schema, K extends KindName<S>>(
  sync: Sync<S>,
  kind: K,
  options: ListOptions<S, K>,
): History<ShownOf<S, K>> {
  const list = sync.list as (kind: K, options: ListOptions<S, K>) => HistoryQuery<ShownOf<S, K>>;
  const name = JSON.stringify(options, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value));
  // `options` is another object in every render; `name` says whether it asks for other rows.
  return useHistory(useMemo(() => list.call(sync, kind, options), [sync, kind, name]));
}

/** One row; null if this device does not have it, undefined until it was loaded. */
export function useRow<S extends Schema, K extends KindName<S>>(
  sync: Sync<S>,
  kind: K,
  id: IdOf<S, K>,
): ShownOf<S, K> | null | undefined {
  return useQuery(useMemo(() => sync.get(kind, id), [sync, kind, String(id)]));
}

export interface StreamOfRow {
  /** Whether the row's text may still grow. */
  readonly streaming: boolean;
  /** null: no stream is shown in the row. */
  readonly state: StreamState | null;
  /** Ends the stream; resolves with whether there was an open one. */
  readonly stop: () => Promise<boolean>;
}

/** The stream of a row. The component renders again when its state changes, not when its text grows. */
export function useStreaming<S extends Schema, K extends KindName<S>>(
  sync: Sync<S>,
  kind: K,
  id: IdOf<S, K>,
): StreamOfRow {
  const name = String(id);
  const state = useQuery(useMemo(() => sync.stream(kind, id), [sync, kind, name])) ?? null;
  const stop = useCallback(() => sync.stop(kind, id), [sync, kind, name]);
  return { streaming: state === 'open', state, stop };
}

const EMPTY: List<never> = { rows: [], more: false };

/** Any query over a history, as `sync.list` makes it: the same one in every render. */
export function useHistory<T>(query: HistoryQuery<T>): History<T> {
  const value = useQuery(query);
  const [asked, setAsked] = useState<{ readonly of: HistoryQuery<T>; readonly outcome: Older | null }>();
  const mine = asked?.of === query ? asked.outcome : undefined;
  const loadOlder = useCallback(() => {
    setAsked({ of: query, outcome: null });
    query.loadOlder().then(
      (outcome) => setAsked((now) => (now?.of === query ? { of: query, outcome } : now)),
      () => setAsked((now) => (now?.of === query ? { of: query, outcome: 'offline' } : now)),
    );
  }, [query]);
  return {
    ...(value ?? EMPTY),
    ready: value !== undefined,
    loading: mine === null,
    offline: mine === 'offline',
    loadOlder,
  };
}

/**
 * A Sync that lives as long as the component, and is replaced when `key` changes: use the user's id. null during the
 * first render.
 */
export function useSync<T extends { close(): Promise<void> }>(make: () => T, key: string): T | null {
  const [sync, setSync] = useState<T | null>(null);
  // `make` is another function in every render; `key` says whether it makes another Sync.
  useEffect(() => {
    const made = make();
    setSync(made);
    return () => {
      setSync(null);
      void made.close();
    };
  }, [key]);
  return sync;
}
