"""Migrating is safe to repeat, to run twice at once, and to review first; a database of any version can be migrated."""

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from server.declaration.chat import CHAT
from server.declaration.sql.generated import generate
from server.exceptions import UnfitError
from server.postgres import scripts
from server.postgres.connection import SAFE_PATH
from server.postgres.declared import DECLARING
from server.postgres.doctor import examine
from server.postgres.migrate import as_sql, cautions, migrate, steps
from server.postgres.steps import SILENT
from server.postgres.undo import undo
from tests.support import chat_app
from tests.support.chat_app import CHAT_FILE, App, Heard, command
from tests.support.cluster import Cluster, Database, administrator, binaries
from tests.support.earlier import VERSIONS, migrate_to
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


async def catalogue(database: Database) -> str:
    """Everything that makes the schema, with owners and rights."""
    tool = binaries(database.cluster.version) / "pg_dump"
    made = await asyncio.to_thread(_output, [str(tool), "--schema-only", database.url])
    return re.sub(r"^\\(un)?restrict .*$", "", made, flags=re.MULTILINE)


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


CONVERSATIONS = """
    INSERT INTO profiles (id, subscription_tier) SELECT gen_random_uuid(), 'core' FROM generate_series(1, 2);
    INSERT INTO conversations (user_id, title) SELECT id, 'a title' FROM profiles;
"""
MESSAGES = """
    INSERT INTO messages (conversation_id, role, content, created_at)
    SELECT id, 'user', 'a message', now() - days * interval '1 day' FROM conversations, (VALUES (0), (400)) AS d (days);
"""
RECORDED = "SELECT user_id, seq, n, prev, kind, op, row_id, row_at FROM sync.log ORDER BY seq, n"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_database_of_any_earlier_version_becomes_the_same_as_a_new_one(empty: Database, version: str) -> None:
    new = await empty.cluster.create()
    await migrate_to(empty, version)
    async with administrator(empty) as sql:
        has_feeds = version != VERSIONS[0]  # and partitions for messages
        await sql.execute(CONVERSATIONS + (MESSAGES if has_feeds else ""))
        epoch = await sql.fetchval("SELECT sync.epoch()") if has_feeds else None
        before = await sql.fetch(RECORDED) if has_feeds else []
        planned, *moves = await steps(empty.url)
        assert (
            planned.says == f"run the migrations {', '.join(each for each in scripts.migrations() if each > version)}"
        )
        assert moves.pop(0) == DECLARING
        assert all(step.says.startswith("move the partition messages_") for step in moves)
        assert bool(moves) == has_feeds
        assert await migrate(empty.url) == []
        if has_feeds:
            assert await sql.fetchval("SELECT sync.epoch()") == epoch
            assert await sql.fetch(RECORDED) == before
        entries = await sql.fetchval("SELECT count(*) FROM sync.log")
        await sql.execute(CONVERSATIONS + MESSAGES)
        assert await sql.fetchval("SELECT count(*) FROM sync.log") > entries
        assert await steps(empty.url) == []
    assert await catalogue(empty) == await catalogue(new)


async def test_every_function_is_valid_and_stands_in_one_file(sql: Any) -> None:
    texts = [*scripts.functions().values(), *scripts.views().values(), generate(CHAT).definitions]
    made = [name for text in texts for name in re.findall(r"^CREATE OR REPLACE (\w+ sync\.\w+)", text, re.MULTILINE)]
    assert len(made) == len(set(made))
    there = await sql.fetch(
        "SELECT 'FUNCTION sync.' || proname FROM pg_proc WHERE pronamespace = 'sync'::regnamespace UNION ALL "
        "SELECT 'VIEW sync.' || relname FROM pg_class WHERE relnamespace = 'sync'::regnamespace AND relkind = 'v'"
    )
    assert sorted(made) == sorted(row[0] for row in there)
    assert not any(
        re.search(r"^\s*CREATE (OR REPLACE )?(FUNCTION|VIEW) sync\.", scripts.migration(name), re.MULTILINE)
        for name in scripts.migrations()
    )
    await sql.execute(SAFE_PATH)
    # Their bodies were not checked when they were created, because the tables came later.
    await sql.execute(
        "SELECT CASE l.lanname WHEN 'sql' THEN fmgr_sql_validator(p.oid) ELSE plpgsql_validator(p.oid) END "
        "FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = 'sync'::regnamespace"
    )


