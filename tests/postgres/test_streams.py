"""Streams in Postgres: who wins where two append, when a text is written to its row, and what is kept."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.declaration.chat import CHAT_TOML
from server.exceptions import UnfitError
from server.postgres.migrate import migrate
from server.postgres.pool import PLANNING
from server.streams.keeper import LOOKS
from tests.support.cluster import Cluster, Database, administrator
from tests.support.people import add_conversation, add_user
from tests.support.waiting import eventually

ENDED = CHAT_TOML.replace('streams = ["content"]', 'streams = ["content"]\nended = "state"')
MOST = 3


@pytest.fixture(scope="module", params=["18", "15"])
def prepared(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Messages have a column that says how their streams ended, and a text may be NULL."""

    async def prepare() -> Database:
        made = await cluster.create()
        async with administrator(made) as sql:
            await sql.execute("ALTER TABLE messages ADD COLUMN state text, ALTER COLUMN content DROP NOT NULL")
        await migrate(made.url, text=ENDED)
        return made

    cluster: Cluster = request.getfixturevalue(f"postgres_{request.param}")
    made = asyncio.run(prepare())
    yield made
    asyncio.run(made.drop())


@pytest.fixture
async def database(prepared: Database) -> AsyncIterator[Database]:
    """One for all tests, without streams, and without the triggers of the test before."""
    yield prepared
    async with administrator(prepared) as sql:
        await sql.execute("""
            TRUNCATE sync.streams, sync.stream_text;
            DROP TRIGGER IF EXISTS ours ON messages;
            DROP FUNCTION IF EXISTS ours
        """)


@pytest.fixture
async def message(sql: Any, user: UUID) -> UUID:
    return await answer(sql, user)


async def answer(sql: Any, user: UUID, text: str | None = "") -> UUID:
    insert = "INSERT INTO messages (conversation_id, role, content) VALUES ($1, 'assistant', $2) RETURNING id"
    return UUID(str(await sql.fetchval(insert, await add_conversation(sql, user), text)))


async def open_stream(sql: Any, user: UUID, message: UUID, *, restart: bool = False) -> Any:
    return await sql.fetchrow(
        "SELECT * FROM sync.open_stream($1, $2, 'm', ARRAY[$3], 'content', $4, $5, 'a server')",
        uuid4(),
        user,
        str(message),
        restart,
        MOST,
    )


async def opened(sql: Any, user: UUID, message: UUID, text: str = "", **given: bool) -> UUID:
    """A stream with this text."""
    stream = UUID(str((await open_stream(sql, user, message, **given))["stream"]))
    if text:
        assert await append(sql, (stream, 0, text)) == {stream}
    return stream


async def append(sql: Any, *parts: tuple[UUID, int, str]) -> set[UUID]:
    ids, ats, texts = zip(*parts, strict=True)
    rows = await sql.fetch("SELECT * FROM sync.append_streams('a server', $1, $2, $3) AS id", ids, ats, texts)
    return {UUID(str(row["id"])) for row in rows}


async def end(
    sql: Any, stream: UUID, state: str = "done", expected: int | None = None, *, writes: bool = False
) -> tuple[str, int] | None:
    row = await sql.fetchrow(
        "SELECT * FROM sync.end_stream('a server', $1, $2, $3, $4)", stream, state, expected, writes
    )
    return row and tuple(row)


async def settle(sql: Any, silence: str = "30 s", patience: str = "10 s") -> dict[UUID, tuple[bool, bool, str | None]]:
    """By stream: whether it is settled, whether the server wrote the row, and the trouble."""
    rows = await sql.fetch(
        f"SELECT * FROM sync.settle_streams('a server', interval '{silence}', interval '{patience}')"
    )
    return {UUID(str(row["stream"])): (row["settled"], row["written"], row["trouble"]) for row in rows}


async def row_of(sql: Any, message: UUID) -> Any:
    row = await sql.fetchrow("SELECT content, state FROM messages WHERE id = $1", message)
    return row and tuple(row)


