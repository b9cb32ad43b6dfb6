/** Hooks for React: what the queries of a Sync say, in components. */

import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from 'react';

import type { Query } from './query.js';
import type { Uuid } from './rows.js';
import type { HistoryQuery, List, Older } from './history.js';
import type { Status } from './status.js';
import type { Sync } from './sync.js';
import type { ShownConversation, ShownMessage } from './view.js';

/** The query's value, and a new rendering whenever it changes; undefined until it was read. */
export function useQuery<T>(query: Query<T>): T | undefined {
  return useSyncExternalStore(query.subscribe, query.get, query.get);
}

export const useStatus = (sync: Sync): Status => useQuery(sync.status) ?? sync.status.value;

export interface History<T> extends List<T> {
  /** Whether the store was read: until then, `rows` are empty. */
  readonly ready: boolean;
  readonly loading: boolean;
  /** Whether the last `loadOlder` did not reach the server. */
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

/** A Sync as long as the component is there; another one whenever `key` changes, as with another user. */
export function useSync(make: () => Sync, key: string): Sync | null {
  const [sync, setSync] = useState<Sync | null>(null);
  // `make` is new in every rendering; `key` says whether it makes something else.
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
