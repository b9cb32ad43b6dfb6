"""Migrating is safe to repeat, to run twice at once, and to review first."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server.errors import UnfitError
from server.postgres.doctor import examine
from server.postgres.migrate import as_sql, cautions, migrate, revisions, steps
from server.postgres.scripts import newest
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.support import chat_app
from tests.support.chat_app import App, command
from tests.support.cluster import Cluster, Database, administrator
from tests.support.maintenance import maintained

SHAPE = """
    SELECT n.nspname || '.' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'sync') AND a.attnum > 0
    UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function ' || oid::regprocedure || md5(prosrc) FROM pg_proc
        WHERE pronamespace = to_regnamespace('sync')
    UNION ALL SELECT 'policy ' || polrelid::regclass || ' ' || polname FROM pg_policy
    ORDER BY 1
"""


@pytest.fixture
async def empty(every_postgres: Cluster) -> Database:
    return await every_postgres.create("template0")


@pytest.fixture
async def admin(empty: Database) -> AsyncIterator[Any]:
    async with administrator(empty) as connection:
        yield connection


async def shape(database: Database) -> list[str]:
    async with administrator(database) as sql:
        return [row[0] for row in await sql.fetch(SHAPE)]


def test_the_newest_migration_is_known_without_alembic_too() -> None:
    assert newest() == revisions()[0]


async def test_migrating_twice_and_at_the_same_time_is_migrating_once(empty: Database) -> None:
    await asyncio.gather(*(migrate(empty.url) for _ in range(3)))
    once = await shape(empty)
    await migrate(empty.url)
    assert await shape(empty) == once
    assert any("sync.log" in line for line in once)


async def test_a_database_of_a_newer_version_is_left_alone(database: Database, sql: Any) -> None:
    await sql.execute("UPDATE sync.migrations SET version_num = '9999_of_tomorrow'")
    before = await shape(database)
    for work in (migrate, steps):
        with pytest.raises(UnfitError, match=r"newer version .* 9999_of_tomorrow"):
            await work(database.url)
    assert await shape(database) == before


async def test_the_printed_sql_does_what_migrating_does(empty: Database) -> None:
    sql = await empty.connect()
    await sql.execute(as_sql())
    await sql.close()
    printed = await shape(empty)
    other = await empty.cluster.create("template0")
    await migrate(other.url)
    assert printed == await shape(other)


@pytest.mark.parametrize("encoding", ["WIN1252", "SQL_ASCII"])
async def test_a_database_of_another_encoding_is_left_alone(every_postgres: Cluster, encoding: str) -> None:
    made = await every_postgres.create("template0", encoding)
    before = await shape(made)
    for work in (migrate, steps):
        with pytest.raises(UnfitError, match=f"encoding is {encoding}, and must be UTF8.*CREATE DATABASE"):
            await work(made.url)
    assert await shape(made) == before
    await made.drop()


@pytest.mark.parametrize("who", ["PUBLIC", "authenticated", "anon", "atlas_sync"])
async def test_while_others_may_create_functions_in_schema_public_nothing_is_done_and_nothing_revoked(
    empty: Database, admin: Any, who: str
) -> None:
    await admin.execute(f"GRANT CREATE ON SCHEMA public TO {who}")
    before = await shape(empty)
    for work in (migrate, steps):
        with pytest.raises(UnfitError, match=f"REVOKE CREATE ON SCHEMA public FROM {who}\\."):
            await work(empty.url)
    assert await shape(empty) == before
    await admin.execute(f"REVOKE CREATE ON SCHEMA public FROM {who}")
    await migrate(empty.url)


LURKING = """
    CREATE FUNCTION public.lurk(text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this ran: %', $1; END $$;
    CREATE FUNCTION public.format(text, text) RETURNS text LANGUAGE sql AS $$ SELECT public.lurk('format') $$;
    CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE sql AS $$ SELECT public.lurk('format') $$;
    CREATE FUNCTION public.format(text, name, text) RETURNS text LANGUAGE sql AS $$ SELECT public.lurk('format') $$;
    CREATE FUNCTION public.format(text, regclass) RETURNS text LANGUAGE sql AS $$ SELECT public.lurk('format') $$;
    CREATE FUNCTION public.quote_literal(timestamptz) RETURNS text LANGUAGE sql AS $$ SELECT public.lurk('quote') $$;
    CREATE FUNCTION public.jsonb_agg(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT public.lurk('agg')::jsonb $$;
    CREATE FUNCTION public.jsonb_build_object(text, jsonb) RETURNS jsonb LANGUAGE sql AS
        $$ SELECT public.lurk('build')::jsonb $$;
    CREATE FUNCTION public.same(name, text) RETURNS bool LANGUAGE sql AS $$ SELECT public.lurk('same')::bool $$;
    CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = public.same);
    CREATE FUNCTION public.join(name, text) RETURNS text LANGUAGE sql AS $$ SELECT public.lurk('join') $$;
    CREATE OPERATOR public.|| (LEFTARG = name, RIGHTARG = text, FUNCTION = public.join);
"""
"""What fits an unqualified call of ours better than what pg_catalog has."""


@pytest.mark.parametrize("adopted", [False, True])
async def test_what_others_left_in_schema_public_is_never_called(empty: Database, admin: Any, adopted: bool) -> None:
    if adopted:
        await chat_app.create(admin)
        await admin.execute("CREATE POLICY theirs ON messages USING (role <> 'secret')")
    await admin.execute(LURKING)
    await steps(empty.url)
    await cautions(empty.url)
    await migrate(empty.url)
    await migrate(empty.url)
    await maintained(empty)
    assert [finding.what async for finding in examine(empty.url, None) if "this ran" in finding.says] == []
    await undo(empty.url, SILENT)


async def test_row_policies_that_do_not_hold_for_devices_are_said_before_anything_is_done(
    empty: Database, admin: Any
) -> None:
    assert await cautions(empty.url) == []
    await chat_app.create(admin)
    await admin.execute(
        "ALTER TABLE messages ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY of_users ON messages AS RESTRICTIVE FOR INSERT TO authenticated WITH CHECK (role = 'user'); "
        "CREATE POLICY hidden ON conversations USING (title <> 'hidden')"
    )
    before = await shape(empty)
    (said,) = await cautions(empty.url)
    assert "hidden on conversations, of_users on messages." in said
    assert "trigger or a constraint" in said
    status, planned = await command(App(empty, admin, []), "--plan")
    assert status == 0
    assert said in planned
    assert await shape(empty) == before


async def test_what_supabase_brings_is_left_alone(empty: Database) -> None:
    sql = await empty.connect()
    await sql.execute(
        "CREATE SCHEMA auth; CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT NULL::uuid'"
    )
    before = await sql.fetchval("SELECT pg_get_functiondef('auth.uid()'::regprocedure)")
    await migrate(empty.url)
    assert await sql.fetchval("SELECT pg_get_functiondef('auth.uid()'::regprocedure)") == before
    await sql.close()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (
            "CREATE TABLE messages (id uuid, conversation_id uuid, created_at timestamptz) "
            "PARTITION BY RANGE (created_at)",
            "lack these columns",
        ),
        (
            "CREATE TABLE messages (id uuid, conversation_id uuid, role text, content text, created_at timestamptz, "
            "updated_at timestamptz)",
            "public.profiles is missing",
        ),
        ("CREATE VIEW messages AS SELECT 1 AS id", "lack these columns"),
    ],
)
async def test_tables_of_another_shape_stop_it_with_a_sentence_and_nothing_is_changed(
    empty: Database, table: str, says: str
) -> None:
    sql = await empty.connect()
    await sql.execute(table)
    with pytest.raises(UnfitError, match=says):
        await migrate(empty.url)
    assert await sql.fetchval("SELECT to_regclass('public.conversations')") is None
    with pytest.raises(asyncpg.UndefinedTableError):
        await sql.fetch("SELECT * FROM sync.feeds")
    await sql.close()
