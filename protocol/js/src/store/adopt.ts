/**
 * Converts the rows of an earlier app's database (`AtlasDB_v3`). Synced rows become rows that the next snapshot
 * replaces; unsynced ones become local rows, which are pushed when the device syncs. Pure: no database is read here.
 */

import { EARLIEST } from '../clock.js';
import { LOCAL, type Instant, type Row, type Uuid } from '../rows.js';
import { storable } from '../text.js';
import { isUuid, uuidFromBytes } from '../uuid.js';

export type OldRow = Readonly<Record<string, unknown>>;

/** The seq of an adopted row that was synced. */
const HELD = 0;

/** Milliseconds, a Date or an ISO string as microseconds; null if it is none of them. */
function instant(value: unknown): Instant | null {
  const ms = value instanceof Date || typeof value === 'string' ? new Date(value).getTime() : value;
  return typeof ms === 'number' && Number.isFinite(ms) ? Math.max(Math.round(ms * 1000), EARLIEST) : null;
}

/** An id that is no UUID becomes one, always the same. */
async function idOf(value: unknown): Promise<Uuid> {
  const text = String(value);
  if (isUuid(text.toLowerCase())) return text.toLowerCase();
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text))).slice(0, 16);
  digest[6] = 0x80 | ((digest[6] ?? 0) & 0x0f);
  digest[8] = 0x80 | ((digest[8] ?? 0) & 0x3f);
  return uuidFromBytes(digest);
}

const text = (value: unknown): string => (typeof value === 'string' ? storable(value) : '');

/** Whether a row has no `userId`. */
export const isOwnerless = (row: OldRow): boolean => (row['userId'] ?? null) === null;

/**
 * Which rows of an earlier database are this user's. A message belongs to the owner of its conversation, unless it
 * names another user; a message without its conversation belongs to the user that it names.
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

/** These rows as rows of the chat schema's kinds. */
export async function adoptRows(
  oldConversations: readonly OldRow[],
  oldMessages: readonly OldRow[],
): Promise<{ readonly conversations: Row[]; readonly messages: Row[] }> {
  const messages: Row[] = [];
  const withUnsynced = new Set<Uuid>();
  const withAny = new Set<Uuid>();
  for (const row of oldMessages) {
    const createdAt = instant(row['timestamp']) ?? instant(row['createdAt']) ?? EARLIEST;
    const conversationId = await idOf(row['conversationId']);
    const synced = row['synced'] === true || row['synced'] === 1;
    withAny.add(conversationId);
    if (!synced) withUnsynced.add(conversationId);
    messages.push({
      kind: 'message',
      seq: synced ? HELD : LOCAL,
      id: await idOf(row['id']),
      conversationId,
      role: typeof row['role'] === 'string' ? row['role'] : 'user',
      content: text(row['content']),
      createdAt,
      updatedAt: Math.max(createdAt, instant(row['updatedAt']) ?? createdAt),
    });
  }
  const conversations: Row[] = [];
  for (const row of oldConversations) {
    const id = await idOf(row['id']);
    const createdAt = instant(row['createdAt']) ?? EARLIEST;
    conversations.push({
      kind: 'conversation',
      // Whether the server has a conversation is not known. Creating one that it has changes nothing.
      seq: withUnsynced.has(id) || !withAny.has(id) ? LOCAL : HELD,
      id,
      title: typeof row['title'] === 'string' ? text(row['title']) : null,
      createdAt,
      updatedAt: Math.max(createdAt, instant(row['updatedAt']) ?? createdAt),
    });
  }
  return { conversations, messages };
}