async def state_of(sql: Any, stream: UUID) -> Any:
    return await sql.fetchval("SELECT state FROM sync.streams WHERE id = $1", stream)


# --- appends and ends


async def test_a_part_is_appended_where_the_text_ends_and_nowhere_else(sql: Any, user: UUID, message: UUID) -> None:
    stream = await opened(sql, user, message, "añ🙂")
    for at in (0, 2, 4, 7):
        assert await append(sql, (stream, at, "x")) == set()
    assert await append(sql, (stream, 3, "x"), (uuid4(), 0, "x")) == {stream}
    assert await end(sql, stream, expected=3) == ("open", 4)
    assert await end(sql, stream, expected=4) == ("done", 4)
    assert await append(sql, (stream, 4, "x")) == set()
    assert await end(sql, stream, "failed") == ("done", 4)
    assert await end(sql, uuid4()) is None


@pytest.mark.parametrize("first", ["append", "end"])
async def test_of_an_append_and_an_end_at_the_same_place_one_wins(
    database: Database, sql: Any, user: UUID, message: UUID, first: str
) -> None:
    stream = await opened(sql, user, message, "abc")
    async with administrator(database) as other:
        async with sql.transaction():
            if first == "append":
                await append(sql, (stream, 3, "d"))
                waiting: asyncio.Task[Any] = asyncio.create_task(end(other, stream))
            else:
                await end(sql, stream)
                waiting = asyncio.create_task(append(other, (stream, 3, "d")))
            await blocked(database)
        assert await waiting == (("done", 4) if first == "append" else set())


async def test_servers_that_append_to_the_same_streams_do_not_deadlock(
    database: Database, sql: Any, user: UUID
) -> None:
    one, two = sorted([await opened(sql, user, await answer(sql, user)) for _ in range(2)])
    async with administrator(database) as other:
        async with sql.transaction():
            await append(sql, (one, 0, "a"))
            waiting = asyncio.create_task(append(other, (two, 0, "b"), (one, 0, "b")))
            await blocked(database)
            assert await append(sql, (two, 0, "a")) == {two}
        assert await waiting == set()


async def blocked(database: Database) -> None:
    """Wait until a session of this database waits for another one."""
    async with administrator(database) as sql:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await eventually(lambda: sql.fetchval(waits))


# --- opening


async def test_a_row_has_one_stream_and_each_opening_is_a_sign_of_life(sql: Any, user: UUID, message: UUID) -> None:
    stream = await opened(sql, user, message, "abc")
    await sql.execute("UPDATE sync.streams SET touched_at = touched_at - interval '1 minute'")
    again = await open_stream(sql, user, message)
    assert (again["stream"], again["fresh"], again["text"], again["at"]) == (stream, False, "abc", 3)
    assert await settle(sql) == {}
    await end(sql, stream, writes=True)
    assert await settle(sql) == {stream: (True, True, None)}
    assert (await open_stream(sql, user, message))["state"] == "done"
    assert (await open_stream(sql, user, message, restart=True))["fresh"]


async def test_a_full_user_is_refused_and_loses_nothing(sql: Any, user: UUID) -> None:
    ended = await answer(sql, user)
    stream = await opened(sql, user, ended, "kept")
    await end(sql, stream)
    messages = [await answer(sql, user) for _ in range(MOST)]
    for each in messages:
        await opened(sql, user, each)
    assert (await open_stream(sql, user, await answer(sql, user)))["problem"] == "too_many"
    assert (await open_stream(sql, user, ended, restart=True))["problem"] == "too_many"
    assert (await open_stream(sql, user, ended))["text"] == "kept"
    assert (await open_stream(sql, user, messages[0], restart=True))["fresh"], "it takes the place of its own"


