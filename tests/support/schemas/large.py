"""A large AI chat."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = "SELECT id FROM topics WHERE user_id = $user_text"
MY_MESSAGES: Final = f"SELECT id FROM messages WHERE topic_id IN ({MINE})"

PICKS: Final = {
    "topic": MINE,
    "new_topic": f"SELECT 'tpc_' || $key WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f"{MINE} AND (SELECT count(*) FROM messages WHERE topic_id = topics.id) < 50",
    "session": "SELECT id FROM sessions WHERE user_id = $user_text",
    "thread": f"SELECT id FROM threads WHERE topic_id IN ({MINE})",
    "message": MY_MESSAGES,
    "childless": f"{MY_MESSAGES} AND NOT EXISTS (SELECT FROM message_plugins p WHERE p.id = messages.id) "
    "AND NOT EXISTS (SELECT FROM messages m WHERE messages.id IN (m.parent_id, m.quota_id)) "
    "AND NOT EXISTS (SELECT FROM messages_files f WHERE f.message_id = messages.id)",
    "homeless": "SELECT id FROM messages WHERE topic_id IS NULL AND user_id = $user_text",
    "plugin": f"SELECT id FROM message_plugins WHERE id IN ({MY_MESSAGES})",
}

SAY: Final = (
    "INSERT INTO messages (id, role, content, reasoning, metadata, tools, user_id, topic_id) "
    "SELECT 'msg_' || $key || i, $tool_role, $maybe_text, $maybe_json::jsonb, $maybe_json2::jsonb, $maybe_json3::jsonb"
    ", $user_text, $roomy FROM generate_series(1, $many) AS i"
)
BRANCH: Final = (
    "INSERT INTO threads (id, title, type, topic_id, source_message_id, user_id) "
    "VALUES ('thd_' || $key, $maybe, 'continuation', $topic, $message, $user_text)"
)
CALL: Final = (
    "INSERT INTO message_plugins (id, api_name, arguments, state, user_id) "
    "VALUES ($message, $maybe, $json, $json2::jsonb, $user_text) "
    "ON CONFLICT (id) DO UPDATE SET state = excluded.state, error = $maybe_json::jsonb"
)

CHANGES: Final = (
    change(
        6, "INSERT INTO topics (id, title, user_id, metadata) VALUES ($new_topic, $maybe, $user_text, $json::jsonb)"
    ),
    change(30, SAY),
    change(5, BRANCH),
    change(10, CALL),
    change(2, "INSERT INTO messages (id, role, user_id) VALUES ('msg_' || $key, 'user', $user_text)"),
    change(2, "INSERT INTO files (id, user_id, file_type, name, size, url) VALUES ($key, $user_text, '', '', 1, '')"),
    # A message, and a tool's answer to it.
    change(
        6,
        "INSERT INTO messages (id, role, tools, user_id, topic_id, parent_id) "
        "VALUES ('msg_' || $key, 'assistant', $json::jsonb, $user_text, $roomy, $message)",
        "INSERT INTO messages (id, role, content, user_id, topic_id, parent_id) "
        "VALUES ('msg_' || $key || '_', 'tool', $text, $user_text, $roomy, 'msg_' || $key)",
        "INSERT INTO message_plugins (id, tool_call_id, user_id) VALUES ('msg_' || $key || '_', '1', $user_text)",
    ),
    change(4, "UPDATE topics SET title = $maybe, favorite = $maybe_flag, updated_at = now() WHERE id = $topic"),
    change(2, "UPDATE topics SET metadata = $maybe_json::jsonb, history_summary = $maybe_text WHERE id = $topic"),
    change(2, "UPDATE topics SET accessed_at = now(), session_id = $session WHERE id = $topic"),
    change(2, "UPDATE threads SET parent_thread_id = $thread, status = $maybe WHERE id = $thread2"),
    change(2, "UPDATE threads SET last_active_at = $maybe_instant::timestamptz WHERE id = $thread"),
    change(6, "UPDATE messages SET content = $maybe_text, error = $maybe_json::jsonb WHERE id = $message"),
    change(2, "UPDATE messages SET accessed_at = now(), trace_id = 'x' WHERE topic_id = $topic"),
    change(3, "UPDATE messages SET parent_id = $message, quota_id = $message2 WHERE id = $message3"),
    change(2, "UPDATE messages SET favorite = true, search = $json::jsonb WHERE topic_id = $topic"),
    change(3, "UPDATE messages SET thread_id = $thread WHERE id IN ($message, $message2)"),
    change(3, "UPDATE message_plugins SET state = $maybe_json::jsonb, api_name = $maybe WHERE id = $plugin"),
    change(2, "UPDATE message_plugins SET user_id = $other_text WHERE id = $plugin"),
    change(4, "UPDATE messages SET topic_id = $topic WHERE id = $message"),
    change(2, "UPDATE messages SET topic_id = NULL, session_id = $session WHERE id = $message"),
    change(2, "UPDATE messages SET topic_id = $roomy WHERE id = $homeless"),
    change(2, "UPDATE threads SET topic_id = $topic WHERE id = $thread"),
    change(2, "UPDATE topics SET user_id = $other_text WHERE id = $topic", crosses=True),
    # Keys.
    change(2, "UPDATE messages SET id = 'msg_' || $key WHERE id = $childless"),
    change(2, "UPDATE message_plugins SET id = $childless WHERE id = $plugin"),
    change(
        2,
        "INSERT INTO topics (id, title, user_id) VALUES ($topic, $title, $user_text) "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title",
    ),
    # One statement moves it, as a deletion and an insertion.
    change(
        2,
        "WITH gone AS (DELETE FROM messages WHERE id = $message RETURNING *) "
        "INSERT INTO messages (id, role, content, user_id, topic_id) "
        "SELECT id, role, content, user_id, $topic FROM gone",
    ),
    change(4, "DELETE FROM messages WHERE id IN ($message, $message2)"),
    change(2, "DELETE FROM messages WHERE topic_id = $topic AND role = 'tool'"),
    change(2, "DELETE FROM message_plugins WHERE id = $plugin"),
    # Takes its messages along, and their plugins.
    change(2, "DELETE FROM threads WHERE id = $thread"),
    change(4, "DELETE FROM topics WHERE id = $topic"),
    change(
        1,
        "DELETE FROM sessions WHERE id = $session",
        "INSERT INTO sessions (id, slug, user_id) VALUES ($session, $session, $user_text)",
    ),
    change(
        2,
        "DELETE FROM topics WHERE id = $topic",
        "INSERT INTO topics (id, title, user_id) VALUES ($topic, $title, $user_text)",
        "INSERT INTO messages (id, role, content, user_id, topic_id) "
        "VALUES ('msg_' || $key, 'user', $text, $user_text, $topic)",
    ),
)

START: Final = (
    "INSERT INTO users (id) VALUES ($user_text)",
    "INSERT INTO sessions (id, slug, user_id) VALUES ('ssn_' || $user_text, 'inbox', $user_text)",
    "INSERT INTO topics (id, title, user_id) VALUES ($new_topic, $title, $user_text)",
    SAY,
    BRANCH,
    CALL,
)

SELECTS: Final = {
    "topic": "SELECT id, title, favorite, history_summary, metadata, created_at, updated_at FROM topics "
    "WHERE user_id = $user_text",
    "thread": "SELECT id, topic_id, title, type, status, source_message_id, parent_thread_id, last_active_at, "
    f"updated_at FROM threads WHERE topic_id IN ({MINE})",
    "message": "SELECT id, topic_id, thread_id, parent_id, role, content, reasoning, search, metadata, model, "
    f"provider, favorite, error, tools, created_at, updated_at FROM messages WHERE topic_id IN ({MINE})",
    "plugin": "SELECT p.id, p.id, tool_call_id, type, api_name, arguments, identifier, state, p.error "
    "FROM message_plugins p JOIN messages m ON m.id = p.id JOIN topics t ON t.id = m.topic_id "
    "WHERE t.user_id = $user_text",
}
PAIRS: Final[frozenset[str]] = frozenset()
