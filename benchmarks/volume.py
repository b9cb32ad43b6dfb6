"""What each event of a device's life takes: bytes on the wire, statements, CPU, bytes stored. `atlas-sync project`
counts with these figures.

Each user has a device, and 49 conversations of 20 real messages. All devices come for the first time (snapshot), come
back without having missed anything (resume), receive messages (change), write them (push), and wait (heartbeat). Bytes
are those that a device receives, with the headers of HTTP and WebSocket, and without TLS, TCP and IP.
`…_bytes_without_text` leave out the texts of the messages.

`bystander` is another server process without devices: it receives each doorbell and ignores it. `plain` is the
same write into tables without the triggers. `poll_…` is what an HTTP API would answer to a client that reads
everything: JSON, one answer for the list of conversations and one for each of them.
"""

import gzip
import random
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

import asyncpg
import httpx

from benchmarks import machine
from benchmarks.baseline import CONVERSATIONS, MESSAGES, fill
from benchmarks.processes import eventually
from benchmarks.stage import Stage

T = TypeVar("T")
KEEPALIVE: Final = 0.5
"""Seconds between two heartbeats while they are measured."""
PUSHES: Final = 200.0
"""Mutations a second: few enough that each is a push of its own."""
METRICS_TOKEN: Final = "a token of the benchmarks"
SIZE: Final = "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree($1)"
"""Bytes of a table with its partitions, indexes and TOAST tables."""
TEXT: Final = "SELECT avg(octet_length(content))::float FROM messages"
ANSWERS: Final = """
    SELECT json_agg(c)::text FROM conversations c WHERE user_id = $1
    UNION ALL
    SELECT json_agg(m)::text FROM conversations c JOIN messages m ON conversation_id = c.id WHERE user_id = $1
    GROUP BY c.id
"""
TRIGGERS: Final = "ALTER TABLE messages DISABLE TRIGGER USER"


async def volume(stage: Stage, rate: float, seconds: float) -> dict[str, float]:
    users = range(len(stage.users))
    admin = await asyncpg.connect(stage.postgres.url())
    try:
        await fill(stage, admin)
        await admin.execute("DROP INDEX messages_newer")  # of a client that polls
        text: float = await admin.fetchval(TEXT)
        figures = {
            "users": len(users),
            "changes_per_second": rate,
            "message_bytes": text,
            "stored_bytes_per_message_without_text": await _bytes_per_row(admin, "messages") - text,
            **await _poll(stage, admin, text),
            **await _served(stage, rate, seconds, text),
            "log_bytes_per_row": await _bytes_per_row(admin, "sync.log"),
        }
        await admin.execute(TRIGGERS)
        cpu = _postgres_us(stage)
        written = await stage.write(random.choices(users, k=max(1, round(rate * seconds))), rate)
        figures["plain_postgres_us_per_change"] = (_postgres_us(stage) - cpu) / len(written)
    finally:
        admin.terminate()
    return figures