async def test_the_new_owner_of_a_row_is_not_held_up_by_a_stream_of_the_former_one(
    sql: Any, user: UUID, message: UUID
) -> None:
    stream = await opened(sql, user, message, "secret")
    other = await add_user(sql)
    conversation = await add_conversation(sql, other)
    await sql.execute("UPDATE messages SET conversation_id = $2 WHERE id = $1", message, conversation)
    assert (await open_stream(sql, user, message))["problem"] == "unknown_row"
    anew = await open_stream(sql, other, message)
    assert (anew["fresh"], anew["text"], anew["problem"]) == (True, "", None)
    assert await append(sql, (stream, 6, "x")) == set()


async def test_only_streamed_columns_of_rows_that_are_there_have_streams(sql: Any, user: UUID, message: UUID) -> None:
    assert (await open_stream(sql, user, uuid4()))["problem"] == "unknown_row"
    assert (await open_stream(sql, await add_user(sql), message))["problem"] == "unknown_row"
    column = "SELECT problem FROM sync.open_stream($1, $2, 'm', ARRAY[$3], 'role', false, 9, 'a server')"
    assert await sql.fetchval(column, uuid4(), user, str(message)) == "unknown_row"


async def test_a_user_without_a_feed_has_streams(sql: Any) -> None:
    user = await add_user(sql, "free")
    message = await answer(sql, user)
    await sql.execute("DELETE FROM sync.feeds")
    stream = await opened(sql, user, message, "text")
    await end(sql, stream, writes=True)
    assert await settle(sql) == {stream: (True, True, None)}
    assert await row_of(sql, message) == ("text", "done")


# --- rows


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        ("", None, "done"),
        ("", "", "failed"),
        (None, None, "stopped"),
        ("old", "old", "done"),
        ("old", "", "done"),
        ("", "The b", "done"),
        ("old", None, "done"),
    ],
)
async def test_a_row_that_lags_is_written_after_a_while_with_the_state(
    sql: Any, user: UUID, before: str | None, after: str | None, state: str
) -> None:
    message = await answer(sql, user, before)
    stream = await opened(sql, user, message, "The beginning")
    await sql.execute("UPDATE messages SET content = $2 WHERE id = $1", message, after)
    await end(sql, stream, state)
    assert await settle(sql) == {stream: (False, False, None)}
    assert await row_of(sql, message) == (after, None)
    await sql.execute("UPDATE sync.streams SET look_at = now()")
    assert await settle(sql, patience="0 s") == {stream: (True, True, None)}
    assert await row_of(sql, message) == ("The beginning", state)


@pytest.mark.parametrize("text", ["The beginning", "The end", "the b", "The beginning and more", "x"])
async def test_a_text_of_the_app_settles_a_stream_and_is_not_overwritten(
    sql: Any, user: UUID, message: UUID, text: str
) -> None:
    stream = await opened(sql, user, message, "The beginning")
    await sql.execute("UPDATE messages SET content = $2, state = 'mine' WHERE id = $1", message, text)
    await end(sql, stream, writes=True)
    assert await settle(sql) == {stream: (True, False, None)}
    assert await row_of(sql, message) == (text, "mine")


async def test_a_stream_without_a_text_marks_the_row_if_the_app_has_not_written_it(
    sql: Any, user: UUID, message: UUID
) -> None:
    stream = await opened(sql, user, message)
    await end(sql, stream, "stopped")
    assert await settle(sql) == {stream: (False, False, None)}
    await sql.execute("UPDATE sync.streams SET look_at = now()")
    assert await settle(sql, patience="0 s") == {stream: (True, False, None)}
    assert await row_of(sql, message) == ("", "stopped")
    stream = await opened(sql, user, message, restart=True)
    await sql.execute("UPDATE messages SET content = 'No answer today.', state = 'mine' WHERE id = $1", message)
    await end(sql, stream, "failed", writes=True)
    assert await settle(sql) == {stream: (True, False, None)}
    assert await row_of(sql, message) == ("No answer today.", "mine")


