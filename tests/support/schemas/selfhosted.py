"""A self-hosted web UI."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = "SELECT id FROM chat WHERE user_id = $user_text"

PICKS: Final = {
    "folder": "SELECT id FROM folder WHERE user_id = $user_text",
    "chat": MINE,
    "new_chat": f"SELECT $key WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f"{MINE} AND (SELECT count(*) FROM chat_message WHERE chat_id = chat.id) < 50",
    "message": f"SELECT id FROM chat_message WHERE chat_id IN ({MINE})",
    "tag": "SELECT id FROM tag WHERE user_id = $user_text",
    "feedback": "SELECT id FROM feedback WHERE user_id = $user_text",
    "nameless": "SELECT id FROM feedback WHERE user_id IS NULL",
}

FILE_UNDER: Final = (
    "INSERT INTO folder (id, user_id, name, meta, created_at, updated_at) "
    "VALUES ($key, $user_text, $title, $maybe_verbatim::json, $seconds, $seconds)"
)
CONVERSE: Final = (
    "INSERT INTO chat (id, user_id, title, chat, created_at, updated_at) "
    "VALUES ($new_chat, $user_text, $title, $verbatim::json, $seconds, $seconds)"
)
SAY: Final = (
    "INSERT INTO chat_message (id, chat_id, user_id, role, content, created_at, updated_at) "
    "SELECT $roomy || '-' || $key2 || i, $roomy, $user_text, $role, $maybe_verbatim::json, $seconds + i, NULL "
    "FROM generate_series(1, $many) AS i"
)
TAG: Final = (
    "INSERT INTO tag (id, name, user_id, meta) VALUES ($short_key, $maybe, $user_text, $maybe_json::json) "
    "ON CONFLICT (id, user_id) DO UPDATE SET name = excluded.name"
)
JUDGE: Final = (
    "INSERT INTO feedback (id, user_id, version, type, data, created_at, updated_at) "
    "VALUES ($key, $user_text, $maybe_big, 'rating', $maybe_verbatim::json, $seconds, $big)"
)

CHANGES: Final = (
    change(4, FILE_UNDER),
    change(6, CONVERSE),
    change(30, SAY),
    change(10, TAG),
    change(6, JUDGE),
    change(3, "UPDATE folder SET name = $title, is_expanded = NOT is_expanded WHERE id = $folder"),
    change(2, "UPDATE folder SET parent_id = $folder WHERE id = $folder2"),
    change(2, "UPDATE folder SET items = $json::json, data = NULL WHERE user_id = $user_text"),
    change(5, "UPDATE chat SET title = $title, updated_at = $seconds, last_read_at = $maybe_big WHERE id = $chat"),
    change(3, "UPDATE chat SET pinned = $maybe_flag, archived = $flag, meta = $maybe_verbatim::json WHERE id = $chat"),
    change(3, "UPDATE chat SET chat = $verbatim::json, share_id = NULL, summary = $maybe_text WHERE id = $chat"),
    change(3, "UPDATE chat SET folder_id = $folder WHERE id IN ($chat, $chat2)"),
    change(5, "UPDATE chat_message SET content = $verbatim::json, done = $maybe_flag WHERE id = $message"),
    change(3, "UPDATE chat_message SET usage = $json::json, output = $maybe_json::json WHERE chat_id = $chat"),
    change(2, "UPDATE chat_message SET sources = $json::json, user_id = NULL WHERE chat_id = $chat"),
    change(2, "UPDATE chat_message SET parent_id = $message WHERE id = $message2"),
    change(2, "UPDATE chat_message SET created_at = $maybe_big WHERE id = $message"),
    change(3, "UPDATE tag SET meta = $maybe_json::json, name = $maybe WHERE id = $tag AND user_id = $user_text"),
    change(2, "UPDATE feedback SET version = $maybe_big, updated_at = $big WHERE id = $feedback"),
    change(2, "UPDATE feedback SET snapshot = $json::json WHERE user_id = $user_text"),
    change(4, "UPDATE chat_message SET chat_id = $chat WHERE id = $message"),
    change(2, "UPDATE chat SET user_id = $other_text WHERE id = $chat", crosses=True),
    change(1, "UPDATE folder SET user_id = $other_text WHERE id = $folder", crosses=True),
    change(1, "UPDATE feedback SET user_id = NULL WHERE id = $feedback"),
    change(1, "UPDATE feedback SET user_id = $user_text WHERE id = $nameless", crosses=True),
    # Keys, or a part of one: the owner is a part of the tag's.
    change(
        2,
        "UPDATE tag SET user_id = $other_text WHERE id = $tag AND user_id = $user_text AND NOT EXISTS "
        "(SELECT FROM tag WHERE id = $tag AND user_id = $other_text)",
        crosses=True,
    ),
    change(
        3,
        "UPDATE tag SET id = $short_key WHERE id = $tag AND user_id = $user_text AND NOT EXISTS "
        "(SELECT FROM tag WHERE id = $short_key AND user_id = $user_text)",
    ),
    change(2, "UPDATE chat_message SET id = $key WHERE id = $message"),
    change(2, "UPDATE folder SET id = $key WHERE id = $folder"),
    change(
        1,
        "UPDATE chat SET id = $key WHERE id = $chat AND NOT EXISTS (SELECT FROM chat_message WHERE chat_id = chat.id)",
    ),
    change(
        2,
        "INSERT INTO chat (id, user_id, title, created_at, updated_at) VALUES ($chat, $user_text, $title, 0, 0) "
        "ON CONFLICT (id) DO UPDATE SET title = excluded.title, updated_at = $seconds",
    ),
    change(4, "DELETE FROM chat_message WHERE id IN ($message, $message2)"),
    change(2, "DELETE FROM tag WHERE id = $tag AND user_id = $user_text"),
    change(1, "DELETE FROM feedback WHERE id = $feedback"),
    # The app empties the folder itself.
    change(2, "UPDATE chat SET folder_id = NULL WHERE folder_id = $folder", "DELETE FROM folder WHERE id = $folder"),
    change(4, "DELETE FROM chat WHERE id = $chat"),
    change(
        2,
        "DELETE FROM chat WHERE id = $chat",
        "INSERT INTO chat (id, user_id, title, created_at, updated_at) VALUES ($chat, $user_text, $title, 1, 1)",
        "INSERT INTO chat_message (id, chat_id, role, content) VALUES ($key, $chat, 'user', $verbatim::json)",
    ),
)

START: Final = (
    'INSERT INTO "user" (id, email) VALUES ($user_text, $user_text)',
    FILE_UNDER,
    CONVERSE,
    SAY,
    TAG,
    JUDGE,
)

SELECTS: Final = {
    "folder": "SELECT id, parent_id, name, meta, is_expanded, created_at, updated_at FROM folder "
    "WHERE user_id = $user_text",
    "chat": "SELECT id, title, archived, pinned, meta, folder_id, last_read_at, created_at, updated_at FROM chat "
    "WHERE user_id = $user_text",
    "message": "SELECT id, chat_id, role, parent_id, content, output, model_id, files, done, error, usage, created_at, "
    f"updated_at FROM chat_message WHERE chat_id IN ({MINE})",
    "tag": "SELECT id, user_id, name, meta FROM tag WHERE user_id = $user_text",
    "feedback": "SELECT id, version, type, data, meta, created_at, updated_at FROM feedback WHERE user_id = $user_text",
}
PAIRS: Final = frozenset({"tag"})
