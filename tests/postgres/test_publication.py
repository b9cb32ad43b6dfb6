"""The publication holds what servers read of the WAL, follows the declaration, and no write of the app fails because of
it."""

from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from server.postgres.migrate import migrate, steps
from server.postgres.plan import plan
from server.postgres.publication import Doorbells
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.support.cluster import Cluster, Database, administrator
from tests.support.notes import DECLARATION, FOLDER, GATE, PERSON, add_folder, add_note, notes

WAL, LISTEN = Doorbells.WAL, Doorbells.LISTEN
PUBLISHED = """
    SELECT schemaname || '.' || tablename AS tab, attnames::text[] AS names
    FROM pg_publication_tables WHERE pubname = 'atlas_sync' ORDER BY 1
"""
LOG = ["user_id", "seq", "n", "prev", "kind", "op", "row_id", "row_at", "mark", "prev_mark", "row_key"]


async def published(sql: Any) -> dict[str, list[str]]:
    return {row["tab"]: row["names"] for row in await sql.fetch(PUBLISHED)}


async def test_it_has_what_servers_read_and_nothing_else(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        assert await published(sql) == {}
        assert await migrate(database.url, doorbells=WAL) == []
        assert await published(sql) == {
            "public.folders": ["id", "owner", "name"],
            "public.notes": ["id", "folder", "said"],
            "sync.declaration": ["only_one", "digest"],
            "sync.log": LOG,
        }
        options = "pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables"
        found = await sql.fetchrow(f"SELECT {options} FROM pg_publication")
        assert tuple(found) == (True, True, False, False, True, False)


async def test_a_plain_migration_keeps_it_and_it_follows_the_declaration(every_postgres: Cluster) -> None:
    async with notes(every_postgres, FOLDER) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await migrate(database.url, text=GATE + PERSON + DECLARATION.replace('["said"]', '["said", "parts"]'))
        assert await published(sql) == {
            "public.folders": ["id", "owner", "name"],
            "public.notes": ["id", "folder", "said", "parts"],
            "public.people": ["id", "plan"],
            "sync.declaration": ["only_one", "digest"],
            "sync.log": LOG,
        }
        assert await steps(database.url) == []
        await migrate(database.url, text=FOLDER)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}


async def test_the_chat_schema_is_published_by_the_names_of_its_tables(every_database: Database) -> None:
    async with administrator(every_database) as sql:
        await migrate(every_database.url, doorbells=WAL)
        assert set(await published(sql)) == {
            "public.conversations",
            "public.messages",
            "public.profiles",
            "sync.declaration",
            "sync.log",
        }


async def test_listen_drops_it_and_ends_the_silence(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        assert await sql.fetchval("SELECT sync.keep_quiet()")
        await migrate(database.url, doorbells=LISTEN)
        assert await published(sql) == {}
        assert await sql.fetchval("SELECT count(*) FROM pg_event_trigger") == 0
        assert await sql.fetchrow("SELECT doorbells, quiet_until::text FROM sync.meta") == ("listen", "-infinity")
        assert await steps(database.url) == await steps(database.url, doorbells=LISTEN) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE notes DROP CONSTRAINT notes_pkey", "it has no replica identity, as a primary key is"),
        ("ALTER TABLE notes REPLICA IDENTITY NOTHING", "it has no replica identity, as a primary key is"),
        ("ALTER TABLE notes REPLICA IDENTITY FULL", "its REPLICA IDENTITY is FULL, which allows no list of columns"),
        (
            "ALTER TABLE notes ALTER secret SET DEFAULT gen_random_uuid()::text, ALTER secret SET NOT NULL; "
            "CREATE UNIQUE INDEX other ON notes (secret); ALTER TABLE notes REPLICA IDENTITY USING INDEX other; "
            "DROP INDEX other",
            "it has no replica identity, as a primary key is",
        ),
        (
            "ALTER TABLE notes DROP CONSTRAINT notes_pkey; ALTER TABLE notes ADD PRIMARY KEY (id) DEFERRABLE",
            "it has no replica identity, as a primary key is",
        ),
    ],
)
async def test_a_table_whose_updates_would_fail_is_left_out_and_named(
    every_postgres: Cluster, change: str, why: str
) -> None:
    async with notes(every_postgres) as (database, sql):
        await sql.execute(change)
        says = f"public.notes is left out of the publication atlas_sync: {why}. Its changes ring, and are then read."
        assert says in (await plan(database.url, doorbells=WAL)).cautions
        await migrate(database.url, doorbells=WAL)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}
        assert await steps(database.url) == []
        await edit(sql)


