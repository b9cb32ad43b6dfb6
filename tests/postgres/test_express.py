"""A read for one live reader is quick or not at all: what is slow, unusual or broken is left to the store, at once."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest

from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.feed.change import Entry
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub
from server.feed.ports import CONTENT_BYTES
from server.postgres import express
from server.postgres.express import PostgresExpress
from server.postgres.route import Route
from tests.support.cluster import Database, administrator
from tests.support.people import add_conversation, add_message, add_user
from tests.support.second import SECOND
from tests.support.waiting import eventually

OURS = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'atlas_server' AND datname = current_database()"


class Reading:
    """A running express, and a user with a conversation."""

    def __init__(self, database: Database) -> None:
        self.history = History(Hub(lambda _: None))
        self.route = Route(database.server_url, self.history)
        self.synced = Synced(CHAT)
        self.express = PostgresExpress(self.route, self.synced)
        self.user = self.conversation = UUID(int=0)
        self.position = 0

    def ask(self) -> "asyncio.Future[Sequence[Entry] | None]":
        answer: asyncio.Future[Sequence[Entry] | None] = asyncio.get_running_loop().create_future()
        self.express.read(str(self.user), self.position, answer.set_result)
        return answer


@contextlib.asynccontextmanager
async def express_of(database: Database, sql: Any) -> AsyncIterator[Reading]:
    made = Reading(database)
    made.user = await add_user(sql)
    made.conversation = await add_conversation(sql, made.user)
    made.position = await sql.fetchval("SELECT seq FROM sync.feeds WHERE user_id = $1", made.user)
    running = asyncio.create_task(made.express.run())
    try:
        await eventually(lambda: made.express.free)
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
async def reading(database: Database, sql: Any) -> AsyncIterator[Reading]:
    async with express_of(database, sql) as made:
        yield made


async def test_a_few_changes_are_answered_and_many_are_left_to_the_store(reading: Reading, sql: Any) -> None:
    for _ in range(8):
        await add_message(sql, reading.conversation)
    found = await reading.ask()
    assert found is not None
    assert [entry.kind for entry in found] == ["m"] * 8
    assert [entry.next_seq for entry in found] == [*(entry.seq for entry in found[1:]), None]
    await add_message(sql, reading.conversation)
    assert await reading.ask() is None


async def test_more_content_than_a_batch_has_is_left_to_the_store_but_for_one_row(reading: Reading, sql: Any) -> None:
    await add_message(sql, reading.conversation, "m" * CONTENT_BYTES)
    found = await reading.ask()
    assert found is not None
    assert len(found) == 1
    await add_message(sql, reading.conversation)
    assert await reading.ask() is None


async def test_a_change_of_the_gate_is_left_to_the_store_which_knows_who_syncs(reading: Reading, sql: Any) -> None:
    await sql.execute("UPDATE profiles SET subscription_tier = 'free' WHERE id = $1", reading.user)
    assert await reading.ask() is None


async def test_a_row_of_an_old_partition_is_left_to_the_store(reading: Reading, sql: Any) -> None:
    await sql.execute("SELECT sync.ensure_partitions(now() - interval '40 days', now())")
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) "
        "VALUES ($1, 'user', 'old', now() - interval '35 days')",
        reading.conversation,
    )
    assert await reading.ask() is None


async def test_nothing_new_is_left_to_the_store(reading: Reading) -> None:
    assert await reading.ask() is None


async def test_a_read_that_waits_for_a_lock_is_left_to_the_store_and_opens_no_connection(
    reading: Reading, database: Database, sql: Any
) -> None:
    await add_message(sql, reading.conversation)
    connections = await sql.fetchval(OURS)
    with (
        patch.object(express, "PATIENCE", 0.05),
        patch.object(express, "LOOK_SECONDS", 0.01),
    ):
        async with administrator(database) as other, other.transaction():
            await other.execute("LOCK TABLE messages")
            answers = [reading.ask(), reading.ask()]
            assert await asyncio.gather(*answers) == [None, None]
            assert not reading.express.free, "what is asked now would wait, too"
            assert await sql.fetchval(OURS) == connections
        await eventually(lambda: reading.express.free)
        assert await reading.ask() is not None
        assert await sql.fetchval(OURS) == connections


async def test_postgres_cancels_a_read_that_waits_for_too_long(database: Database, sql: Any) -> None:
    with patch.object(express, "ANSWER_SECONDS", 0.2):
        async with express_of(database, sql) as reading:
            await add_message(sql, reading.conversation)
            async with administrator(database) as other, other.transaction():
                await other.execute("LOCK TABLE messages")
                assert await reading.ask() is None
                await eventually(lambda: reading.express.free)


async def test_a_read_whose_connection_ends_is_left_to_the_store_and_another_connection_is_made(
    reading: Reading, database: Database, sql: Any
) -> None:
    await add_message(sql, reading.conversation)
    async with administrator(database) as other, other.transaction():
        await other.execute("LOCK TABLE messages")
        answer = reading.ask()
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'atlas_server'"
        await eventually(lambda: sql.fetchval(f"{ended} AND wait_event_type = 'Lock'"))
        assert await answer is None
    await eventually(lambda: reading.express.free)
    assert await reading.ask() is not None


async def test_another_declaration_or_history_ends_the_connection(reading: Reading, sql: Any) -> None:
    await add_message(sql, reading.conversation)
    seen: list[str] = []
    reading.synced.on_mismatch = lambda: seen.append("mismatch")
    reading.synced.use(SECOND)
    assert not reading.express.free
    # SECOND names tables that are not there, so that nothing is prepared.
    reading.synced.use(CHAT)
    await eventually(lambda: reading.express.free)
    await sql.execute("UPDATE sync.declaration SET digest = 'another'")
    assert await reading.ask() is None
    assert seen
    await sql.execute("UPDATE sync.declaration SET digest = $1", CHAT.digest)
    now = reading.history._report
    assert now is not None
    reading.history.connected(
        HistoryReport("f" * 16, (now.epoch,), now.system, now.timeline, now.began_at, now.started)
    )
    assert not reading.express.free


async def test_it_gives_its_connection_back_when_postgres_has_none_left(reading: Reading, sql: Any) -> None:
    assert reading.express.open == 1
    reading.express.give_back()
    assert reading.express.open == 0 or not reading.express.free
    await eventually(lambda: sql.fetchval(f"{OURS.replace('count(*)', 'count(*) = 0')}"))
    assert reading.express.open == 0


async def test_a_statement_that_cannot_be_prepared_is_tried_again_after_a_pause(reading: Reading, sql: Any) -> None:
    before = reading.route.history.alarm.rung
    opened = 0
    connect = reading.route.connect

    async def counted(**options: Any) -> Any:
        nonlocal opened
        opened += 1
        return await connect(**options)

    with patch.object(type(reading.route), "connect", lambda _, **options: counted(**options)):
        reading.synced.use(SECOND)  # names tables that are not there
        await eventually(lambda: opened == 3)
        assert not reading.express.free
        reading.synced.use(CHAT)
        await eventually(lambda: reading.express.free)
    assert opened < 10
    assert reading.route.history.alarm.rung == before
