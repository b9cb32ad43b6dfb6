/** Hooks for React: the queries of a Sync in components. */

import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from 'react';

import type { HistoryQuery, List, Older } from './history.js';
import type { Query } from './query.js';
import type { Uuid } from './rows.js';
import type { Status } from './status.js';
import type { Sync } from './sync.js';
import type { ShownConversation, ShownMessage } from './view.js';

/** The query's value; undefined until it was loaded. The component renders again at every change. */
export function useQuery<T>(query: Query<T>): T | undefined {
  return useSyncExternalStore(query.subscribe, query.get, query.get);
}

export const useStatus = (sync: Sync): Status => useQuery(sync.status) ?? sync.status.value;

export interface History<T> extends List<T> {
  /** Whether the store was read; `rows` are empty until then. */
  readonly ready: boolean;
  readonly loading: boolean;
  /** Whether the last `loadOlder` could not ask the server. */
  readonly offline: boolean;
  readonly loadOlder: () => void;
}

export function useConversations(sync: Sync, limit = 50): History<ShownConversation> {
  return useHistory(useMemo(() => sync.conversations({ limit }), [sync, limit]));
}

export function useMessages(sync: Sync, conversation: Uuid, limit = 50): History<ShownMessage> {
  return useHistory(useMemo(() => sync.messages(conversation, { limit }), [sync, conversation, limit]));
}

const EMPTY: List<never> = { rows: [], more: false };

function useHistory<T>(query: HistoryQuery<T>): History<T> {
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
export function useSync(make: () => Sync, key: string): Sync | null {
  const [sync, setSync] = useState<Sync | null>(null);
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
