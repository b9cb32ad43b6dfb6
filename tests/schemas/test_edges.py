"""Rows whose keys are the largest of their type, and rows whose keys no device can hold exactly."""

import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final
from uuid import UUID

from server.postgres.migrate import migrate
from tests.support.any_device import AnyDevice
from tests.support.any_values import MSGPACK, Id, Kind
from tests.support.cluster import Cluster, administrator
from tests.support.schemas import ALL, LAST_INSTANT, TWELVE, Schema
from tests.support.serving import serving
from tests.support.waiting import eventually

USER: Final = UUID(int=7, version=4)
AICHAT: Final = next(schema for schema in ALL if schema.name == "aichat")
LAST: Final = UUID(int=(1 << 128) - 1)


@contextlib.asynccontextmanager
async def a_device(cluster: Cluster, schema: Schema, *statements: str) -> AsyncIterator[tuple[AnyDevice, Any]]:
    """A device with a narrow window, and an administrator's connection. The statements run before it connects."""
    database = await cluster.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(schema.ddl)
            await schema.add_user(sql, USER)
            for statement in statements:
                await sql.execute(statement, USER)
            await migrate(database.url, text=schema.declaration.read_text(), name=schema.name)
            async with serving(database) as server:
                device = AnyDevice(server.url, USER, MSGPACK, random.Random(0), window={"label": 1, "document": 1})
                device.start()
                try:
                    await eventually(partial(is_live, device))
                    yield device, sql
                finally:
                    await device.stop()
    finally:
        await database.drop()


def is_live(device: AnyDevice) -> bool:
    device.check()
    return device.live


async def one_by_one(device: AnyDevice, kind: Kind) -> list[Id]:
    """The list, in pages of one row."""
    joined: list[Id] = []
    before: Any = None
    while True:
        page = await device.page(kind, None, before, 1)
        joined += page.keys
        if not page.more:
            return joined
        assert len(joined) < 20, "it goes round in circles"
        before = page.before


async def test_a_list_has_the_row_of_the_largest_key(every_postgres: Cluster) -> None:
    ids = [(1 << 63) - 1, (1 << 63) - 2, -(1 << 63)]
    statements = [f"INSERT INTO labels (id, user_id, name) VALUES ({key}, $1, '')" for key in ids]
    statements += [
        f"INSERT INTO conversations (id, user_id, updated_at) VALUES ('{LAST}', $1, 'infinity')",
        f"INSERT INTO messages (id, conversation_id, role, content, created_at) SELECT '{LAST}', '{LAST}', '', '', "
        "'infinity' WHERE $1::uuid IS NOT NULL",
    ]
    async with a_device(every_postgres, TWELVE, *statements) as (device, _):
        kinds = device.rows.kinds
        assert (1 << 63) - 1 in device.rows.held["label"], "the snapshot has the first row of the list"
        assert LAST in device.rows.held["message"]
        labels = await one_by_one(device, kinds["label"])
        assert [label for label in labels if abs(label) > 1 << 53] == ids
        assert (await one_by_one(device, kinds["conversation"]))[0] == LAST
        assert await device.pages(kinds["message"], LAST) == [LAST]


async def test_an_instant_in_a_key_travels_as_the_nearest_that_a_device_can_hold(every_postgres: Cluster) -> None:
    moments = ["infinity", "2026-01-01", "1600-01-01", "-infinity"]
    write = "INSERT INTO \"Document\" (id, \"createdAt\", title, \"userId\") VALUES ('{}', '{}', '', $1)"
    statements = [write.format(LAST, moment) for moment in moments]
    async with a_device(every_postgres, AICHAT, *statements) as (device, sql):
        held = device.rows.held["document"]
        assert (LAST, LAST_INSTANT) in held
        joined = await one_by_one(device, device.rows.kinds["document"])
        expected = [(LAST, LAST_INSTANT), (LAST, 1_767_225_600_000_000), (LAST, -LAST_INSTANT)]
        assert [key for key in joined if key[0] == LAST] == expected
        other = UUID(int=1)
        await sql.execute(write.format(other, "infinity"), USER)
        await eventually(lambda: is_live(device) and (other, LAST_INSTANT) in held)
        await sql.execute('DELETE FROM "Document" WHERE id = $1', other)
        await eventually(lambda: is_live(device) and (other, LAST_INSTANT) not in held)


UNBOUND: Final = """
    CREATE TABLE lists (id text PRIMARY KEY, user_id uuid NOT NULL);
    CREATE TABLE items (id text PRIMARY KEY, list_id text, said text);
    CREATE TABLE marks (id text PRIMARY KEY, item_id text);
    CREATE INDEX ON items (list_id, id);
    CREATE INDEX ON marks (item_id, id)
"""
UNBOUND_TOML: Final = """
    [kind.list]
    table = "lists"
    owner = "user_id"
    columns = []
    [kind.item]
    table = "items"
    parent = { kind = "list", column = "list_id" }
    columns = ["said"]
    [kind.mark]
    table = "marks"
    parent = { kind = "item", column = "item_id" }
    columns = []
"""


async def test_rows_that_were_there_before_their_parent_come_with_it(postgres_18: Cluster) -> None:
    made = await postgres_18.create("template0")
    try:
        async with administrator(made) as sql:
            await sql.execute(UNBOUND)
            await migrate(made.url, text=UNBOUND_TOML)
            async with serving(made) as server:
                device = AnyDevice(server.url, USER, MSGPACK, random.Random(0))
                device.start()
                try:
                    await eventually(partial(is_live, device))
                    await sql.execute("INSERT INTO marks VALUES ('mark', 'item')")
                    await sql.execute("INSERT INTO items VALUES ('item', 'list', 'early')")
                    await sql.execute("INSERT INTO lists VALUES ('list', $1)", USER)
                    await eventually(lambda: is_live(device) and "mark" in device.rows.held["mark"])
                    assert device.rows.held["item"].keys() == {"item"}
                    await sql.execute("DELETE FROM lists")
                    await eventually(lambda: is_live(device) and not device.rows.held["list"])
                    assert not device.rows.held["item"]
                    assert not device.rows.held["mark"]
                    await sql.execute("INSERT INTO lists VALUES ('list', $1)", USER)
                    await eventually(lambda: is_live(device) and "mark" in device.rows.held["mark"])
                finally:
                    await device.stop()
    finally:
        await made.drop()
