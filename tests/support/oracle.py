"""What a device must hold, by a plain SELECT; and a writer of random transactions."""

import asyncio
import contextlib
import random
from typing import Any, Final
from uuid import UUID

import asyncpg

from atlas_sync.replica import Replica
from atlas_sync.rows import Key
from atlas_sync.schema import Schema
from tests.support.waiting import eventually

EVERYTHING: Final = {"conversation": 500, "message": 200}
MESSAGES_PER_CONVERSATION: Final = 150
"""Fewer than the window, so that a snapshot too holds everything."""

State = dict[tuple[str, Key], tuple[object, ...]]
TAGS: Final = {kind.name: kind.tag for kind in Schema.chat()}


def held(replica: Replica) -> State:
    """What a device holds, in the same form."""
    return {
        (TAGS[row.kind], row.id): tuple(row.values.values()) for rows in replica.rows.values() for row in rows.values()
    }


async def select_everything(sql: Any, user: UUID) -> State:
    """The oracle: all rows of this user in the database."""
    micros = "(extract(epoch FROM {0}) * 1000000)::bigint"
    created, updated = micros.format("created_at"), micros.format("updated_at")
    state: State = {}
    for row in await sql.fetch("SELECT id, subscription_tier, subscription_status FROM profiles WHERE id = $1", user):
        state["p", UUID(str(row[0]))] = (row[1], row[2])
    for row in await sql.fetch(f"SELECT id, title, {created}, {updated} FROM conversations WHERE user_id = $1", user):
        state["c", UUID(str(row[0]))] = (row[1], row[2], row[3])
    for row in await sql.fetch(
        f"SELECT id, conversation_id, role, content, {created}, {updated} FROM messages "
        "WHERE conversation_id IN (SELECT id FROM conversations WHERE user_id = $1)",
        user,
    ):
        state["m", UUID(str(row[0]))] = (UUID(str(row[1])), row[2], row[3], row[4], row[5])
    return state


async def nobody_writes(sql: Any) -> None:
    """Wait until nobody else is connected as `sql` is. A writer that was cancelled in its COMMIT may still commit:
    until its backend is gone, nothing is final."""
    others = (
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE usename = current_user AND datname = current_database() "
        "AND pid <> pg_backend_pid())"
    )
    await eventually(lambda: sql.fetchval(others))


class RollbackError(Exception):
    """Rolls a transaction back."""


