/** What a device looks like: its name and its icon. */

import type { IconName } from './icons.js';

export interface Kind {
  readonly name: string;
  readonly look: 'laptop' | 'phone' | 'tablet';
  readonly icon: IconName;
}

/** By slot, from 1. The database of a slot stays when its device is closed. */
export const KINDS: readonly Kind[] = [
  { name: 'Laptop', look: 'laptop', icon: 'laptop' },
  { name: 'Phone', look: 'phone', icon: 'phone' },
  { name: 'Tablet', look: 'tablet', icon: 'tablet' },
  { name: 'Phone 2', look: 'phone', icon: 'phone' },
];

export const kindOf = (slot: number): Kind => KINDS[slot - 1] ?? KINDS[0]!;
