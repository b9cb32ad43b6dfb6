"""`atlas-sync maintain` on a test's database, and months that are long past."""

import asyncio
import os
import random
import signal
import sys
from typing import Any, Final
from uuid import UUID

from server.operations.maintenance_plan import Policy, Step
from server.postgres.lock_retry import LOCK
from server.postgres.maintain import Report, maintain_once, steps
from tests.support.cluster import Database, administrator
from tests.support.oracle import State, select_everything
from tests.support.waiting import LIMIT, eventually

POLICY: Final = Policy(log_days=90, forget_days=400)
MONTH: Final = "date_trunc('month', now(), 'UTC') + make_interval(months => $1)"
"""The first instant of a month, counted from this one."""


class Said(list[str]):
    """What maintenance reported."""

    def __call__(self, report: Report) -> None:
        self.append(str(report))


async def maintained(database: Database, policy: Policy = POLICY) -> list[str]:
    """Maintain until nothing is left to do; returns the reports."""
    said = Said()
    for _ in range(3):
        assert await maintain_once(database.url, policy, said), said
        if not await left(database, policy):
            return said
    raise AssertionError(f"there is always something left to do: {await left(database, policy)}")


async def archive_after(database: Database, months: int) -> None:
    """Messages go to the archive after so many months, as if the declaration said so. Servers do not mind."""
    async with administrator(database) as sql:
        await sql.execute(
            "UPDATE sync.declaration SET declared = jsonb_set(declared, '{kinds,2,archive}', to_jsonb($1::int))", months
        )


async def left(database: Database, policy: Policy = POLICY) -> list[Step]:
    """The steps that are due."""
    planned, _ = await steps(database.url, policy)
    return planned


async def make_month(sql: Any, months: int, of: str = "messages") -> str:
    """The partition of a month, counted from this one; its name."""
    await sql.execute(f"SELECT sync.make_partition($2, {MONTH})", months, of)
    return str(await sql.fetchval(f"SELECT 'public.messages_' || to_char({MONTH}, 'YYYY_MM')", months))


async def add_old_messages(
    sql: Any, conversation: UUID, months: int, rows: int = 1, content: str = "old", *, seconds: int = 3_600
) -> list[UUID]:
    """Add messages of a month, counted from this one: `seconds` apart, from its second day on."""
    records = await sql.fetch(
        "INSERT INTO messages (conversation_id, role, content, created_at, updated_at) "
        "SELECT $2, 'user', $4 || ' ' || i, at, at FROM generate_series(1, $3) i, "
        f"LATERAL (SELECT {MONTH} + make_interval(days => 1, secs => $5::float * i) AS at) m RETURNING id",
        months,
        conversation,
        rows,
        content,
        seconds,
    )
    return [UUID(str(record[0])) for record in records]


async def add_many_strays(sql: Any, conversation: UUID, months: int, rows: int) -> None:
    """As `add_old_messages`, a second apart, without 20,000 trigger calls: nothing is recorded."""
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        await add_old_messages(sql, conversation, months, rows, seconds=1)


async def whereabouts(sql: Any) -> dict[str, int]:
    """The number of messages of each partition that is not empty."""
    records = await sql.fetch(
        "SELECT format('%I.%I', n.nspname, c.relname), count(*) FROM (SELECT tableoid AS t FROM messages "
        "UNION ALL SELECT tableoid FROM messages_archive) AS all_messages JOIN pg_class c ON c.oid = t "
        "JOIN pg_namespace n ON n.oid = c.relnamespace GROUP BY 1"
    )
    return {record[0]: record[1] for record in records}


async def all_messages(sql: Any) -> list[tuple[Any, ...]]:
    """Every message, with repeats."""
    columns = "id, conversation_id, role, content, created_at, updated_at"
    records = await sql.fetch(f"SELECT {columns} FROM messages UNION ALL SELECT {columns} FROM messages_archive")
    return sorted(tuple(record) for record in records)


async def whole_log(sql: Any) -> list[tuple[Any, ...]]:
    records = await sql.fetch("SELECT user_id, seq, n, prev, kind::text, op::text, row_id, row_at FROM sync.log")
    return sorted(tuple(record) for record in records)


async def select_all(sql: Any, user: UUID) -> State:
    """The oracle: what the database holds of this user, the archive included."""
    state = await select_everything(sql, user)
    records = await sql.fetch(
        "SELECT id, conversation_id, role, content, sync.seq_at(created_at), sync.seq_at(updated_at) "
        "FROM messages_archive WHERE conversation_id IN (SELECT id FROM conversations WHERE user_id = $1)",
        user,
    )
    for record in records:
        key = "m", UUID(str(record[0]))
        assert key not in state, "it is in the archive, and in messages too"
        state[key] = UUID(str(record[1])), *tuple(record)[2:]
    return state


class Maintenance:
    """`atlas-sync maintain` as a process of its own, which can be killed."""

    def __init__(self, database: Database | str, *arguments: str, **environment: str) -> None:
        url = database if isinstance(database, str) else database.url
        self._arguments = arguments
        self._environment = {**os.environ, "DATABASE_URL": url, **environment}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "maintain", *self._arguments),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def end(self) -> list[str]:
        """Wait for it to end by itself, with success; returns its output lines."""
        assert self._process is not None
        async with asyncio.timeout(3 * LIMIT):
            output, _ = await self._process.communicate()
        assert self._process.returncode == 0, output.decode()
        return output.decode().splitlines()

    async def kill(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        async with asyncio.timeout(LIMIT):
            await self._process.communicate()

    async def killed_at_work(self, sql: Any, rng: random.Random, seconds: float) -> None:
        """Start it, and kill it at most `seconds` after it has begun its work."""
        await self.start()
        await eventually(lambda: self._process is None or self._process.returncode is not None or at_work(sql))
        await asyncio.sleep(rng.random() * seconds)
        await self.kill()


async def at_work(sql: Any) -> bool:
    """Whether a process maintains this database."""
    return bool(
        await sql.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            LOCK,
        )
    )


async def at_rest(sql: Any) -> None:
    """Wait until no process does: Postgres finishes the statement of a process that was killed."""

    async def nobody() -> bool:
        return not await at_work(sql)

    await eventually(nobody)
