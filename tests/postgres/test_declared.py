"""Another declaration: what becomes of triggers and rights, and which devices need a snapshot."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from server.postgres import declared as module
from server.postgres.inventory import take_inventory
from server.postgres.migrate import migrate, steps
from tests.support.chat_app import Heard
from tests.support.cluster import Cluster
from tests.support.notes import DECLARATION, FOLDER, GATE, PERSON, add_folder, add_note, notes

HISTORIES = "SELECT array_agg(coalesce(why, '') ORDER BY n) FROM sync.histories"
LOG = "SELECT kind::text || op::text || coalesce(row_key[1], row_id::text) FROM sync.log ORDER BY seq, n"
TRIGGERS = """
    SELECT array_agg(DISTINCT tgrelid::regclass::text ORDER BY tgrelid::regclass::text) FROM pg_trigger
    WHERE tgname LIKE 'atlas%'
"""
READ = """
    SELECT array_agg(c.relname || '.' || a.attname ORDER BY c.relname, a.attname)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, aclexplode(a.attacl) r
    WHERE r.grantee = 'atlas_sync'::regrole AND c.relnamespace = 'public'::regnamespace
"""
WITH_PARTS = DECLARATION.replace('columns = ["said"]', 'columns = ["said", "parts"]')
assert WITH_PARTS != DECLARATION


async def test_a_kind_without_rows_and_a_column_without_values_change_nothing_for_devices(
    every_postgres: Cluster,
) -> None:
    async with notes(every_postgres, FOLDER) as (database, sql):
        folder = await add_folder(sql, uuid4())
        for text in (DECLARATION, WITH_PARTS, GATE + PERSON + WITH_PARTS):
            assert await migrate(database.url, text=text) == []
            assert await sql.fetchval(HISTORIES) == [""]
        await sql.execute("UPDATE notes SET parts = '1' WHERE id = $1", note := await add_note(sql, folder))
        assert [row[0] for row in await sql.fetch(LOG)] == [f"fu{folder}", f"nu{note}", f"nu{note}"]


async def test_a_kind_with_rows_and_a_column_with_values_give_devices_a_snapshot(every_postgres: Cluster) -> None:
    async with notes(every_postgres, FOLDER) as (database, sql):
        await add_note(sql, await add_folder(sql, uuid4()))
        await migrate(database.url, text=DECLARATION)
        assert await sql.fetchval(HISTORIES) == ["", "schema"]
        await sql.execute("UPDATE notes SET parts = '1'")
        await migrate(database.url, text=WITH_PARTS)
        assert await sql.fetchval(HISTORIES) == ["", "schema", "schema"]
        standing = await sql.fetchrow("SELECT epoch, lineage, schemas FROM sync.standing()")
        assert set(standing["schemas"]) == {standing["lineage"][1], standing["epoch"]}
        await migrate(database.url, text=WITH_PARTS)
        assert await sql.fetchval(HISTORIES) == ["", "schema", "schema"]


async def test_a_kind_that_is_gone_takes_its_triggers_functions_and_rights_along(every_postgres: Cluster) -> None:
    async with notes(every_postgres, None) as (database, sql):
        await sql.execute("ALTER TABLE notes ENABLE ROW LEVEL SECURITY")
        await migrate(database.url, text=PERSON + WITH_PARTS)
        before = await sql.fetchval("SELECT count(*) FROM pg_proc WHERE pronamespace = 'sync'::regnamespace")
        assert await sql.fetchval(TRIGGERS) == ["folders", "notes", "people", "sync.usage_logs"]
        assert await migrate(database.url, text=FOLDER) == []
        assert await sql.fetchval(TRIGGERS) == ["folders", "sync.usage_logs"]
        assert await sql.fetchval(READ) == ["folders.id", "folders.name", "folders.owner"]
        assert await sql.fetchval("SELECT array_agg(polname) FROM pg_policy WHERE polrelid = 'notes'::regclass") is None
        # record_person, record_note, write_note
        after = await sql.fetchval("SELECT count(*) FROM pg_proc WHERE pronamespace = 'sync'::regnamespace")
        assert before - after == 3
        assert await sql.fetchval(HISTORIES) == ["", "schema"]
        assert await steps(database.url) == []


async def test_a_column_that_is_gone_is_no_longer_read(every_postgres: Cluster) -> None:
    async with notes(every_postgres, WITH_PARTS) as (database, sql):
        await migrate(database.url, text=DECLARATION)
        assert await sql.fetchval(READ) == [
            *("folders.id", "folders.name", "folders.owner"),
            *("notes.folder", "notes.id", "notes.said"),
        ]
        await sql.execute("ALTER TABLE notes DROP COLUMN parts")
        assert await migrate(database.url) == []


@pytest.mark.parametrize(
    ("before", "text", "late"),
    [
        (FOLDER, DECLARATION, "INSERT INTO notes (folder, said) SELECT id, 'late' FROM folders"),
        (DECLARATION, WITH_PARTS, "INSERT INTO notes (folder, parts) SELECT id, '1' FROM folders"),
    ],
    ids=["a kind", "a column"],
)
async def test_what_is_written_while_the_declaration_takes_force_is_not_missed(
    every_postgres: Cluster, monkeypatch: pytest.MonkeyPatch, before: str, text: str, late: str
) -> None:
    async with notes(every_postgres, before) as (database, sql):
        await add_folder(sql, uuid4())
        looked = module.following

        async def looks(*arguments: Any) -> Any:
            found = await looked(*arguments)
            assert not found.snapshot
            await sql.execute(late)
            return found

        monkeypatch.setattr(module, "following", looks)
        await migrate(database.url, text=text)
        assert await sql.fetchval(HISTORIES) == ["", "schema"]


async def test_an_interrupted_look_at_new_columns_is_repeated(
    postgres_18: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    class Killed(Heard):
        def begins(self, step: Any) -> None:
            if step is module.LOOKING:
                raise KilledError

    async with notes(postgres_18) as (database, sql):
        with pytest.raises(KilledError):
            await migrate(database.url, Killed(), text=WITH_PARTS)
        folder = await add_folder(sql, uuid4())
        await sql.execute("UPDATE notes SET parts = '1' WHERE id = $1", await add_note(sql, folder))
        assert await sql.fetchval(HISTORIES) == [""]
        assert len(await steps(database.url)) == 1
        assert await migrate(database.url) == []
        assert await sql.fetchval(HISTORIES) == ["", "schema"]
        assert await steps(database.url) == []


async def test_no_table_is_touched_but_those_whose_triggers_change(postgres_18: Cluster) -> None:
    async with notes(postgres_18) as (database, sql):
        async with sql.transaction():
            await sql.execute("LOCK TABLE folders IN ACCESS SHARE MODE")
            async with asyncio.timeout(20):
                await migrate(database.url, text=WITH_PARTS)
        async with sql.transaction():
            assert await take_inventory(sql) == []
