/** Stops of streams that were not answered yet: those of this tab, and in the leading tab those of the others. */

import type { Uuid } from './rows.js';
import type { Id } from './schema.js';
import { newId } from './uuid.js';

export interface Stop {
  /** The kind's name. */
  readonly kind: string;
  readonly id: Id;
  /** null: the streams of all columns. */
  readonly column: string | null;
}

interface Waiting {
  /** null once it is answered. It is kept, because another tab may still repeat it. */
  stop: Stop | null;
  /** Whether there was an open stream; rejects if this tab ends first. */
  readonly answered: Promise<boolean>;
  readonly resolve: (found: boolean) => void;
  readonly reject: (error: Error) => void;
}

export class Stops {
  private readonly waiting = new Map<Uuid, Waiting>();

  /** Resolves with the answer. The same stop may be added again by its id, as when another tab repeats it. */
  add(stop: Stop, id: Uuid = newId()): Promise<boolean> {
    let mine = this.waiting.get(id);
    if (mine === undefined) {
      let [resolve, reject]: [Waiting['resolve'], Waiting['reject']] = [() => undefined, () => undefined];
      const answered = new Promise<boolean>((...both) => ([resolve, reject] = both));
      this.waiting.set(id, (mine = { stop, answered, resolve, reject }));
    }
    return mine.answered;
  }

  /** Those without an answer, in the order in which they were added. */
  *unanswered(): Generator<readonly [Uuid, Stop]> {
    for (const [id, { stop }] of this.waiting) if (stop !== null) yield [id, stop];
  }

  answer(id: Uuid, found: boolean): void {
    const waiting = this.waiting.get(id);
    if (waiting === undefined) return;
    waiting.stop = null;
    waiting.resolve(found);
  }

  close(error: Error): void {
    for (const { reject, answered } of this.waiting.values()) {
      answered.catch(() => undefined); // another tab's: nobody waits for it here
      reject(error);
    }
  }
}
