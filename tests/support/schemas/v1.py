"""The chat app on Supabase."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = "SELECT id FROM conversations WHERE user_id = $user"
MY_MESSAGES: Final = f"SELECT id FROM messages WHERE conversation_id IN ({MINE})"

PICKS: Final = {
    "conversation": MINE,
    "new_conversation": f"SELECT $id WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f"{MINE} AND (SELECT count(*) FROM messages WHERE conversation_id = conversations.id) < 50",
    "orphan": "SELECT id FROM conversations WHERE user_id IS NULL",
    "lost": "SELECT id FROM messages WHERE conversation_id IS NULL",
    "message": MY_MESSAGES,
    "vote": f"SELECT id FROM votes WHERE message_id IN ({MY_MESSAGES})",
    "attachment": f"SELECT id FROM attachments WHERE message_id IN ({MY_MESSAGES})",
    "usage": "SELECT id FROM daily_usage WHERE user_id = $user",
}

SAY: Final = (
    "INSERT INTO messages (id, conversation_id, role, content, metadata) "
    "SELECT md5($seed || i)::uuid, $roomy, $role, $text || i, $maybe_json::jsonb FROM generate_series(1, $many) AS i"
)
ATTACH: Final = (
    "INSERT INTO attachments (id, message_id, file_name, mime_type, byte_size, checksum, storage_path) "
    "VALUES ($id2, $message, $title, 'image/png', $maybe_big, $bytes, $text)"
)
USE: Final = (
    "INSERT INTO daily_usage (user_id, date, conversations_count, total_tokens_used, api_cost_estimate, tier) "
    "VALUES ($user, $day::date, 1, $number, $price::numeric, $maybe) ON CONFLICT (user_id, date) DO UPDATE "
    "SET conversations_count = daily_usage.conversations_count + 1, total_tokens_used = excluded.total_tokens_used, "
    "api_cost_estimate = excluded.api_cost_estimate"
)

CHANGES: Final = (
    change(6, "INSERT INTO conversations (id, user_id, title) VALUES ($new_conversation, $user, $maybe)"),
    change(30, SAY),
    change(8, ATTACH),
    change(
        8,
        "INSERT INTO votes (id, message_id, user_id, value) VALUES ($id, $message, $user, 1) "
        "ON CONFLICT (message_id, user_id) DO UPDATE SET value = -votes.value",
    ),
    change(6, USE),
    change(4, "UPDATE profiles SET subscription_tier = 'studio', subscription_status = $maybe WHERE id = $user"),
    change(2, "UPDATE profiles SET subscription_tier = 'core', usage_stats = $json::jsonb WHERE id = $user"),
    change(3, "UPDATE profiles SET usage_stats = $json::jsonb, updated_at = now() WHERE id = $user"),
    change(6, "UPDATE conversations SET title = $maybe, updated_at = now() WHERE id = $conversation"),
    change(2, "UPDATE conversations SET updated_at = $maybe_instant::timestamptz WHERE id = $conversation"),
    change(6, "UPDATE messages SET content = $maybe_text, metadata = $maybe_json::jsonb WHERE id = $message"),
    change(2, "UPDATE messages SET metadata = $json::jsonb WHERE conversation_id = $conversation"),
    change(2, "UPDATE messages SET created_at = $maybe_instant::timestamptz WHERE id = $message"),
    change(2, "UPDATE attachments SET storage_path = $text WHERE id = $attachment"),
    change(2, "UPDATE attachments SET file_name = $title, byte_size = $maybe_big WHERE id = $attachment"),
    change(4, "UPDATE messages SET conversation_id = $conversation WHERE id = $message"),
    change(2, "UPDATE attachments SET message_id = $message WHERE id = $attachment"),
    # Lost, and found again.
    change(2, "UPDATE messages SET conversation_id = NULL WHERE id = $message"),
    change(2, "UPDATE messages SET conversation_id = $conversation WHERE id = $lost", crosses=True),
    change(1, "UPDATE conversations SET user_id = NULL WHERE id = $conversation"),
    change(2, "UPDATE conversations SET user_id = $user WHERE id = $orphan", crosses=True),
    change(2, "UPDATE conversations SET user_id = $other WHERE id = $conversation", crosses=True),
    # The key of a row without children.
    change(2, "UPDATE attachments SET id = $id WHERE id = $attachment"),
    change(1, "UPDATE daily_usage SET id = nextval('daily_usage_id_seq') WHERE id = $usage"),
    change(
        3,
        "INSERT INTO conversations (id, user_id, title) VALUES ($conversation, $user, $title) "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    ),
    change(1, "INSERT INTO conversations (id, user_id) VALUES ($conversation, $user) ON CONFLICT DO NOTHING"),
    change(4, "DELETE FROM messages WHERE id IN ($message, $message2)"),
    change(2, "DELETE FROM votes WHERE id = $vote"),
    change(2, "DELETE FROM attachments WHERE id = $attachment"),
    change(1, "DELETE FROM daily_usage WHERE id = $usage"),
    change(4, "DELETE FROM conversations WHERE id = $conversation"),
    # Gone, and made anew under the same key, with one message.
    change(
        2,
        "DELETE FROM conversations WHERE id = $conversation",
        "INSERT INTO conversations (id, user_id, title) VALUES ($conversation, $user, $title)",
        "INSERT INTO messages (id, conversation_id, role, content) VALUES ($id, $conversation, 'user', $text)",
    ),
    change(
        2,
        "DELETE FROM messages WHERE id = $message",
        "INSERT INTO messages (id, conversation_id, role, content) "
        "VALUES ($message, $conversation, 'assistant', $text)",
    ),
)

START: Final = (
    "INSERT INTO auth.users (id, email) VALUES ($user, $user_text)",
    "UPDATE profiles SET subscription_tier = 'core' WHERE id = $user",
    "INSERT INTO conversations (id, user_id, title) VALUES ($new_conversation, $user, $title)",
    SAY,
    ATTACH,
    "INSERT INTO votes (id, message_id, user_id, value) VALUES ($id, $message, $user, 1)",
    USE,
)

OWN_MESSAGES: Final = "JOIN messages m ON m.id = x.message_id JOIN conversations c ON c.id = m.conversation_id"
SELECTS: Final = {
    "profile": "SELECT id, subscription_tier AS tier, subscription_status AS status FROM profiles WHERE id = $user",
    "conversation": "SELECT id, title, created_at, updated_at FROM conversations WHERE user_id = $user",
    "message": "SELECT id, conversation_id, role, content, metadata, created_at FROM messages "
    f"WHERE conversation_id IN ({MINE})",
    "vote": f"SELECT x.id, message_id, value, x.created_at FROM votes x {OWN_MESSAGES} WHERE c.user_id = $user",
    "attachment": "SELECT x.id, message_id, file_name, mime_type, byte_size, checksum, x.created_at "
    f"FROM attachments x {OWN_MESSAGES} WHERE c.user_id = $user",
    "daily_usage": "SELECT id, date::text, conversations_count AS conversations, total_tokens_used AS tokens, "
    "api_cost_estimate::text AS cost, tier FROM daily_usage WHERE user_id = $user",
}
PAIRS: Final[frozenset[str]] = frozenset()
