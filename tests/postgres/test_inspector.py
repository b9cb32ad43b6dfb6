"""What an inspection of the database finds, and what follows from it."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from server.clock import Clock
from server.declaration.synced import Synced
from server.exceptions import UnavailableError, UnfitError
from server.feed import presence
from server.feed.history import History
from server.feed.hub import Hub
from server.feed.presence import Presence
from server.postgres import inspector as module
from server.postgres.connection import NO_SYNC
from server.postgres.inspector import Inspector
from server.postgres.pool import Pool
from server.postgres.route import Route
from server.postgres.steps import SILENT
from server.postgres.store import PostgresStore
from server.postgres.undo import undo
from tests.support.cluster import Database
from tests.support.waiting import eventually

WAITING = "SELECT count(*) = $1 FROM pg_locks WHERE relation = 'sync.histories'::regclass AND NOT granted"


async def test_a_history_that_could_not_begin_begins_before_any_device_is_served_again(
    database: Database, sql: Any
) -> None:
    history = History(Hub(lambda _: None))
    inspector = Inspector(Route(database.server_url, history), Clock(), Synced(), 0.0)
    await inspector.inspect()
    before = await sql.fetchval("SELECT sync.epoch()")
    assert (history.epoch, history.blind) == (before, None)
    await sql.execute("ALTER FUNCTION sync.begin_history RENAME TO mislaid")
    with pytest.raises((UnavailableError, UnfitError)):
        await inspector.inspect()
    assert history.blind is not None
    await sql.execute("ALTER FUNCTION sync.mislaid RENAME TO begin_history")
    for _ in range(2):
        await inspector.inspect()
    assert history.blind is None
    assert history.epoch == await sql.fetchval("SELECT sync.epoch()") != before


async def test_a_server_whose_database_was_undone_says_so_in_one_line(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(hub := Hub(lambda _: None))
    synced = Synced()
    route = Route(database.server_url, history)
    inspector = Inspector(route, Clock(), synced, 0.0)
    store = PostgresStore(pool := Pool(route, synced, size=1), synced)
    monkeypatch.setattr(presence, "EVERY", 0.01)
    await inspector.inspect()
    await undo(database.url, SILENT)
    tried = []

    async def counted() -> None:
        tried.append(1)
        await Presence.record(recording)

    recording = Presence(hub, store, "a server", lambda: history.inspection_error)
    monkeypatch.setattr(recording, "record", counted)
    with capture_logs() as logged:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(inspector.run())]
            synced.on_mismatch()  # inspect now
            await eventually(lambda: history.inspection_error)
            running.append(tasks.create_task(recording.run()))
            await eventually(lambda: len(tried) > 2)
            for task in running:
                task.cancel()
    assert [(line["event"], line["error"]) for line in logged] == [("the database could not be inspected", NO_SYNC)]
    pool.terminate()


@pytest.mark.parametrize(
    "of_another_version",
    ["UPDATE sync.migrations SET version_num = '9999_of_tomorrow'", "UPDATE sync.migrations SET definitions = '{}'"],
)
async def test_a_schema_that_another_version_made_is_not_judged(
    database: Database, sql: Any, of_another_version: str
) -> None:
    history = History(Hub(lambda _: None))
    inspector = Inspector(Route(database.server_url, history), Clock(), Synced(), 0.0)
    await sql.execute("ALTER FUNCTION sync.run_deferred_triggers RENAME TO of_another_version")
    with pytest.raises(UnfitError, match="run_deferred_triggers is missing"):
        await inspector.inspect()
    await sql.execute(of_another_version)
    await inspector.inspect()
    await inspector.inspect()
    assert history.blind is None


async def test_several_servers_that_find_a_new_history_name_it_once_in_every_default_isolation(
    database: Database, sql: Any
) -> None:
    await sql.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'repeatable read'")
    await sql.execute("UPDATE sync.meta SET history = $1", uuid4())
    histories = [History(Hub(lambda _: None)) for _ in range(3)]
    inspectors = [Inspector(Route(database.server_url, history), Clock(), Synced(), 0.0) for history in histories]
    async with asyncio.TaskGroup() as tasks, sql.transaction(isolation="read_committed"):
        await sql.execute("LOCK TABLE sync.histories IN SHARE ROW EXCLUSIVE MODE")
        for inspector in inspectors:
            tasks.create_task(inspector.inspect())
        await eventually(lambda: sql.fetchval(WAITING, len(inspectors)))
    assert len({history.epoch for history in histories}) == 1


async def test_while_postgres_is_away_it_is_asked_often_and_then_everybodys_pauses_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = History(Hub(lambda _: None))
    inspector = Inspector(Route("postgresql://one,two/db", history), Clock(), Synced(), 0.0)
    monkeypatch.setattr(module, "EVERY_OF_SEVERAL", 600.0)
    monkeypatch.setattr(module, "EVERY", 600.0)
    answers = iter([UnavailableError("away"), UnavailableError("away"), None])

    async def inspect() -> None:
        if (error := next(answers)) is not None:
            raise error

    monkeypatch.setattr(inspector, "inspect", inspect)
    running = asyncio.create_task(inspector.run())
    history.on_mismatch()
    await eventually(lambda: history.alarm.rung == 1)
    running.cancel()
