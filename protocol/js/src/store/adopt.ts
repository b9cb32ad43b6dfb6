/**
 * Rows of the app's earlier database (`AtlasDB_v3`) as rows of this one: what was synced as rows that the next snapshot
 * replaces, what was not as local ones, which go up when the device syncs. Knows no database.
 */

import { LOCAL, type Conversation, type Instant, type Message, type Uuid } from '../rows.js';
import { storable } from '../text.js';
import { isUuid, uuidFromBytes } from '../uuid.js';

export type OldRow = Readonly<Record<string, unknown>>;

/** The earliest instant that a server takes: 2015-01-01. */
const EARLIEST = 1_420_070_400_000_000;
const HELD = 0;

/** Milliseconds, a Date or an ISO text, as microseconds; null for what is none. */
function instant(value: unknown): Instant | null {
  const ms = value instanceof Date || typeof value === 'string' ? new Date(value).getTime() : value;
  return typeof ms === 'number' && Number.isFinite(ms) ? Math.max(Math.round(ms * 1000), EARLIEST) : null;
}

/** Ids of another form become UUIDs, each always the same one. */
async function idOf(value: unknown): Promise<Uuid> {
  const text = String(value);
  if (isUuid(text.toLowerCase())) return text.toLowerCase();
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))).slice(0, 16);
  digest[6] = 0x80 | ((digest[6] ?? 0) & 0x0f);
  digest[8] = 0x80 | ((digest[8] ?? 0) & 0x3f);
  return uuidFromBytes(digest);
}

const text = (value: unknown): string => (typeof value === 'string' ? storable(value) : '');

/** Whether a row names nobody as its owner. */
export const isOwnerless = (row: OldRow): boolean => (row['userId'] ?? null) === null;

/**
 * Which of an earlier database's rows are this user's. A message goes where its conversation goes, unless it names
 * somebody else; one whose conversation is not there goes to whom it names.
 */
export function belonging(
  userId: string,
  conversations: readonly OldRow[],
): { readonly conversation: (row: OldRow) => boolean; readonly message: (row: OldRow) => boolean } {
  const mine = (owner: unknown): boolean => String(owner) === userId;
  const owners = new Map(conversations.map((row) => [String(row['id']), row['userId']]));
  return {
    conversation: (row) => mine(row['userId']),
    message: (row) => {
      const home = owners.get(String(row['conversationId']));
      return mine(home ?? row['userId']) && mine(row['userId'] ?? home);
    },
  };
}

/** All of these rows as rows of this database. */
export async function adoptRows(
  oldConversations: readonly OldRow[],
  oldMessages: readonly OldRow[],
): Promise<{ readonly conversations: Conversation[]; readonly messages: Message[] }> {
  const messages: Message[] = [];
  const withUnsynced = new Set<Uuid>();
  const withAny = new Set<Uuid>();
  for (const row of oldMessages) {
    const createdAt = instant(row['timestamp']) ?? instant(row['createdAt']) ?? EARLIEST;
    const conversationId = await idOf(row['conversationId']);
    const synced = row['synced'] === true || row['synced'] === 1;
    withAny.add(conversationId);
    if (!synced) withUnsynced.add(conversationId);
    messages.push({
      kind: 'm',
      seq: synced ? HELD : LOCAL,
      id: await idOf(row['id']),
      conversationId,
      role: typeof row['role'] === 'string' ? row['role'] : 'user',
      content: text(row['content']),
      createdAt,
      updatedAt: Math.max(createdAt, instant(row['updatedAt']) ?? createdAt),
    });
  }
  const conversations: Conversation[] = [];
  for (const row of oldConversations) {
    const id = await idOf(row['id']);
    const createdAt = instant(row['createdAt']) ?? EARLIEST;
    conversations.push({
      kind: 'c',
      // Nothing says whether the server knows a conversation. To create one that it has changes nothing there.
      seq: withUnsynced.has(id) || !withAny.has(id) ? LOCAL : HELD,
      id,
      title: typeof row['title'] === 'string' ? text(row['title']) : null,
      createdAt,
      updatedAt: Math.max(createdAt, instant(row['updatedAt']) ?? createdAt),
    });
  }
  return { conversations, messages };
}
