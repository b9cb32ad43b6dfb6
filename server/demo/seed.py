"""Writes the demo's conversations: in bulk, and then as an ordinary SQL client of the chat app would.

Connections come from server/postgres: this module does not import asyncpg.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID, uuid4

from server.demo.assistant.questions import RIGHTS, TABLE
from server.postgres.errors import translated
from server.postgres.link import link

SERVER_LOGIN: Final = "atlas_server"
ASSISTANT_LOGIN: Final = "demo_assistant"
USAGE: Final = """
    WITH prices AS (
        INSERT INTO sync.model_prices (model, input, output, valid_from)
        VALUES ('small', 0.15, 0.60, '2015-01-01'), ('large', 2.50, 10.00, '2015-01-01') ON CONFLICT DO NOTHING
    )
    INSERT INTO sync.usage_logs (user_id, event, data, "timestamp")
    SELECT c.user_id, 'answered', jsonb_build_object(
               'model', CASE WHEN m.id::text < '4' THEN 'large' ELSE 'small' END, 'conversation_id', c.id,
               'input_tokens', 500 + length(m.content) / 4, 'output_tokens', 4 * length(m.content)),
           m.created_at
    FROM messages m JOIN conversations c ON c.id = m.conversation_id
    WHERE m.created_at > now() - interval '14 days' AND m.created_at <= now()
      AND NOT EXISTS (SELECT FROM sync.daily_costs) AND NOT EXISTS (SELECT FROM sync.usage_logs)
"""
ANSWERED: Final = """
    INSERT INTO sync.usage_logs (user_id, event, data)
    VALUES ($1, 'answered', jsonb_build_object(
        'model', 'small', 'conversation_id', $2::uuid,
        'input_tokens', 500 + length($3::text) / 4, 'output_tokens', 4 * length($3::text)))
"""
CHUNK: Final = 5_000
"""Messages copied between two moves of the progress bar."""


@dataclass(frozen=True, slots=True)
class Message:
    id: UUID
    role: str
    content: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Conversation:
    id: UUID
    user: UUID
    title: str
    messages: tuple[Message, ...]

    @property
    def last_at(self) -> datetime:
        return self.messages[-1].at

    def shifted(self, by: timedelta) -> "Conversation":
        return replace(self, messages=tuple(replace(message, at=message.at + by) for message in self.messages))

    def again(self) -> "Conversation":
        """The same texts as a new conversation."""
        return replace(self, id=uuid4(), messages=tuple(replace(message, id=uuid4()) for message in self.messages))


@dataclass(frozen=True, slots=True)
class Person:
    id: UUID
    tier: str


async def server_login(admin_url: str) -> str:
    """Create the login that the server uses, a member of atlas_sync only. Returns its password, new each time."""
    return await _login(admin_url, SERVER_LOGIN, "IN ROLE atlas_sync")


async def assistant_login(admin_url: str) -> str:
    """Create the login of the assistant, which writes answers, past the row policies of end users. Returns its
    password, new each time."""
    return await _login(admin_url, ASSISTANT_LOGIN, "BYPASSRLS", RIGHTS.format(login=ASSISTANT_LOGIN))


async def _login(admin_url: str, name: str, options: str, rights: str = "") -> str:
    password = secrets.token_urlsafe(24)
    connection = await link(admin_url)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name):
            await connection.execute(f"CREATE ROLE {name} LOGIN {options}")
        await connection.execute(f"ALTER ROLE {name} PASSWORD '{password}'; {rights}")
    finally:
        await connection.close()
    return password


async def can_ask(admin_url: str) -> bool:
    """Whether the table of questions is there."""
    connection = await link(admin_url)
    try:
        return bool(await connection.fetchval("SELECT to_regclass('public.questions') IS NOT NULL"))
    finally:
        await connection.close()


async def let_ask(admin_url: str) -> None:
    """Create the table of questions."""
    connection = await link(admin_url)
    try:
        await connection.execute(TABLE)
    finally:
        await connection.close()


async def is_empty(admin_url: str) -> bool:
    """Whether the database has no people yet."""
    connection = await link(admin_url)
    try:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM profiles)")
    finally:
        await connection.close()


async def people(admin_url: str) -> list[Person]:
    """The people in the database: users of paid tiers first, then by age and number of conversations."""
    connection = await link(admin_url)
    try:
        rows = await connection.fetch(
            "SELECT p.id, p.subscription_tier AS tier FROM profiles p "
            "LEFT JOIN conversations c ON c.user_id = p.id GROUP BY p.id "
            "ORDER BY p.subscription_tier = 'free', p.created_at, count(c.id) DESC, p.id"
        )
    finally:
        await connection.close()
    return [Person(row["id"], row["tier"]) for row in rows]


async def newest_message(admin_url: str, user: UUID) -> UUID | None:
    """The id of a person's newest message; None if there is none."""
    connection = await link(admin_url)
    try:
        found: UUID | None = await connection.fetchval(
            "SELECT m.id FROM messages m JOIN conversations c ON c.id = m.conversation_id "
            "WHERE c.user_id = $1 ORDER BY m.created_at DESC LIMIT 1",
            user,
        )
    finally:
        await connection.close()
    return found