async def _served(stage: Stage, rate: float, seconds: float, text: float) -> dict[str, float]:
    """Snapshot, resume, change, push; then a bystander, which afterwards serves instead."""
    devices, server, count = stage.devices, stage.server, len(stage.users)

    async def write() -> tuple[int, int]:
        written = await stage.write(random.choices(range(count), k=max(1, round(rate * seconds))), rate)
        return len(written), stage.lost(written, await devices.arrivals(len(written)))

    await stage.quiet()
    _, snapshot = await _used(stage, devices.connect(server.port))
    await stage.disconnect()
    await stage.quiet()
    _, resume = await _used(stage, devices.connect(server.port))
    (changes, lost), change = await _used(stage, write())
    pushed, push = await _used(stage, stage.push(min(PUSHES, rate), seconds))
    mutations = len(pushed.waits)

    bystander = stage.another_server()
    try:
        await bystander.start(ATLAS_KEEPALIVE_SECONDS=f"{KEEPALIVE}", ATLAS_METRICS_TOKEN=METRICS_TOKEN)
        await stage.quiet()
        ignored = bystander.cpu_seconds()
        again, lost_again = await write()
        ignored = bystander.cpu_seconds() - ignored
        await stage.disconnect()
        await stage.quiet()
        await server.kill()
        await devices.connect(bystander.port)
        heartbeat = await _heartbeat(stage)
        await stage.push(min(PUSHES, rate), min(1.0, seconds))
        series = await _series(bystander.port)
    finally:
        await bystander.kill()

    messages = snapshot["rows"] - count * (CONVERSATIONS + 1)  # each has a profile too
    return {
        "snapshot_rows": snapshot["rows"] / count,
        "snapshot_bytes": snapshot["bytes"] / count,
        "snapshot_bytes_per_row_without_text": (snapshot["bytes"] - text * messages) / snapshot["rows"],
        "statements_per_snapshot": snapshot["statements"] / count,
        "snapshot_server_us_per_row": snapshot["server_us"] / snapshot["rows"],
        "snapshot_postgres_us_per_row": snapshot["postgres_us"] / snapshot["rows"],
        "resume_bytes": resume["bytes"] / count,
        "change_bytes_without_text": change["bytes"] / changes - text,
        "statements_per_change": change["statements"] / changes,
        "server_us_per_change": change["server_us"] / changes,
        "postgres_us_per_change": change["postgres_us"] / changes,
        "bystander_us_per_change": 1e6 * ignored / again,
        "push_bytes_without_text": push["bytes"] / mutations - len(pushed.text.encode()),
        "statements_per_push": push["statements"] / mutations,
        "server_us_per_push": push["server_us"] / mutations,
        "postgres_us_per_push": push["postgres_us"] / mutations,
        "heartbeat_bytes": heartbeat,
        "log_line_bytes_per_connection": server.logged / (2 * count),
        "metrics_series": series,
        "written": changes + again + mutations,
        "lost": lost + lost_again + mutations - len(pushed.came_back),
    }


async def _heartbeat(stage: Stage) -> float:
    """Return the bytes of one, of devices to which nothing else is sent."""
    await stage.devices.call("traffic")
    heard = dict[str, int](bytes=0, frames=0)

    async def from_all() -> bool:
        for key, more in (await stage.devices.call("traffic")).items():
            heard[key] = heard.get(key, 0) + more
        return heard["frames"] >= stage.devices.count

    await eventually("a heartbeat from each", from_all)
    return heard["bytes"] / heard["frames"]


async def _series(port: int) -> int:
    """Return how many a process exposes."""
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"Authorization": f"Bearer {METRICS_TOKEN}"}
        page = await client.get(f"http://127.0.0.1:{port}/metrics", headers=headers)
    return sum(line[:1] not in ("", "#") for line in page.raise_for_status().text.splitlines())


async def _poll(stage: Stage, admin: Any, text: float) -> dict[str, float]:
    """The answers to a client that reads everything of one user."""
    answers = [answer.encode() for (answer,) in await admin.fetch(ANSWERS, stage.users[-1])]
    size = sum(map(len, answers))
    messages = CONVERSATIONS * MESSAGES
    return {
        "poll_answers": len(answers),
        "poll_bytes": size,
        "poll_gzip_share": sum(len(gzip.compress(answer)) for answer in answers) / size,
        "poll_bytes_per_row_without_text": (size - messages * text) / (CONVERSATIONS + messages),
    }


async def _used(stage: Stage, work: Awaitable[T]) -> tuple[T, dict[str, float]]:
    """Return the result of `work`, and what was used until the server had done all of it: bytes, frames, rows,
    statements, and microseconds of CPU. The server must be at rest before."""

    async def read() -> dict[str, float]:
        return {
            "statements": await stage.statements(),
            "server_us": 1e6 * stage.server.cpu_seconds(),
            "postgres_us": _postgres_us(stage),
        }

    await stage.devices.call("traffic")
    before = await read()
    done = await work
    await stage.quiet()
    after = await read()
    return done, {key: after[key] - before[key] for key in after} | await stage.devices.call("traffic")


def _postgres_us(stage: Stage) -> float:
    return 1e6 * machine.cpu_seconds(stage.postgres.pid, family=True)


async def _bytes_per_row(admin: Any, table: str) -> float:
    return float(await admin.fetchval(SIZE, table)) / float(await admin.fetchval(f"SELECT count(*) FROM {table}"))
