"""We, by LISTEN and by the WAL, beside the servers that people use instead: the same Postgres, writers and load client.

Each serves the same users, one after the other within a run, each run in the opposite order to the last: at `changes` a
second, and then as fast as 8 and as 32 writers commit. Ours reads each change from the database, and a device that was
away gets what it missed. The others are handed the row by a trigger's NOTIFY, the quickest way to them; what is written
while they or their relay are away is lost, and a row of 8,000 bytes cannot be written.

Server and relay have one CPU, load client and writers the other, Postgres both. Delays are from the answer to the
COMMIT, as pgbench has it, to the read of the frame: negative where the frame is there first. CPU times are per change
that arrived; `missed` are changes that did not arrive. `delivered_per_second` is less than what was committed
(`per_second`) by as much as the server falls behind.
"""

import atexit
import math
import os
import resource
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import psutil
import typer
from rich.table import Table

from benchmarks import machine, pgbench
from benchmarks.compiling import FLUSHES, compiled, slow_flushes
from benchmarks.installing import Installation, NotInstalledError
from benchmarks.load import Load, loading
from benchmarks.machine import BenchmarkError
from benchmarks.peer import PEERS, Atlas, Peer, Place, Running
from benchmarks.processes import eventually, folder
from benchmarks.results import Result, say
from benchmarks.stage import LOGICAL, LOGIN, MAY_STREAM, SETTINGS
from server.demo.embedded import EmbeddedPostgres
from server.postgres.migrate import migrate

SEEDED: Final = "seeded"
"""The database of which each peer gets a copy."""
SEED: Final = """
    INSERT INTO profiles (id, subscription_tier)
    SELECT lpad(n::text, 32, '0')::uuid, 'core' FROM generate_series(1, {0}) AS n;
    INSERT INTO conversations (id, user_id) SELECT id, id FROM profiles;
"""
SCRIPT: Final = """
\\set n :n + 1
\\set user random(1, {0})
INSERT INTO messages (conversation_id, role, content)
VALUES (lpad(:user::text, 32, '0')::uuid, 'user',
        '~#' || lpad(:client_id::text, 2, '0') || lpad(:n::text, 8, '0') || :text);
"""
TEXT: Final = (" What a device of a chat shows is what its database has, and nothing gets lost on the way." * 6)[:488]
"""With the marker 500 bytes."""
MARKS: Final = 10_000_000
"""Numbers of changes of each part; a marker has eight digits for them."""
WARM: Final = 2.0
"""Seconds of writing before anything is measured, at most."""
STEADY: Final = 8
"""Writers that keep the rate together."""
RAMP: Final = (8, 32)
"""Writers that commit as fast as they can."""
SHOWN: Final = (
    *("p50_ms", "p99_ms", "server_us", "relay_us", "postgres_us", "missed"),
    *(
        f"ramp_{writers}_{name}"
        for writers in RAMP
        for name in ("per_second", "delivered_per_second", "p50_ms", "p99_ms", "server_us", "missed")
    ),
)
"""The figures of the table."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a peer's turn. `rate`: changes per second, None for as many as possible."""

    name: str
    """How its figures begin, after the peer's name."""
    writers: int
    rate: float | None
    seconds: float


