"""The primary dies, or falls silent, and its replica is promoted: how long until every device is live again."""

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import psutil

from benchmarks.actors import Server
from benchmarks.machine import BenchmarkError
from benchmarks.processes import eventually, folder
from benchmarks.results import Figures
from benchmarks.stage import LOGIN, SETTINGS, WRITE, Stage
from server.demo.embedded import EmbeddedPostgres


async def failover(stage: Stage, away: float, silent: bool) -> Figures:
    """`away`: seconds from the end of the old primary to the promotion. `silent`: its processes are stopped, so that
    connections to it open and nothing answers; else they are killed, so that connections are refused."""
    await stage.server.kill()
    async with AsyncExitStack() as stack:
        replica = EmbeddedPostgres(stack.enter_context(folder()), settings=SETTINGS, follows=stage.postgres)
        stack.callback(replica.stop, immediate=True)
        replica.start()
        server = stage.server = Server(_both(stage.postgres, replica), max(20, stage.per_user), stage.server.processes)
        stack.push_async_callback(server.kill)
        await server.start()
        await stage.devices.connect(server.port)
        heard = await asyncpg.connect(replica.url())
        stack.callback(heard.terminate)
        await _has_all(heard, stage.postgres)
        await stage.devices.call_all("come_back")
        if silent:
            stack.enter_context(_stopped(stage.postgres))
        else:
            stage.postgres.kill()
        await asyncio.sleep(away)
        if not await heard.fetchval("SELECT pg_promote()"):
            raise BenchmarkError("The replica was not promoted within a minute.")
        promoted = time.monotonic_ns()

        async def all_returned() -> bool:
            await stage.devices.state()
            return bool(sum(await stage.devices.call_all("returned")) == stage.devices.count)

        await eventually("all devices live on the new primary", all_returned)
        lives = sorted(at for some in await stage.devices.call_all("lives") for at in some)
        written = []
        for user, conversation in enumerate(stage.conversations):
            message = uuid4()
            await heard.execute(WRITE, message, conversation, stage.text())
            written.append((user, message.hex, time.monotonic_ns()))
        arrivals = await stage.devices.arrivals(len(written) * stage.per_user)
        at = {message: read for _, message, read in arrivals}
    return {
        "sockets": stage.devices.count,
        "seconds_to_live_p50": (lives[len(lives) // 2] - promoted) / 1e9,
        "seconds_to_live": (lives[-1] - promoted) / 1e9,
        "seconds_to_live_first": (lives[0] - promoted) / 1e9,
        "longest_delivery_ms": max((at[message] - when for _, message, when in written if message in at)) / 1e6,
        "lost": stage.lost(written, arrivals),
    }


def _both(one: EmbeddedPostgres, other: EmbeddedPostgres) -> str:
    """A URL that leads to whichever of the two is the primary."""
    hosts = [parse_qs(urlsplit(each.url(user=LOGIN)).query)["host"][0] for each in (one, other)]
    return f"postgresql://{LOGIN}@/postgres?host={','.join(hosts)}&port=5432&target_session_attrs=read-write"


async def _has_all(replica: asyncpg.Connection, primary: EmbeddedPostgres) -> None:
    sql = await asyncpg.connect(primary.url())
    try:
        end = await sql.fetchval("SELECT pg_logical_emit_message(true, '', 'up to here')")
    finally:
        await sql.close()

    async def replayed() -> bool:
        return bool(await replica.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end))

    await eventually("the replica has everything", replayed)


@contextmanager
def _stopped(postgres: EmbeddedPostgres) -> Iterator[None]:
    postmaster = psutil.Process(postgres.pid)
    processes = [postmaster, *postmaster.children()]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        # A stopped process would outlive its postmaster.
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
