/** Hooks that several parts of the page use. */

import { useCallback, useEffect, useLayoutEffect, useReducer, useRef, useState } from 'preact/hooks';

import type { Query } from 'atlas-sync';

/** A query's value, now and at every change. */
export function useQuery<T>(query: Query<T>): T | undefined {
  const [, changed] = useReducer((count: number) => count + 1, 0);
  useEffect(() => query.subscribe(() => changed(undefined as never)), [query]);
  return query.get();
}

/** A value once it has lasted for `ms` milliseconds, so that values that pass quickly are not shown. */
export function useLasting<T>(value: T, ms: number): T {
  const [lasting, setLasting] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setLasting(() => value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return ms === 0 ? value : lasting;
}

export function useMedia(query: string): boolean {
  const [matches, setMatches] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const media = matchMedia(query);
    const listen = (): void => setMatches(media.matches);
    listen();
    media.addEventListener('change', listen);
    return () => media.removeEventListener('change', listen);
  }, [query]);
  return matches;
}

/** An element's width in CSS pixels; 0 before it is known. */
export function useWidth<E extends HTMLElement>(): [(element: E | null) => void, number] {
  const [width, setWidth] = useState(0);
  const observer = useRef<ResizeObserver | null>(null);
  const ref = useCallback((element: E | null): void => {
    observer.current?.disconnect();
    observer.current = null;
    if (element === null) return;
    setWidth(element.clientWidth);
    observer.current = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.current.observe(element);
  }, []);
  return [ref, width];
}

/** A function that stays the same and calls the latest one given. */
export function useStable<A extends unknown[], R>(call: (...args: A) => R): (...args: A) => R {
  const latest = useRef(call);
  useLayoutEffect(() => {
    latest.current = call;
  });
  return useCallback((...args: A) => latest.current(...args), []);
}
