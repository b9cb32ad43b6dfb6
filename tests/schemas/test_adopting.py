"""The way of an app that adopts Atlas Sync, and of one that leaves it: `init`, `migrate`, `--undo`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from server.declaration.check import load
from server.declaration.draft import draft
from server.declaration.sql import audit, reading, tracing
from server.exceptions import UnfitError
from server.postgres.declared import declared
from server.postgres.migrate import migrate
from server.postgres.steps import SILENT
from server.postgres.tables import facts
from server.postgres.undo import undo
from tests.support.cluster import Cluster, Database, administrator, binaries
from tests.support.schemas import ALL, Schema

USER = UUID(int=7, version=4)
every_schema = pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)


@asynccontextmanager
async def an_app(cluster: Cluster, schema: Schema) -> AsyncIterator[tuple[Database, Any]]:
    database = await cluster.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(schema.ddl)
            await schema.add_user(sql, USER)
            yield database, sql
    finally:
        await database.drop()


async def dumped(database: Database) -> bytes:
    """The schema, without the key that pg_dump makes anew each time."""
    tool = binaries(database.cluster.version) / "pg_dump"
    process = await asyncio.create_subprocess_exec(tool, "-s", database.url, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0
    return b"\n".join(line for line in said.splitlines() if b"restrict " not in line)


@every_schema
async def test_init_drafts_a_declaration_that_is_accepted(postgres_18: Cluster, schema: Schema) -> None:
    async with an_app(postgres_18, schema) as (_, sql):
        found = await facts(sql)
        drafted = load(draft(found), found, "sync.toml")
    declared = {kind.table for kind in drafted.kinds}
    assert len(declared) >= 3


@every_schema
async def test_what_was_declared_and_undone_leaves_the_apps_schema_byte_for_byte(
    every_postgres: Cluster, schema: Schema
) -> None:
    async with an_app(every_postgres, schema) as (database, _):
        before = await dumped(database)
        assert await migrate(database.url, text=schema.declaration.read_text()) == []
        assert await dumped(database) != before
        await undo(database.url, SILENT)
        assert await dumped(database) == before


async def test_only_the_chat_table_is_partitioned_and_another_is_refused_before_anything_is_made(
    postgres_18: Cluster,
) -> None:
    schema = next(schema for schema in ALL if schema.name == "aichat")
    text = schema.declaration.read_text().replace("[kind.chat]", '[kind.chat]\npartition = "month"', 1)
    async with an_app(postgres_18, schema) as (database, _):
        before = await dumped(database)
        with pytest.raises(UnfitError, match=r"public\.messages"):
            await migrate(database.url, text=text)
        assert await dumped(database) == before


@every_schema
async def test_every_statement_that_follows_from_a_declaration_is_one(every_postgres: Cluster, schema: Schema) -> None:
    async with an_app(every_postgres, schema) as (database, sql):
        await migrate(database.url, text=schema.declaration.read_text())
        declaration = await declared(sql)
        assert declaration is not None
        statements = [*reading.statements(declaration).values(), tracing.plan(declaration)]
        statements += [tracing.row(declaration, kind, archived=False) for kind in declaration.kinds]
        statements += [*audit.ownerless(declaration).values(), audit.gate(declaration) or "SELECT"]
        for statement in statements:
            await sql.prepare(statement)