OLDER = """
    CREATE OR REPLACE FUNCTION sync.record(owner uuid, kind "char", op "char", row_id uuid,
                                           row_at timestamptz DEFAULT NULL, row_key text[] DEFAULT NULL,
                                           seen bigint DEFAULT NULL)
    RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp COST 7 AS 'BEGIN END'
"""
FORMER = f"""
    DROP FUNCTION sync.record;
    {
    OLDER.replace(
        '''DEFAULT NULL,
                                           seen bigint DEFAULT NULL)''',
        "DEFAULT NULL)",
    ).replace("bigint", "void")
}
"""
"""With fewer arguments, and returning nothing, as a former version had it."""


@pytest.mark.parametrize("older", [OLDER, FORMER], ids=["another body", "other arguments"])
async def test_a_file_of_functions_that_changed_is_applied_again_and_no_device_starts_over(
    sql: Any, database: Database, older: str
) -> None:
    before = await catalogue(database)
    epoch = await sql.fetchval("SELECT sync.epoch()")
    await sql.execute(older)
    await sql.execute('UPDATE sync.migrations SET definitions = definitions || \'{"functions/record.sql": "older"}\'')
    (planned,) = await steps(database.url)
    assert planned.says == "apply again functions/record.sql, which changed"
    heard = Heard()
    assert await migrate(database.url, heard) == []
    assert heard.ended == [planned]
    assert await steps(database.url) == []
    assert await catalogue(database) == before
    assert await sql.fetchval("SELECT sync.epoch()") == epoch


async def test_a_function_that_somebody_else_altered_is_mended_and_every_device_starts_over(
    sql: Any, database: Database
) -> None:
    epoch = await sql.fetchval("SELECT sync.epoch()")
    await sql.execute(OLDER)
    (planned,) = await steps(database.url)
    assert planned.says == "mend function sync.record (altered)"
    assert await migrate(database.url) == []
    assert await steps(database.url) == []
    assert await sql.fetchval("SELECT sync.epoch()") != epoch


async def test_a_migration_that_fails_changes_nothing_and_is_run_again(empty: Database) -> None:
    await migrate_to(empty, "0006_hardening")
    async with administrator(empty) as sql:
        await sql.execute("CREATE TABLE sync.histories ()")
        before = await catalogue(empty)
        with pytest.raises(UnfitError, match='The migration stopped: relation "histories" already exists'):
            await migrate(empty.url)
        assert await catalogue(empty) == before
        assert await sql.fetchval("SELECT version_num FROM sync.migrations") == "0006_hardening"
        await sql.execute("DROP TABLE sync.histories")
        assert await migrate(empty.url) == []


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


async def test_the_printed_sql_makes_the_same_schema_as_migrate(empty: Database) -> None:
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
async def test_migrate_changes_and_revokes_nothing_while_others_may_create_functions_in_schema_public(
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
async def test_functions_that_others_left_in_schema_public_are_never_called(
    empty: Database, admin: Any, adopted: bool
) -> None:
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


async def test_row_policies_that_do_not_apply_to_devices_are_named_before_anything_is_changed(
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
    status, planned = await command(App(empty, admin, []), "--plan", "--declaration", CHAT_FILE)
    assert status == 0
    assert said in planned
    assert await shape(empty) == before


async def test_the_auth_schema_of_supabase_is_left_alone(empty: Database) -> None:
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
async def test_tables_of_another_shape_stop_migrate_with_a_sentence_and_nothing_is_changed(
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