async def load(
    admin_url: str, people: Sequence[Person], said: Sequence[Conversation], progress: Callable[[int, int], None]
) -> None:
    """Copy the people and their conversations in one transaction, so that an interrupted load leaves nothing behind.

    `progress` is called with (messages copied, messages in all).
    """
    messages = [
        (message.id, conversation.id, message.role, message.content, message.at, message.at)
        for conversation in said
        for message in conversation.messages
    ]
    connection = await link(admin_url)
    try:
        oldest = min(row[4] for row in messages)
        await connection.execute("SELECT sync.ensure_partitions($1, now())", oldest)
        async with connection.transaction():
            await connection.copy_records_to_table(
                "profiles",
                columns=["id", "email", "subscription_tier"],
                records=[(p.id, f"person{i}@example.com", p.tier) for i, p in enumerate(people, 1)],
            )
            await connection.copy_records_to_table(
                "conversations",
                columns=["id", "user_id", "title", "created_at", "updated_at"],
                records=[(c.id, c.user, c.title, c.messages[0].at, c.last_at) for c in said],
            )
            for begin in range(0, len(messages), CHUNK):
                await connection.copy_records_to_table(
                    "messages",
                    columns=["id", "conversation_id", "role", "content", "created_at", "updated_at"],
                    records=messages[begin : begin + CHUNK],
                )
                progress(min(begin + CHUNK, len(messages)), len(messages))
        await connection.execute("ANALYZE")
    finally:
        await connection.close()


async def use(admin_url: str) -> None:
    """Record usage as if a model had answered each message of the last fortnight, once."""
    connection = await link(admin_url)
    try:
        with translated():
            await connection.execute(USAGE)
    finally:
        await connection.close(timeout=5)


async def count_usage(admin_url: str) -> None:
    """Count what was used since the last time, as `atlas-sync maintain` does every five minutes."""
    connection = await link(admin_url)
    try:
        with translated():
            await connection.execute("SELECT sync.count_usage(1000) WHERE EXISTS (SELECT FROM sync.usage_batches)")
    finally:
        await connection.close(timeout=5)


class Author:
    """A SQL client that writes conversations as the app would: each message in a transaction of its own."""

    def __init__(self, connection: Any, usage: bool) -> None:
        self._connection = connection
        self._usage = usage

    @classmethod
    async def connect(cls, admin_url: str, usage: bool) -> "Author":
        """`usage`: each message is reported as if a model had answered it."""
        return cls(await link(admin_url), usage)

    async def known(self, conversations: Sequence[UUID]) -> set[UUID]:
        """The ids of those conversations that are in the database already."""
        with translated():
            rows = await self._connection.fetch("SELECT id FROM conversations WHERE id = ANY ($1)", conversations)
        return {row["id"] for row in rows}

    async def begin(self, conversation: Conversation) -> None:
        with translated():
            await self._connection.execute(
                "INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, $3)",
                conversation.id,
                conversation.user,
                conversation.title,
            )

    async def say(self, conversation: Conversation, message: Message) -> None:
        with translated():
            async with self._connection.transaction():
                await self._connection.execute(
                    "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, $3, $4)",
                    message.id,
                    conversation.id,
                    message.role,
                    message.content,
                )
                await self._connection.execute(
                    "UPDATE conversations SET updated_at = now() WHERE id = $1", conversation.id
                )
                if self._usage:
                    await self._connection.execute(ANSWERED, conversation.user, conversation.id, message.content)

    async def close(self) -> None:
        await self._connection.close(timeout=5)
