"""A Python chat framework."""

from typing import Final

from tests.support.schemas.writing import change

MINE: Final = 'SELECT id FROM threads WHERE "userId" = $user'

PICKS: Final = {
    "thread": MINE,
    "new_thread": f"SELECT $id WHERE (SELECT count(*) FROM ({MINE}) AS mine) < 30",
    "roomy": f'{MINE} AND (SELECT count(*) FROM steps WHERE "threadId" = threads.id) < 50',
    "orphan": 'SELECT id FROM threads WHERE "userId" IS NULL',
    "step": f'SELECT id FROM steps WHERE "threadId" IN ({MINE})',
    "element": f'SELECT id FROM elements WHERE "threadId" IN ({MINE})',
    "loose": 'SELECT id FROM elements WHERE "threadId" IS NULL',
    "feedback": f'SELECT id FROM feedbacks WHERE "threadId" IN ({MINE})',
}

CONVERSE: Final = (
    'INSERT INTO threads (id, "createdAt", name, "userId", tags, metadata) '
    "VALUES ($new_thread, $iso, $maybe, $user, $texts, $maybe_json::jsonb)"
)
SAY: Final = (
    'INSERT INTO steps (id, name, type, "threadId", streaming, tags, input, output, "createdAt", start, "end") '
    "SELECT md5($seed || i)::uuid, $title, 'user_message', $roomy, $flag, $texts, $maybe, $text || i, $iso, $iso, "
    "NULL FROM generate_series(1, $many) AS i"
)
SHOW: Final = (
    'INSERT INTO elements (id, "threadId", type, name, "forId", props, page) '
    "VALUES ($id, $thread, 'image', $title, $step, $maybe_json::jsonb, $slot)"
)
JUDGE: Final = (
    'INSERT INTO feedbacks (id, "forId", "threadId", value, comment) VALUES ($id, $step, $thread, $number, $maybe)'
)

CHANGES: Final = (
    change(6, CONVERSE),
    change(30, SAY),
    change(6, SHOW),
    change(6, JUDGE),
    change(4, "UPDATE threads SET name = $maybe, tags = $texts WHERE id = $thread"),
    change(2, "UPDATE threads SET metadata = $maybe_json::jsonb WHERE id = $thread"),
    change(2, 'UPDATE threads SET "userIdentifier" = $maybe WHERE id = $thread'),
    # As the framework writes: the whole step again, while it streams.
    change(
        8,
        'INSERT INTO steps (id, name, type, "threadId", streaming, output) '
        "VALUES ($step, $title, 'assistant_message', $thread, true, $text) ON CONFLICT (id) DO UPDATE "
        "SET output = excluded.output, streaming = excluded.streaming, type = excluded.type",
    ),
    change(3, 'UPDATE steps SET "end" = $iso, streaming = false, "isError" = $maybe_flag WHERE id = $step'),
    change(2, 'UPDATE steps SET tags = $texts, metadata = $maybe_json::jsonb WHERE "threadId" = $thread'),
    change(2, "UPDATE steps SET generation = $json::jsonb, modes = NULL, command = $maybe WHERE id = $step"),
    change(3, 'UPDATE steps SET "parentId" = $step, indent = 1 WHERE id = $step2'),
    change(2, 'UPDATE steps SET "createdAt" = NULL WHERE id = $step'),
    change(3, "UPDATE elements SET url = $maybe, props = $maybe_json::jsonb WHERE id = $element"),
    change(1, 'UPDATE elements SET "objectKey" = $maybe WHERE id = $element'),
    change(2, "UPDATE feedbacks SET value = $slot, comment = $maybe_text WHERE id = $feedback"),
    change(4, 'UPDATE steps SET "threadId" = $thread WHERE id = $step'),
    change(2, 'UPDATE elements SET "threadId" = $thread WHERE id = $element'),
    change(1, 'UPDATE elements SET "threadId" = NULL WHERE id = $element'),
    change(1, 'UPDATE elements SET "threadId" = $thread WHERE id = $loose', crosses=True),
    change(2, 'UPDATE threads SET "userId" = $other WHERE id = $thread', crosses=True),
    change(1, 'UPDATE threads SET "userId" = NULL WHERE id = $thread'),
    change(2, 'UPDATE threads SET "userId" = $user WHERE id = $orphan', crosses=True),
    change(2, "UPDATE steps SET id = $id WHERE id = $step"),
    change(1, "UPDATE feedbacks SET id = $id WHERE id = $feedback"),
    change(4, "DELETE FROM steps WHERE id IN ($step, $step2)"),
    change(2, "DELETE FROM elements WHERE id = $element"),
    change(1, "DELETE FROM feedbacks WHERE id = $feedback"),
    change(4, "DELETE FROM threads WHERE id = $thread"),
    change(
        2,
        "DELETE FROM threads WHERE id = $thread",
        'INSERT INTO threads (id, "createdAt", name, "userId") VALUES ($thread, $iso, $title, $user)',
        'INSERT INTO steps (id, name, type, "threadId", streaming, output) '
        "VALUES ($id, $title, 'run', $thread, false, $text)",
    ),
)

START: Final = (
    "INSERT INTO users (id, identifier, metadata) VALUES ($user, $user_text, '{}')",
    CONVERSE,
    SAY,
    SHOW,
    JUDGE,
)

SELECTS: Final = {
    "thread": 'SELECT id, "createdAt", name, tags, metadata FROM threads WHERE "userId" = $user',
    "step": 'SELECT id, "threadId", name, type, "parentId", streaming, "waitForAnswer", "isError", metadata, tags, '
    'input, output, "createdAt", start, "end", "showInput", language, indent, "defaultOpen" FROM steps '
    f'WHERE "threadId" IN ({MINE})',
    "element": 'SELECT id, "threadId", type, url, name, display, size, page, language, "forId", mime, props '
    f'FROM elements WHERE "threadId" IN ({MINE})',
    "feedback": f'SELECT id, "threadId", "forId", value, comment FROM feedbacks WHERE "threadId" IN ({MINE})',
}
PAIRS: Final[frozenset[str]] = frozenset()