async def test_a_row_that_is_gone_or_another_users_settles_its_stream_unwritten(sql: Any, user: UUID) -> None:
    gone, moved = await answer(sql, user), await answer(sql, user)
    streams = {await opened(sql, user, each, "text") for each in (gone, moved)}
    await sql.execute("DELETE FROM messages WHERE id = $1", gone)
    conversation = await add_conversation(sql, await add_user(sql))
    await sql.execute("UPDATE messages SET conversation_id = $2 WHERE id = $1", moved, conversation)
    rows = await sql.fetch("SELECT * FROM sync.lost_streams($1) AS id", list(streams))
    assert {UUID(str(row["id"])) for row in rows} == streams
    for stream in streams:
        await end(sql, stream, writes=True)
    assert await settle(sql) == dict.fromkeys(streams, (True, False, None))
    assert await row_of(sql, moved) == ("", None)


async def test_a_silent_writer_is_gone_and_what_it_wrote_is_kept(sql: Any, user: UUID, message: UUID) -> None:
    stream = await opened(sql, user, message, "so far")
    assert await settle(sql) == {}
    await sql.execute("UPDATE sync.streams SET touched_at = touched_at - interval '1 minute'")
    assert await settle(sql, silence="10 years") == {}
    assert await settle(sql) == {stream: (True, True, None)}
    assert await row_of(sql, message) == ("so far", "failed")


async def test_a_stop_that_no_server_carries_out_any_more_is_carried_out(sql: Any, user: UUID, message: UUID) -> None:
    stream = await opened(sql, user, message, "so far")
    assert await sql.fetchval("SELECT * FROM sync.stop_streams($1)", [stream]) == stream
    assert await settle(sql) == {}
    await sql.execute("UPDATE sync.streams SET stop_at = stop_at - interval '2 s'")
    assert await settle(sql) == {stream: (False, False, None)}
    assert await state_of(sql, stream) == "stopped"
    assert await sql.fetchval("SELECT * FROM sync.stop_streams($1)", [stream]) is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("RAISE EXCEPTION 'no'", "P0001"),
        ("ASSERT false", "P0004"),
        ("RAISE EXCEPTION USING errcode = 'query_canceled'", "57014"),
        ("PERFORM pg_advisory_xact_lock(7)", "55P03"),
        ("RETURN NULL", "02000"),
    ],
)
async def test_a_trigger_that_refuses_a_text_delays_nobody_else(
    database: Database, sql: Any, user: UUID, message: UUID, body: str, code: str
) -> None:
    await sql.execute(f"""
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN new; END $$;
        CREATE TRIGGER ours BEFORE UPDATE ON messages
            FOR EACH ROW WHEN (new.content = 'bad') EXECUTE FUNCTION ours();
    """)
    bad = await opened(sql, user, message, "bad")
    other = await answer(sql, user)
    good = await opened(sql, user, other, "good")
    for each in (bad, good):
        await end(sql, each, writes=True)
    async with administrator(database) as locker:
        await locker.execute("SELECT pg_advisory_lock(7)")
        found = await settle(sql)
    assert found == {bad: (False, False, code), good: (True, True, None)}
    assert await sql.fetchval("SELECT looks FROM sync.streams WHERE id = $1", bad) == 1, "it is looked at less often"
    assert (await row_of(sql, message), await row_of(sql, other)) == (("", None), ("good", "done"))
    await sql.execute("DROP TRIGGER ours ON messages; UPDATE sync.streams SET look_at = now()")
    assert (await settle(sql))[bad] == (True, True, None)


async def test_a_text_that_was_refused_for_days_is_looked_at_each_minute_and_delays_nobody_else(
    sql: Any, user: UUID, message: UUID
) -> None:
    await sql.execute("""
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE TRIGGER ours BEFORE UPDATE ON messages
            FOR EACH ROW WHEN (new.content = 'bad') EXECUTE FUNCTION ours();
    """)
    bad = await opened(sql, user, message, "bad")
    await end(sql, bad, writes=True)
    for looks in (43, 44, 1_023, 1_024, 100_000):
        await sql.execute("UPDATE sync.streams SET looks = $1, look_at = now() WHERE id = $2", looks, bad)
        good = await opened(sql, user, await answer(sql, user), "good")
        await end(sql, good, writes=True)
        assert await settle(sql) == {bad: (False, False, "P0001"), good: (True, True, None)}
        again = "SELECT looks, look_at - now() < interval '1 minute' FROM sync.streams WHERE id = $1"
        assert tuple(await sql.fetchrow(again, bad)) == (looks + 1, True)


