"""What the triggers and the doorbell cost a writer: commits per second of 1 to 64 concurrent writers.

Three kinds of commit take turns, in both orders; each commits one message: `none` with the triggers disabled, `trigger`
with the triggers but without NOTIFY, `notify` as in production, with one connection that listens.

A transaction that notifies takes a lock of the whole cluster before it commits, and holds it until its commit is on the
disk. Such commits run one after the other, each with its own flush, while other commits share flushes. `…_lock_percent`
is the share of the writers' time in which they wait for that lock (wait event Lock/object), `…_wal_percent` the share
in which they wait for the disk or for another process that flushes. Both are sampled.
"""

import math
import re
import resource
import subprocess
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import asyncpg
import psutil
from chitchat_dataset import Dataset

from benchmarks import machine
from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, eventually, folder, launch
from benchmarks.stage import SETTINGS
from server.demo.embedded import EmbeddedPostgres, find_binaries
from server.postgres.migrate import migrate

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
KINDS: Final = {"none": (False, False), "trigger": (True, False), "notify": (True, True)}
"""Kind → whether the triggers record, whether they notify."""
RECORD: Final = "SELECT pg_get_functiondef('sync.record'::regproc)"
RING: Final = re.compile(r"PERFORM pg_catalog\.pg_notify\([^;]*;")
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

    def figures(self, name: str) -> dict[str, float]:
        samples = max(1, self.samples)
        return {
            f"{name}_per_second": len(self.waits) / self.seconds,
            f"{name}_p50_ms": median(self.waits),
            f"{name}_p99_ms": sorted(self.waits)[len(self.waits) * 99 // 100],
            f"{name}_lock_percent": 100 * self.lock / samples,
            f"{name}_wal_percent": 100 * self.wal / samples,
            f"{name}_postgres_cpu_percent": 100 * self.postgres / self.seconds,
        }


async def doorbell(seconds: float, writers: Sequence[int] = WRITERS) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the machine and the figures. A turn takes `seconds`, rounded up."""
    async with AsyncExitStack() as stack:
        place = stack.enter_context(folder())
        postgres = EmbeddedPostgres(place / "postgres", settings=SETTINGS | QUIET)
        stack.callback(postgres.stop, immediate=True)
        postgres.start()
        await migrate(postgres.url())
        admin = await asyncpg.connect(postgres.url())
        stack.callback(admin.terminate)
        await admin.execute(SEED)
        await admin.execute("VACUUM ANALYZE")
        about = machine.describe(await admin.fetchval("SHOW server_version"))
        bench = Bench(place, postgres, admin, math.ceil(seconds))
        await bench.open()
        await bench.turn("notify", max(writers), Cost())  # warms the caches; not measured
        costs = {(kind, count): Cost() for count in writers for kind in KINDS}
        for count in writers:
            for kind in (*KINDS, *reversed(KINDS)):
                await bench.turn(kind, count, costs[kind, count])
    figures: dict[str, float] = {"users": USERS, "seconds": bench.seconds}
    for (kind, count), cost in costs.items():
        figures |= cost.figures(f"{kind}_{count}")
    for count in writers:
        kept = figures[f"notify_{count}_per_second"] / figures[f"trigger_{count}_per_second"]
        figures[f"notify_{count}_percent_of_trigger"] = 100 * kept
    none, trigger, notify = (1000 * figures[f"{kind}_{writers[0]}_p50_ms"] for kind in KINDS)
    return about, figures | {
        "trigger_us_per_commit": trigger - none,
        "notify_us_per_commit": notify - trigger,
        "writer_cpu_percent": max(100 * cost.client / cost.seconds for cost in costs.values()),
        "committed": bench.committed,
        "lost": bench.lost,
        "lost_doorbells": bench.lost_doorbells,
    }


class Bench:
    """Lets pgbench write (a C program, far cheaper than a client in Python), and counts the results."""

    def __init__(self, place: Path, postgres: EmbeddedPostgres, admin: Any, seconds: int) -> None:
        self._place = place
        self._postgres = postgres
        self._admin = admin
        self._record = ""
        self._heard = 0
        texts = [
            said["text"] for each in Dataset().values() for turn in each["messages"] for said in turn if said["text"]
        ]
        self._text = sorted(texts, key=len)[len(texts) // 2]
        self.seconds = seconds
        self.committed = 0
        self.lost = 0
        """Return the number of transactions on which pgbench, the messages and the change log disagree."""
        self.lost_doorbells = 0

    async def open(self) -> None:
        self._record = await self._admin.fetchval(RECORD)
        (self._place / "script").write_text(SCRIPT)

        def hear(*_: object) -> None:
            self._heard += 1

        await self._admin.add_listener(await self._admin.fetchval("SELECT channel FROM sync.meta"), hear)

    async def turn(self, kind: str, writers: int, cost: Cost) -> None:
        records, rings = KINDS[kind]
        await self._admin.execute(f"ALTER TABLE messages {'ENABLE' if records else 'DISABLE'} TRIGGER USER")
        await self._admin.execute(self._record if rings else _silent(self._record))
        stored, logged = await self._admin.fetchrow(STORED)
        heard, backends, cpu, client = self._heard, self._backends(), self._cpu(), _children()
        await self._write(writers, cost)

        async def all_left() -> bool:
            return self._backends() <= backends

        await eventually("all writers left", all_left)  # Postgres reports their CPU time only then
        cost.postgres += self._cpu() - cpu
        cost.client += _children() - client
        ends, waits = self._log()
        count = len(waits)
        cost.waits += [wait / 1000 for wait in waits]
        cost.seconds += (max(ends) - min(end - wait for end, wait in zip(ends, waits, strict=True))) / 1e6

        async def all_heard() -> bool:
            return self._heard - heard >= count * rings

        await eventually("all doorbells heard", all_heard)
        stored_now, logged_now = await self._admin.fetchrow(STORED)
        self.committed += count
        self.lost += abs(stored_now - stored - count) + abs(logged_now - logged - count * records)
        self.lost_doorbells += abs(self._heard - heard - count * rings)

    async def _write(self, writers: int, cost: Cost) -> None:
        program = find_binaries() / "pgbench"
        if not program.exists():
            raise BenchmarkError(f"There is no pgbench in {program.parent}: install it there, or set ATLAS_PG_BIN.")
        process = await launch(
            *(program, "--no-vacuum", "--protocol=prepared", f"--file={self._place / 'script'}"),
            *(f"--client={writers}", f"--time={self.seconds}", f"--define=text={self._text}"),
            *("--log", f"--log-prefix={self._place / 'log'}", self._postgres.url()),
            stdout=subprocess.DEVNULL,
        )
        try:

            async def over() -> bool:
                samples, lock, wal = await self._admin.fetchrow(WAITS)
                cost.samples += samples
                cost.lock += lock
                cost.wal += wal
                return process.returncode is not None

            await eventually("all writers done", over, self.seconds + LIMIT)
        finally:
            await end(process)
        if process.returncode:
            raise BenchmarkError("pgbench failed; what it wrote above says why.")

    def _log(self) -> tuple[list[int], list[int]]:
        """Return the end and the duration of each transaction, in microseconds."""
        ends, waits = [], []
        for path in self._place.glob("log.*"):
            for line in path.read_text().splitlines():
                _, _, took, _, second, microsecond = map(int, line.split()[:6])
                ends.append(second * 1_000_000 + microsecond)
                waits.append(took)
            path.unlink()
        if not waits:
            raise BenchmarkError("No transaction came to its end: give them more time (--seconds).")
        return ends, waits

    def _backends(self) -> int:
        return len(psutil.Process(self._postgres.pid).children())

    def _cpu(self) -> float:
        return machine.cpu_seconds(self._postgres.pid, family=True)


def _children() -> float:
    """Return the CPU seconds of our child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _silent(record: str) -> str:
    """Return the trigger function without its NOTIFY."""
    silent, found = RING.subn("NULL;", record)
    if found != 1:
        raise BenchmarkError("sync.record does not ring in the way that is known here: mend RING in doorbell.py.")
    return silent
