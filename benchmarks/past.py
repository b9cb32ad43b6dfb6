"""Writes rows of the past in bulk, exactly as the triggers would have written them at the time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from benchmarks.stage import Stage

REACH: Final = 90 * 86_400
"""Seconds that the tables reach back: as long as the log is kept."""
EACH: Final = 1_000
"""Messages of each of the other users."""
CONVERSATIONS: Final = 10
"""Conversations of each of the other users."""
TEXTS: Final = 1_000
"""Different texts among those messages."""
CHUNK: Final = 50_000
"""Messages written by one statement."""
WRITERS: Final = 2
LIMIT: Final = 1_800.0
"""Timeout of one statement, in seconds: a VACUUM of everything takes longest."""

PARTITIONS: Final = f"""
    SELECT sync.ensure_partitions(now() - interval '{REACH} s', now());
    SET timezone = 'UTC';
    DO $$
    DECLARE
        week timestamptz;
    BEGIN
        FOR week IN SELECT generate_series(date_trunc('week', now() - interval '{REACH} s'), now(), '1 week') LOOP
            EXECUTE format('CREATE TABLE IF NOT EXISTS sync.%I PARTITION OF sync.log FOR VALUES FROM (%s) TO (%s)',
                           'log_' || to_char(week, 'IYYY_"w"IW'), sync.seq_at(week),
                           sync.seq_at(week + interval '1 week'));
        END LOOP;
    END
    $$
"""
"""Partitions of the log that `ensure_partitions` would have made then: it makes none for the past."""
OTHERS: Final = """
    INSERT INTO profiles (id, subscription_tier)
    SELECT md5('user ' || u)::uuid, 'core' FROM generate_series(0, {users} - 1) u;
    INSERT INTO conversations (id, user_id, title)
    SELECT md5('conversation ' || c)::uuid, md5('user ' || c % {users})::uuid, 'a conversation'
    FROM generate_series(0, {users} * {conversations} - 1) c
"""
# Message i belongs to user (i modulo the number of users): all of them write all the time, and the previous message of
# a feed is that many messages earlier. $1 and $2: the first and last message; $3: the seq of message 0; $4: the time
# between two messages; $5 and $6: the conversations and the texts, or $5: the users.
SAID: Final = """
    INSERT INTO messages (id, conversation_id, role, content, created_at, updated_at)
    SELECT md5('message ' || i)::uuid, md5('conversation ' || i % $5::bigint)::uuid, 'user', content, at, at
    FROM generate_series($1::bigint, $2::bigint) i
    CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + ($3::bigint + i * $4::bigint) * interval '1 us' AS at) moment
    JOIN unnest($6::text[]) WITH ORDINALITY AS said (content, k) ON k = 1 + i % cardinality($6)
    ORDER BY i
"""
LOGGED: Final = """
    INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id, row_at)
    SELECT md5('user ' || i % $5::bigint)::uuid, seq, CASE WHEN i < $5 THEN 0 ELSE seq - $4 * $5 END, 'm', 'u',
           md5('message ' || i)::uuid, 'epoch'::timestamptz + seq * interval '1 us'
    FROM generate_series($1::bigint, $2::bigint) i
    CROSS JOIN LATERAL (SELECT $3::bigint + i * $4::bigint AS seq) moment
    ORDER BY i
"""
HEADS: Final = """
    INSERT INTO sync.feeds (user_id, seq, prev)
    SELECT user_id, max(seq), max(prev) FROM sync.log GROUP BY user_id
    ON CONFLICT DO NOTHING
"""
FORGET: Final = "DELETE FROM sync.log WHERE user_id = $1"
# $1: the user; $2: the seq up to which the device has everything; $3: the time between two messages; $4 and $5: the
# messages. The log begins with the last one that the device received.
MISSED: Final = """
    INSERT INTO messages (id, conversation_id, role, content, created_at, updated_at)
    SELECT said.id, c.id, 'user', content, at, at
    FROM conversations c, unnest($4::uuid[], $5::text[]) WITH ORDINALITY AS said (id, content, k)
    CROSS JOIN LATERAL (SELECT 'epoch'::timestamptz + ($2::bigint + k * $3::bigint) * interval '1 us' AS at) moment
    WHERE c.user_id = $1
"""
MISSED_LOGGED: Final = """
    INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id, row_at)
    SELECT $1::uuid, $2::bigint, 0, 'c', 'u', id, NULL FROM conversations WHERE user_id = $1
    UNION ALL
    SELECT $1, seq, seq - $3, 'm', 'u', id, 'epoch'::timestamptz + seq * interval '1 us'
    FROM unnest($4::uuid[]) WITH ORDINALITY AS said (id, k)
    CROSS JOIN LATERAL (SELECT $2 + k * $3::bigint AS seq) moment
"""
MISSED_HEAD: Final = """
    UPDATE sync.feeds f SET seq = l.seq, prev = l.prev
    FROM (SELECT seq, prev FROM sync.log WHERE user_id = $1 ORDER BY seq DESC LIMIT 1) l WHERE f.user_id = $1
"""


class Past:
    def __init__(self, stage: Stage, connections: Sequence[Any]) -> None:
        self._stage = stage
        self._connections = connections
        self._sql = connections[0]

    async def fill(self, messages: int) -> None:
        """Write `messages` messages of other users, evenly over all the time, with their change log."""
        await self._sql.execute(PARTITIONS)
        users = max(1, messages // EACH)
        await self._sql.execute(OTHERS.format(users=users, conversations=CONVERSATIONS), timeout=LIMIT)
        later = REACH * 1_000_000 // messages
        first = time.time_ns() // 1000 - later * messages
        texts = [self._stage.text() for _ in range(TEXTS)]
        chunks = iter(range(0, messages, CHUNK))

        async def work(connection: Any) -> None:
            for begin in chunks:
                which = begin, min(begin + CHUNK, messages) - 1, first, later
                await connection.execute(SAID, *which, users * CONVERSATIONS, texts, timeout=LIMIT)
                await connection.execute(LOGGED, *which, users, timeout=LIMIT)

        async with asyncio.TaskGroup() as tasks:
            for connection in self._connections:
                tasks.create_task(work(connection))
        await self._sql.execute(HEADS, timeout=LIMIT)

    async def missed(self, user: UUID, count: int, age: float) -> tuple[int, list[str]]:
        """Write `count` messages of a user, evenly over the last `age` seconds. Return the seq before them, and their
        ids."""
        seq = time.time_ns() // 1000 - int(age * 1e6)
        ids = [uuid4() for _ in range(count)]
        which = user, seq, int(age * 1e6) // (count + 1), ids
        async with self._sql.transaction():
            await self._sql.execute(FORGET, user)
            await self._sql.execute(MISSED, *which, [self._stage.text() for _ in ids])
            await self._sql.execute(MISSED_LOGGED, *which)
            await self._sql.execute(MISSED_HEAD, user)
        return seq, [message.hex for message in ids]

    async def vacuum(self) -> None:
        """Do now what autovacuum would do in the middle of a measurement."""
        await self._sql.execute("VACUUM ANALYZE", timeout=LIMIT)
        await self._sql.execute("CHECKPOINT", timeout=LIMIT)


@asynccontextmanager
async def past(stage: Stage) -> AsyncIterator[Past]:
    async with AsyncExitStack() as stack:
        connections = []
        for _ in range(WRITERS):
            connection = await asyncpg.connect(stage.postgres.url())
            stack.callback(connection.terminate)
            await connection.execute("SET session_replication_role = replica")  # no triggers
            connections.append(connection)
        yield Past(stage, connections)