async def refuse_at_the_end(sql: Any, content: str) -> None:
    """A deferred constraint of the app refuses messages with this content."""
    await sql.execute(f"""
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
        CREATE CONSTRAINT TRIGGER ours AFTER UPDATE ON messages DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (new.content = '{content}') EXECUTE FUNCTION ours();
    """)


async def test_a_deferred_constraint_that_refuses_a_text_delays_nobody_else(
    sql: Any, user: UUID, message: UUID
) -> None:
    await refuse_at_the_end(sql, "bad")
    bad = await opened(sql, user, message, "bad")
    good = await opened(sql, user, await answer(sql, user), "good")
    for each in (bad, good):
        await end(sql, each, writes=True)
    assert await settle(sql) == {bad: (False, False, "P0001"), good: (True, True, None)}


async def test_slow_triggers_hold_a_call_up_for_a_second_and_the_rest_is_found_by_the_next(
    sql: Any, user: UUID
) -> None:
    await sql.execute("""
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.6); RETURN new; END $$;
        CREATE TRIGGER ours BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION ours();
    """)
    streams = {await opened(sql, user, await answer(sql, user), "text") for _ in range(3)}
    for each in streams:
        await end(sql, each, writes=True)
    first = await settle(sql)
    assert len(first) == 2
    assert {**first, **await settle(sql)} == dict.fromkeys(streams, (True, True, None))


async def test_ten_thousand_open_streams_are_kept_and_those_that_end_are_settled(
    database: Database, sql: Any, user: UUID
) -> None:
    conversation = await add_conversation(sql, user)
    await sql.execute(
        "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'assistant', '' "
        "FROM generate_series(1, 10000)",
        conversation,
    )
    await sql.execute(
        "INSERT INTO sync.streams (id, user_id, kind, row_key, name, since, slot, holder) "
        "SELECT id, $2, 'm', ARRAY[id::text], 'content', 0, 0, 'a server' FROM messages WHERE conversation_id = $1",
        conversation,
        user,
    )
    ids = [row["id"] for row in await sql.fetch("SELECT id FROM sync.streams")]
    async with administrator(database) as server:
        # As the server runs them. Each takes some 0.1 s, and took 10 s where its time grew with the square.
        await server.execute(PLANNING)
        await server.execute("SET statement_timeout = '5 s'")
        await server.execute("SELECT sync.touch_streams('another', $1)", ids)
        assert await server.fetch("SELECT sync.lost_streams($1)", ids) == []
        ended = ids[:100]
        await server.execute(
            "SELECT sync.end_stream('a server', id, 'done', NULL, true) FROM unnest($1::uuid[]) id", ended
        )
        assert (await settle(server)).keys() == set(ended)
        await server.execute("UPDATE sync.streams SET settled_at = now() - interval '2 days'")
        await server.execute("SELECT sync.rotate_streams()")
    assert await sql.fetchval("SELECT count(*) FROM sync.streams") == 0


async def test_a_deferred_constraint_that_refuses_a_mark_delays_nobody_else(
    sql: Any, user: UUID, message: UUID
) -> None:
    await refuse_at_the_end(sql, "")
    empty = await opened(sql, user, message)
    good = await opened(sql, user, await answer(sql, user), "good")
    for each in (empty, good):
        await end(sql, each, writes=True)
    assert await settle(sql) == {empty: (False, False, "P0001"), good: (True, True, None)}
    assert await row_of(sql, message) == ("", None)


