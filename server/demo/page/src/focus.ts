/**
 * Keeps the focus within a device. If the focused element is removed (a message is deleted, an editor closes, a button has
 * done its work), browsers focus nothing, and a person at the keyboard begins again at the top of the page.
 */

import type { RefObject } from 'preact';
import { useEffect } from 'preact/hooks';

/** What is focused if neither the item nor a neighbour is there any more; the first that is visible. */
const ELSEWHERE = ['[data-testid=composer]', '.list-item[tabindex="0"]', '[data-testid=new-conversation]', '[role=switch]'];

/** Where the focus was: the items around it, with their places in their lists, the innermost first. */
type Place = readonly { readonly item: HTMLElement; readonly list: HTMLElement; readonly at: number }[];

function placeOf(element: Element): Place {
  const found: { item: HTMLElement; list: HTMLElement; at: number }[] = [];
  for (let item = element.closest<HTMLElement>('li'); item !== null; ) {
    const list = item.parentElement;
    if (list === null) break;
    found.push({ item, list, at: [...list.children].indexOf(item) });
    item = list.closest<HTMLElement>('li');
  }
  return found;
}

const isShown = (element: HTMLElement): boolean => element.isConnected && element.getClientRects().length > 0;

/** The item itself if it can be focused, or the first thing within it that can. */
const within = (item: HTMLElement): HTMLElement | null =>
  item.hasAttribute('tabindex') ? item : item.querySelector<HTMLElement>('button, a[href], textarea, input');

function next(box: HTMLElement, place: Place): HTMLElement | null {
  for (const { item, list, at } of place) {
    const near = item.isConnected ? [item] : [list.children[at], list.children[at - 1]];
    for (const one of near) {
      const found = one instanceof HTMLElement ? within(one) : null;
      if (found !== null && isShown(found)) return found;
    }
  }
  for (const selector of ELSEWHERE) {
    const found = box.querySelector<HTMLElement>(selector);
    if (found !== null && isShown(found)) return found;
  }
  return null;
}

export function useKeptFocus(ref: RefObject<HTMLElement>): void {
  useEffect(() => {
    const box = ref.current;
    if (box === null) return;
    let focused: { readonly element: Element; readonly place: Place } | null = null;
    const hasLost = (): boolean =>
      focused !== null && !focused.element.isConnected && (document.activeElement ?? document.body) === document.body;
    const observer = new MutationObserver(() => {
      if (hasLost()) next(box, focused!.place)?.focus();
    });
    const came = (event: FocusEvent): void => {
      const element = event.target as Element;
      focused = { element, place: placeOf(element) };
    };
    const left = (event: FocusEvent): void => {
      // An element that is removed loses the focus before it is gone; one that stays lost it to what the person chose.
      const { target } = event;
      queueMicrotask(() => {
        if (focused?.element === target && (target as Element).isConnected) focused = null;
      });
    };
    observer.observe(box, { childList: true, subtree: true });
    box.addEventListener('focusin', came);
    box.addEventListener('focusout', left);
    return () => {
      observer.disconnect();
      box.removeEventListener('focusin', came);
      box.removeEventListener('focusout', left);
    };
  }, []);
}
