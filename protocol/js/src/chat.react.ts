/** Hooks for React for a chat app. */

import { useMemo } from 'react';

import type { ChatSync, ShownConversation, ShownMessage } from './chat.js';
import { useHistory, type History } from './hooks.js';
import type { Uuid } from './rows.js';

export function useConversations(sync: ChatSync, limit = 50): History<ShownConversation> {
  return useHistory(useMemo(() => sync.conversations({ limit }), [sync, limit]));
}

export function useMessages(sync: ChatSync, conversation: Uuid, limit = 50): History<ShownMessage> {
  return useHistory(useMemo(() => sync.messages(conversation, { limit }), [sync, conversation, limit]));
}
