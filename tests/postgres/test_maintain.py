"""`atlas-sync maintain` on the newest and the oldest PostgreSQL: each step, and what it must leave as it was."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from protocol.frames import Live
from server.exceptions import UnfitError
from server.operations import maintenance_plan
from server.operations.maintenance_plan import FEW, MANY, MoveToArchive, TurnDefault
from server.postgres import maintain
from server.postgres.maintain import Outcome, Report, StepError, maintain_once, steps
from server.postgres.migrate import migrate
from tests.support.cluster import NEWEST, OLDEST, Cluster, Database, administrator
from tests.support.inventory import inventory
from tests.support.maintenance import (
    POLICY,
    Maintenance,
    Said,
    add_many_strays,
    add_old_messages,
    all_messages,
    at_rest,
    at_work,
    left,
    maintained,
    make_month,
    whereabouts,
    whole_log,
)
from tests.support.peer import peer
from tests.support.people import add_conversation, add_message, add_user
from tests.support.serving import serving
from tests.support.waiting import eventually

pytestmark = pytest.mark.usefixtures("strays_move")


@pytest.fixture
async def sql(every_database: Database) -> AsyncIterator[Any]:
    async with administrator(every_database) as connection:
        yield connection


@pytest.fixture
async def conversation(sql: Any) -> UUID:
    return await add_conversation(sql, await add_user(sql))


async def archived_month(database: Database, sql: Any, conversation: UUID, rows: int = 3) -> str:
    """A month of messages in the archive; the partition's name."""
    partition = await make_month(sql, -14)
    await add_old_messages(sql, conversation, -14, rows)
    await maintained(database)
    assert (await whereabouts(sql))[partition] == rows
    return partition


# ---- Moves are no changes ------------------------------------------------------------------------------------------