async def edit(sql: Any) -> None:
    note = await add_note(sql, await add_folder(sql, uuid4()))
    assert await sql.execute("UPDATE notes SET said = 'more' WHERE id = $1", note) == "UPDATE 1"


async def test_a_replica_identity_of_other_columns_is_published_too(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await sql.execute(
            "UPDATE notes SET secret = id; ALTER TABLE notes ALTER secret SET DEFAULT gen_random_uuid()::text, "
            "ALTER secret SET NOT NULL; CREATE UNIQUE INDEX other ON notes (secret) INCLUDE (said); "
            "ALTER TABLE notes REPLICA IDENTITY USING INDEX other"
        )
        await migrate(database.url, doorbells=WAL)
        assert (await published(sql))["public.notes"] == ["id", "folder", "said", "secret"]
        await edit(sql)


CHANGES = [
    "ALTER TABLE notes DROP CONSTRAINT notes_pkey",
    "ALTER TABLE notes REPLICA IDENTITY NOTHING",
    "ALTER TABLE notes REPLICA IDENTITY FULL",
    "ALTER TABLE notes ALTER secret SET DEFAULT gen_random_uuid()::text, ALTER secret SET NOT NULL; "
    "CREATE UNIQUE INDEX other ON notes (secret); ALTER TABLE notes REPLICA IDENTITY USING INDEX other",
]


@pytest.mark.parametrize("change", CHANGES)
async def test_an_update_succeeds_in_the_transaction_that_changed_the_tables_key(
    every_postgres: Cluster, change: str
) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        async with sql.transaction():
            await sql.execute(change)
            await edit(sql)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}


@pytest.mark.parametrize("change", CHANGES)
async def test_without_an_event_trigger_a_server_takes_the_table_out(every_postgres: Cluster, change: str) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute("DROP EVENT TRIGGER atlas_sync_withdraw")
        await sql.execute(change)
        with pytest.raises((asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InvalidColumnReferenceError)):
            await edit(sql)
        server = await asyncpg.connect(database.server_url)
        await server.execute("SELECT sync.withdraw()")
        await server.close()
        await edit(sql)
        assert set(await published(sql)) == {"public.folders", "sync.declaration", "sync.log"}


async def test_what_was_taken_out_is_published_again_once_it_fits(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute("ALTER TABLE notes DROP CONSTRAINT notes_pkey")
        await sql.execute("ALTER TABLE notes ADD PRIMARY KEY (id)")
        assert "public.notes" not in await published(sql)
        await migrate(database.url)
        assert "public.notes" in await published(sql)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE notes ADD COLUMN more text DEFAULT 'x' NOT NULL",
        "ALTER TABLE notes ADD COLUMN length int GENERATED ALWAYS AS (length(said)) STORED",
        "ALTER TABLE notes DROP COLUMN secret",
        "ALTER TABLE notes RENAME COLUMN secret TO hidden",
        "ALTER TABLE notes ALTER said SET NOT NULL",
        "CREATE UNIQUE INDEX ON notes (folder, id)",
        "ALTER TABLE notes CLUSTER ON notes_pkey",
        "ALTER TABLE notes ENABLE ROW LEVEL SECURITY",
    ],
)
async def test_other_changes_of_a_table_leave_it_published(every_postgres: Cluster, change: str) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await sql.execute(change)
        await edit(sql)
        assert (await published(sql))["public.notes"] == ["id", "folder", "said"]


async def test_undo_removes_it(every_postgres: Cluster) -> None:
    async with notes(every_postgres) as (database, sql):
        await migrate(database.url, doorbells=WAL)
        await undo(database.url, SILENT)
        assert await sql.fetchval("SELECT count(*) FROM pg_publication") == 0
        assert await sql.fetchval("SELECT count(*) FROM pg_event_trigger") == 0
