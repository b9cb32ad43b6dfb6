"""The chat app's database before Atlas Sync, and clients that write to it."""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from chitchat_dataset import Dataset

LONGEST: Final = 150
"""Messages of a conversation: fewer than a device's window."""
PAST: Final = timedelta(days=300)
"""Age of the oldest message that `fill` writes."""

TABLES: Final = """
    CREATE TABLE public.profiles (
        id uuid PRIMARY KEY, email text UNIQUE, subscription_tier text, subscription_status text, usage_stats jsonb,
        created_at timestamptz, updated_at timestamptz
    );
    CREATE TABLE public.conversations (
        id uuid PRIMARY KEY, user_id uuid REFERENCES public.profiles (id), title text,
        created_at timestamptz, updated_at timestamptz
    );
    CREATE INDEX conversations_user_id_idx ON public.conversations (user_id);
    CREATE INDEX conversations_updated_at_idx ON public.conversations (updated_at DESC);
    CREATE TABLE public.messages (
        id uuid PRIMARY KEY, conversation_id uuid REFERENCES public.conversations (id), role text, content text,
        created_at timestamptz
    );
    CREATE INDEX messages_conversation_id_idx ON public.messages (conversation_id);
    CREATE INDEX messages_created_at_idx ON public.messages (created_at);
    CREATE TABLE public.daily_usage (
        id bigserial PRIMARY KEY, user_id uuid, date date, conversations_count int, total_tokens_used int,
        api_cost_estimate decimal(10, 4), tier text, UNIQUE (user_id, date)
    );
    CREATE TABLE public.usage_logs (
        id bigserial PRIMARY KEY, user_id uuid, event text, data jsonb, timestamp timestamptz
    );
"""

WRITERS: Final = 8


@cache
def _talks() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return real conversations: title, and role and text of each message."""
    talks = []
    for talk in Dataset().values():
        said = [line for turn in talk["messages"] for line in turn if line["text"]]
        if 0 < len(said) <= LONGEST:
            first = said[0]["sender"]
            lines = [("user" if line["sender"] == first else "assistant", line["text"]) for line in said]
            talks.append((lines[0][1][:80], lines))
    return talks


async def fill(sql: Any, messages: int, users: int = 100) -> None:
    """Write `messages` messages of `users` users, in real conversations of the last 300 days."""
    now = datetime.now(UTC)
    each = PAST / max(messages, 1)
    people = [_id() for _ in range(users)]
    conversations: list[tuple[UUID, UUID, str, datetime, datetime]] = []
    spoken: list[tuple[UUID, int, list[tuple[str, str]]]] = []
    total = 0
    for (title, said), user in zip(itertools.cycle(_talks()), itertools.cycle(people), strict=False):
        if total == messages:
            break
        said = said[: messages - total]
        begin = now - PAST + each * total
        conversations.append((_id(), user, title, begin, begin + each * (len(said) - 1)))
        spoken.append((conversations[-1][0], total, said))
        total += len(said)

    async def copy(table: str, columns: str, records: Iterable[tuple[Any, ...]]) -> None:
        await sql.copy_records_to_table(
            table, schema_name="public", columns=columns.split(), records=records, timeout=3_600
        )

    await copy(
        "profiles",
        "id email subscription_tier created_at updated_at",
        ((user, f"{user}@example.com", "core", now - PAST, now - PAST) for user in people),
    )
    await copy("conversations", "id user_id title created_at updated_at", conversations)
    await copy(
        "messages",
        "id conversation_id role content created_at",
        (
            (_id(), conversation, role, text, now - PAST + each * number)
            for conversation, first, said in spoken
            for number, (role, text) in enumerate(said, first)
        ),
    )
    for statement in (
        "INSERT INTO public.daily_usage (user_id, date, conversations_count, tier) "
        "SELECT unnest($1::uuid[]), current_date, 1, 'core'",
        "INSERT INTO public.usage_logs (user_id, event, data, timestamp) "
        "SELECT unnest($1::uuid[]), 'opened', '{}', now()",
    ):
        await sql.execute(statement, people)


def _id() -> UUID:
    return UUID(int=random.getrandbits(128), version=4)


@dataclass(slots=True)
class Load:
    """What the clients wrote, and how long each write took."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the first write began, milliseconds it took), in the order in which they ended."""
    written: list[UUID] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def longest(self) -> float:
        return max((wait for _, wait in self.waits), default=0.0)

    def percentile(self, share: float) -> float:
        waits = sorted(wait for _, wait in self.waits) or [0.0]
        return waits[int(len(waits) * share / 100)]


@asynccontextmanager
async def writing(url: str, rate: float) -> AsyncIterator[Load]:
    """Write in the background: `rate` messages per second, each with its conversation's updated_at in a transaction."""
    load = Load()
    began = time.monotonic()
    connections = [await asyncpg.connect(url) for _ in range(WRITERS)]
    conversations = [row["id"] for row in await connections[0].fetch("SELECT id FROM conversations LIMIT 10000")]

    async def write(connection: Any) -> None:
        due = time.monotonic()
        while True:
            due += random.expovariate(rate / WRITERS)
            await asyncio.sleep(due - time.monotonic())
            message, conversation = uuid4(), random.choice(conversations)
            at = time.monotonic()
            try:
                async with connection.transaction():
                    await connection.execute(
                        "INSERT INTO messages (id, conversation_id, role, content, created_at) "
                        "VALUES ($1, $2, 'user', 'written meanwhile', now())",
                        *(message, conversation),
                    )
                    await connection.execute("UPDATE conversations SET updated_at = now() WHERE id = $1", conversation)
            except asyncpg.PostgresError as error:
                load.failures.append(f"{type(error).__name__}: {error}")
            else:
                load.written.append(message)
            load.waits.append((at - began, 1000 * (time.monotonic() - at)))

    writers = [asyncio.create_task(write(connection)) for connection in connections]
    try:
        yield load
    finally:
        for writer in writers:
            writer.cancel()
        ended = await asyncio.gather(*writers, return_exceptions=True)
        load.failures += [repr(end) for end in ended if not isinstance(end, asyncio.CancelledError)]
        for connection in connections:
            connection.terminate()
