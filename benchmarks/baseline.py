"""Atlas Sync compared with polling every 30 seconds: for everything (as the app did), and for what is newer.

Each user has 49 conversations of 20 messages. A full poll is one query for the conversations and one for each of them,
50 in all. A delta poll is two queries by updated_at, with an index. The polls are spread evenly over the 30 seconds.
They read plain rows, without the JSON and the policies that a REST layer adds. `atlas` is one socket per user.

Figures are for 1,000 users, `idle` and with 20 changes per second (`busy`, which includes the writes themselves).
Staleness is the time from the commit of a change until the poll that found it was answered, or until its frame was
read. Bytes are those that the pollers read from Postgres in binary form (`full_json_bytes_per_sync`: the same as JSON),
or all that the server wrote, including its statements to Postgres.

`…_at_100k` is a hundred times the figure: 100,000 users / 30 s = 3,333 polls per second × 50 queries = 166,667 queries
per second. This multiplies also what does not depend on the number of users, such as the server's heartbeat.

With fewer than 60 seconds, the interval is half of them (`interval_seconds`), and fewer users are polled in proportion:
the rate of polls is the same, but the staleness is that of the shorter interval.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg
import psutil

from benchmarks import machine, stress
from benchmarks.actors import Arrived, Devices
from benchmarks.processes import LIMIT, end, eventually, spawn
from benchmarks.stage import LOGIN, Stage, Written

T = TypeVar("T")
INTERVAL: Final = 30.0
"""Seconds between two polls of a user."""
CHANGES: Final = 20.0
"""A second, of 1,000 users."""
CONVERSATIONS: Final = 49
MESSAGES: Final = 20
STRESS_SECONDS: Final = 20.0
POLLER: Final = "atlas_poller"
"""The pollers' login: it may read, and no row policy applies to it."""
TEXTS: Final = 10_000
ROLE: Final = f"CREATE ROLE {POLLER} LOGIN BYPASSRLS IN ROLE pg_read_all_data"
PREPARE: Final = "SELECT sync.ensure_partitions(now() - interval '31 days', now())"
"""One or two months of messages: a query for a conversation reads every partition."""
UNSEEN: Final = "SET session_replication_role = replica"
"""Without triggers: these rows are older than Atlas Sync. Each user's feed begins with the conversation and the message
of the stage."""
FILL_CONVERSATIONS: Final = f"""
    INSERT INTO conversations (user_id, title, created_at, updated_at)
    SELECT id, 'history', at, at
    FROM (SELECT p.id, now() - random() * interval '30 days' AS at
          FROM profiles p, generate_series(2, {CONVERSATIONS})) AS made
"""
FILL_MESSAGES: Final = f"""
    WITH said AS MATERIALIZED (SELECT * FROM unnest($1::text[]) WITH ORDINALITY AS said (text, k)),
         made AS (SELECT c.id, n, c.created_at - n * interval '1 minute' AS at, row_number() OVER () AS k
                  FROM conversations c,
                       generate_series(1, {MESSAGES} - (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id)
                                      ) AS n)
    INSERT INTO messages (conversation_id, role, content, created_at, updated_at)
    SELECT made.id, CASE WHEN n % 2 = 0 THEN 'user' ELSE 'assistant' END, said.text, at, at
    FROM made JOIN said ON said.k = 1 + made.k % cardinality($1)
"""
INDEX: Final = "CREATE INDEX messages_newer ON messages (conversation_id, updated_at)"
"""An index for the delta poll."""
JSON_BYTES: Final = """
    SELECT (SELECT sum(octet_length(row_to_json(c)::text)) FROM conversations c WHERE user_id = $1)
         + (SELECT sum(octet_length(row_to_json(m)::text)) FROM conversations c JOIN messages m
            ON conversation_id = c.id WHERE user_id = $1)
"""
USED: Final = """
    SELECT coalesce(sum(calls), 0)::bigint AS statements, coalesce(sum(rows), 0)::bigint AS rows
    FROM pg_stat_statements WHERE userid = $1::regrole
"""


