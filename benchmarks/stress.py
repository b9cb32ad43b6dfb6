"""What a device misses while transactions overlap: with Atlas Sync, with full polls, and with delta polls.

Atlas Sync's devices are the Python client, whose rows must equal SELECT. `…_missed` are messages that are in the
database and never reach the device; `…_deletions_missed` are messages that stay on the device after their deletion.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from atlas_sync.device import Device, Status
from atlas_sync.replica import Replica
from atlas_sync.schema import Schema
from atlas_sync.session import Batch
from benchmarks.actors import ARRIVAL, SECRET, Devices
from benchmarks.machine import BenchmarkError
from benchmarks.processes import eventually
from benchmarks.stage import WRITERS, Stage
from server.edge.auth import mint

USERS: Final = 4
"""So few users that transactions of the same user overlap."""
INTERVAL: Final = 0.5
"""Seconds between two polls of a user: some happen at a bad moment."""
OPEN: Final = 0.1
"""Longest time in seconds that a transaction stays open after its write."""
DELETED: Final = 0.1
"""Share of the messages that are deleted, long after devices received them."""
HOME: Final = "SELECT id FROM conversations WHERE user_id = $1 LIMIT 1"
WRITE: Final = "INSERT INTO messages (id, conversation_id, role, content) VALUES ($1, $2, 'user', $3)"
EXISTING: Final = "SELECT id FROM messages WHERE id = ANY($1)"


async def stress(stage: Stage, full: Devices, delta: Devices, seconds: float) -> dict[str, float]:
    """Write to the first USERS users for `seconds`, while `full` and `delta` poll for them."""
    users = stage.users[:USERS]
    admin = await asyncpg.connect(stage.postgres.url())
    try:
        homes = [await admin.fetchval(HOME, user) for user in users]
        async with _told(stage, users) as replicas:
            written, deleted = await _write(stage, homes, seconds)
            existing = {row["id"].hex for row in await admin.fetch(EXISTING, [UUID(hex=each) for each in written])}
            held: dict[str, set[str]] = {}

            async def in_step() -> bool:
                held["told"] = {
                    str(key).replace("-", "") for replica in replicas for key in replica.rows["message"]
                } & written
                held["full"] = set(await full.call("held"))
                return held["told"] == held["full"] == existing

            with suppress(BenchmarkError):  # the figures say what is missing
                await eventually("all devices in step", in_step, ARRIVAL)
            await asyncio.sleep(2 * INTERVAL)  # by then the delta poll has run after the last commit
            held["delta"] = set(await delta.call("held"))
    finally:
        admin.terminate()
    return {
        "stress_written": len(written),
        "stress_deleted": deleted,
        "lost_in_stress": len(held["told"] ^ existing),
        **{f"{name}_missed": len(existing - held[name]) for name in ("full", "delta")},
        **{f"{name}_deletions_missed": len(held[name] - existing) for name in ("full", "delta")},
    }


@asynccontextmanager
async def _told(stage: Stage, users: list[UUID]) -> AsyncIterator[list[Replica]]:
    """Yield the rows of a live device of each of these users, which change."""

    def device(user: UUID, replica: Replica) -> Device:
        def token() -> str:
            return mint(user, SECRET, audience="authenticated", issuer="benchmarks", lifetime=3_600, now=time.time())

        def store(batch: Batch) -> None:
            (replica.replace if batch.replaces else replica.apply)(batch.rows)

        url = f"ws://127.0.0.1:{stage.server.port}/sync"
        return Device(url, user=user, token=token, client_id=uuid4(), schema=Schema.chat(), on_batch=store)

    replicas = [Replica(Schema.chat()) for _ in users]
    devices = [device(user, replica) for user, replica in zip(users, replicas, strict=True)]

    async def all_live() -> bool:
        return all(each.status is Status.LIVE for each in devices)

    async with asyncio.TaskGroup() as tasks:
        for each in devices:
            tasks.create_task(each.run())
        try:
            await eventually("all devices of the stress live", all_live)
            yield replicas
        finally:
            for each in devices:
                await each.stop()


async def _write(stage: Stage, homes: list[UUID], seconds: float) -> tuple[set[str], int]:
    """Write messages in transactions that stay open for a while. Return their ids, and the number of those deleted."""
    end = time.monotonic() + seconds
    written: set[str] = set()
    deleted = 0

    async def work(connection: Any) -> None:
        nonlocal deleted
        mine: list[UUID] = []
        while time.monotonic() < end:
            message = uuid4()
            async with connection.transaction():
                await connection.execute(WRITE, message, random.choice(homes), stage.text())
                await asyncio.sleep(random.uniform(0, OPEN))
            mine.append(message)
            written.add(message.hex)
        old = mine[: round(len(mine) * DELETED)]
        for message in old:  # one by one: a transaction over several users could deadlock with another
            await connection.execute("DELETE FROM messages WHERE id = $1", message)
        deleted += len(old)

    with ExitStack() as stack:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WRITERS):
                connection = await asyncpg.connect(stage.postgres.url())
                stack.callback(connection.terminate)
                tasks.create_task(work(connection))
    return written, deleted
