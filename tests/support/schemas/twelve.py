"""A chat app with twelve kinds. Keys of conversations, messages and labels can change, and the rows below follow."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = "SELECT id FROM conversations WHERE user_id = $user"
MY_MESSAGES: Final = f"SELECT id FROM messages WHERE conversation_id IN ({MINE})"

PICKS: Final = {
    "folder": "SELECT id FROM folders WHERE user_id = $user",
    "conversation": MINE,
    "new_conversation": f"SELECT $id WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f"{MINE} AND (SELECT count(*) FROM messages WHERE conversation_id = conversations.id) < 50",
    "message": MY_MESSAGES,
    "label": "SELECT id FROM labels WHERE user_id = $user",
    "preset": "SELECT slot FROM presets WHERE user_id = $user",
    "attachment": f"SELECT id FROM attachments WHERE message_id IN ({MY_MESSAGES})",
    "tool_call": f"SELECT id FROM tool_calls WHERE message_id IN ({MY_MESSAGES})",
    "lost_call": "SELECT id FROM tool_calls WHERE message_id IS NULL",
    "note": "SELECT slug FROM notes WHERE author = $user_text",
    "nameless": "SELECT slug FROM notes WHERE author IS NULL",
}

FILE_UNDER: Final = "INSERT INTO folders (id, user_id, name, position) VALUES ($id2, $user, $title, $maybe_number)"
CONVERSE: Final = "INSERT INTO conversations (id, user_id, title) VALUES ($new_conversation, $user, $maybe)"
SAY: Final = (
    "INSERT INTO messages (id, conversation_id, role, content) "
    "SELECT md5($seed || i)::uuid, $roomy, $role, $text || i FROM generate_series(1, $many) AS i"
)
NAME: Final = (
    "INSERT INTO labels (id, user_id, name, color, weight) VALUES ($big, $user, $title, $color, $float) "
    "ON CONFLICT DO NOTHING"
)
LABEL: Final = (
    "INSERT INTO conversation_labels (conversation_id, label_id) VALUES ($conversation, $label) ON CONFLICT DO NOTHING"
)
SET: Final = (
    "INSERT INTO presets (user_id, slot, settings, temperature) VALUES ($user, $slot, $json::jsonb, $half) "
    "ON CONFLICT (user_id, slot) DO UPDATE SET settings = excluded.settings, temperature = 1.50"
)
DRAFT: Final = (
    "INSERT INTO drafts (conversation_id, content, updated_at) VALUES ($conversation, $maybe_text, now()) "
    "ON CONFLICT (conversation_id) DO UPDATE SET content = excluded.content"
)
ATTACH: Final = (
    "INSERT INTO attachments (id, message_id, name, size, thumbnail) "
    "VALUES ($key, $message, $title, $maybe_big, $bytes)"
)
REACT: Final = "INSERT INTO reactions (message_id, emoji) VALUES ($message, $emoji) ON CONFLICT DO NOTHING"
CALL: Final = (
    "INSERT INTO tool_calls (message_id, name, arguments, result, cost, succeeded) "
    "VALUES ($message, $title, $verbatim::json, $maybe_json::jsonb, $numeric::numeric, $maybe_flag)"
)
WRITE: Final = (
    "INSERT INTO notes (slug, author, body, tags, numbers, due, written_at) "
    "VALUES ($key, $user_text, $maybe_text, $texts, $bigs, $date::date, $maybe_instant::timestamp)"
)

CHANGES: Final = (
    change(4, FILE_UNDER),
    change(5, CONVERSE),
    change(24, SAY),
    change(4, NAME),
    change(6, LABEL),
    change(4, SET),
    change(6, DRAFT),
    change(6, ATTACH),
    change(6, REACT),
    change(6, CALL),
    change(5, WRITE),
    change(2, "UPDATE profiles SET subscription_tier = 'studio', subscription_status = $maybe WHERE id = $user"),
    change(2, "UPDATE profiles SET subscription_tier = 'core', usage_stats = $json::jsonb WHERE id = $user"),
    change(2, "UPDATE folders SET name = $title, position = $maybe_number WHERE id = $folder"),
    change(2, "UPDATE folders SET parent_id = $folder WHERE id = $folder2"),
    change(4, "UPDATE conversations SET title = $maybe, updated_at = now() WHERE id = $conversation"),
    change(3, "UPDATE conversations SET folder_id = $folder WHERE id IN ($conversation, $conversation2)"),
    change(4, "UPDATE messages SET content = $text, updated_at = now() WHERE id = $message"),
    change(2, "UPDATE messages SET created_at = $instant::timestamptz WHERE id = $message"),
    change(2, "UPDATE labels SET name = $title, weight = $float WHERE id = $label"),
    change(2, "UPDATE presets SET settings = $json::jsonb, temperature = NULL WHERE user_id = $user"),
    change(2, "UPDATE drafts SET content = $maybe_text, updated_at = NULL WHERE conversation_id = $conversation"),
    change(2, "UPDATE attachments SET size = $maybe_big, thumbnail = $bytes WHERE id = $attachment"),
    change(2, "UPDATE reactions SET created_at = $maybe_instant::timestamptz WHERE message_id = $message"),
    change(3, "UPDATE tool_calls SET result = $maybe_json::jsonb, succeeded = $maybe_flag WHERE id = $tool_call"),
    change(3, "UPDATE notes SET body = $maybe_text, tags = $texts, numbers = $bigs WHERE slug = $note"),
    change(4, "UPDATE messages SET conversation_id = $conversation WHERE id IN ($message, $message2)"),
    change(2, "UPDATE attachments SET message_id = $message WHERE id = $attachment"),
    change(2, "UPDATE tool_calls SET message_id = $message WHERE id = $tool_call"),
    change(1, "UPDATE tool_calls SET message_id = NULL WHERE id = $tool_call"),
    change(1, "UPDATE tool_calls SET message_id = $message WHERE id = $lost_call", crosses=True),
    change(2, "UPDATE conversations SET user_id = $other WHERE id = $conversation", crosses=True),
    change(1, "UPDATE labels SET user_id = $other WHERE id = $label", crosses=True),
    change(1, "UPDATE notes SET author = $other_text WHERE slug = $note", crosses=True),
    change(1, "UPDATE notes SET author = NULL WHERE slug = $note"),
    change(1, "UPDATE notes SET author = $user_text WHERE slug = $nameless", crosses=True),
    # Keys, or a part of one.
    change(2, "UPDATE conversations SET id = $id WHERE id = $conversation"),
    change(2, "UPDATE messages SET id = $id WHERE id = $message"),
    change(2, "UPDATE labels SET id = $big WHERE id = $label AND NOT EXISTS (SELECT FROM labels WHERE id = $big)"),
    change(1, "UPDATE notes SET slug = $key WHERE slug = $note"),
    change(
        2,
        "UPDATE presets SET slot = $slot WHERE user_id = $user AND slot = $preset AND NOT EXISTS "
        "(SELECT FROM presets WHERE user_id = $user AND slot = $slot)",
    ),
    change(
        2,
        "UPDATE drafts SET conversation_id = $conversation WHERE conversation_id = $conversation2 AND NOT EXISTS "
        "(SELECT FROM drafts WHERE conversation_id = $conversation)",
    ),
    change(
        2,
        "UPDATE reactions SET emoji = $emoji WHERE (message_id, emoji) IN (SELECT message_id, emoji FROM reactions "
        "WHERE message_id = $message LIMIT 1) AND NOT EXISTS "
        "(SELECT FROM reactions WHERE message_id = $message AND emoji = $emoji)",
    ),
    change(
        2,
        "INSERT INTO conversations (id, user_id, title) VALUES ($conversation, $user, $title) "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    ),
    # With the folders in it; their conversations stay.
    change(1, "DELETE FROM folders WHERE id = $folder"),
    change(3, "DELETE FROM conversations WHERE id = $conversation"),
    change(4, "DELETE FROM messages WHERE id IN ($message, $message2)"),
    change(1, "DELETE FROM labels WHERE id = $label"),
    change(1, "DELETE FROM conversation_labels WHERE conversation_id = $conversation"),
    change(1, "DELETE FROM presets WHERE user_id = $user AND slot = $preset"),
    change(1, "DELETE FROM drafts WHERE conversation_id = $conversation"),
    change(2, "DELETE FROM attachments WHERE id = $attachment"),
    change(2, "DELETE FROM reactions WHERE message_id = $message"),
    change(2, "DELETE FROM tool_calls WHERE id = $tool_call"),
    change(1, "DELETE FROM notes WHERE slug = $note"),
    change(
        2,
        "DELETE FROM conversations WHERE id = $conversation",
        "INSERT INTO conversations (id, user_id, title) VALUES ($conversation, $user, $title)",
        "INSERT INTO messages (id, conversation_id, role, content) VALUES ($id, $conversation, 'user', $text)",
        "INSERT INTO reactions (message_id, emoji) VALUES ($id, $emoji)",
    ),
)

START: Final = (
    "INSERT INTO profiles (id, subscription_tier) VALUES ($user, 'core')",
    FILE_UNDER,
    CONVERSE,
    SAY,
    "INSERT INTO labels (user_id, name) VALUES ($user, $title)",
    LABEL,
    SET,
    DRAFT,
    ATTACH,
    REACT,
    CALL,
    WRITE,
)

BELOW_MESSAGES: Final = (
    "JOIN messages m ON m.id = x.message_id JOIN conversations c ON c.id = m.conversation_id WHERE c.user_id = $user"
)
SELECTS: Final = {
    "profile": "SELECT id, subscription_tier AS tier, subscription_status AS status FROM profiles WHERE id = $user",
    "folder": "SELECT id, parent_id, name, position FROM folders WHERE user_id = $user",
    "conversation": "SELECT id, title, created_at, updated_at, folder_id FROM conversations WHERE user_id = $user",
    "message": "SELECT id, conversation_id, role, content, created_at, updated_at FROM messages "
    f"WHERE conversation_id IN ({MINE})",
    "label": "SELECT id, name, color, weight FROM labels WHERE user_id = $user",
    "labelled": "SELECT conversation_id, label_id, conversation_id, added_at FROM conversation_labels "
    f"WHERE conversation_id IN ({MINE})",
    "preset": "SELECT user_id, slot, settings, temperature::text FROM presets WHERE user_id = $user",
    "draft": "SELECT conversation_id, conversation_id, content, updated_at FROM drafts "
    f"WHERE conversation_id IN ({MINE})",
    "attachment": f"SELECT x.id, message_id, name, size, thumbnail FROM attachments x {BELOW_MESSAGES}",
    "reaction": f"SELECT message_id, emoji, message_id, x.created_at FROM reactions x {BELOW_MESSAGES}",
    "tool_call": f"SELECT x.id, message_id, name, arguments, result, cost::text, succeeded FROM tool_calls x "
    f"{BELOW_MESSAGES}",
    "note": "SELECT slug, body, tags, numbers, due::text, written_at FROM notes WHERE author = $user_text",
}
PAIRS: Final = frozenset({"labelled", "preset", "reaction"})
