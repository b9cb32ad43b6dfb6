"""All devices come back at the same moment: first to the same server, then to one that was killed and restarted."""

import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg

from benchmarks.processes import folder
from benchmarks.stage import LOGIN, SETTINGS, Stage, Written
from server.demo.embedded import EmbeddedPostgres

FEED_READS = (
    "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE userid = $1::regrole AND query LIKE $2"
)
OF_FEEDS = "%sync.feeds f%"
"""In every statement that reads a feed, its head, or rows with its head, and in no other."""


async def storm(stage: Stage, changes: int, replica: bool) -> dict[str, float]:
    """`replica`: a streaming replica reads for them, too."""
    async with AsyncExitStack() as stack:
        if not replica:
            return await _storm(stage, changes, {})
        copy = EmbeddedPostgres(stack.enter_context(folder()), settings=SETTINGS, follows=stage.postgres)
        stack.callback(copy.stop, immediate=True)
        copy.start()
        primary, other = [await asyncpg.connect(each.url()) for each in (stage.postgres, copy)]
        stack.callback(primary.terminate)
        stack.callback(other.terminate)
        await stage.server.kill()
        settings = {"ATLAS_REPLICA_URLS": copy.url(user=LOGIN)}
        await stage.server.start(**settings)

        async def reads() -> list[int]:
            return [await each.fetchval(FEED_READS, LOGIN, OF_FEEDS) for each in (primary, other)]

        return await _storm(stage, changes, settings, reads)


async def _nothing() -> list[int]:
    return []


async def _storm(
    stage: Stage, changes: int, settings: dict[str, str], reads: Callable[[], Awaitable[list[int]]] = _nothing
) -> dict[str, float]:
    """`reads`: how many statements the primary and the replica have read feeds by, so far."""
    devices, server = stage.devices, stage.server

    async def write(each: int) -> list[Written]:
        users = [*range(len(stage.users))] * each
        random.shuffle(users)
        return await stage.write(users)

    await devices.connect(server.port)
    await stage.disconnect()
    written = await write(changes)
    await stage.quiet()
    statements, before_reads = await stage.statements(), await reads()
    state = await devices.connect(server.port, at_once=devices.count)
    statements = await stage.statements() - statements
    made = [now - then for now, then in zip(await reads(), before_reads, strict=True)]
    lost = stage.lost(written, await devices.arrivals(len(written)))

    await stage.disconnect()
    before = changes * 2 // 5
    written_again = await write(before)
    await server.kill()
    written_again += await write(changes - before)
    serving = await server.start(**settings)
    state_again = await devices.connect(server.port, at_once=devices.count)
    return {
        "sockets": devices.count,
        "written": len(written),
        "seconds_to_live": (state["last_live"] - state["began"]) / 1e9,
        "statements": statements,
        **dict(zip(("reads_by_primary", "reads_by_replica"), made, strict=False)),
        "lost": lost,
        "written_again": len(written_again),
        "seconds_to_live_after_sigkill": (state_again["last_live"] - serving) / 1e9,
        "lost_after_sigkill": stage.lost(written_again, await devices.arrivals(len(written_again))),
    }
