"""The questions in Postgres: which one is to be answered next, and what became of it. All SQL of the assistant.

A question is a row that a device inserted beside its message, so it comes exactly once. Whoever takes it makes the row
of its answer in the same transaction, so there is never a second one.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from server.postgres.errors import translated
from server.postgres.link import link

TABLE: Final = """
    CREATE TABLE IF NOT EXISTS questions (
        id              uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
        message_id      uuid NOT NULL,
        answer_id       uuid,
        progress        text NOT NULL DEFAULT 'asked'
                        CHECK (progress IN ('asked', 'writing', 'done', 'failed', 'stopped', 'passed')),
        asked_at        timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX IF NOT EXISTS questions_newest ON questions (conversation_id, asked_at DESC, id DESC);
    CREATE INDEX IF NOT EXISTS questions_open ON questions (asked_at) WHERE progress IN ('asked', 'writing');
    CREATE OR REPLACE FUNCTION ring_for_question() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_notify('questions', ''); RETURN NULL; END
    $$;
    CREATE OR REPLACE TRIGGER ring AFTER INSERT ON questions
        FOR EACH STATEMENT EXECUTE FUNCTION ring_for_question();
"""
"""`passed`: a newer question of the same conversation was answered instead."""
RIGHTS: Final = """
    GRANT SELECT ON conversations, messages, questions TO {login};
    GRANT INSERT, UPDATE (content) ON messages TO {login};
    GRANT UPDATE (updated_at) ON conversations TO {login};
    GRANT UPDATE (progress, answer_id) ON questions TO {login};
"""
"""What the assistant may."""
CHANNEL: Final = "questions"
LOOK_EVERY: Final = 5.0
"""Seconds after which is looked for questions without a notification."""

NEXT: Final = """
    SELECT q.id, q.conversation_id, q.message_id, c.user_id, m.content,
           (SELECT count(*) FROM questions o WHERE o.message_id = q.message_id AND o.answer_id IS NOT NULL) AS again,
           (SELECT o.answer_id FROM questions o JOIN messages a ON a.id = o.answer_id
            WHERE o.message_id = q.message_id ORDER BY o.asked_at DESC LIMIT 1) AS answer_id
    FROM questions q
    JOIN conversations c ON c.id = q.conversation_id
    JOIN messages m ON m.id = q.message_id AND m.conversation_id = q.conversation_id AND m.role = 'user'
    WHERE q.progress = 'asked'
      AND NOT EXISTS (SELECT FROM questions w WHERE w.conversation_id = q.conversation_id AND w.progress = 'writing')
    ORDER BY q.asked_at DESC, q.id DESC LIMIT 1 FOR UPDATE OF q SKIP LOCKED
"""
"""One answer at a time in a conversation: the newest question first."""
PASS: Final = """
    UPDATE questions SET progress = 'passed' WHERE conversation_id = $1 AND progress = 'asked' AND id <> $2
"""
PLACEHOLDER: Final = """
    INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'assistant', '') RETURNING id
"""
TAKE: Final = "UPDATE questions SET progress = 'writing', answer_id = $2 WHERE id = $1"
BUMP: Final = "UPDATE conversations SET updated_at = now() WHERE id = $1"
INTERRUPTED: Final = """
    SELECT q.id, q.conversation_id, q.message_id, q.answer_id, c.user_id, m.content,
           (SELECT count(*) FROM questions o
            WHERE o.message_id = q.message_id AND o.answer_id IS NOT NULL AND o.id <> q.id) AS again
    FROM questions q
    JOIN conversations c ON c.id = q.conversation_id
    JOIN messages m ON m.id = q.message_id AND m.conversation_id = q.conversation_id
    WHERE q.progress = 'writing' ORDER BY q.asked_at
"""
WRITE: Final = "UPDATE messages SET content = $2 WHERE id = $1"
CLOSE: Final = "UPDATE questions SET progress = $2 WHERE id = $1"


@dataclass(frozen=True, slots=True)
class Question:
    id: UUID
    conversation: UUID
    user: UUID
    text: str
    """Of the message that asks."""
    again: int
    """How often it was answered before."""
    answer: UUID
    """The message that answers it. It is there."""
    interrupted: bool
    """Whether its answer was begun by an assistant that died."""


class Questions:
    """One connection to Postgres. Raises UnavailableError when it breaks."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._rung = asyncio.Event()
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def opened(cls, database_url: str) -> AsyncIterator[Self]:
        connection = await link(database_url)
        questions = cls(connection)
        try:
            with translated():
                await connection.add_listener(CHANNEL, lambda *_: questions._rung.set())
            connection.add_termination_listener(lambda *_: questions._rung.set())
            yield questions
        finally:
            await connection.close(timeout=5)

    async def interrupted(self) -> list[Question]:
        """Those whose answers nobody writes any more. Ask before any is taken."""
        async with self._turn:
            with translated():
                rows = await self._connection.fetch(INTERRUPTED)
        return [_question(row, row["answer_id"], interrupted=True) for row in rows]

    async def taken(self) -> AsyncIterator[Question]:
        """Each question as it comes, with the row of its answer made, one at a time of each conversation."""
        while True:
            self._rung.clear()
            while (question := await self._take()) is not None:
                yield question
            try:
                await asyncio.wait_for(self._rung.wait(), LOOK_EVERY)
            except TimeoutError:
                continue

    async def _take(self) -> Question | None:
        async with self._turn:
            with translated():
                async with self._connection.transaction():
                    row = await self._connection.fetchrow(NEXT)
                    if row is None:
                        return None
                    conversation = row["conversation_id"]
                    await self._connection.execute(PASS, conversation, row["id"])
                    answer = row["answer_id"] or await self._connection.fetchval(PLACEHOLDER, conversation)
                    await self._connection.execute(TAKE, row["id"], answer)
                    await self._connection.execute(BUMP, conversation)
        return _question(row, answer, interrupted=False)

    async def settle(self, question: Question, progress: str, text: str | None) -> None:
        """The final row and what became of the question, in one transaction. None: the row stays as it is."""
        async with self._turn:
            with translated():
                async with self._connection.transaction():
                    if text is not None:
                        await self._connection.execute(WRITE, question.answer, text)
                    await self._connection.execute(CLOSE, question.id, progress)
                    await self._connection.execute(BUMP, question.conversation)
        self._rung.set()  # another question of this conversation may wait


def _question(row: Any, answer: UUID, *, interrupted: bool) -> Question:
    return Question(
        row["id"], row["conversation_id"], row["user_id"], row["content"], row["again"], answer, interrupted
    )
