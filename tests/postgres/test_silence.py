"""NOTIFY is silent only while no server depends on it, and a server that begins to listen misses nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.postgres.listener import ListenDoorbells, Listening, Silence, doorbell
from server.retry import Alarm
from tests.support.cluster import Cluster, Database, administrator, running_cluster
from tests.support.people import add_conversation, add_user
from tests.support.waiting import eventually

KEEP_QUIET = "SELECT sync.keep_quiet()"
MARK = "SELECT pg_try_advisory_lock{}(1635019891, 1)"
QUIET = "SELECT quiet_until > clock_timestamp() FROM sync.meta"


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        await connection.execute("UPDATE sync.meta SET doorbells = 'wal'")
        yield connection


@pytest.fixture
async def reader(every_database: Database) -> AsyncIterator[Any]:
    """A server that reads the WAL."""
    async with login(every_database) as connection:
        yield connection


@contextlib.asynccontextmanager
async def login(database: Database) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database.server_url)
    try:
        yield connection
    finally:
        connection.terminate()


@contextlib.asynccontextmanager
async def listening(database: Database, heard: list[str] | None = None) -> AsyncIterator[Listening]:
    def ring(user: str, _seq: int) -> None:
        if heard is not None:
            heard.append(user)

    async with Listening(lambda: asyncpg.connect(database.server_url), doorbell(ring), asyncio.Lock()) as made:
        yield made


async def rings(sql: Any, heard: list[str]) -> bool:
    """Whether a change rings now, for somebody who listens and said so to nobody."""
    user = await add_user(sql)
    # Notifications arrive in the order of commits.
    after = str(uuid4())
    await sql.execute("SELECT pg_notify(channel, $1 || ' 1') FROM sync.meta", after)
    await eventually(lambda: after in heard)
    return str(user) in heard


@contextlib.asynccontextmanager
async def unnoticed(database: Database) -> AsyncIterator[list[str]]:
    heard: list[str] = []
    async with listening(database, heard):
        yield heard


async def test_doorbells_ring_unless_a_server_that_reads_the_wal_keeps_them_quiet(
    every_database: Database, sql: Any, reader: Any
) -> None:
    async with unnoticed(every_database) as heard:
        assert await rings(sql, heard)
        assert await reader.fetchval(KEEP_QUIET) is True
        assert not await rings(sql, heard)


async def test_nothing_is_quiet_unless_migrate_has_chosen_it(every_database: Database, sql: Any, reader: Any) -> None:
    await sql.execute("UPDATE sync.meta SET doorbells = 'listen'")
    async with unnoticed(every_database) as heard:
        assert await reader.fetchval(KEEP_QUIET) is False
        assert await rings(sql, heard)


async def test_a_choice_taken_back_ends_the_silence(every_database: Database, sql: Any, reader: Any) -> None:
    await reader.fetchval(KEEP_QUIET)
    await sql.execute("UPDATE sync.meta SET doorbells = 'listen'")
    assert await reader.fetchval(KEEP_QUIET) is False
    async with unnoticed(every_database) as heard:
        assert await rings(sql, heard)


async def test_doorbells_ring_again_by_themselves_when_nobody_keeps_them_quiet(
    every_database: Database, sql: Any, reader: Any
) -> None:
    """Servers that know nothing of this, and that are started after all others ended, must hear them."""
    await reader.fetchval(KEEP_QUIET)
    await sql.execute("UPDATE sync.meta SET quiet_until = clock_timestamp()")  # two minutes later
    async with unnoticed(every_database) as heard:
        assert await rings(sql, heard)


async def test_a_silence_is_extended_before_it_ends_and_written_no_more_often(sql: Any, reader: Any) -> None:
    for _ in range(3):
        assert await reader.fetchval(KEEP_QUIET) is True
    version = await sql.fetchval("SELECT xmin::text FROM sync.meta")
    await reader.fetchval(KEEP_QUIET)
    assert await sql.fetchval("SELECT xmin::text FROM sync.meta") == version
    await sql.execute("UPDATE sync.meta SET quiet_until = clock_timestamp() + interval '59 seconds'")
    assert await reader.fetchval(KEEP_QUIET) is True
    assert await sql.fetchval("SELECT quiet_until > clock_timestamp() + interval '110 seconds' FROM sync.meta")


async def test_a_server_that_listens_ends_the_silence_and_keeps_another_from_beginning(
    every_database: Database, sql: Any, reader: Any
) -> None:
    await reader.fetchval(KEEP_QUIET)
    heard: list[str] = []
    async with listening(every_database, heard) as made:
        silence = await made.end_silence()
        assert silence.marked
        assert silence.over
        assert await rings(sql, heard)
        assert await reader.fetchval(KEEP_QUIET) is False
        assert await rings(sql, heard)

    # With its connection its mark is gone.
    await eventually(lambda: reader.fetchval(KEEP_QUIET))


async def test_a_silence_that_is_about_to_begin_waits_for_a_server_that_begins_to_listen(
    every_database: Database, sql: Any, reader: Any
) -> None:
    async with login(every_database) as other:
        transaction = other.transaction()
        await transaction.start()
        assert await other.fetchval("SELECT sync.listening()") is True
        asked = asyncio.create_task(reader.fetchval(KEEP_QUIET))
        await transaction.commit()
        assert await asked is False
    assert not await sql.fetchval(QUIET)


async def test_a_server_that_begins_to_listen_ends_a_silence_that_is_just_beginning(
    every_database: Database, sql: Any, reader: Any
) -> None:
    async with login(every_database) as other:
        transaction = reader.transaction()
        await transaction.start()
        assert await reader.fetchval(KEEP_QUIET) is True
        asked = asyncio.create_task(other.fetchval("SELECT sync.listening()"))
        waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')"
        await eventually(lambda: sql.fetchval(waits, other.get_server_pid()))
        await transaction.commit()
        assert await asked is True
        assert not await sql.fetchval(QUIET)


async def test_a_stranger_who_holds_the_mark_stops_nobody_and_silences_nothing(
    every_database: Database, sql: Any, reader: Any
) -> None:
    """Any role may take an advisory lock."""
    assert await sql.fetchval(MARK.format(""))
    assert await reader.fetchval(KEEP_QUIET) is False
    heard: list[str] = []
    async with listening(every_database, heard) as made:
        silence = await made.end_silence()
        assert not silence.marked
        assert not silence.over
        assert await rings(sql, heard)
        assert await sql.fetchval("SELECT pg_advisory_unlock(1635019891, 1)")
        silence = await made.look(silence)
        assert silence.marked
        assert await reader.fetchval(KEEP_QUIET) is False


async def test_a_transaction_that_began_in_silence_is_waited_for(
    every_database: Database, sql: Any, reader: Any
) -> None:
    """It has read that nobody listens, and commits after somebody does."""
    conversation = await add_conversation(sql, await add_user(sql))
    await reader.fetchval(KEEP_QUIET)
    async with administrator(every_database) as writer, listening(every_database) as made:
        await writer.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        await rename(writer, conversation)
        await writer.execute("SET CONSTRAINTS ALL IMMEDIATE")
        silence = await made.end_silence()
        assert not silence.over
        silence = await made.look(silence)
        assert silence.oldest < silence.horizon
        await writer.execute("COMMIT")
        assert (await made.look(silence)).over


async def test_a_transaction_that_began_after_the_silence_is_not_waited_for(
    every_database: Database, sql: Any, reader: Any
) -> None:
    conversation = await add_conversation(sql, await add_user(sql))
    await reader.fetchval(KEEP_QUIET)
    async with administrator(every_database) as writer, listening(every_database) as made:
        silence = await made.end_silence()
        await writer.execute("BEGIN")
        await rename(writer, conversation)
        assert (await made.look(silence)).oldest >= silence.horizon


@pytest.fixture(scope="module")
def preparing() -> Iterator[Cluster]:
    with running_cluster("18", {"max_prepared_transactions": "2"}) as cluster:
        yield cluster


async def test_a_transaction_that_was_prepared_in_silence_is_waited_for(preparing: Cluster) -> None:
    """Its session is gone. With NOTIFY it could not have been prepared."""
    database = await preparing.create()
    async with administrator(database) as sql, listening(database) as made:
        conversation = await add_conversation(sql, await add_user(sql))
        await sql.execute("UPDATE sync.meta SET doorbells = 'wal'")
        await sql.fetchval(KEEP_QUIET)
        await sql.execute("BEGIN")
        await rename(sql, conversation)
        await sql.execute("PREPARE TRANSACTION 'later'")
        silence = await made.look(await made.end_silence())
        assert silence.oldest < silence.horizon
        await sql.execute("COMMIT PREPARED 'later'")
        assert (await made.look(silence)).over
        await sql.execute("BEGIN")
        await sql.execute("UPDATE public.conversations SET title = 'a third' WHERE id = $1", conversation)
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            await sql.execute("PREPARE TRANSACTION 'never'")
    await database.drop()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_transaction_that_keeps_an_old_snapshot_rings_even_in_silence(
    every_database: Database, sql: Any, reader: Any, level: str
) -> None:
    """It may get its xid long after a server has begun to listen, and would not see that."""
    user = await add_user(sql)
    conversation = await add_conversation(sql, user)
    await reader.fetchval(KEEP_QUIET)
    heard: list[str] = []
    async with administrator(every_database) as writer, listening(every_database, heard) as made:
        await writer.execute(f"BEGIN ISOLATION LEVEL {level}")
        await writer.execute("SELECT FROM sync.meta")
        assert (await made.end_silence()).over
        await rename(writer, conversation)
        await writer.execute("COMMIT")
        await eventually(lambda: str(user) in heard)


async def rename(connection: Any, conversation: UUID) -> None:
    await connection.execute("UPDATE public.conversations SET title = 'another' WHERE id = $1", conversation)


@pytest.mark.parametrize("function", ["listening()", "keep_quiet()", "has_listeners()"])
async def test_no_other_role_may_end_or_begin_a_silence(every_database: Database, sql: Any, function: str) -> None:
    await sql.execute("GRANT USAGE ON SCHEMA sync TO authenticated; SET ROLE authenticated")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sql.execute(f"SELECT sync.{function}")


async def test_doorbells_are_up_again_once_a_transaction_that_began_in_silence_has_committed(
    every_database: Database, sql: Any, reader: Any
) -> None:
    """Each `up` has the server look for changes."""
    conversation = await add_conversation(sql, await add_user(sql))
    await reader.fetchval(KEEP_QUIET)
    committed = False
    found: list[bool] = []

    async def connect(*, required: bool) -> Any:
        return SimpleNamespace(raw=await asyncpg.connect(every_database.server_url))

    history = SimpleNamespace(on_change=[], alarm=Alarm())
    route: Any = SimpleNamespace(history=history, connect=connect, spare=asyncio.Lock())
    async with administrator(every_database) as writer:
        await writer.execute("BEGIN")
        await rename(writer, conversation)
        await writer.execute("SET CONSTRAINTS ALL IMMEDIATE")
        running = asyncio.create_task(
            ListenDoorbells(route).run(lambda user, seq: None, lambda: found.append(committed), lambda: None)
        )
        await eventually(lambda: len(found) > 1)
        await writer.execute("COMMIT")
        committed = True
        await eventually(lambda: found[-1])
        running.cancel()


def test_looks_become_rare_and_end() -> None:
    silence, pauses = Silence(True, 10, 9), []
    while not silence.over:
        pauses.append(silence.pause)
        silence = Silence(True, 10, 9, 2 * silence.pause)
    assert pauses == sorted(pauses)
    assert len(pauses) < 10
    assert sum(pauses) < 60
