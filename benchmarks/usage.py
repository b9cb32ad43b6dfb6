"""What recording usage costs live devices: rounds with a backend that reports events, and rounds without, in turn."""

import asyncio
import os
import random
import time
from statistics import median
from typing import Any, Final

import asyncpg
import orjson

from benchmarks import machine
from benchmarks.live import delays, percentile
from benchmarks.processes import LIMIT, end, spawn
from benchmarks.stage import Stage

TOKEN: Final = "the token of the benchmarks' backend, of 32 characters"


async def usage(stage: Stage, rate: float, batch: int, changes: float, seconds: float, rounds: int) -> dict[str, float]:
    await stage.devices.call_all("disconnect")
    await stage.server.kill()
    await stage.server.start(ATLAS_USAGE="true", ATLAS_SERVICE_TOKEN=TOKEN)
    await stage.devices.connect(stage.server.port)
    await stage.quiet()
    turns: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    reports: list[dict[str, Any]] = []
    for number in range(rounds):
        # Whatever grows with time must not count for one side only.
        for reporting in (bool(number % 2), not number % 2):
            if reporting:
                turn, report = await _report(stage, rate, batch, changes, seconds)
                reports.append(report)
            else:
                turn = await _turn(stage, changes, seconds)
            turns[reporting].append(turn)
    figures: dict[str, float] = {
        "events": rate,
        "batch": batch,
        "changes": changes,
        "users": len(stage.users),
        "rounds": rounds,
        "events_per_second": median(report["accepted"] / report["seconds"] for report in reports),
        "accepted_p50_ms": median(_share(report["waits"], 0.5) for report in reports),
        "accepted_p99_ms": median(_share(report["waits"], 0.99) for report in reports),
        "refused": sum(report["refused"] for report in reports),
    }
    for name in (percentile(50), percentile(99)):
        figures |= {
            name: median(turn[name] for turn in turns[True]),
            f"{name}_without": median(turn[name] for turn in turns[False]),
            f"{name}_ratio": median(
                busy[name] / calm[name] for busy, calm in zip(turns[True], turns[False], strict=True)
            ),
        }
    for part in ("server", "postgres"):
        more = median(busy[part] - calm[part] for busy, calm in zip(turns[True], turns[False], strict=True))
        figures[f"{part}_us_per_event"] = 1e6 * more / (rate * seconds)
    return {
        **figures,
        **await _count(
            stage, sum(report["accepted"] for report in reports), sum(report["tokens"] for report in reports)
        ),
        "lost": sum(turn["lost"] for side in turns.values() for turn in side),
    }


async def _turn(stage: Stage, changes: float, seconds: float) -> dict[str, float]:
    users = random.choices(range(len(stage.users)), k=max(1, round(changes * seconds)))
    before = _cpu(stage)
    written = await stage.write(users, changes)
    arrivals = await stage.devices.arrivals(len(written) * stage.per_user)
    server, postgres = (now - then for now, then in zip(_cpu(stage), before, strict=True))
    return {
        **delays(written, arrivals), "server": server, "postgres": postgres, "lost": stage.lost(written, arrivals)
    }  # fmt: skip


def _cpu(stage: Stage) -> tuple[float, float]:
    return stage.server.cpu_seconds(), machine.cpu_seconds(stage.postgres.pid, family=True)


async def _report(
    stage: Stage, rate: float, batch: int, changes: float, seconds: float
) -> tuple[dict[str, float], dict[str, Any]]:
    """A turn beside a backend; its figures, and what the backend says."""
    pipe = asyncio.subprocess.PIPE
    backend = await spawn("benchmarks.backend", stdin=pipe, stdout=pipe, limit=1 << 24, env=dict(os.environ))
    try:
        assert backend.stdin is not None
        assert backend.stdout is not None
        orders = {
            "port": stage.server.port, "token": TOKEN, "users": [str(user) for user in stage.users], "rate": rate,
            "batch": batch, "seconds": seconds,
        }  # fmt: skip
        backend.stdin.write(orjson.dumps(orders) + b"\n")
        async with asyncio.timeout(LIMIT + seconds):
            await backend.stdout.readline()
            turn = await _turn(stage, changes, seconds)
            said: dict[str, Any] = orjson.loads(await backend.stdout.readline())
        return turn, said
    finally:
        await end(backend)


async def _count(stage: Stage, accepted: int, tokens: int) -> dict[str, float]:
    """Count all that was accepted, and compare."""
    connection = await asyncpg.connect(stage.postgres.url())
    try:
        kept = await connection.fetchval("SELECT count(*) FROM sync.usage_logs WHERE event = 'answered'")
        begun = time.monotonic()
        while await connection.fetchval("SELECT sync.count_usage(1000)", timeout=LIMIT):
            pass
        took = time.monotonic() - begun
        counted = await connection.fetchval("SELECT sum(total_tokens_used)::bigint FROM sync.daily_usage")
        size = await connection.fetchval(
            "SELECT sum(pg_total_relation_size(partition))::bigint FROM sync.partitions WHERE parent = 'usage_logs'"
        )
    finally:
        await connection.close()
    return {
        "counted_events_per_second": kept / took,
        "bytes_per_event": size / max(1, kept),
        "lost_events": accepted - kept,
        "lost_tokens": tokens - counted,
    }


def _share(waits: list[float], share: float) -> float:
    return waits[int(len(waits) * share)]