# --- columns that are streamed no more

NOT_STREAMED = ENDED.replace('streams = ["content"]\nended = "state"', "")


async def test_a_text_is_written_before_its_column_is_streamed_no_more(
    database: Database, sql: Any, user: UUID
) -> None:
    messages = [await answer(sql, user) for _ in range(4)]
    await end(sql, await opened(sql, user, messages[1], "b"))
    stream = await opened(sql, user, messages[0], "a")
    stopping = await opened(sql, user, messages[2], "c")
    await opened(sql, user, messages[3])
    await sql.fetchval("SELECT * FROM sync.stop_streams($1)", [stopping])
    await migrate(database.url, text=NOT_STREAMED)
    try:
        rows = [await row_of(sql, each) for each in messages]
        assert rows == [("a", "failed"), ("b", "done"), ("c", "stopped"), ("", "failed")]
        assert await append(sql, (stream, 1, "x")) == set()
        assert await sql.fetchval("SELECT count(*) FROM sync.streams WHERE settled_at IS NULL") == 0
        assert await sql.fetchval("SELECT count(*) FROM sync.stream_text") == 0, "a copy that nobody would remove"
        assert (await open_stream(sql, user, messages[0]))["problem"] == "unknown_row"
    finally:
        await migrate(database.url, text=ENDED)


async def test_streams_of_other_columns_go_on_when_one_is_streamed_no_more(
    database: Database, sql: Any, user: UUID, message: UUID
) -> None:
    await migrate(database.url, text=ENDED.replace('streams = ["content"]', 'streams = ["content", "role"]'))
    stream = await opened(sql, user, message, "a")
    await migrate(database.url, text=ENDED)
    assert await append(sql, (stream, 1, "b")) == {stream}
    assert await row_of(sql, message) == ("", None)


@pytest.mark.parametrize("body", ["RAISE EXCEPTION 'no'", "RETURN NULL"])
async def test_a_column_is_streamed_as_long_as_its_row_does_not_take_a_text(
    database: Database, sql: Any, user: UUID, message: UUID, body: str
) -> None:
    await sql.execute(f"""
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN new; END $$;
        CREATE TRIGGER ours BEFORE UPDATE ON messages FOR EACH ROW WHEN (new.content LIKE 'bad%')
            EXECUTE FUNCTION ours();
    """)
    stream = await opened(sql, user, message, "bad")
    with pytest.raises(UnfitError, match=f"row {message} of kind «message» does not take the text"):
        await migrate(database.url, text=NOT_STREAMED)
    assert await append(sql, (stream, 3, "x")) == {stream}, "nothing has changed"
    await sql.execute("UPDATE messages SET content = 'There is no answer.' WHERE id = $1", message)
    await migrate(database.url, text=NOT_STREAMED)
    await migrate(database.url, text=ENDED)
    assert await row_of(sql, message) == ("There is no answer.", None)


async def test_a_stream_that_is_opened_while_its_column_is_streamed_no_more_is_refused(
    database: Database, sql: Any, user: UUID, message: UUID
) -> None:
    async with administrator(database) as other, other.transaction():
        await other.execute("LOCK TABLE sync.streams IN EXCLUSIVE MODE")
        waiting = asyncio.create_task(open_stream(sql, user, message))
        await blocked(database)
        await other.execute(
            "CREATE OR REPLACE FUNCTION sync.streamed(_tag text, _key text[], _name text) "
            "RETURNS TABLE (owner uuid, held text) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp "
            "AS $$ BEGIN END $$"
        )
    try:
        assert (await waiting)["problem"] == "unknown_row"
    finally:
        await migrate(database.url, text=NOT_STREAMED)
        await migrate(database.url, text=ENDED)


# --- what is kept


