"""Streams while what surrounds them changes: declarations, versions, poolers, processes. No text is lost."""

from functools import partial
from typing import Any
from uuid import UUID

import pytest

from atlas_sync import Stopped, Stream
from server.declaration.chat import CHAT_TOML
from server.exceptions import UnfitError
from server.postgres.migrate import migrate
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.integration.test_others import a_plain_owner
from tests.integration.test_stream_writer import device_of
from tests.integration.test_streams import SERVICE, content, placeholder, watching, writing
from tests.support.cluster import Cluster, Database
from tests.support.notes import FOLDER, NOTE, add_folder, add_note, notes
from tests.support.serving import ServerProcess, serving
from tests.support.waiting import eventually

NOT_STREAMED = CHAT_TOML.replace('streams = ["content"]', "")
STREAMED_NOTE = NOTE + 'streams = ["said"]\n'


BEFORE_STREAMS = """
    DROP TABLE sync.streams, sync.stream_text;
    DO $$ BEGIN
        EXECUTE (SELECT string_agg(format('DROP FUNCTION %s', oid::regprocedure), ';') FROM pg_proc
                 WHERE pronamespace = 'sync'::regnamespace AND proname ~ 'stream|^settle');
    END $$;
    UPDATE sync.migrations SET version_num = '0013_nobody', definitions = definitions - 'functions/streams.sql';
    UPDATE sync.declaration SET checksum = 'of an earlier version'
"""
"""What a database does not have that was migrated before there were streams."""


async def test_a_database_from_before_streams_keeps_its_declaration_and_streams_what_is_declared_then(
    database: Database, sql: Any, user: UUID
) -> None:
    await migrate(database.url, text=NOT_STREAMED)
    message = await placeholder(sql, user)
    await sql.execute(BEFORE_STREAMS)
    for _ in range(2):
        assert await migrate(database.url) == []
    async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
        body = {"user": str(user), "kind": "message", "id": str(message), "column": "content"}
        refused = await writer.http.post("streams", json=body)
        assert (refused.status_code, "Add the column to `streams` of its kind" in refused.text) == (400, True)
        await migrate(database.url, text=CHAT_TOML)

        async def opens() -> bool:
            return (await writer.http.post("streams", json=body)).status_code in (200, 201)

        await eventually(opens)
        async with watching(server.url, user) as device:
            stream = (await writer.open(user, message))["stream"]
            await writer.append(stream, 0, "text")
            await device.until(stream, "text")
            await migrate(database.url)
            assert (await writer.append(stream, 4, " and more"))[0] == 200
            await writer.end(stream, "done", write=True)
            await device.settled(stream)
    assert await content(sql, message) == "text and more"


