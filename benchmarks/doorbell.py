"""What the triggers and the doorbell cost a writer: commits per second of 1 to 64 concurrent writers.

Four kinds of commit take turns, in both orders; each commits one message: `none` with the triggers disabled, `trigger`
with the triggers and NOTIFY silent, `notify` with a server that listens, `wal` with one that reads the WAL, so that
NOTIFY is silent again. The server has no devices, and counts the doorbells that it hears.

A transaction that notifies takes a lock of the whole cluster before it commits, and holds it until its commit is on the
disk. Such commits run one after the other, each with its own flush, while other commits share flushes. The slower the
disk, the dearer that is: a flush can be slowed. `…_lock_percent` is the share of the writers' time in which they wait
for that lock (wait event Lock/object), `…_wal_percent` the share in which they wait for the disk or for another process
that flushes. Both are sampled.
"""

import math
import resource
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import asyncpg
import httpx
import psutil
from chitchat_dataset import Dataset
from prometheus_client.parser import text_string_to_metric_families as families

from benchmarks import machine, pgbench
from benchmarks.actors import Server
from benchmarks.compiling import FLUSHES, slow_flushes
from benchmarks.processes import eventually, folder
from benchmarks.stage import LOGICAL, LOGIN, MAY_STREAM, SETTINGS, silent
from server.demo.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells

WRITERS: Final = (1, 2, 4, 8, 16, 32, 64)
USERS: Final = 10_000
"""So many that two writers seldom write to the same feed."""
QUIET: Final = {"autovacuum": "off", "checkpoint_timeout": "1h", "max_wal_size": "16GB"}
"""Postgres' background work must not fall into the turn of one kind only."""
SEED: Final = f"""
    INSERT INTO profiles (id) SELECT lpad(n::text, 32, '0')::uuid FROM generate_series(1, {USERS}) AS n;
    INSERT INTO conversations (id, user_id) SELECT id, id FROM profiles
"""
SCRIPT: Final = f"""
\\set n random(1, {USERS})
INSERT INTO messages (conversation_id, role, content) VALUES (lpad(:n::text, 32, '0')::uuid, 'user', :text);
"""
TOKEN: Final = "the token of the benchmarks"


class Kind(NamedTuple):
    records: bool
    """Whether the triggers are enabled."""
    server: Doorbells | None


KINDS: Final = {
    "none": Kind(False, None),
    "trigger": Kind(True, None),
    "notify": Kind(True, Doorbells.LISTEN),
    "wal": Kind(True, Doorbells.WAL),
}
SILENT: Final = "UPDATE sync.meta SET quiet_until = 'infinity'"
"""As a server that reads the WAL makes it, but for ever."""
STORED: Final = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM sync.log)"
WAITS: Final = """
    SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock' AND wait_event = 'object'),
           count(*) FILTER (WHERE wait_event ILIKE 'wal%')
    FROM pg_stat_activity WHERE application_name = 'pgbench'
"""