async def test_archiving_a_month_changes_no_row_and_records_nothing(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    partition = await make_month(sql, -14)
    await add_old_messages(sql, conversation, -14, 5)
    await add_message(sql, conversation, "young")
    rows, log = await all_messages(sql), await whole_log(sql)
    said = await maintained(every_database)
    assert f"move {partition} to messages_archive" in said
    assert await sql.fetchval("SELECT count(*) FROM messages") == 1
    assert (await all_messages(sql), await whole_log(sql)) == (rows, log)


async def test_strays_move_into_a_partition_of_their_month_and_nothing_is_recorded(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await add_old_messages(sql, conversation, -3, 4)
    await add_old_messages(sql, conversation, -20, 2)
    await add_old_messages(sql, conversation, 6, 1)
    rows, log = await all_messages(sql), await whole_log(sql)
    assert await whereabouts(sql) == {"public.messages_default": 7}
    await maintained(every_database)
    assert sorted((await whereabouts(sql)).values()) == [1, 2, 4]
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 2
    assert (await all_messages(sql), await whole_log(sql)) == (rows, log)


async def test_many_strays_stay_where_they_are_and_the_default_partition_becomes_theirs(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await add_old_messages(sql, conversation, -4)
    await add_many_strays(sql, conversation, -3, MANY)
    rows, log = await all_messages(sql), await whole_log(sql)
    file = await sql.fetchval("SELECT relfilenode FROM pg_class WHERE oid = 'public.messages_default'::regclass")
    (turn,) = [step for step in await left(every_database) if isinstance(step, TurnDefault)]
    assert str(turn) in await maintained(every_database)
    ((partition, held),) = (await whereabouts(sql)).items()
    assert held == MANY + 1
    assert await sql.fetchval("SELECT relfilenode FROM pg_class WHERE oid = $1::text::regclass", partition) == file
    assert (await all_messages(sql), await whole_log(sql)) == (rows, log)
    # The new default partition is one like the old one.
    (stray,) = await add_old_messages(sql, conversation, -9)
    assert (await whereabouts(sql))["public.messages_default"] == 1
    assert [record[-2] for record in await whole_log(sql) if record not in log] == [stray]
    await maintained(every_database)
    assert "public.messages_default" not in await whereabouts(sql)


@NEWEST
async def test_strays_that_are_many_and_stay_are_reported(
    every_database: Database, sql: Any, conversation: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance_plan, "MOST", 0)
    await add_old_messages(sql, conversation, -3, 4)
    places = await whereabouts(sql)
    (told,) = await maintained(every_database)
    assert told.startswith("left: 4 rows stay in a default partition (messages from ")
    assert str((await steps(every_database.url, POLICY))[1]) == told
    assert await whereabouts(sql) == places
    assert await sql.fetchval("SELECT maintained_at FROM sync.meta") is not None


async def drop_the_weeks(sql: Any) -> None:
    """Leave the log only its default partition."""
    weeks = await sql.fetch(
        "SELECT partition::text AS name FROM sync.partitions WHERE parent = 'log' AND NOT is_default"
    )
    for week in weeks:
        await sql.execute(f"ALTER TABLE sync.log DETACH PARTITION {week['name']}; DROP TABLE {week['name']}")


@NEWEST
async def test_changes_that_strayed_from_the_log_move_too(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await drop_the_weeks(sql)
    await add_message(sql, conversation)
    log = await whole_log(sql)
    assert await sql.fetchval("SELECT count(*) FROM sync.log_default") == len(log) > 0
    await maintained(every_database)
    assert await sql.fetchval("SELECT count(*) FROM sync.log_default") == 0
    assert await whole_log(sql) == log
    await add_message(sql, conversation)
    assert len(await whole_log(sql)) == len(log) + 1


async def test_a_log_whose_default_partition_is_turned_goes_on(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await drop_the_weeks(sql)
    await sql.execute(
        "INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id) "
        "SELECT $1, sync.seq_at(now()) + i, 0, 'c', 'u', $1 FROM generate_series(1, $2::int) i",
        uuid4(),
        MANY + 1,
    )
    log = await whole_log(sql)
    assert any("turn the default partition of log" in what for what in await maintained(every_database))
    assert await whole_log(sql) == log
    await add_message(sql, conversation)
    new = set(await whole_log(sql)) - set(log)
    assert [record[2] for record in new] == [max(record[2] for record in log) + 1], "its numbers go on"


# ---- What was moved goes on being watched --------------------------------------------------------------------------


async def test_every_trigger_is_enabled_afterwards_on_every_partition(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    for month in (-20, -14, -3):
        await add_old_messages(sql, conversation, month)
    await make_month(sql, -15)
    await maintained(every_database)
    assert await inventory(sql) == []


@NEWEST
async def test_an_edit_and_a_deletion_of_a_moved_row_are_recorded(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await make_month(sql, -14)
    (archived,) = await add_old_messages(sql, conversation, -14)
    (stray,) = await add_old_messages(sql, conversation, -3)
    (old_stray,) = await add_old_messages(sql, conversation, -20)
    await maintained(every_database)
    for table, message in (("messages_archive", archived), ("messages", stray), ("messages_archive", old_stray)):
        before = await whole_log(sql)
        assert await sql.execute(f"UPDATE {table} SET content = 'edited' WHERE id = $1", message) == "UPDATE 1"
        assert await sql.execute(f"UPDATE {table} SET content = 'edited' WHERE id = $1", message) == "UPDATE 1"
        assert await sql.execute(f"DELETE FROM {table} WHERE id = $1", message) == "DELETE 1"
        new = [record[4:7] for record in await whole_log(sql) if record not in before]
        assert new == [("m", "u", message), ("m", "d", message)], table


async def test_every_new_partition_is_as_closed_and_as_strict_as_the_table(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await make_month(sql, -14)
    await add_old_messages(sql, conversation, -14)
    await add_old_messages(sql, conversation, -20)
    await add_many_strays(sql, conversation, -4, MANY + 1)
    await maintained(every_database)
    partitions = await sql.fetch(
        "SELECT p.partition::text AS name, greatest(since, '1999-01-01') AS since, relrowsecurity AS closed "
        "FROM sync.partitions p JOIN pg_class c ON c.oid = p.partition WHERE p.parent LIKE 'messages%'"
    )
    assert len(partitions) >= 8
    insert = "INSERT INTO {} (conversation_id, role, content, created_at) VALUES ($1, $2, 'x', $3)"
    for name, since, closed in partitions:
        assert closed, name
        with pytest.raises(asyncpg.RaiseError, match="TRUNCATE"):
            await sql.execute(f"TRUNCATE {name}")
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await sql.execute(insert.format(name), uuid4(), "user", since)
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(insert.format(name), conversation, "nobody", since)
        for role in ("authenticated", "anon", "atlas_sync"):
            async with sql.transaction():
                await sql.execute(f"SET LOCAL ROLE {role}")
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with sql.transaction():
                        await sql.fetch(f"SELECT FROM {name}")
    assert await sql.fetchval("SELECT count(*) FROM pg_constraint WHERE conname = 'atlas_bounds'") == 0


# ---- Once, one, and only looking -----------------------------------------------------------------------------------


@NEWEST
async def test_a_second_run_does_nothing(every_database: Database, sql: Any, conversation: UUID) -> None:
    await add_old_messages(sql, conversation, -3)
    await maintained(every_database)
    said = Said()
    places = await whereabouts(sql)
    assert await maintain_once(every_database.url, POLICY, said)
    assert (said, await whereabouts(sql)) == ([], places)


@NEWEST
async def test_of_two_that_maintain_at_once_one_says_that_the_other_does(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await add_old_messages(sql, conversation, -3)
    async with administrator(every_database) as reader:
        async with reader.transaction():
            await reader.execute("LOCK TABLE public.messages_default IN ACCESS SHARE MODE")
            first = asyncio.create_task(maintain_once(every_database.url, POLICY, lambda _: None))
            await eventually(lambda: at_work(sql))
            second = Maintenance(every_database, "--once")
            await second.start()
            assert await second.end() == ["Another process is maintaining this database."]
        assert await first
    assert await left(every_database) == []


@NEWEST
async def test_a_plan_prints_the_steps_and_changes_nothing(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    partition = await make_month(sql, -14)
    await add_many_strays(sql, conversation, -3, FEW + 1)

    async def everything() -> tuple[object, ...]:
        partitions = await sql.fetch("SELECT * FROM sync.partitions ORDER BY partition")
        return partitions, await whereabouts(sql), await whole_log(sql), await sql.fetchrow("SELECT * FROM sync.meta")

    before = await everything()
    looking = Maintenance(every_database, "--plan")
    await looking.start()
    said = await looking.end()
    assert await everything() == before
    assert said == [str(step) for step in await left(every_database)]
    assert f"move {partition} to messages_archive" in said
    await maintained(every_database)
    assert await left(every_database) == []


# ---- Beside a busy server ------------------------------------------------------------------------------------------


@NEWEST
@pytest.mark.parametrize("held", ["the old partition", "messages"])
async def test_a_step_whose_tables_are_locked_is_put_off_and_the_others_are_done_and_writers_go_on(
    every_database: Database, sql: Any, conversation: UUID, held: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintain, "PATIENCE", 0.5)
    partition = await make_month(sql, -14)
    other = await make_month(sql, -15)
    week = await old_week(sql)
    await sql.execute("INSERT INTO sync.servers VALUES ('gone', now() - interval '2 days')")
    said = Said()
    async with administrator(every_database) as reader, administrator(every_database) as writer:
        await writer.execute("SET statement_timeout = '10s'")  # should it hang; a wait is some 0.2 s
        async with reader.transaction():
            await reader.execute(f"LOCK TABLE {partition if held != 'messages' else held} IN ACCESS SHARE MODE")
            task = asyncio.create_task(maintain_once(every_database.url, POLICY, said))
            written = 0
            while not task.done():
                await add_message(writer, conversation)
                written += 1
            assert await task
    assert written
    assert any(what.startswith("put off: ") and what.endswith("the next round tries again") for what in said)
    assert {f"drop {week}, which is older than the log is kept", "forget servers that were not seen for long"} <= {
        *said
    }
    if held != "messages":
        assert f"validate the bounds of {other}: read it" in said
    assert f"move {partition} to messages_archive" not in said
    assert f"move {partition} to messages_archive" in await maintained(every_database)


@pytest.mark.parametrize("read", ["conversations", "messages"])
@pytest.mark.parametrize("step", ["make_partition", "archive_partition", "turn_default"])
async def test_a_session_that_has_read_may_write_although_maintenance_waits_for_it(
    every_database: Database, sql: Any, conversation: UUID, read: str, step: str
) -> None:
    """A lock that is made a stronger one while others wait is a deadlock at once, and theirs is what fails."""
    partition = await make_month(sql, -14)
    await add_old_messages(sql, conversation, -3)
    month = "date_trunc('month', now(), 'UTC') - interval '{} months'"
    statement = {
        "make_partition": f"SELECT sync.make_partition('messages', {month.format(3)})",
        "archive_partition": f"SELECT sync.archive_partition('{partition}')",
        "turn_default": f"SELECT sync.turn_default('messages', {month.format(3)}, {month.format(2)})",
    }[step]
    async with administrator(every_database) as writer:
        async with writer.transaction():
            await writer.execute(f"SELECT count(*) FROM {read}")
            working = asyncio.create_task(sql.execute(statement))
            await eventually(lambda: working.done() or waits(writer, sql))
            await writer.execute("UPDATE conversations SET title = 'renamed'")
            await add_old_messages(writer, conversation, -3)
            await add_message(writer, conversation)
        with contextlib.suppress(asyncpg.LockNotAvailableError):
            await working


@NEWEST
async def test_a_reader_finds_every_row_while_rows_move(every_database: Database, sql: Any, conversation: UUID) -> None:
    months = [*range(-24, -3), *range(5, 12)]
    for month in months:
        await add_old_messages(sql, conversation, month, 20)
    rows = len(months) * 20
    both = "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM messages_archive)"
    found: set[int] = set()
    async with contextlib.AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(administrator(every_database)) for _ in range(4)]
        maintaining = asyncio.create_task(maintained(every_database))

        async def read(reader: Any) -> None:
            while not maintaining.done():
                # Planned anew each time, as most statements of an app are.
                found.add(int(await reader.fetchval(f"{both} -- {len(found)}", timeout=20)))
                await reader.reload_schema_state()

        await asyncio.gather(*map(read, readers))
        await maintaining
    assert found == {rows}


@NEWEST
async def test_a_row_that_strays_while_its_partition_is_made_is_moved_too(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    async with administrator(every_database) as writer:

        async def made() -> bool:
            """False if the locks were not to be had in time."""
            transaction = writer.transaction()
            await transaction.start()
            await add_old_messages(writer, conversation, -5)
            making = asyncio.create_task(make_month(sql, -5))
            await eventually(lambda: making.done() or waits(writer, sql))
            await transaction.commit()
            try:
                await making
            except asyncpg.LockNotAvailableError:
                return False
            return True

        await eventually(made)
    assert "public.messages_default" not in await whereabouts(sql)


@NEWEST
async def test_a_stray_that_violates_a_constraint_of_the_app_is_a_failure_and_not_put_off(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await add_old_messages(sql, conversation, -3, content="shouted")
    await sql.execute("ALTER TABLE messages ADD CONSTRAINT quiet CHECK (content NOT LIKE 'shouted%') NOT VALID")
    reports: list[Report] = []
    with pytest.raises(StepError, match="CheckViolationError"):
        await maintain_once(every_database.url, POLICY, reports.append)
    assert Outcome.PUT_OFF not in {report.outcome for report in reports}
    assert (await whereabouts(sql))["public.messages_default"] == 1


async def test_a_database_or_a_login_that_cannot_be_used_gets_a_sentence_that_says_what_to_do(
    postgres_18: Cluster, database: Database
) -> None:
    empty = await postgres_18.create("template0")
    try:
        with pytest.raises(UnfitError, match="Run `atlas-sync migrate`"):
            await maintain_once(empty.url, POLICY, print)
    finally:
        await empty.drop()
    with pytest.raises(UnfitError, match="ATLAS_ADMIN_URL"):
        await maintain_once(database.server_url, POLICY, print)


@NEWEST
async def test_a_step_that_fails_does_not_stop_the_others_and_is_reported(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    partition = await make_month(sql, -14)
    week = await old_week(sql)
    await sql.execute("ALTER TABLE messages ADD COLUMN mood text")
    said = Said()
    with pytest.raises(StepError, match=f"move {partition} to messages_archive"):
        await maintain_once(every_database.url, POLICY, said)
    assert f"drop {week}, which is older than the log is kept" in said
    assert await sql.fetchval("SELECT maintained_at FROM sync.meta") is None
    await sql.execute("ALTER TABLE messages_archive ADD COLUMN mood text")
    assert f"move {partition} to messages_archive" in await maintained(every_database)


@OLDEST
async def test_maintenance_that_is_killed_at_any_moment_loses_and_doubles_nothing(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    rng = random.Random()
    for month in (-18, -17, -16):
        await make_month(sql, month)
    log: list[tuple[Any, ...]] = []
    for round_ in range(4):
        for month in (-18, -17, -16):
            await add_old_messages(sql, conversation, month, 100, f"round {round_}", seconds=60)
        for month in (-14 - round_ % 2, -5 + round_):
            await add_many_strays(sql, conversation, month, FEW + 1)
        rows, log = await all_messages(sql), await whole_log(sql)
        await Maintenance(every_database, "--once").killed_at_work(sql, rng, 0.4)
        await at_rest(sql)
        assert await all_messages(sql) == rows
    await maintained(every_database)
    assert await all_messages(sql) == rows
    assert len(rows) == 4 * (3 * 100 + 2 * (FEW + 1))
    assert await whole_log(sql) == log
    assert "public.messages_default" not in await whereabouts(sql)
    assert await inventory(sql) == []


# ---- Strays of a month that is archived ----------------------------------------------------------------------------


async def test_strays_of_an_archived_month_go_into_the_archive(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    partition = await archived_month(every_database, sql, conversation)
    await add_old_messages(sql, conversation, -14, 2, "late")
    rows, log = await all_messages(sql), await whole_log(sql)
    assert [type(step) for step in await left(every_database)] == [MoveToArchive]
    await maintained(every_database)
    assert (await whereabouts(sql))[partition] == 5
    assert (await all_messages(sql), await whole_log(sql)) == (rows, log)


@NEWEST
async def test_a_newer_version_of_an_archived_row_wins(every_database: Database, sql: Any, conversation: UUID) -> None:
    await archived_month(every_database, sql, conversation)
    copied = await sql.fetchval(
        "INSERT INTO messages (id, conversation_id, role, content, created_at) "
        "SELECT id, conversation_id, role, 'newer', created_at FROM messages_archive LIMIT 1 RETURNING id"
    )
    await maintained(every_database)
    assert await sql.fetch("SELECT FROM messages") == []
    contents = await sql.fetch("SELECT content FROM messages_archive WHERE id = $1", copied)
    assert [record[0] for record in contents] == ["newer"]
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 3


@NEWEST
async def test_a_row_of_somebody_else_with_the_same_key_replaces_no_archived_one_and_is_not_lost(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await archived_month(every_database, sql, conversation)
    theirs = await add_conversation(sql, await add_user(sql))
    await sql.execute(
        "INSERT INTO messages (id, conversation_id, role, content, created_at) "
        "SELECT id, $1, role, 'a copy', created_at FROM messages_archive",
        theirs,
    )
    await add_old_messages(sql, theirs, -14, 2, "theirs alone", seconds=7)
    rows = await all_messages(sql)
    await maintain_once(every_database.url, POLICY, lambda _: None)
    assert await all_messages(sql) == rows
    assert await sql.fetchval("SELECT count(*) FROM messages_archive WHERE conversation_id = $1", conversation) == 3
    assert await sql.fetchval("SELECT count(*) FROM messages_archive WHERE conversation_id = $1", theirs) == 2


@NEWEST
async def test_messages_of_no_month_stay_where_they_are_and_disturb_nothing(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) SELECT $1, 'user', x, x::timestamptz "
        "FROM unnest(ARRAY['-infinity', 'infinity', '0044-03-15 BC', '12026-01-01']) x",
        conversation,
    )
    await add_old_messages(sql, conversation, -3)
    rows = await sql.fetch("SELECT id, created_at::text FROM messages ORDER BY 1")
    await maintained(every_database)
    assert (await whereabouts(sql))["public.messages_default"] == 4
    assert await sql.fetch("SELECT id, created_at::text FROM messages ORDER BY 1") == rows


@NEWEST
async def test_a_partition_without_a_beginning_is_archived_like_another(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    await sql.execute("CREATE TABLE their_old_ones PARTITION OF messages FOR VALUES FROM (MINVALUE) TO ('2020-01-01')")
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content, created_at) VALUES ($1, 'user', 'x', '1999-12-31')",
        conversation,
    )
    rows, log = await all_messages(sql), await whole_log(sql)
    await maintained(every_database)
    assert await whereabouts(sql) == {"public.their_old_ones": 1}
    assert await sql.fetchval("SELECT count(*) FROM messages_archive") == 1
    assert (await all_messages(sql), await whole_log(sql)) == (rows, log)


# ---- What is too old -----------------------------------------------------------------------------------------------


async def old_week(sql: Any) -> str:
    """A partition of the log, older than it is kept; its name."""
    week = "date_trunc('week', now(), 'UTC') - interval '20 weeks'"
    await sql.execute(f"SELECT sync.make_partition('log', {week})")
    return str(await sql.fetchval(f"SELECT 'sync.log_' || to_char({week}, 'IYYY_\"w\"IW')"))


@NEWEST
async def test_old_changes_are_dropped_and_a_device_that_missed_them_gets_a_snapshot(
    every_database: Database, sql: Any, conversation: UUID
) -> None:
    week = await old_week(sql)
    user = await sql.fetchval("SELECT user_id FROM conversations WHERE id = $1", conversation)

    async def cursor() -> bytes | None:
        async with peer(server.url) as device:
            await device.greet(user)
            await device.hear_a(Live)
            return device.cursor

    async def aged() -> None:
        """As if everything so far had been 20 weeks ago."""
        past = "20::bigint * 7 * 86400 * 1000000"
        await sql.execute(f"UPDATE sync.feeds SET seq = seq - {past}, prev = greatest(prev - {past}, 0)")
        await sql.execute(f"UPDATE sync.log SET seq = seq - {past}, prev = greatest(prev - {past}, 0)")

    await add_message(sql, conversation, "one")
    await aged()
    async with serving(every_database) as server:
        missed_one = await cursor()
    await sql.execute("UPDATE sync.feeds SET prev = seq, seq = seq + 1")
    await sql.execute(
        "INSERT INTO sync.log (user_id, seq, prev, kind, op, row_id) "
        "SELECT user_id, seq, prev, 'c', 'u', $1 FROM sync.feeds",
        conversation,
    )
    async with serving(every_database) as server:
        missed_none = await cursor()
    await add_message(sql, conversation, "two")
    assert f"drop {week}, which is older than the log is kept" in await maintained(every_database)
    assert await sql.fetchval("SELECT count(*) FROM sync.log") == 1
    async with serving(every_database) as server:
        async with peer(server.url) as device:
            welcome = await device.greet(user, missed_one)
            assert (welcome.mode, welcome.why) == ("snapshot", "too_old")
            await device.hear_a(Live)
        async with peer(server.url) as device:
            assert (await device.greet(user, missed_none)).mode == "resumed"


@NEWEST
async def test_records_that_are_old_are_deleted_and_no_others(every_database: Database, sql: Any) -> None:
    await sql.execute(
        """
        CREATE FUNCTION pg_temp.ago(days int) RETURNS timestamptz LANGUAGE sql AS
            'SELECT now() - make_interval(days => days)';
        INSERT INTO sync.clients (user_id, client_id, last_mutation, session, pushed_at)
            SELECT gen_random_uuid(), gen_random_uuid(), 1, 'old', pg_temp.ago(401) FROM generate_series(1, 2500);
        INSERT INTO sync.clients (user_id, client_id, last_mutation, session, pushed_at)
            VALUES (gen_random_uuid(), gen_random_uuid(), 1, 'wrote', pg_temp.ago(399)),
                   (gen_random_uuid(), gen_random_uuid(), 1, 'reads', pg_temp.ago(500)),
                   (gen_random_uuid(), gen_random_uuid(), 1, 'gone', pg_temp.ago(500));
        INSERT INTO sync.devices (user_id, client_id, session, server, state, connected_at, noted_at)
            SELECT user_id, client_id, session, 'a', 'live', pg_temp.ago(700), pg_temp.ago(399)
            FROM sync.clients WHERE session = 'reads';
        INSERT INTO sync.devices (user_id, client_id, session, server, state, connected_at, noted_at)
            SELECT user_id, client_id, session, 'a', 'live', pg_temp.ago(700), pg_temp.ago(401)
            FROM sync.clients WHERE session = 'gone';
        INSERT INTO sync.servers VALUES ('lives', now() - interval '23 hours'), ('lived', pg_temp.ago(2));
        """
    )
    await maintained(every_database)
    assert sorted(r[0] for r in await sql.fetch("SELECT session FROM sync.clients")) == ["reads", "wrote"]
    assert [r[0] for r in await sql.fetch("SELECT session FROM sync.devices")] == ["reads"]
    assert [r[0] for r in await sql.fetch("SELECT server FROM sync.servers")] == ["lives"]


async def test_expired_responses_and_old_traces_of_computing_and_counting_them_are_deleted(
    every_database: Database, sql: Any
) -> None:
    await sql.execute(
        """
        INSERT INTO sync.response_cache (query_hash, tier, response_text, expires_at, created_at, version)
            SELECT 'expired ' || i, 'core', '', now(), now(), 1 FROM generate_series(1, 2500) AS i
            UNION ALL SELECT 'lives', 'core', '', now() + interval '1 hour', now(), 1;
        INSERT INTO sync.response_leases VALUES ('ended', 'core', 1, now() - interval '25 hours'),
                                                ('lives', 'core', 1, now() - interval '23 hours');
        INSERT INTO sync.response_flushes VALUES (gen_random_uuid(), 1, now() - interval '25 hours'),
                                                 (gen_random_uuid(), 2, now() - interval '23 hours');
        """
    )
    assert "delete cached responses that have expired" in await maintained(every_database)
    for table in ("response_cache", "response_leases"):
        assert [row[0] for row in await sql.fetch(f"SELECT query_hash FROM sync.{table}")] == ["lives"]
    assert [row[0] for row in await sql.fetch("SELECT number FROM sync.response_flushes")] == [2]
    assert "delete cached responses that have expired" not in await maintained(every_database)


# ---- Whose database it is ------------------------------------------------------------------------------------------


async def test_the_tables_owner_need_not_be_a_superuser(every_postgres: Cluster) -> None:
    login = f"owner_{uuid4().hex}"
    admin = await asyncpg.connect(every_postgres.postgres.url())
    try:
        await admin.execute(f"CREATE ROLE {login} LOGIN CREATEROLE")
        await admin.execute(f"CREATE DATABASE {login} OWNER {login}")
        url = every_postgres.postgres.url(login, login)
        await migrate(url)
        sql = await asyncpg.connect(url)
        try:
            conversation = await add_conversation(sql, await add_user(sql))
            partition = await make_month(sql, -14)
            await old_week(sql)
            for month, written in (-14, 1), (-16, FEW + 1), (-3, FEW + 1):
                await add_old_messages(sql, conversation, month, written, seconds=60)
            await sql.execute("INSERT INTO sync.servers VALUES ('gone', now() - interval '2 days')")
            rows, log = await all_messages(sql), await whole_log(sql)
            process = Maintenance(url, "--once")
            await process.start()
            assert f"move {partition} to messages_archive" in await process.end()
            assert await sql.fetchval("SELECT count(*) FROM messages_archive") == FEW + 2
            assert (await all_messages(sql), await whole_log(sql)) == (rows, log)
            assert "public.messages_default" not in await whereabouts(sql)
        finally:
            await sql.close()
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {login} WITH (FORCE)")
        await admin.execute(f"DROP ROLE {login}")
        await admin.close()


async def waits(holder: Any, sql: Any) -> bool:
    """Whether the statement of one connection waits for a lock, as another sees it."""
    return bool(
        await holder.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", sql.get_server_pid()
        )
    )
