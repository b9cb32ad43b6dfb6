"""A chat UI on Supabase."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = "SELECT id FROM chats WHERE user_id = $user"

PICKS: Final = {
    "workspace": "SELECT id FROM workspaces WHERE user_id = $user",
    "folder": "SELECT id FROM folders WHERE user_id = $user",
    "file": "SELECT id FROM files WHERE user_id = $user",
    "chat": MINE,
    "new_chat": f"SELECT $id WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f"{MINE} AND (SELECT count(*) FROM messages WHERE chat_id = chats.id) < 50",
    "message": f"SELECT id FROM messages WHERE chat_id IN ({MINE})",
}

SETTLE: Final = (
    "INSERT INTO workspaces (id, user_id, default_context_length, default_model, default_prompt, default_temperature, "
    "description, name) VALUES ($id3, $user, 4096, 'm', '', $half, '', $title)"
)
FILE_UNDER: Final = (
    "INSERT INTO folders (id, user_id, workspace_id, name, description, type) "
    "VALUES ($id, $user, $workspace, $title, $title2, 'chats')"
)
CONVERSE: Final = (
    "INSERT INTO chats (id, user_id, workspace_id, context_length, embeddings_provider, include_profile_context, "
    "include_workspace_instructions, model, name, prompt, temperature) "
    "VALUES ($new_chat, $user, $workspace, $number, 'local', $flag, true, 'm', $title, $text, $half)"
)
SAY: Final = (
    "INSERT INTO messages (id, chat_id, user_id, content, image_paths, model, role, sequence_number) "
    "SELECT md5($seed || i)::uuid, $roomy, $user, $text || i, $paths, 'm', $role, "
    "i + coalesce((SELECT max(sequence_number) FROM messages WHERE chat_id = $roomy), -1) "
    "FROM generate_series(1, $many) AS i"
)
UPLOAD: Final = (
    "INSERT INTO files (id, user_id, file_path, name, size, tokens, type) "
    "VALUES ($id, $user, '', $title, $slot, 0, 'pdf')"
)
ATTACH: Final = "INSERT INTO chat_files (user_id, chat_id, file_id) VALUES ($user, $chat, $file) ON CONFLICT DO NOTHING"

CHANGES: Final = (
    change(2, SETTLE),
    change(4, FILE_UNDER),
    change(6, CONVERSE),
    change(30, SAY),
    change(3, UPLOAD),
    change(6, ATTACH),
    change(3, "UPDATE workspaces SET name = $title, default_temperature = $half WHERE id = $workspace"),
    # Columns that are not synced; but the trigger sets one that is.
    change(2, "UPDATE workspaces SET instructions = 'x' WHERE id = $workspace"),
    change(3, "UPDATE folders SET name = $title WHERE id = $folder"),
    change(3, "UPDATE chats SET name = $title, prompt = $text, folder_id = NULL WHERE id = $chat"),
    change(4, "UPDATE chats SET folder_id = $folder WHERE id IN ($chat, $chat2)"),
    change(2, "UPDATE files SET folder_id = $folder, tokens = tokens + 1 WHERE id = $file"),
    change(2, "UPDATE files SET tokens = tokens + 1 WHERE user_id = $user"),
    change(5, "UPDATE messages SET content = $text, image_paths = $paths WHERE id = $message"),
    change(2, "UPDATE messages SET user_id = $other WHERE id = $message"),
    change(2, "UPDATE messages SET sequence_number = sequence_number + 1 WHERE chat_id = $chat"),
    change(4, "UPDATE messages SET chat_id = $chat WHERE id = $message"),
    change(2, "UPDATE chats SET workspace_id = $workspace WHERE id = $chat"),
    change(2, "UPDATE chats SET user_id = $other WHERE id = $chat", crosses=True),
    change(1, "UPDATE folders SET user_id = $other WHERE id = $folder", crosses=True),
    change(1, "UPDATE chats SET user_id = $user WHERE workspace_id = $workspace", crosses=True),
    # Keys, or a part of one.
    change(2, "UPDATE messages SET id = $id WHERE id = $message"),
    change(
        2,
        "UPDATE chat_files SET chat_id = $chat WHERE chat_id = $chat2 AND file_id = $file AND NOT EXISTS "
        "(SELECT FROM chat_files WHERE chat_id = $chat AND file_id = $file)",
    ),
    change(
        3,
        "MERGE INTO messages m USING (SELECT $message AS id UNION ALL SELECT $id) AS s ON m.id = s.id "
        "WHEN MATCHED THEN UPDATE SET content = $text WHEN NOT MATCHED THEN INSERT "
        "(id, chat_id, user_id, content, image_paths, model, role, sequence_number) "
        "VALUES (s.id, $roomy, $user, $text, '{}', 'm', 'user', 0)",
    ),
    change(
        2,
        "INSERT INTO folders (id, user_id, workspace_id, name, description, type) "
        "VALUES ($folder, $user, $workspace, $title, '', 'chats') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
    ),
    change(3, "SELECT delete_messages_including_and_after($user, $chat, 40)"),
    change(4, "DELETE FROM messages WHERE id IN ($message, $message2)"),
    change(2, "DELETE FROM chat_files WHERE chat_id = $chat"),
    change(1, "DELETE FROM files WHERE id = $file"),
    # Chats and files leave the folder.
    change(2, "DELETE FROM folders WHERE id = $folder"),
    change(3, "DELETE FROM chats WHERE id = $chat"),
    # Takes its folders, chats and their messages along; also those of others.
    change(1, "DELETE FROM workspaces WHERE id = $workspace"),
    change(
        2,
        "DELETE FROM chats WHERE id = $chat",
        "INSERT INTO chats (id, user_id, workspace_id, context_length, embeddings_provider, include_profile_context, "
        "include_workspace_instructions, model, name, prompt, temperature) "
        "VALUES ($chat, $user, $workspace, 1, 'local', true, true, 'm', $title, '', 1)",
        "INSERT INTO messages (id, chat_id, user_id, content, image_paths, model, role, sequence_number) "
        "VALUES ($id, $chat, $user, $text, $paths, 'm', 'user', 0)",
    ),
)

START: Final = (
    "INSERT INTO auth.users (id, email) VALUES ($user, $user_text)",
    SETTLE,
    FILE_UNDER,
    CONVERSE,
    SAY,
    UPLOAD,
    ATTACH,
)

SELECTS: Final = {
    "workspace": "SELECT id, name, description, is_home, default_model, default_temperature, created_at, updated_at "
    "FROM workspaces WHERE user_id = $user",
    "folder": "SELECT id, workspace_id, name, description, type, created_at, "
    "coalesce(updated_at, created_at) AS updated_at "
    "FROM folders WHERE user_id = $user",
    "file": "SELECT id, folder_id, name, size, type FROM files WHERE user_id = $user",
    "chat": "SELECT id, workspace_id, folder_id, name AS title, sharing, context_length, embeddings_provider, "
    "include_profile_context, include_workspace_instructions, model, prompt, temperature, created_at, updated_at "
    "FROM chats WHERE user_id = $user",
    "message": "SELECT id, chat_id, role, content, image_paths, model, sequence_number, created_at, "
    "coalesce(updated_at, created_at) AS updated_at "
    f"FROM messages WHERE chat_id IN ({MINE})",
    "chat_file": f"SELECT chat_id, file_id, chat_id, chat_files.created_at FROM chat_files WHERE chat_id IN ({MINE})",
}
PAIRS: Final = frozenset({"chat_file"})
