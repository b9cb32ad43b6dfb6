/**
 * Asking the assistant. A question is a row that names its message: it waits in the outbox with it, and the backend answers
 * it once. What became of it comes back in `progress`.
 */

import { useEffect, useMemo, useState } from 'preact/hooks';

import type { DemoSync } from './device.js';
import { useQuery } from './hooks.js';
import { isFlag, onRemembered, recall, remember } from './memory.js';

const NAME = 'ask';
const listeners = new Set<() => void>();
const remembered = (): boolean => recall(NAME, isFlag) ?? true;

/** Whether what is written on this page asks the assistant, and what changes that: for all devices and tabs. */
export function useAsking(): readonly [boolean, (on: boolean) => void] {
  const [on, setOn] = useState(remembered);
  useEffect(() => {
    const listen = (): void => setOn(remembered());
    listeners.add(listen);
    const off = onRemembered(NAME, listen);
    return () => {
      listeners.delete(listen);
      off();
    };
  }, []);
  const set = (next: boolean): void => {
    remember(NAME, next);
    setOn(next);
    for (const listen of listeners) listen();
  };
  return [on, set];
}

export interface Asked {
  /** The message that asks. */
  readonly message: string;
  /** `asked`, `writing`, then `done`, `failed` or `stopped`. */
  readonly progress: string;
}

export interface Questions {
  /** By the message that answers. */
  readonly byAnswer: ReadonlyMap<string, Asked>;
  /** The message whose question the backend has, and has not begun to answer. */
  readonly waiting: string | null;
}

/** Those of a conversation. */
export function useQuestions(sync: DemoSync, conversation: string): Questions {
  const rows = useQuery(useMemo(() => sync.list('question', { parent: conversation }), [sync, conversation]))?.rows;
  return useMemo(() => {
    const byAnswer = new Map<string, Asked>();
    // Newest first: of a question that was asked again, the last time counts.
    for (const { answerId, messageId, progress } of rows ?? []) {
      if (answerId !== null && !byAnswer.has(answerId)) byAnswer.set(answerId, { message: messageId, progress });
    }
    const newest = rows?.[0];
    return { byAnswer, waiting: newest?.progress === 'asked' && newest.state === 'synced' && newest.answerId === null ? newest.messageId : null };
  }, [rows]);
}
