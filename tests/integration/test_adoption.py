"""A database that is in use becomes ours, and the app's again: nobody's write fails, and nothing is lost."""

import asyncio
import os
import random
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from benchmarks.v1 import Load, fill, writing
from tests.support.chat_app import CHAT_FILE, create, shape
from tests.support.client_device import ClientDevice
from tests.support.cluster import Cluster, Database, administrator
from tests.support.oracle import State, select_everything
from tests.support.serving import serving
from tests.support.waiting import eventually

MESSAGES = 10_000
USERS = 40
DEVICES = 6
RATE = 200.0
MIGRATE = ("migrate", "--declaration", CHAT_FILE)


class Owner(ClientDevice):
    """Reads what V1's users wrote, which does not name its owner."""

    def _object_to_strangers(self, row: object) -> None: ...


@pytest.fixture
async def v1(postgres_18: Cluster) -> Database:
    database = await postgres_18.create("template0")
    async with administrator(database) as sql:
        await create(sql)
        await fill(sql, MESSAGES, USERS)
    return database


async def start(database: Database, *command: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "DATABASE_URL": database.url}
    silent = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", *command, env=environment, stdout=silent, stderr=silent, start_new_session=True
    )


async def run(database: Database, *command: str) -> None:
    process = await start(database, *command)
    async with asyncio.timeout(60):
        assert await process.wait() == 0


async def kill_again_and_again(database: Database, rng: random.Random, *command: str) -> None:
    """Processes that are killed after some 0.6 to 1.4 s; one may get far, or all the way."""
    for _ in range(2):
        process = await start(database, *command)
        try:
            async with asyncio.timeout(rng.uniform(0.6, 1.4)):
                await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            await process.wait()


async def grown(load: Load, by: int) -> None:
    before = len(load.written)
    await eventually(lambda: load.failures or len(load.written) >= before + by)


async def holds(device: Owner, sql: Any) -> bool:
    device.check()
    return device.state() == await as_before(sql, device.user)


async def as_before(sql: Any, user: UUID) -> State:
    """What a device must hold: rows of before have no updated_at."""
    state = await select_everything(sql, user)
    return {
        key: (*row[:-1], row[-1] if row[-1] is not None else row[-2]) if key[0] == "m" else row
        for key, row in state.items()
    }


async def has_its_snapshot(device: Owner) -> None:
    """One that is stopped before gets another."""
    await eventually(lambda: device.cursor is not None)


async def test_a_database_in_use_is_adopted_and_given_back_while_people_write(v1: Database) -> None:
    rng = random.Random(os.urandom(8))
    async with administrator(v1) as sql:
        original = await shape(sql)
        users = [row["id"] for row in await sql.fetch("SELECT id FROM profiles ORDER BY id LIMIT $1", DEVICES)]
        async with AsyncExitStack() as stack:
            async with writing(v1.url, RATE) as load:
                await grown(load, 50)
                await kill_again_and_again(v1, rng, *MIGRATE)
                await run(v1, *MIGRATE)
                server = await stack.enter_async_context(serving(v1))
                devices = [Owner(server.url, UUID(str(user))) for user in users]
                for device in devices:
                    device.start()
                    stack.push_async_callback(device.stop)
                await grown(load, 100)
                for device in devices[::2]:
                    await has_its_snapshot(device)
                    await device.stop()
                await grown(load, 100)
                for device in devices[::2]:
                    device.start()
                await grown(load, 50)
            for device in devices:
                await eventually(partial(holds, device, sql))
                assert device.snapshots == ["new"]
        assert await found(sql, load) == len(load.written)

        async with writing(v1.url, RATE) as later:
            await grown(later, 50)
            await kill_again_and_again(v1, rng, "migrate", "--undo", "--yes")
            await run(v1, "migrate", "--undo", "--yes")
            await grown(later, 50)
        assert load.failures == later.failures == []
        assert await shape(sql) == original
        assert await found(sql, later) == len(later.written)
        older = "SELECT count(*) FROM messages WHERE content IS DISTINCT FROM 'written meanwhile'"
        assert await sql.fetchval(older) == MESSAGES
        assert await sql.fetchval("SELECT count(*) = count(DISTINCT id) FROM messages")


async def found(sql: Any, load: Load) -> int:
    """How many of the messages that were written are there."""
    return int(await sql.fetchval("SELECT count(*) FROM messages WHERE id = ANY ($1)", load.written))