async def test_a_declaration_that_streams_a_column_no_more_leaves_its_text_in_the_row(
    database: Database, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    async with (
        serving(database, service_token=SERVICE) as server,
        writing(server) as writer,
        watching(server.url, user) as device,
    ):
        stream = (await writer.open(user, message))["stream"]
        await writer.append(stream, 0, "on every screen")
        await device.until(stream, "on every screen")
        await migrate(database.url, text=NOT_STREAMED)
        assert await content(sql, message) == "on every screen"
        await device.settled(stream)
        status, answer = await writer.append(stream, 15, " and more")
        assert (status, answer["state"]) == (409, "failed")


async def test_a_text_whose_table_was_dropped_has_no_place_and_holds_up_no_declaration(
    postgres_18: Cluster, user: UUID
) -> None:
    async with notes(postgres_18, FOLDER + STREAMED_NOTE) as (database, sql):
        note = await add_note(sql, await add_folder(sql, user), "")
        async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
            stream = (await writer.open(user, note, kind="note", column="said"))["stream"]
            await writer.append(stream, 0, "text")
            await sql.execute("DROP TABLE notes CASCADE")
            await migrate(database.url, text=FOLDER)
            assert await sql.fetchval("SELECT count(*) FROM sync.streams WHERE settled_at IS NULL") == 0
            assert (await writer.append(stream, 4, "x"))[0] == 409


@pytest.mark.parametrize(
    ("before", "declaration"),
    [
        ("ALTER TABLE notes ADD uid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid()", STREAMED_NOTE + 'key = "uid"\n'),
        ("ALTER TABLE notes RENAME id TO number", STREAMED_NOTE),
        (
            "ALTER TABLE notes RENAME said TO words",
            STREAMED_NOTE.replace('columns = ["said"]', 'columns = ["words as said"]'),
        ),
        ("ALTER TABLE notes RENAME TO jottings", STREAMED_NOTE.replace('"notes"', '"jottings"')),
        ("CREATE TABLE jottings (LIKE notes INCLUDING ALL)", STREAMED_NOTE.replace('"notes"', '"jottings"')),
    ],
    ids=["another key", "a renamed key", "a renamed column", "a renamed table", "another table"],
)
async def test_a_text_finds_its_row_where_the_declaration_changes_its_key_or_its_place(
    postgres_18: Cluster, user: UUID, before: str, declaration: str
) -> None:
    async with notes(postgres_18, FOLDER + STREAMED_NOTE) as (database, sql):
        note = await add_note(sql, await add_folder(sql, user), "")
        of = await sql.fetchval("SELECT 'notes'::regclass::oid")
        async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
            stream = (await writer.open(user, note, kind="note", column="said"))["stream"]
            await writer.append(stream, 0, "text")
            await sql.execute(before)
            await migrate(database.url, text=FOLDER + declaration)

            async def has_it() -> bool:
                table, words = await sql.fetchrow(
                    "SELECT $1::oid::regclass::text, attname FROM pg_attribute WHERE attrelid = $1 AND attnum = 3", of
                )
                return bool(await sql.fetchval(f"SELECT {words} FROM {table}") == "text")

            await eventually(has_it)
            await eventually(lambda: sql.fetchval("SELECT settled_at IS NOT NULL FROM sync.streams"))


async def test_a_key_whose_type_has_changed_holds_up_no_declaration_and_no_other_stream(
    postgres_18: Cluster, user: UUID
) -> None:
    async with notes(postgres_18, FOLDER + STREAMED_NOTE) as (database, sql):
        folder = await add_folder(sql, user)
        note = await add_note(sql, folder, "")
        async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
            stream = (await writer.open(user, note, kind="note", column="said"))["stream"]
            await writer.append(stream, 0, "text")
            await sql.execute(
                "ALTER TABLE notes DROP id CASCADE; ALTER TABLE notes ADD id uuid PRIMARY KEY DEFAULT gen_random_uuid()"
            )
            await migrate(database.url, text=FOLDER + STREAMED_NOTE)
            status, answer = await writer.append(stream, 4, "x")
            assert (status, answer["state"]) == (409, "failed")
            other = await sql.fetchval("INSERT INTO notes (folder, said) VALUES ($1, '') RETURNING id", folder)
            body = {"user": str(user), "kind": "note", "id": str(other), "column": "said"}

            async def opens() -> bool:
                return (await writer.http.post("streams", json=body)).status_code in (200, 201)

            await eventually(opens)
            stream = (await writer.open(user, other, kind="note", column="said"))["stream"]
            await writer.append(stream, 0, "text")
            await writer.end(stream, "done", write=True)
            text = "SELECT said = 'text' FROM notes WHERE id = $1"
            await eventually(lambda: sql.fetchval(text, other))


async def test_an_undo_leaves_what_was_streamed_in_the_rows_and_may_be_undone(
    database: Database, sql: Any, user: UUID
) -> None:
    message = await placeholder(sql, user)
    for before, text in (("", "before"), ("before", "after")):
        assert await content(sql, message) == before
        async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
            await writer.append((await writer.open(user, message))["stream"], 0, text)
        await undo(database.url, SILENT)
        assert await content(sql, message) == text
        await migrate(database.url, text=CHAT_TOML)


async def test_an_undo_of_tables_that_were_only_declared_does_so_too(postgres_18: Cluster, user: UUID) -> None:
    async with notes(postgres_18, FOLDER + STREAMED_NOTE) as (database, sql):
        note = await add_note(sql, await add_folder(sql, user), "")
        async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
            await writer.append((await writer.open(user, note, kind="note", column="said"))["stream"], 0, "text")
        await undo(database.url, SILENT)
        assert await sql.fetchval("SELECT said FROM notes WHERE id = $1", note) == "text"


async def test_an_undo_stops_where_a_row_does_not_take_its_text(database: Database, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with serving(database, service_token=SERVICE) as server, writing(server) as writer:
        await writer.append((await writer.open(user, message))["stream"], 0, "no")
    await sql.execute("ALTER TABLE messages ADD CHECK (content <> 'no')")
    with pytest.raises(UnfitError, match=f"row {message} of kind «message» does not take the text"):
        await undo(database.url, SILENT)
    assert await sql.fetchval("SELECT count(*) FROM sync.stream_text") == 1
    await sql.execute("DELETE FROM messages")
    await undo(database.url, SILENT)


async def test_a_server_without_a_token_says_that_it_streams_nothing_once_something_is_declared_to_be(
    database: Database,
) -> None:
    await migrate(database.url, text=NOT_STREAMED)
    async with ServerProcess(database.server_url) as server:

        def says() -> bool:
            return any("nothing is streamed" in event["event"] for event in server.log)

        assert not says()
        await migrate(database.url, text=CHAT_TOML)
        await eventually(says)


async def test_streams_go_through_a_pooler_and_listen_beside_it(database: Database, sql: Any, user: UUID) -> None:
    pooled = f"{database.server_url}&pgbouncer=true"
    beside = {"ATLAS_LISTEN_URL": database.server_url, "ATLAS_SERVICE_TOKEN": SERVICE}
    message = await placeholder(sql, user)
    async with (
        ServerProcess(pooled, **beside) as one,
        ServerProcess(pooled, **beside) as two,
        device_of(two.url, user) as phone,
    ):
        with pytest.raises(Stopped):
            async with Stream(one.http, SERVICE, user, "message", message, "content") as out:
                for word in ("one ", "two ", "three"):
                    await out.write(word)
                    await eventually(partial(phone.has, message, out.text))
                assert await phone.device.stop_stream("message", message, "content")
                assert await out.stopped()
        await eventually(lambda: row_has(sql, message, "one two three"))
        await eventually(partial(phone.settled, message, "one two three"))


async def row_has(sql: Any, message: UUID, text: str) -> bool:
    return bool(await content(sql, message) == text)


async def test_a_migration_that_cannot_see_a_row_says_what_to_run(database: Database, sql: Any, user: UUID) -> None:
    message = await placeholder(sql, user)
    async with a_plain_owner(sql) as owner, serving(database, service_token=SERVICE) as server:
        async with writing(server) as writer:
            await writer.append((await writer.open(user, message))["stream"], 0, "text")
        await sql.execute("ALTER TABLE messages FORCE ROW LEVEL SECURITY")
        url = database.cluster.postgres.url(database.name, owner)
        with pytest.raises(UnfitError, match=f"NO FORCE ROW LEVEL SECURITY, or ALTER ROLE {owner} BYPASSRLS"):
            await migrate(url, text=NOT_STREAMED)
        await sql.execute("ALTER TABLE messages NO FORCE ROW LEVEL SECURITY")
        await migrate(url, text=NOT_STREAMED)
        assert await content(sql, message) == "text"