@dataclass(frozen=True, slots=True)
class Meter:
    """Reads what one of the three ways has used so far."""

    stage: Stage
    admin: Any
    login: str
    bytes: Callable[[], int]
    server: Callable[[], float]
    """Seconds of CPU, as all."""
    client: Callable[[], float]

    async def over(self, name: str, scale: float, work: Awaitable[T]) -> tuple[T, dict[str, float]]:
        """Return the result of `work`, and what was used during it, per second and times `scale`."""
        before = await self._read()
        done = await work
        after = await self._read()
        used = {key: after[key] - before[key] for key in after}
        seconds = used.pop("seconds")
        each = {key: scale * value / seconds for key, value in used.items()}
        counted = {f"{key}_per_second": each[key] for key in ("statements", "rows", "bytes")}
        cores = {key: each[key] for key in ("postgres", "server")}
        figures = {
            **counted,
            **{f"{key}_cpu_percent": 100 * value for key, value in cores.items()},
            "client_cpu_percent": 100 * used["client"] / seconds,
            **{f"{key}_at_100k": 100 * value for key, value in counted.items()},
            **{f"{key}_cores_at_100k": 100 * value for key, value in cores.items()},
        }
        return done, {f"{name}_{key}": value for key, value in figures.items()}

    async def _read(self) -> dict[str, float]:
        statements, rows = await self.admin.fetchrow(USED, self.login)
        return {
            "seconds": time.monotonic(),
            "statements": statements,
            "rows": rows,
            "bytes": self.bytes(),
            "postgres": machine.cpu_seconds(self.stage.postgres.pid, family=True),
            "server": self.server(),
            "client": self.client(),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    interval: float
    """Seconds between two polls of a user."""
    polled: int
    """The first so many users are polled and written to."""
    scale: float
    """Factor from the polled users to 1,000."""
    rate: float
    """Changes a second."""
    seconds: float

    def write(self, stage: Stage) -> Awaitable[list[Written]]:
        users = random.choices(range(self.polled), k=max(1, round(self.rate * self.seconds)))
        return stage.write(users, self.rate)


async def baseline(stage: Stage, seconds: float, changes: float = CHANGES) -> dict[str, float]:
    """Measure `seconds` with `changes` per second for 1,000 users, and one interval without changes."""
    interval = min(INTERVAL, seconds / 2)
    polled = max(1, round(len(stage.users) * interval / INTERVAL))
    scale = 1_000 / INTERVAL / (polled / interval)
    plan = Plan(interval, polled, scale, changes / scale, seconds)
    admin = await asyncpg.connect(stage.postgres.url())
    try:
        await fill(stage, admin)
        figures = {
            "users": len(stage.users),
            "conversations": CONVERSATIONS,
            "messages": MESSAGES,
            "changes_per_second": changes,
            "interval_seconds": interval,
            "seconds": seconds,
            "full_json_bytes_per_sync": float(await admin.fetchval(JSON_BYTES, stage.users[-1])),
        }
        figures |= await _atlas(stage, admin, plan)
        async with (
            _polling(stage, admin, "full", stress.USERS, stress.INTERVAL) as full,
            _polling(stage, admin, "delta", stress.USERS, stress.INTERVAL) as delta,
        ):
            figures |= await stress.stress(stage, full, delta, min(STRESS_SECONDS, seconds))
        # A database that is polled has no triggers of Atlas Sync.
        await stage.server.kill()
        await admin.execute("ALTER TABLE messages DISABLE TRIGGER USER; ALTER TABLE conversations DISABLE TRIGGER USER")
        for kind in ("full", "delta"):
            figures |= await _polled(stage, admin, kind, plan)
    finally:
        admin.terminate()
    return figures


async def fill(stage: Stage, admin: Any) -> None:
    """Give each user `CONVERSATIONS` conversations of `MESSAGES` real messages, older than the feed."""
    texts = [stage.text() for _ in range(TEXTS)]
    limit = LIMIT * max(1.0, len(stage.users) / 1_000)
    await admin.execute(PREPARE)
    await admin.execute(UNSEEN)
    await admin.execute(FILL_CONVERSATIONS, timeout=limit)
    await admin.execute(FILL_MESSAGES, texts, timeout=limit)
    await admin.execute("RESET session_replication_role")
    for statement in (INDEX, ROLE, "VACUUM ANALYZE", "CHECKPOINT"):
        await admin.execute(statement, timeout=limit)


async def _atlas(stage: Stage, admin: Any, plan: Plan) -> dict[str, float]:
    def written() -> int:
        server = psutil.Process(stage.server.pid)
        return sum(process.io_counters().write_chars for process in (server, *server.children()))

    await stage.devices.connect(stage.server.port)
    await stage.quiet()
    meter = Meter(stage, admin, LOGIN, written, stage.server.cpu_seconds, stage.devices.cpu_seconds)
    _, figures = await meter.over("atlas_idle", plan.scale, asyncio.sleep(plan.interval))
    changes, busy = await meter.over("atlas_busy", plan.scale, plan.write(stage))
    arrivals = await stage.devices.arrivals(len(changes) * stage.per_user)
    await stage.disconnect()
    lost = stage.lost(changes, arrivals)
    return figures | busy | _staleness("atlas", changes, arrivals) | {"written": len(changes), "lost": lost}


async def _polled(stage: Stage, admin: Any, kind: str, plan: Plan) -> dict[str, float]:
    async with _polling(stage, admin, kind, plan.polled, plan.interval) as pollers:

        def read() -> int:
            return int(psutil.Process(pollers.pid).io_counters().read_chars)

        meter = Meter(stage, admin, POLLER, read, lambda: 0.0, pollers.cpu_seconds)
        _, figures = await meter.over(f"{kind}_idle", plan.scale, asyncio.sleep(plan.interval))
        rate = max(1, len(await pollers.call("waits"))) / plan.interval
        changes, busy = await meter.over(f"{kind}_busy", plan.scale, plan.write(stage))

        ended = time.monotonic_ns()

        async def all_polled() -> bool:
            state = await pollers.call("state")
            # What the delta poll missed never arrives.
            return bool(state["arrived"] >= len(changes) or state["asked"] > ended)

        await eventually("a poll of every user after the last commit", all_polled)
        waits = sorted(wait / 1e6 for wait in await pollers.call("waits")) or [0.0]
        arrivals = await pollers.arrivals(0)
    return {
        **figures,
        **busy,
        **_staleness(kind, changes, arrivals),
        f"{kind}_syncs_per_second": plan.scale * rate,
        f"{kind}_postgres_us_per_sync": 1e4 * figures[f"{kind}_idle_postgres_cpu_percent"] / plan.scale / rate,
        f"{kind}_client_us_per_sync": 1e4 * figures[f"{kind}_idle_client_cpu_percent"] / rate,
        f"{kind}_sync_p50_ms": waits[len(waits) // 2],
        f"{kind}_busy_missed": len(changes) - len(arrivals),
    }


def _staleness(name: str, written: list[Written], arrivals: list[Arrived]) -> dict[str, float]:
    committed = {message: at for _, message, at in written}
    waits = sorted((at - committed[message]) / 1e6 for _, message, at in arrivals) or [0.0]
    return {f"{name}_staleness_p{share}_ms": waits[len(waits) * share // 100] for share in (50, 99)}


@asynccontextmanager
async def _polling(stage: Stage, admin: Any, kind: str, users: int, interval: float) -> AsyncIterator[Devices]:
    """Start a process that polls for the first `users` users every `interval` seconds; see `benchmarks.pollers`."""
    async with AsyncExitStack() as stack:
        pipe = asyncio.subprocess.PIPE
        process = await spawn("benchmarks.pollers", stdin=pipe, stdout=pipe, limit=1 << 28)  # bytes of one answer
        stack.push_async_callback(end, process)
        pollers = Devices([process], users)
        await pollers.call(
            "prepare",
            url=stage.postgres.url(user=POLLER),
            kind=kind,
            users=[str(user) for user in stage.users[:users]],
            interval=interval,
            since=(await admin.fetchval("SELECT now()")).isoformat(),
        )
        yield pollers
