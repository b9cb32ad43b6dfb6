/** Settings that the page keeps over reloads, in localStorage. If the browser forbids that, only they are lost. */

const PREFIX = 'atlas-demo.';

export function recall<T>(name: string, fits: (value: unknown) => value is T): T | null {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(PREFIX + name) ?? 'null');
    return fits(value) ? value : null;
  } catch {
    return null;
  }
}

export function remember(name: string, value: unknown): void {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Storage is full or forbidden.
  }
}

/** Calls `call` when another tab stored another value under this name. The returned function ends that. */
export function onRemembered(name: string, call: () => void): () => void {
  const listen = (event: StorageEvent): void => {
    if (event.key === PREFIX + name) call();
  };
  addEventListener('storage', listen);
  return () => removeEventListener('storage', listen);
}

export const isText = (value: unknown): value is string => typeof value === 'string';
export const isFlag = (value: unknown): value is boolean => typeof value === 'boolean';
export const isNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((item) => Number.isInteger(item));
