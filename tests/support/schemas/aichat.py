"""An AI chat template on Postgres. Nothing cascades: the app deletes from below."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = 'SELECT id FROM "Chat" WHERE "userId" = $user'
MY_MESSAGES: Final = f'SELECT id FROM "Message_v2" WHERE "chatId" IN ({MINE})'
A_VOTE: Final = f'(SELECT "chatId", "messageId" FROM "Vote_v2" WHERE "messageId" IN ({MY_MESSAGES}) LIMIT 1)'
A_DOCUMENT: Final = '(SELECT id, "createdAt" FROM "Document" WHERE "userId" = $user ORDER BY random() LIMIT 1)'

PICKS: Final = {
    "chat": MINE,
    "new_chat": f"SELECT $id WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f'{MINE} AND (SELECT count(*) FROM "Message_v2" WHERE "chatId" = "Chat".id) < 50',
    "message": MY_MESSAGES,
    "document": 'SELECT id FROM "Document" WHERE "userId" = $user',
    "suggestion": 'SELECT id FROM "Suggestion" WHERE "userId" = $user',
}

CONVERSE: Final = (
    'INSERT INTO "Chat" (id, "createdAt", title, "userId") VALUES ($new_chat, $instant::timestamp, $title, $user)'
)
SAY: Final = (
    'INSERT INTO "Message_v2" (id, "chatId", role, parts, attachments, "createdAt") '
    "SELECT md5($seed || i)::uuid, $roomy, $role, $verbatim::json, '[]', now() FROM generate_series(1, $many) AS i"
)
VOTE: Final = (
    'INSERT INTO "Vote_v2" ("chatId", "messageId", "isUpvoted") '
    'SELECT "chatId", id, $flag FROM "Message_v2" WHERE id = $message '
    'ON CONFLICT ("chatId", "messageId") DO UPDATE SET "isUpvoted" = NOT "Vote_v2"."isUpvoted"'
)
WRITE: Final = (
    'INSERT INTO "Document" (id, "createdAt", title, content, "userId") VALUES ($id, now(), $title, $maybe_text, $user)'
)
SUGGEST: Final = (
    'INSERT INTO "Suggestion" (id, "documentId", "documentCreatedAt", "originalText", "suggestedText", "userId", '
    '"createdAt") SELECT $id, id, "createdAt", $title, $title, $user, now() FROM "Document" '
    f'WHERE (id, "createdAt") IN {A_DOCUMENT}'
)
EMPTY_CHAT: Final = (
    'DELETE FROM "Vote_v2" WHERE "chatId" = $chat '
    'OR "messageId" IN (SELECT id FROM "Message_v2" WHERE "chatId" = $chat)',
    'DELETE FROM "Message_v2" WHERE "chatId" = $chat',
    'DELETE FROM "Stream" WHERE "chatId" = $chat',
)

CHANGES: Final = (
    change(6, CONVERSE),
    change(30, SAY),
    change(12, VOTE),
    change(6, WRITE),
    change(6, SUGGEST),
    change(2, 'INSERT INTO "Stream" (id, "chatId", "createdAt") VALUES ($id, $chat, now())'),
    change(4, "UPDATE \"Chat\" SET title = $title, visibility = 'public' WHERE id = $chat"),
    change(4, 'UPDATE "Chat" SET "lastContext" = $maybe_json::jsonb WHERE id = $chat'),
    change(4, 'UPDATE "Message_v2" SET parts = $verbatim::json WHERE id = $message'),
    change(2, 'UPDATE "Message_v2" SET attachments = $json::json WHERE "chatId" = $chat'),
    change(2, 'UPDATE "Message_v2" SET "createdAt" = $instant::timestamp WHERE id = $message'),
    change(2, f'UPDATE "Vote_v2" SET "isUpvoted" = $flag WHERE ("chatId", "messageId") IN {A_VOTE}'),
    change(2, 'UPDATE "Document" SET content = $maybe_text, "text" = \'code\' WHERE id = $document'),
    change(4, 'UPDATE "Suggestion" SET "isResolved" = true, description = $maybe WHERE id = $suggestion'),
    # Its votes name the chat that it was in, too.
    change(
        4,
        'UPDATE "Message_v2" SET "chatId" = $chat WHERE id = $message',
        'DELETE FROM "Vote_v2" WHERE "messageId" = $message AND "chatId" <> $chat',
    ),
    change(2, 'UPDATE "Message_v2" SET "chatId" = $chat WHERE id = $message'),
    change(2, 'UPDATE "Chat" SET "userId" = $other WHERE id = $chat', crosses=True),
    change(1, 'UPDATE "Suggestion" SET "userId" = $other WHERE id = $suggestion', crosses=True),
    # Keys, or a part of one.
    change(2, 'UPDATE "Suggestion" SET id = $id WHERE id = $suggestion'),
    change(
        2,
        f'UPDATE "Vote_v2" SET "messageId" = $message WHERE ("chatId", "messageId") IN {A_VOTE} AND NOT EXISTS '
        '(SELECT FROM "Vote_v2" v WHERE v."chatId" = "Vote_v2"."chatId" AND v."messageId" = $message)',
    ),
    change(
        1,
        f'UPDATE "Document" SET "createdAt" = clock_timestamp() WHERE (id, "createdAt") IN {A_DOCUMENT} AND NOT EXISTS '
        '(SELECT FROM "Suggestion" WHERE "documentId" = "Document".id)',
    ),
    # Another version of a document: the same id.
    change(
        4,
        'INSERT INTO "Document" (id, "createdAt", title, "userId") '
        "VALUES ($document, clock_timestamp(), $title, $user)",
    ),
    change(
        2,
        'INSERT INTO "Chat" (id, "createdAt", title, "userId") VALUES ($chat, now(), $title, $user) '
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    ),
    change(
        4,
        'DELETE FROM "Vote_v2" WHERE "messageId" IN ($message, $message2)',
        'DELETE FROM "Message_v2" WHERE id IN ($message, $message2)',
    ),
    change(2, f'DELETE FROM "Vote_v2" WHERE ("chatId", "messageId") IN {A_VOTE}'),
    change(2, 'DELETE FROM "Suggestion" WHERE id = $suggestion'),
    change(1, 'DELETE FROM "Suggestion" WHERE "documentId" = $document', 'DELETE FROM "Document" WHERE id = $document'),
    change(4, *EMPTY_CHAT, 'DELETE FROM "Chat" WHERE id = $chat'),
    # Gone, and made anew under the same key, with one message.
    change(
        2,
        *EMPTY_CHAT,
        'DELETE FROM "Chat" WHERE id = $chat',
        'INSERT INTO "Chat" (id, "createdAt", title, "userId") VALUES ($chat, now(), $title, $user)',
        'INSERT INTO "Message_v2" (id, "chatId", role, parts, attachments, "createdAt") '
        "VALUES ($id, $chat, 'user', $json::json, '[]', now())",
    ),
)

START: Final = (
    'INSERT INTO "User" (id, email) VALUES ($user, $user_text)',
    CONVERSE,
    SAY,
    VOTE,
    WRITE,
    SUGGEST,
)

SELECTS: Final = {
    "chat": 'SELECT id, "createdAt", title, visibility, "lastContext" FROM "Chat" WHERE "userId" = $user',
    "message": 'SELECT id, "chatId", role, parts, attachments, "createdAt" FROM "Message_v2" '
    f'WHERE "chatId" IN ({MINE})',
    "vote": 'SELECT v."chatId", v."messageId", v."messageId", "isUpvoted" FROM "Vote_v2" v '
    'JOIN "Message_v2" m ON m.id = v."messageId" JOIN "Chat" c ON c.id = m."chatId" WHERE c."userId" = $user',
    "suggestion": 'SELECT id, "documentId", "documentCreatedAt", "originalText", "suggestedText", description, '
    '"isResolved", "createdAt" FROM "Suggestion" WHERE "userId" = $user',
    "document": 'SELECT id, "createdAt", title, content, "text" AS kind FROM "Document" WHERE "userId" = $user',
}
PAIRS: Final = frozenset({"vote", "document"})