async def test_a_call_looks_at_as_many_rows_as_the_servers_expect(sql: Any, user: UUID) -> None:
    await sql.execute(
        "INSERT INTO sync.streams (id, user_id, kind, row_key, name, since, slot, holder, state, ended_at, look_at) "
        "SELECT gen_random_uuid(), $1, 'm', ARRAY[gen_random_uuid()::text], 'content', 0, 0, '', 'done', now(), now() "
        "FROM generate_series(1, $2 + 1)",
        *(user, LOOKS),
    )
    assert [len(await settle(sql)) for _ in range(2)] == [LOOKS, 1]


async def test_truncation_never_takes_a_text_that_is_not_settled(
    database: Database, sql: Any, user: UUID, message: UUID
) -> None:
    stream = await opened(sql, user, message, "text")
    await sql.execute("UPDATE sync.streams SET slot = (slot + 2) % 4")  # opened ten minutes ago
    await sql.execute("UPDATE sync.stream_text SET slot = (slot + 2) % 4")
    await sql.execute("SELECT sync.rotate_streams()")
    assert (await open_stream(sql, user, message))["text"] == "text"
    await end(sql, stream, writes=True)
    await settle(sql)
    await sql.execute("UPDATE sync.streams SET slot = (slot + 2) % 4")
    await sql.execute("UPDATE sync.stream_text SET slot = (slot + 2) % 4")
    await sql.execute("SELECT sync.rotate_streams()")
    assert await sql.fetchval("SELECT count(*) FROM sync.stream_text") == 0
    assert await end(sql, stream) == ("done", 0)
    await sql.execute("UPDATE sync.streams SET settled_at = settled_at - interval '2 days'")
    await sql.execute("SELECT sync.rotate_streams()")
    assert await end(sql, stream) is None


async def test_a_text_that_its_row_does_not_take_keeps_no_other_one(sql: Any, user: UUID, message: UUID) -> None:
    await sql.execute("""
        CREATE FUNCTION ours() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING ERRCODE = '23514'; END $$;
        CREATE TRIGGER ours BEFORE UPDATE ON messages FOR EACH ROW WHEN (NEW.content LIKE 'stuck%')
            EXECUTE FUNCTION ours()
    """)
    stuck = await opened(sql, user, message, "stuck")
    assert await append(sql, (stuck, 5, " text")) == {stuck}
    other = await opened(sql, user, await answer(sql, user), "other")
    for each in (stuck, other):
        await end(sql, each, writes=True)
    assert await settle(sql) == {stuck: (False, False, "23514"), other: (True, True, None)}
    for _ in range(2):  # also where it was before
        await sql.execute("UPDATE sync.streams SET slot = (slot + 2) % 4, ended_at = ended_at - interval '10 minutes'")
        await sql.execute("UPDATE sync.stream_text SET slot = (slot + 2) % 4")
        await sql.execute("SELECT sync.rotate_streams()")
        left = await sql.fetch("SELECT stream, slot FROM sync.stream_text WHERE slot <> sync.stream_slot()")
        assert left == []
    assert await sql.fetchval("SELECT count(*) FROM sync.stream_text") == 3
    await sql.execute("DROP TRIGGER ours ON messages; UPDATE sync.streams SET look_at = now()")
    assert await settle(sql) == {stuck: (True, True, None)}
    assert (await row_of(sql, message))[0] == "stuck text"


@pytest.mark.parametrize("text", ["", "long"])
async def test_a_stream_that_takes_long_keeps_its_text_and_no_other_one(
    database: Database, sql: Any, user: UUID, message: UUID, text: str
) -> None:
    stream = await opened(sql, user, message, text)
    settled = await opened(sql, user, await answer(sql, user), "other")
    await end(sql, settled, writes=True)
    assert await settle(sql) == {settled: (True, True, None)}
    await sql.execute("UPDATE sync.streams SET slot = (slot + 2) % 4")
    await sql.execute("UPDATE sync.stream_text SET slot = (slot + 2) % 4")
    async with administrator(database) as rotating, rotating.transaction():
        await rotating.execute("SELECT sync.rotate_streams()")
        appending = asyncio.create_task(append(sql, (stream, len(text), "er")))
        await blocked(database)
    assert await appending == {stream}
    assert (await open_stream(sql, user, message))["text"] == f"{text}er"
    assert await sql.fetchval("SELECT count(DISTINCT stream) FROM sync.stream_text") == 1


