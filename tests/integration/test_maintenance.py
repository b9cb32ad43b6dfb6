"""P1, P2, P8 while the database is maintained: nobody's write fails, and no device sees anything of it."""

import asyncio
import contextlib
import os
import random
import time
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from server.operations.maintenance_plan import FEW
from tests.support.client_device import ClientDevice
from tests.support.cluster import Database, administrator
from tests.support.maintenance import (
    Maintenance,
    add_many_strays,
    add_old_messages,
    at_rest,
    left,
    maintained,
    make_month,
    select_all,
    whereabouts,
)
from tests.support.peer import Peer, peer
from tests.support.people import add_conversation, add_user
from tests.support.rows import Before, Message
from tests.support.serving import ServerProcess
from tests.support.waiting import LIMIT, eventually

SECONDS = float(os.environ.get("ATLAS_MAINTENANCE_SECONDS", "5"))
WRITERS = 6
PAUSE = 0.02
"""Seconds between two transactions of a writer, on average: with what they take, some 200 a second in all."""
SETTLE = 30.0


class App:
    """A connection of the app's: short transactions of one conversation each, none of which may fail."""

    def __init__(self, sql: Any, conversations: dict[UUID, UUID], rng: random.Random) -> None:
        self._sql = sql
        self._conversations = list(conversations.items())
        self._rng = rng
        self.transactions = 0
        self.changes = 0
        """Rows that it changed."""
        self.strays = 0
        self.longest = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            begun = time.perf_counter()
            async with asyncio.timeout(LIMIT):  # a hang, and no measure
                await self._transaction()
            self.longest = max(self.longest, time.perf_counter() - begun)
            self.transactions += 1
            await asyncio.sleep(self._rng.expovariate(1 / PAUSE))

    async def _transaction(self) -> None:
        rng, sql = self._rng, self._sql
        user, conversation = rng.choice(self._conversations)
        text = f"{user} {rng.getrandbits(64):x}"
        choice = rng.random()
        async with sql.transaction():
            if choice < 0.8:
                await self._insert(conversation, text, 0)
            elif choice < 0.9:
                await self._insert(conversation, text, rng.choice([*range(-30, -3), *range(6, 12)]))
                self.strays += 1
            else:
                table = rng.choice(["messages", "messages_archive"])
                verb = rng.choice([f"UPDATE {table} SET content = $2", f"DELETE FROM {table}"])
                done = await sql.execute(
                    f"{verb} WHERE $2 <> '' AND (id, created_at) = (SELECT id, created_at FROM {table} "
                    "WHERE conversation_id = $1 ORDER BY random() LIMIT 1)",
                    conversation,
                    text,
                )
                self.changes += int(done.split()[1])
            await sql.execute("UPDATE conversations SET title = $2 WHERE id = $1", conversation, text)
            self.changes += 1

    async def _insert(self, conversation: UUID, text: str, months: int) -> None:
        await self._sql.execute(
            "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', $2, CASE $3::int "
            "WHEN 0 THEN clock_timestamp() ELSE date_trunc('month', now(), 'UTC') + make_interval(months => $3, "
            "secs => $4::float) END)",
            conversation,
            text,
            months,
            self._rng.uniform(0, 27 * 86_400),
        )
        self.changes += 1


async def scroll_again_and_again(device: Peer, conversation: UUID, expected: list[UUID], stop: asyncio.Event) -> int:
    """From today into the archive, page by page; how often."""
    times = 0
    while not stop.is_set() or not times:
        got: list[UUID] = []
        before: Before | None = None
        more = True
        while more:
            page = await device.page(conversation, before, 10)
            for row in page.rows:
                assert isinstance(row, Message)
                got.append(row.id)
                before = Before(row.created_at, row.id)
            more = page.more
        assert got == expected, "a hole, or a repeat"
        times += 1
        await asyncio.sleep(PAUSE)
    return times


async def maintain_again_and_again(database: Database, sql: Any, rng: random.Random, stop: asyncio.Event) -> int:
    """Every other one is killed at work; how many were not."""
    ended = 0
    while not stop.is_set():
        maintenance = Maintenance(database, "--once")
        if rng.random() < 0.5:
            await maintenance.killed_at_work(sql, rng, 0.5)
        else:
            await maintenance.start()
            await maintenance.end()
            ended += 1
    await at_rest(sql)
    return ended