@dataclass(slots=True)
class Cost:
    """The results of all turns of one kind with one number of writers."""

    waits: list[float] = field(default_factory=list)
    """Duration of each transaction in milliseconds."""
    seconds: float = 0.0
    """Seconds from the begin of the first transaction to the end of the last, all turns together."""
    samples: int = 0
    """Samples × writers."""
    lock: int = 0
    """Those of them that waited for the lock."""
    wal: int = 0
    postgres: float = 0.0
    """Seconds of CPU."""
    client: float = 0.0
    server: float = 0.0

    def figures(self, name: str) -> dict[str, float]:
        samples = max(1, self.samples)
        return {
            f"{name}_per_second": len(self.waits) / self.seconds,
            f"{name}_p50_ms": median(self.waits),
            f"{name}_p99_ms": sorted(self.waits)[len(self.waits) * 99 // 100],
            f"{name}_lock_percent": 100 * self.lock / samples,
            f"{name}_wal_percent": 100 * self.wal / samples,
            f"{name}_postgres_cpu_percent": 100 * self.postgres / self.seconds,
            f"{name}_server_cpu_percent": 100 * self.server / self.seconds,
        }


async def doorbell(
    seconds: float, writers: Sequence[int] = WRITERS, flush_ms: float = 0.0
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the machine and the figures. A turn takes `seconds`, rounded up; a flush of the WAL takes `flush_ms` at
    least."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(folder())
        postgres = EmbeddedPostgres(place / "postgres", settings=SETTINGS | LOGICAL | FLUSHES | QUIET)
        stack.callback(postgres.stop, immediate=True)
        async with slow_flushes(place, flush_ms):
            postgres.start()
        await migrate(postgres.url(), doorbells=Doorbells.WAL)
        admin = await asyncpg.connect(postgres.url())
        stack.callback(admin.terminate)
        await admin.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE atlas_sync; {MAY_STREAM}")
        await admin.execute(SEED)
        await admin.execute("VACUUM ANALYZE")
        about = machine.describe(await admin.fetchval("SHOW server_version"))
        bench = Bench(place, postgres, admin, math.ceil(seconds))
        stack.push_async_callback(bench.close)
        await bench.turn("notify", max(writers), Cost())  # warms the caches; not measured
        costs = {(kind, count): Cost() for count in writers for kind in KINDS}
        for count in writers:
            for kind in (*KINDS, *reversed(KINDS)):
                await bench.turn(kind, count, costs[kind, count])
    figures: dict[str, float] = {"users": USERS, "seconds": bench.seconds, "flush_ms": flush_ms}
    for (kind, count), cost in costs.items():
        figures |= cost.figures(f"{kind}_{count}")
    for count in writers:
        for kind in ("notify", "wal"):
            kept = figures[f"{kind}_{count}_per_second"] / figures[f"trigger_{count}_per_second"]
            figures[f"{kind}_{count}_percent_of_trigger"] = 100 * kept
    none, trigger, notify, wal = (1000 * figures[f"{kind}_{writers[0]}_p50_ms"] for kind in KINDS)
    return about, figures | {
        "trigger_us_per_commit": trigger - none,
        "notify_us_per_commit": notify - trigger,
        "wal_us_per_commit": wal - trigger,
        "writer_cpu_percent": max(100 * cost.client / cost.seconds for cost in costs.values()),
        "committed": bench.committed,
        "lost": bench.lost,
        "lost_doorbells": bench.lost_doorbells,
    }


class Bench:
    """Lets pgbench write, and counts the results."""

    def __init__(self, place: Path, postgres: EmbeddedPostgres, admin: Any, seconds: int) -> None:
        self._place = place
        self._postgres = postgres
        self._admin = admin
        self._servers: dict[Doorbells, Server] = {}
        self._serving: Doorbells | None = None
        texts = [
            said["text"] for each in Dataset().values() for turn in each["messages"] for said in turn if said["text"]
        ]
        self._text = sorted(texts, key=len)[len(texts) // 2]
        self.seconds = seconds
        self.committed = 0
        self.lost = 0
        """The number of transactions on which pgbench, the messages and the change log disagree."""
        self.lost_doorbells = 0

    async def close(self) -> None:
        for server in self._servers.values():
            await server.kill()

    async def turn(self, kind: str, writers: int, cost: Cost) -> None:
        records, doorbells = KINDS[kind]
        await self._admin.execute(f"ALTER TABLE messages {'ENABLE' if records else 'DISABLE'} TRIGGER USER")
        await self._serve(doorbells)
        stored, logged = await self._admin.fetchrow(STORED)
        heard, spent = await self._heard(), self._server_cpu()
        backends, cpu, client = self._backends(), self._cpu(), _children()
        transactions = await self._write(writers, cost)

        async def all_left() -> bool:
            return self._backends() <= backends

        await eventually("all writers left", all_left)  # Postgres reports their CPU time only then
        count = len(transactions)

        async def all_heard() -> bool:
            return await self._heard() - heard >= count

        if doorbells is not None:
            await eventually("all doorbells heard", all_heard)
            self.lost_doorbells += abs(await self._heard() - heard - count)
            cost.server += self._server_cpu() - spent
        cost.postgres += self._cpu() - cpu
        cost.client += _children() - client
        cost.waits += [each.took / 1000 for each in transactions]
        cost.seconds += (
            max(each.end for each in transactions) - min(each.end - each.took for each in transactions)
        ) / 1e6
        stored_now, logged_now = await self._admin.fetchrow(STORED)
        self.committed += count
        self.lost += abs(stored_now - stored - count) + abs(logged_now - logged - count * records)

    async def _serve(self, doorbells: Doorbells | None) -> None:
        """Have that server run, and no other."""
        if self._serving != doorbells:
            if self._serving is not None:
                await self._servers[self._serving].stop()
            self._serving = doorbells
            if doorbells is not None:
                url = self._postgres.url(user=LOGIN)
                server = self._servers.setdefault(doorbells, Server(url, 20, doorbells=doorbells))
                await server.start(ATLAS_METRICS_TOKEN=TOKEN)
        if doorbells is None:
            await self._admin.execute(SILENT)
        elif doorbells is Doorbells.WAL:
            await silent(self._admin)

    async def _heard(self) -> int:
        """Return how many doorbells the server has heard."""
        if self._serving is None:
            return 0
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{self._servers[self._serving].port}/metrics")
        answer.raise_for_status()
        samples = (each for family in families(answer.text) for each in family.samples)
        return round(sum(each.value for each in samples if each.name == "atlas_doorbells_total"))

    async def _write(self, writers: int, cost: Cost) -> list[pgbench.Transaction]:
        async def look() -> None:
            samples, lock, wal = await self._admin.fetchrow(WAITS)
            cost.samples += samples
            cost.lock += lock
            cost.wal += wal

        return await pgbench.write(
            self._postgres.url(), SCRIPT, self._place, writers, self.seconds, defines={"text": self._text}, look=look
        )

    def _backends(self) -> int:
        return len(psutil.Process(self._postgres.pid).children())

    def _cpu(self) -> float:
        return machine.cpu_seconds(self._postgres.pid, family=True)

    def _server_cpu(self) -> float:
        return 0.0 if self._serving is None else self._servers[self._serving].cpu_seconds()


def _children() -> float:
    """Return the CPU seconds of our child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
