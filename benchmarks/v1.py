"""The chat app's database as it was before Atlas Sync, and people who write to it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from chitchat_dataset import Dataset

DDL: Final = """
    CREATE TABLE profiles (
        id uuid PRIMARY KEY, email text UNIQUE, subscription_tier text, subscription_status text, usage_stats jsonb,
        created_at timestamptz, updated_at timestamptz
    );
    CREATE TABLE conversations (
        id uuid PRIMARY KEY, user_id uuid REFERENCES profiles (id), title text, created_at timestamptz,
        updated_at timestamptz
    );
    CREATE INDEX ON conversations (user_id);
    CREATE INDEX ON conversations (updated_at DESC);
    CREATE TABLE messages (
        id uuid PRIMARY KEY, conversation_id uuid REFERENCES conversations (id), role text, content text,
        created_at timestamptz
    );
    CREATE INDEX ON messages (conversation_id);
    CREATE INDEX ON messages (created_at);
    CREATE TABLE daily_usage (
        id bigserial PRIMARY KEY, user_id uuid, date date, conversations_count int, total_tokens_used int,
        api_cost_estimate decimal(10, 4), tier text, UNIQUE (user_id, date)
    );
    CREATE TABLE usage_logs (
        id bigserial PRIMARY KEY, user_id uuid, event text, data jsonb, timestamp timestamptz
    )
"""
LENGTH: Final = 40
"""Messages of a conversation."""
WRITERS: Final = 8


async def fill(sql: Any, messages: int, users: int = 100) -> None:
    """So many messages, each something that somebody said, of the last 300 days; and the conversations around them."""
    turns = [turn for each in Dataset().values() for turn in each["messages"]]
    texts = [said["text"] for turn in turns for said in turn if said["text"]]
    await sql.execute(
        """
        INSERT INTO profiles (id, email, subscription_tier, created_at, updated_at)
        SELECT gen_random_uuid(), 'person' || n || '@example.com', 'core', now(), now() FROM generate_series(1, $1) AS n
        """,
        users,
    )
    await sql.execute(
        """
        INSERT INTO conversations (id, user_id, title, created_at, updated_at)
        SELECT gen_random_uuid(), (SELECT array_agg(id) FROM profiles)[1 + n % $2], 'a conversation', at, at
        FROM (SELECT n, now() - interval '300 days' * n / $1 AS at FROM generate_series(1, $1::int) AS n) AS made
        """,
        -(-messages // LENGTH),
        users,
        timeout=600,
    )
    await sql.execute("CREATE TEMPORARY TABLE said (n int, text text)")
    await sql.copy_records_to_table(
        "said", records=list(enumerate(islice((t for r in repeat(texts) for t in r), messages)))
    )
    await sql.execute(
        f"""
        INSERT INTO messages (id, conversation_id, role, content, created_at)
        SELECT gen_random_uuid(), c.id, CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END, text,
               c.created_at + n % {LENGTH} * interval '1 minute'
        FROM said
        JOIN (SELECT id, created_at, row_number() OVER () - 1 AS k FROM conversations) AS c ON c.k = n / {LENGTH}
        """,
        timeout=600,
    )
    await sql.execute("DROP TABLE said")


@dataclass(slots=True)
class Load:
    """What people wrote, and how long each of them waited for it."""

    waits: list[tuple[float, float]] = field(default_factory=list)
    """(seconds since the first write was begun, milliseconds it took), in the order of their ends."""
    written: list[UUID] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def longest(self) -> float:
        return max((wait for _, wait in self.waits), default=0.0)

    def percentile(self, share: float) -> float:
        waits = sorted(wait for _, wait in self.waits) or [0.0]
        return waits[int(len(waits) * share / 100)]


@asynccontextmanager
async def writing(url: str, rate: float) -> AsyncIterator[Load]:
    """Meanwhile people write: `rate` messages a second, each with its conversation's updated_at in a transaction."""
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