async def grow_old(sql: Any, stop: asyncio.Event) -> None:
    """Weeks of the log and months of messages that are to be dropped and archived."""
    for age in range(40, 200):
        if stop.is_set():
            return
        # As `maintain` does, it gives up what it cannot lock at once.
        with contextlib.suppress(asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            await make_month(sql, -age)
            await sql.execute(
                "SELECT sync.make_partition('log', date_trunc('week', now(), 'UTC') - make_interval(weeks => $1))", age
            )
        await asyncio.sleep(0.1)


@pytest.mark.usefixtures("strays_move")
async def test_beside_maintenance_that_is_killed_again_and_again_everybody_works_as_if_there_were_none(
    database: Database,
) -> None:
    rng = random.Random()
    async with contextlib.AsyncExitStack() as stack:
        sql, other = [await stack.enter_async_context(administrator(database)) for _ in range(2)]
        users = [await add_user(sql) for _ in range(3)]
        conversations = {user: await add_conversation(sql, user, f"{user} talks") for user in users}
        for month in range(-18, -12):
            await make_month(sql, month)
            for user, conversation in conversations.items():
                await add_old_messages(sql, conversation, month, 10, f"{user} {month}")
        # One that nobody writes to, to be scrolled through.
        quiet = await add_conversation(sql, users[0], f"{users[0]} is quiet")
        for month in (-40, -35, *range(-18, -12), -8, 0):
            await add_old_messages(sql, quiet, month, 7, f"{users[0]} {month}")
        history = await sql.fetch(
            "SELECT id FROM messages WHERE conversation_id = $1 ORDER BY created_at DESC, id DESC", quiet
        )
        expected = [UUID(str(record[0])) for record in history]
        # As many as are moved while everybody works.
        strayed = await add_conversation(sql, await add_user(sql))
        for month in (-38, -9, 8):
            await add_many_strays(sql, strayed, month, FEW + 1)
        recorded = await sql.fetchval("SELECT count(*) FROM sync.log")

        server = await stack.enter_async_context(ServerProcess(database.server_url))
        devices = [ClientDevice(server.url, user) for user in users for _ in range(2)]
        for device in devices:
            device.start()
            stack.push_async_callback(device.stop)
            assert device.device is not None
            await device.device.wait_live(LIMIT)
        scroller = await stack.enter_async_context(peer(server.url))
        await scroller.greet(users[0], window={"conversation": 0, "message": 0})
        apps = [
            App(await stack.enter_async_context(administrator(database)), conversations, random.Random(rng.random()))
            for _ in range(WRITERS)
        ]

        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(SECONDS, stop.set)
        async with asyncio.TaskGroup() as tasks:
            maintaining = tasks.create_task(maintain_again_and_again(database, sql, rng, stop))
            scrolling = tasks.create_task(scroll_again_and_again(scroller, quiet, expected, stop))
            tasks.create_task(grow_old(other, stop))
            for app in apps:
                tasks.create_task(app.run(stop))

        await maintained(database)
        assert await left(database) == []
        assert "public.messages_default" not in await whereabouts(sql)
        assert await sql.fetchval("SELECT count(*) FROM messages_archive") > 0
        changes = sum(app.changes for app in apps)
        assert await sql.fetchval("SELECT count(*) FROM sync.log") == recorded + changes, "a move was recorded"
        for device in devices:
            state = await select_all(sql, device.user)

            def up_to_date(device: ClientDevice = device, state: object = state) -> bool:
                device.check()
                return device.state() == state

            try:
                await eventually(up_to_date, SETTLE)
            except AssertionError:
                assert device.state() == state
            assert device.snapshots == ["new"]
        await scroll_again_and_again(scroller, quiet, expected, stop)
        print(  # noqa: T201 (what nobody asserts, but somebody wants to know)
            f"{sum(app.transactions for app in apps)} transactions, {sum(app.strays for app in apps)} strays, "
            f"longest {max(app.longest for app in apps):.3f} s; {maintaining.result()} maintained to their end, "
            f"{scrolling.result()} scrolled"
        )
        assert not [event for event in server.log if "exception" in event]
