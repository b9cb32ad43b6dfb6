"""The schemas are sound: their tables can be made, their writers write, and their declarations name what their oracles
select."""

import contextlib
import random
import tomllib
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

import pytest

from tests.support.cluster import Cluster, administrator
from tests.support.schemas import ALL, Schema
from tests.support.schemas.writing import Values

USERS: Final = [UUID(int=random.Random(n).getrandbits(128), version=4) for n in range(3)]
TRANSACTIONS: Final = {"18": 200, "15": 100}
"""On each PostgreSQL."""

every_schema = pytest.mark.parametrize("schema", ALL, ids=lambda schema: schema.name)


@contextlib.asynccontextmanager
async def made(cluster: Cluster, schema: Schema) -> AsyncIterator[Any]:
    """An administrator's connection to a database with the tables and USERS."""
    database = await cluster.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(schema.ddl)
            for user in USERS:
                await schema.add_user(sql, user)
            yield sql
    finally:
        await database.drop()


@every_schema
async def test_its_writer_writes_and_every_user_has_rows(every_postgres: Cluster, schema: Schema) -> None:
    rng = random.Random(schema.name)
    async with made(every_postgres, schema) as sql:
        for user in USERS:
            assert all((await schema.expected(sql, user)).values()), "a kind of which a new user has no row"
        outcomes = [await schema.write(sql, rng, USERS) for _ in range(TRANSACTIONS[every_postgres.version])]
        assert "refused" not in outcomes, "nobody else writes"
        assert outcomes.count("committed") > 0.8 * len(outcomes)
        for user in USERS:
            assert any((await schema.expected(sql, user)).values())


@every_schema
async def test_unless_rows_cross_nobody_holds_the_words_of_another(postgres_18: Cluster, schema: Schema) -> None:
    rng = random.Random(schema.name)
    async with made(postgres_18, schema) as sql:
        for _ in range(100):
            await schema.write(sql, rng, USERS, crossing=False)
        for user in USERS:
            words = repr(await schema.expected(sql, user))
            assert not [other for other in USERS if other != user and str(other) in words]


@every_schema
async def test_its_declaration_names_what_its_oracle_selects(postgres_18: Cluster, schema: Schema) -> None:
    async with made(postgres_18, schema) as sql:
        for name, kind in declared(schema).items():
            select, _ = await Values(sql, random.Random(), {}, USERS[0], USERS[0]).bind(schema.selects[name])
            selected = [attribute.name for attribute in (await sql.prepare(select)).get_attributes()]
            key = await key_of(sql, kind["table"])
            assert (len(key) == 2) == (name in schema.pairs)
            assert selected == [*key, *parent_column(kind), *columns(kind)]


@every_schema
async def test_a_device_can_give_every_value_that_a_row_needs(postgres_18: Cluster, schema: Schema) -> None:
    async with made(postgres_18, schema) as sql:
        for name, kind in declared(schema).items():
            devices = kind.get("devices", {})
            if "insert" in devices:
                given = {*await key_of(sql, kind["table"]), *parent_column(kind), kind.get("owner")}
                given |= {columns(kind)[column] for column in devices["insert"]}
                given |= {devices.get(taken) for taken in ("owner", "created", "updated")}
                assert needed(await catalogue(sql, kind["table"])) <= given, name


def declared(schema: Schema) -> dict[str, dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = tomllib.loads(schema.declaration.read_text())["kind"]
    return kinds


def columns(kind: dict[str, Any]) -> dict[str, str]:
    """The column of each name on the wire."""
    pairs = (column.split(" as ") for column in kind["columns"])
    return {pair[-1]: pair[0] for pair in pairs}


def parent_column(kind: dict[str, Any]) -> list[str]:
    return [kind["parent"]["column"]] if "parent" in kind else []


async def key_of(sql: Any, table: str) -> list[str]:
    """The columns of the primary key, in its order."""
    rows = await sql.fetch(
        "SELECT attname::text FROM pg_index, unnest(indkey) WITH ORDINALITY AS k (attnum, n) JOIN pg_attribute a "
        "USING (attnum) WHERE indrelid = $1::regclass AND indisprimary AND attrelid = indrelid ORDER BY n",
        quoted(table),
    )
    return [row[0] for row in rows]


async def catalogue(sql: Any, table: str) -> list[Any]:
    return list(
        await sql.fetch(
            "SELECT attname::text AS name, attnotnull AND NOT atthasdef AND attidentity = '' AS needed "
            "FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0",
            quoted(table),
        )
    )


def needed(rows: list[Any]) -> set[str]:
    return {row["name"] for row in rows if row["needed"]}


def quoted(table: str) -> str:
    return ".".join(f'"{part}"' for part in table.split("."))