def peers(
    names: str, install: bool, place: Path | None, changes: float, users: int, seconds: float, flush_ms: float
) -> Callable[[], Awaitable[tuple[dict[str, Any], dict[str, float]]]]:
    """Return one run. What it installs stays for the next runs. Raises BenchmarkError for an unknown peer."""
    chosen = [*PEERS] if names == "all" else names.split(",")
    if unknown := [name for name in chosen if name not in PEERS]:
        raise BenchmarkError(f"There is no peer {', '.join(unknown)}: --peers takes {', '.join(PEERS)}, or all.")
    if place is None:
        place = Path(tempfile.mkdtemp(prefix="atlas-peers-", dir="/tmp"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o755)  # nginx's workers run under another account
    installation = Installation(place.absolute(), network=install)
    present: list[Peer] = []
    runs = 0

    async def run() -> tuple[dict[str, Any], dict[str, float]]:
        nonlocal runs
        if not runs:
            present.extend(await _installed([PEERS[name] for name in chosen], installation))
        runs += 1
        about, figures = await _run(present[:: 1 if runs % 2 else -1], changes, users, seconds, flush_ms)
        versions = ", ".join(f"{package} {version}" for package, version in sorted(installation.versions.items()))
        return about | ({"peers": versions} if versions else {}), figures

    return run


async def _installed(wanted: Sequence[Peer], installation: Installation) -> list[Peer]:
    found = []
    for peer in wanted:
        try:
            await peer.install(installation)
            found.append(peer)
        except NotInstalledError as error:
            typer.echo(f"{peer.name} is left out: {error}.", err=True)
    if not found:
        raise BenchmarkError("No peer is left.")
    return found


async def _run(
    present: Sequence[Peer], changes: float, users: int, seconds: float, flush_ms: float
) -> tuple[dict[str, Any], dict[str, float]]:
    machine.allow_files(users)
    async with AsyncExitStack() as stack:
        place = stack.enter_context(folder())
        program = await compiled("load.c", place)
        postgres = EmbeddedPostgres(place / "postgres", settings=SETTINGS | LOGICAL | FLUSHES)
        stack.callback(postgres.stop, immediate=True)
        async with slow_flushes(place, flush_ms):
            postgres.start()
        admin = await asyncpg.connect(postgres.url())
        stack.callback(admin.terminate)
        await admin.execute(f"CREATE DATABASE {SEEDED}")
        await migrate(postgres.url(SEEDED))
        await admin.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE atlas_sync; {MAY_STREAM}")
        seeding = await asyncpg.connect(postgres.url(SEEDED))
        try:
            await seeding.execute(SEED.format(users))
            await seeding.execute("VACUUM ANALYZE")
        finally:
            await seeding.close()
        about = machine.describe(await admin.fetchval("SHOW server_version"))
        figures: dict[str, float] = {
            "changes": changes, "users": users, "seconds": seconds, "flush_ms": flush_ms, "lost": 0.0,
        }  # fmt: skip
        for peer in present:
            await admin.execute(f"CREATE DATABASE {peer.name} TEMPLATE {SEEDED}")
            await admin.execute("CHECKPOINT")
            turn = Turn(peer, postgres, place, program, users)
            found = await turn.run(changes, seconds)
            if isinstance(peer, Atlas):
                figures["lost"] += sum(value for name, value in found.items() if name.endswith("missed"))
            figures |= {f"{peer.name}_{name}": value for name, value in found.items()}
        return about, figures


class Turn:
    """The turn of one peer."""

    def __init__(self, peer: Peer, postgres: EmbeddedPostgres, place: Path, program: Path, users: int) -> None:
        self._peer = peer
        self._postgres = postgres
        self._place = place
        self._program = program
        self._users = users
        self._url = postgres.url(peer.name)
        cpus = sorted(os.sched_getaffinity(0))
        self._server_cpu, self._client_cpu = cpus[0], cpus[-1]

    async def run(self, changes: float, seconds: float) -> dict[str, float]:
        await self._peer.prepare(self._url)
        parts = [
            Part("warm", STEADY, changes, min(WARM, seconds)),
            Part("", STEADY, changes, seconds),
            *(Part(f"ramp_{writers}_", writers, None, seconds) for writers in RAMP),
        ]
        async with AsyncExitStack() as stack:
            login_url = self._postgres.url(self._peer.name, LOGIN)
            running = await self._peer.start(stack, Place(self._place, self._url, login_url))
            for pid in (running.pid, running.relay):
                if pid is not None:
                    machine.pin(pid, self._server_cpu)
            devices = [self._peer.part(n, UUID(f"{n + 1:032}")) for n in range(self._users)]
            load = await stack.enter_async_context(
                loading(self._program, self._place, running.port, devices, self._peer.replies, self._client_cpu)
            )
            measured = []
            for number, part in enumerate(parts):
                measured.append((part, *await self._write(number, part, load, running)))
            arrived: dict[int, int] = {}
            for at, _, change in await load.end():
                arrived.setdefault(change, at)
        figures: dict[str, float] = {}
        for part, written, spent in measured[1:]:
            figures |= {f"{part.name}{name}": value for name, value in _figures(written, arrived, spent).items()}
        return figures

    async def _write(
        self, number: int, part: Part, load: Load, running: Running
    ) -> tuple[dict[int, int], dict[str, float]]:
        """Return when each change was committed (microseconds since 1970), and who spent how many seconds of CPU until
        all had arrived."""

        def spent() -> dict[str, float]:
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            return {
                "server": machine.cpu_seconds(running.pid, family=True),
                "relay": 0.0 if running.relay is None else machine.cpu_seconds(running.relay),
                "postgres": machine.cpu_seconds(self._postgres.pid, family=True),
                "client": machine.cpu_seconds(load.pid),
                "writer": children.ru_utime + children.ru_stime,
            }

        def backends() -> int:
            return len(psutil.Process(self._postgres.pid).children())

        first, present, before = number * MARKS, backends(), spent()
        arrived = load.count
        transactions = await pgbench.write(
            *(self._url, SCRIPT.format(self._users), self._place, part.writers, math.ceil(part.seconds)),
            rate=part.rate,
            defines={"n": first, "text": TEXT},
            cpu=self._client_cpu,
        )
        await load.arrived(arrived + len(transactions))

        async def all_left() -> bool:
            return backends() <= present

        await eventually("all writers left", all_left)  # Postgres reports their CPU time only then
        written = {each.client * 10 * MARKS + first + each.number: each.end for each in transactions}
        return written, {name: value - before[name] for name, value in spent().items()}


def _figures(written: dict[int, int], arrived: dict[int, int], spent: dict[str, float]) -> dict[str, float]:
    waits = sorted((arrived[change] - at) / 1000 for change, at in written.items() if change in arrived)
    if not waits:
        raise BenchmarkError("Nothing arrived.")
    began = min(written.values())
    seconds = (max(written.values()) - began) / 1e6
    last = max(at for change, at in arrived.items() if change in written)
    return {
        "p50_ms": waits[len(waits) // 2],
        "p95_ms": waits[len(waits) * 95 // 100],
        "p99_ms": waits[len(waits) * 99 // 100],
        **{f"{who}_us": 1e6 * spent[who] / len(waits) for who in ("server", "relay", "postgres")},
        "per_second": len(written) / seconds,
        "delivered_per_second": len(waits) / (last - began) * 1e6,
        **{f"{who}_cpu_percent": 100 * spent[who] / seconds for who in ("server", "postgres", "client", "writer")},
        "written": len(written),
        "missed": len(written) - len(waits),
    }


def table(result: Result) -> Table:
    """A column for each peer."""
    shown = [name for name in PEERS if f"{name}_p50_ms" in result.figures]
    table = Table("", *shown, box=None, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name in SHOWN:
        table.add_row(name, *(say(result.figure(f"{peer}_{name}")) for peer in shown))
    return table
