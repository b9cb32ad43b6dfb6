"""L1, M2: what one user asks for again and again delays that user, and nobody else."""

import asyncio
import contextlib
from typing import Any
from uuid import uuid4

import pytest

from protocol.frames import Error, Hello, Live, Page
from server.declaration.model import Kind
from server.feed.ports import Answer
from server.postgres.store import PostgresStore
from tests.support.cluster import Database
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.serving import Running, serving, token


async def test_a_user_who_connects_too_often_is_told_when_to_come_back(database: Database, sql: Any) -> None:
    user = await add_user(sql)
    async with serving(database, hellos_per_minute=3) as server:
        for _ in range(3):
            async with peer(server.url) as device:
                await device.greet(user)
        async with peer(server.url) as device:
            await device.say(Hello(token=token(user), client_id=uuid4()))
            error = await device.hear()
            assert isinstance(error, Error)
            assert (error.code, error.retryable, error.answers) == ("too_many_hellos", True, "hello")
            assert error.retry_after is not None
            assert error.retry_after > 10_000
            assert (await device.closed())[0] == 4005
        async with peer(server.url) as device:
            await device.greet(await add_user(sql))


@pytest.mark.parametrize("what", ["pages", "snapshots"])
async def test_many_requests_of_one_user_delay_another_users_by_two_at_most(
    database: Database, server: Running, sql: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy, modest = await add_user(sql), await add_user(sql)
    served: list[str] = []
    may_read = asyncio.Event()
    may_read.set()
    read = PostgresStore.rows

    async def slowly(self: PostgresStore, kind: Kind, user: str, *arguments: Any) -> Answer:
        await may_read.wait()
        served.append(user)
        return await read(self, kind, user, *arguments)

    monkeypatch.setattr(PostgresStore, "rows", slowly)
    async with contextlib.AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(peer(server.url)) for _ in range(16)]
        other = await stack.enter_async_context(peer(server.url))
        if what == "pages":
            for device, user in [*((device, greedy) for device in devices), (other, modest)]:
                await device.greet(user)
                await device.hear_a(Live)
        served.clear()
        may_read.clear()
        for device in devices:
            if what == "pages":
                for number in range(4):
                    await device.say(device.asking(number))
            else:
                await device.say(Hello(token=token(greedy), client_id=uuid4()))
        if what == "pages":
            await other.say(other.asking(0))
        else:
            await other.say(Hello(token=token(modest), client_id=uuid4()))
        await other.socket.ping()
        may_read.set()
        await other.hear_a(Page if what == "pages" else Live)
        assert served.index(str(modest)) <= 4
