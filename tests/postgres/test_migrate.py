"""Migrating is safe to repeat, to run twice at once, and to review first."""

import asyncio
from typing import Any

import asyncpg
import pytest

from server.errors import UnfitError
from server.postgres.migrate import as_sql, migrate, steps
from tests.support.cluster import Cluster, Database

SHAPE = """
    SELECT n.nspname || '.' || c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('public', 'sync') AND a.attnum > 0
    UNION ALL SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function ' || oid::regprocedure || md5(prosrc) FROM pg_proc
        WHERE pronamespace = 'sync'::regnamespace
    UNION ALL SELECT 'policy ' || polrelid::regclass || ' ' || polname FROM pg_policy
    ORDER BY 1
"""


@pytest.fixture
async def empty(every_postgres: Cluster) -> Database:
    return await every_postgres.create("template0")


async def shape(database: Database) -> list[str]:
    sql = await database.connect()
    try:
        return [row[0] for row in await sql.fetch(SHAPE)]
    finally:
        await sql.close()


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
