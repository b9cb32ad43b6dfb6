"""Streams under attack: by roles that notify, by rows that move, by policies and triggers of the app, and by gates."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from protocol.frames import Stop, Stopped
from server.postgres.streams import PostgresStreams
from server.streams.ports import Settled
from tests.integration.test_others import a_plain_owner
from tests.integration.test_streams import Watcher, Writer, content, placeholder, watching, writing
from tests.support.cluster import Database, administrator
from tests.support.people import add_conversation, add_user
from tests.support.rows import encoded_value
from tests.support.serving import Running, serving
from tests.support.streaming import SERVICE
from tests.support.waiting import eventually


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Running]:
    async with serving(database, service_token=SERVICE) as running:
        yield running


@pytest.mark.parametrize(
    "payload",
    [
        "",
        " ",
        "x",
        "a b c",
        "a 1 " + "0" * 31,
        "a 1 " + "g" * 32,
        "a " + "9" * 400 + " " + "0" * 32,
        "a -1 " + "0" * 32,
        "a 1 " + "".join(uuid4().hex for _ in range(240)),
        "\u0661 \u0661 \u0661",
    ],
)
async def test_whatever_a_role_sends_on_the_channel_harms_nobody(
    server: Running, sql: Any, user: UUID, payload: str
) -> None:
    message = await placeholder(sql, user)
    channel = await sql.fetchval("SELECT channel || '_streams' FROM sync.meta")
    async with writing(server) as writer, watching(server.url, user) as device:
        stream = (await writer.open(user, message))["stream"]
        for _ in range(200):
            await sql.execute("SELECT pg_notify($1, $2)", channel, payload)
        await writer.append(stream, 0, "text")
        await device.until(stream, "text")
        await sql.execute("DELETE FROM messages WHERE id = $1", message)
        await device.settled(stream)


async def test_the_former_owner_of_a_row_sees_no_more_of_it_and_the_new_one_nothing_of_before(
    server: Running, sql: Any, user: UUID
) -> None:
    other = await add_user(sql)
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user) as former, watching(server.url, other) as new:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "text")
        await former.until(stream, "text")
        conversation = await add_conversation(sql, other)
        await sql.execute("UPDATE messages SET conversation_id = $2 WHERE id = $1", message, conversation)
        await former.settled(stream)
        assert (await writer.append(stream, 4, " and more"))[0] == 409
        opened = await writer.open(other, message)
        assert opened["text"] == ""
        await writer.append(opened["stream"], 0, "another")
        await new.until(opened["stream"], "another")
        assert set(new.texts) == {UUID(opened["stream"])}
        assert former.texts == {UUID(stream): "text"}


async def test_nobody_stops_the_stream_of_another_user(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    stranger = await add_user(sql)
    async with writing(server) as writer, watching(server.url, stranger) as device:
        stream = (await writer.open(user, message))["stream"]
        for id_ in (message, uuid4()):
            stop = Stop(n=1, kind="m", id=encoded_value(id_, device.device.codec))
            await device.device.say(stop)
            assert await device.device.hear_a(Stopped) == Stopped(n=1, found=False)
        assert (await writer.append(stream, 0, "text"))[0] == 200


async def test_a_user_whose_plan_ends_sees_no_more(server: Running, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with writing(server) as writer, watching(server.url, user) as device:
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "paid")
        await device.until(stream, "paid")
        await sql.execute("UPDATE profiles SET subscription_tier = 'free' WHERE id = $1", user)
        with pytest.raises(ConnectionClosed):
            while True:
                await device.hear()
        await writer.append(stream, 4, " for")
        assert device.texts == {UUID(stream): "paid"}
        with pytest.raises(ConnectionClosed):
            async with watching(server.url, user):
                pass
        # The app's backend may still write for that user, and the row gets the text.
        await writer.end(stream, "done", write=True)
        await eventually(lambda: row_has(sql, message, "paid for"))


async def row_has(sql: Any, message: UUID, text: str) -> bool:
    return bool(await content(sql, message) == text)


async def test_a_text_that_the_app_refuses_is_kept_and_delays_no_other(server: Running, sql: Any, user: UUID) -> None:
    await sql.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN ASSERT new.content <> 'bad'; RETURN new; END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    bad, good = await placeholder(sql, user), await placeholder(sql, user)
    async with writing(server) as writer:
        for message, text in ((bad, "bad"), (good, "good")):
            stream = (await writer.open(user, message))["stream"]
            await writer.append(stream, 0, text)
            assert (await writer.end(stream, "done", write=True))[0] == 200
        await eventually(lambda: row_has(sql, good, "good"))
        assert (await writer.open(user, bad))["text"] == "bad"
        await sql.execute("DROP TRIGGER refuse ON messages")
        await eventually(lambda: row_has(sql, bad, "bad"))


async def test_row_level_security_that_is_forced_ends_no_stream_and_loses_no_text(
    database: Database, sql: Any, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[bool] = []
    settle = PostgresStreams.settle

    async def noted(self: PostgresStreams, *, silent: bool) -> list[Settled]:
        looks.append(silent)
        return await settle(self, silent=silent)

    monkeypatch.setattr(PostgresStreams, "settle", noted)
    message, other = await placeholder(sql, user), await placeholder(sql, user)
    async with (
        a_plain_owner(sql),
        serving(database, sweep=600, service_token=SERVICE) as server,
        writing(server) as writer,
    ):
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "text")
        await sql.execute("ALTER TABLE messages FORCE ROW LEVEL SECURITY")
        looks.clear()
        await eventually(lambda: len(looks) > 1)
        assert await sql.fetch("SELECT sync.lost_streams(ARRAY[$1::uuid])", UUID(stream)) == []
        assert await writer.append(stream, 4, " and more") == (200, {"stream": stream, "state": "open", "offset": 13})
        body = {"user": str(user), "kind": "message", "id": str(other), "column": "content"}
        refused = await writer.http.post("streams", json=body)
        assert (refused.status_code, "Row level security hides rows" in refused.text) == (503, True)
        await writer.end(stream, "done", write=True)
        await sql.execute("ALTER TABLE messages NO FORCE ROW LEVEL SECURITY")
        await eventually(lambda: row_has(sql, message, "text and more"))


async def test_a_table_of_the_app_that_is_locked_holds_up_no_answer(
    database: Database, server: Running, sql: Any, user: UUID
) -> None:
    message, *others = [await placeholder(sql, user) for _ in range(5)]
    async with writing(server) as writer, administrator(database) as app:
        stream = (await writer.open(user, message))["stream"]
        async with app.transaction():
            await app.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
            bodies = [{"user": str(user), "kind": "message", "id": str(each), "column": "content"} for each in others]
            opening = [asyncio.create_task(writer.http.post("streams", json=body)) for body in bodies]
            await eventually(lambda: waits(sql))
            for offset in range(20):
                assert (await writer.append(stream, offset, "x"))[0] == 200
            assert (await writer.end(stream, "done", write=True))[0] == 200
            refused = await asyncio.gather(*opening)
            assert {(each.status_code, "is locked" in each.text) for each in refused} == {(503, True)}
        await eventually(lambda: row_has(sql, message, "x" * 20))
        for each in others:
            assert (await writer.open(user, each))["state"] == "open"


async def waits(sql: Any) -> bool:
    """Whether a server waits for a lock of this database."""
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database())"
    )
    return bool(await sql.fetchval(waiting))


async def test_writers_that_begin_anew_beside_others_leave_one_stream_with_one_text(
    database: Database, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(database, service_token=SERVICE)) for _ in range(2)]
        writers = [await stack.enter_async_context(writing(server)) for server in servers]
        watchers = [await stack.enter_async_context(watching(server.url, user)) for server in servers]
        await asyncio.gather(*(_write(writer, user, message, name) for writer in writers for name in "abc"))
        last = (await writers[0].open(user, message, restart=True))["stream"]
        await writers[1].append(last, 0, "the last")
        for watcher in watchers:
            await watcher.until(last, "the last")
            await until_only(watcher, last)
    assert await sql.fetchval("SELECT count(*) FROM sync.streams") == 1


async def _write(writer: Writer, user: UUID, message: UUID, name: str) -> None:
    """Begin anew, and append until another one has begun anew."""
    for _ in range(5):
        stream = (await writer.open(user, message, restart=True))["stream"]
        offset = 0
        while True:
            response = await writer.http.patch(f"streams/{stream}", json={"offset": offset, "text": name})
            assert response.status_code in (200, 404), response.text
            if response.status_code == 404 or offset > 20:
                break
            offset = response.json()["offset"]


async def until_only(watcher: Watcher, stream: str) -> None:
    while watcher.open != [UUID(stream)]:
        await watcher.hear()