async def test_a_stream_that_is_opened_while_a_slot_is_emptied_keeps_its_text(
    database: Database, sql: Any, user: UUID, message: UUID
) -> None:
    old = await opened(sql, user, message, "old")
    await sql.execute("UPDATE sync.streams SET slot = (sync.stream_slot() + 2) % 4, settled_at = now()")
    await sql.execute("UPDATE sync.stream_text SET slot = (sync.stream_slot() + 2) % 4")
    new = await answer(sql, user)
    async with administrator(database) as rotating:
        await rotating.execute("ALTER FUNCTION sync.rotate_streams() SET lock_timeout = '1 min'")
        async with sql.transaction():
            stream = await opened(sql, user, new)
            await sql.execute(
                "UPDATE sync.streams SET slot = (SELECT slot FROM sync.streams WHERE id = $2) WHERE id = $1",
                stream,
                old,
            )
            await append(sql, (stream, 0, "new"))
            waiting = asyncio.create_task(rotating.execute("SELECT sync.rotate_streams()"))
            await blocked(database)
        await waiting
        await rotating.execute("ALTER FUNCTION sync.rotate_streams() SET lock_timeout = '100ms'")
    assert (await open_stream(sql, user, new))["text"] == "new"


# --- who may


async def test_nobody_but_the_functions_reaches_the_texts(
    database: Database, user: UUID, sql: Any, message: UUID
) -> None:
    await opened(sql, user, message, "secret")
    server = await asyncpg.connect(database.server_url)
    try:
        for table in ("streams", "stream_text", *(f"stream_text_{i}" for i in range(4))):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await server.execute(f"SELECT FROM sync.{table}")
        for call in ("sync.settle('m', NULL, NULL, '', '', '', '', true)", "sync.streamed('m', NULL, '')"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await server.execute(f"SELECT {call}")
    finally:
        await server.close()


# --- what it costs


READS = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = 'sync.streams'::regclass"


@pytest.mark.parametrize(
    "call",
    [
        "open_stream(gen_random_uuid(), $2, 'm', ARRAY[$3::text], 'content', false, 100, 'a server')",
        "append_streams('a server', $1, ARRAY[0, 0], ARRAY['a', 'b'])",
        "read_streams($1, ARRAY[0, 0])",
        "read_streams(NULL, NULL)",
        "end_stream('a server', ($1::uuid[])[1], 'done', NULL, false)",
        "stop_streams($1)",
        "touch_streams('a server', $1)",
        "lost_streams($1)",
        "settle_streams('a server', interval '-1 s', interval '10 s')",
        "rotate_streams()",
    ],
)
async def test_no_call_reads_the_streams_that_were_settled(sql: Any, user: UUID, message: UUID, call: str) -> None:
    await sql.execute(PLANNING)  # as the server's connections have it
    streams = [await opened(sql, user, await answer(sql, user)) for _ in range(2)]
    await sql.execute("""
        INSERT INTO sync.streams (id, user_id, kind, row_key, name, since, slot, holder, state, settled_at)
        SELECT gen_random_uuid(), gen_random_uuid(), 'm', ARRAY[i::text], 'content', 0, i % 4, '', 'done',
               now() - CASE WHEN i <= 10 THEN interval '2 days' ELSE interval '1 hour' END
        FROM generate_series(1, 2000) i
    """)
    await sql.execute("ANALYZE sync.streams")
    given = (streams, user, str(message))
    uses = "SELECT $1::uuid[], $2::uuid, $3::text"
    async with sql.transaction():
        before = await sql.fetchval(READS)
        await sql.fetch(f"WITH given AS ({uses}) SELECT * FROM sync.{call}", *given)
        assert await sql.fetchval(READS) - before < 200