class Writer:
    """An SQL session of the app: it runs random transactions and goes on when one fails."""

    def __init__(self, url: str, users: list[UUID], rng: random.Random, pause: float = 0.004) -> None:
        """`pause`: seconds between two transactions, on average."""
        self._url = url
        self._users = users
        self._rng = rng
        self._pause = pause
        self.committed = 0

    async def run(self) -> None:
        """Write until cancelled, through every fault of Postgres."""
        task = asyncio.current_task()
        assert task is not None
        # The server's cancel of the statement that a cancellation meets may reach the ROLLBACK behind it. Then an error
        # takes the place of the cancellation.
        while not task.cancelling():
            try:
                sql = await asyncpg.connect(self._url, command_timeout=10)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await asyncio.sleep(0.02)
                continue
            try:
                while not task.cancelling():
                    await self._transaction(sql)
                    await asyncio.sleep(self._rng.expovariate(1 / self._pause))
            except (
                OSError,
                asyncpg.PostgresConnectionError,
                asyncpg.InterfaceError,
                asyncpg.OperatorInterventionError,
            ):
                continue  # Postgres went away
            finally:
                sql.terminate()

    async def _transaction(self, sql: Any) -> None:
        rng = self._rng
        # In a fixed order, as the documentation asks of transactions that write for several users.
        users = sorted(rng.sample(self._users, min(rng.choice([1, 1, 1, 1, 2, 3]), len(self._users))))
        try:
            async with sql.transaction():
                for user in users:
                    for _ in range(rng.choice([1, 1, 1, 2, 5])):
                        await self._change(sql, user)
                if rng.random() < 0.2:
                    # The first to write commits last.
                    await asyncio.sleep(rng.random() * 0.03)
                if rng.random() < 0.1:
                    raise RollbackError
            self.committed += 1
        except (RollbackError, asyncpg.DeadlockDetectedError, asyncpg.ForeignKeyViolationError):
            pass

    async def _change(self, sql: Any, user: UUID) -> None:
        if self._rng.random() < 0.1:
            with contextlib.suppress(RollbackError):
                async with sql.transaction():  # a savepoint
                    await self._one_change(sql, user)
                    if self._rng.random() < 0.5:
                        raise RollbackError
        else:
            await self._one_change(sql, user)

    async def _one_change(self, sql: Any, user: UUID) -> None:
        rng = self._rng
        conversation = await sql.fetchval(
            "SELECT id FROM conversations WHERE user_id = $1 ORDER BY random() LIMIT 1", user
        )
        choice = rng.random()
        if conversation is None or choice < 0.08:
            await self._converse(sql, user, rng.choice([0, 1, 3]))
        elif choice < 0.1:
            # More rows than a page, in one transaction.
            for _ in range(4):
                await self._converse(sql, user, MESSAGES_PER_CONVERSATION - 10)
        elif choice < 0.6:
            await self._say(sql, user, conversation, rng.choice([1, 1, 1, 2, 10]))
        elif choice < 0.7:
            await sql.execute(
                "UPDATE conversations SET title = $2, updated_at = now() WHERE id = $1", conversation, self._text(user)
            )
        elif choice < 0.8:
            await sql.execute(
                "UPDATE messages SET content = $2, updated_at = now() WHERE id IN "
                "(SELECT id FROM messages WHERE conversation_id = $1 ORDER BY random() LIMIT 3)",
                conversation,
                self._text(user),
            )
        elif choice < 0.88:
            await sql.execute(
                "DELETE FROM messages WHERE id IN "
                "(SELECT id FROM messages WHERE conversation_id = $1 ORDER BY random() LIMIT 2)",
                conversation,
            )
        elif choice < 0.9:
            # Into another partition: a deletion and an insertion, to the triggers.
            await sql.execute(
                "UPDATE messages SET created_at = created_at - interval '35 days' WHERE id IN "
                "(SELECT id FROM messages WHERE conversation_id = $1 ORDER BY random() LIMIT 1)",
                conversation,
            )
        elif choice < 0.92:
            await sql.execute(
                "UPDATE messages SET conversation_id = (SELECT id FROM conversations WHERE user_id = $2 "
                "ORDER BY random() LIMIT 1) WHERE id IN "
                "(SELECT id FROM messages WHERE conversation_id = $1 ORDER BY random() LIMIT 1)",
                conversation,
                user,
            )
        elif choice < 0.94:
            await sql.execute(
                "UPDATE profiles SET subscription_tier = $2, usage_stats = '{\"n\": 1}' WHERE id = $1",
                user,
                rng.choice(["core", "studio"]),
            )
        elif choice < 0.98:
            await sql.execute("DELETE FROM conversations WHERE id = $1", conversation)
        else:
            # Gone and made anew under the same id, with fewer messages.
            await sql.execute("DELETE FROM conversations WHERE id = $1", conversation)
            await sql.execute(
                "INSERT INTO conversations (id, user_id, title) VALUES ($1, $2, $3)",
                conversation,
                user,
                self._text(user),
            )
            await self._say(sql, user, conversation, 1)

    async def _converse(self, sql: Any, user: UUID, messages: int) -> None:
        conversation = await sql.fetchval(
            "INSERT INTO conversations (user_id, title) VALUES ($1, $2) RETURNING id", user, self._text(user)
        )
        if messages:
            await self._say(sql, user, conversation, messages)

    async def _say(self, sql: Any, user: UUID, conversation: UUID, messages: int) -> None:
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content) "
            "SELECT $1, 'user', $2 || ' ' || i FROM generate_series(1, $3) AS i "
            "WHERE (SELECT count(*) FROM messages WHERE conversation_id = $1) + $3 <= $4",
            conversation,
            self._text(user),
            messages,
            MESSAGES_PER_CONVERSATION,
        )

    def _text(self, user: UUID) -> str:
        return f"{user} {self._rng.getrandbits(32):x} " + "ä" * self._rng.choice([0, 0, 10, 300])
