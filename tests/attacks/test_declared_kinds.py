"""Any declaration: nobody reaches the rows of another user, no name or value breaks out of the generated SQL, and
nothing that a device sends costs out of proportion."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from server.declaration.check import load
from server.declaration.file.problems import DeclarationError
from server.declaration.model import Declaration, Kind
from server.declaration.values import written_out
from server.postgres.declared import declared
from server.postgres.migrate import migrate
from server.postgres.tables import facts
from tests.support.cluster import Cluster, Database, administrator
from tests.support.device import UNLIMITED, now
from tests.support.schemas import ALL, TWELVE, Schema
from tests.support.serving import serving, token
from tests.support.waiting import LIMIT, eventually

ALICE: Final = UUID(int=1, version=4)
EVE: Final = UUID(int=2, version=4)
ITEMS: Final = """
[kind.item]
tag = "i"
table = "public.items"
owner = "user_id"
columns = ["x"]
devices = { insert = ["x"], update = ["x"], delete = true }
"""
NEW: Final[dict[str, Any]] = {
    "text": "eve", "bool": True, "int": 3, "bigint": 4, "float": 1.5, "numeric": "1.5", "date": "2026-11-30",
    "json": '{"a":1}', "array": "[]", "bytes": "AA==",
}  # fmt: skip


class Device:
    """One connection, in JSON. It keeps the rows of the first snapshot by their tags."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.rows: dict[str, list[list[Any]]] = {}

    async def say(self, frame: dict[str, Any]) -> None:
        await self._socket.send(json.dumps(frame))

    async def hear(self, *kinds: str) -> dict[str, Any]:
        """The next frame of one of these kinds."""
        while True:
            async with asyncio.timeout(LIMIT):
                frame: dict[str, Any] = json.loads(await self._socket.recv())
            if frame["t"] == "snapshot":
                for row in frame["rows"]:
                    self.rows.setdefault(row[0], []).append(row)
            if frame["t"] in kinds:
                return frame

    async def result(self, *mutation: Any) -> tuple[str, str | None]:
        """What becomes of a mutation: `applied`, or the code and column of its rejection."""
        await self.say({"t": "push", "n": next(self._numbers), "mutations": [mutation]})
        frame = await self.hear("ack", "error")
        assert frame["t"] == "ack", frame
        ((said, _, code, *more),) = frame["results"]
        return (code, (*more[1:], None)[0]) if said == "rejected" else (said, None)

    async def page(self, **ask: Any) -> dict[str, Any]:
        await self.say({"t": "page", "id": 1, **ask})
        return await self.hear("page", "error")


@contextlib.asynccontextmanager
async def device(url: str, user: UUID) -> AsyncIterator[Device]:
    async with connect(url, subprotocols=[Subprotocol("atlas-sync.v1.json")], max_size=None, proxy=None) as socket:
        one = Device(socket)
        await one.say({"t": "hello", "token": token(user), "client_id": str(uuid4())})
        await one.hear("live")
        yield one


@contextlib.asynccontextmanager
async def tables(cluster: Cluster, ddl: str) -> AsyncIterator[tuple[Database, Any]]:
    """A database that has nothing of ours, and an administrator's connection."""
    database = await cluster.create("template0")
    try:
        async with administrator(database) as sql:
            await sql.execute(ddl)
            yield database, sql
    finally:
        await database.drop()


# ---- Rows of others ------------------------------------------------------------------------------------------------


def value(of: str) -> Any:
    return str(uuid4()) if of == "uuid" else now() if of == "instant" else NEW[of]


def new_columns(kind: Kind, names: tuple[str, ...]) -> dict[str, Any]:
    limits = {name: limit[0] for name, limit in kind.limits.items() if isinstance(limit, tuple)}
    fields = {name: kind.column[name].field for name in names}
    return {
        name: None if field.name in kind.references else limits.get(name, value(field.of))
        for name, field in fields.items()
    }


def attacks(declaration: Declaration, kind: Kind, row: list[Any], mine: dict[str, list[list[Any]]]) -> list[list[Any]]:
    """Mutations that would change a row, or create one in its place or beside it."""
    assert kind.devices is not None
    _, _, key, *values = row
    found: list[list[Any]] = []
    if kind.devices.update:
        found.append(["~", kind.tag, key, new_columns(kind, kind.devices.update), now()])
    if kind.devices.delete:
        found.append(["-", kind.tag, key])
    if kind.devices.insert is not None:
        columns = new_columns(kind, kind.devices.insert)
        if (parent := declaration.parent_of(kind)) is None:
            found.append(["+", kind.tag, key, columns, now()])
        else:
            assert kind.parent is not None
            place = kind.columns[0].name
            fresh = [values[0] if half == kind.parent.field else value(half.of) for half in kind.key]
            beside = fresh[0] if len(fresh) == 1 else fresh
            found += [["+", kind.tag, each, {**columns, place: values[0]}, now()] for each in (key, beside)]
            found += [
                ["+", kind.tag, key, {**columns, place: mine[parent.tag][0][2]}, now()]
                for _ in mine.get(parent.tag, [])[:1]
            ]
    return found


async def everything(sql: Any, declaration: Declaration) -> dict[str, set[str]]:
    names = {kind.name: f"{kind.table.schema}.{kind.table.name}" for kind in declaration.kinds}
    return {kind: {row[0] for row in await sql.fetch(f"SELECT t::text FROM {name} t")} for kind, name in names.items()}


@pytest.mark.parametrize(
    "schema", [each for each in ALL if each.name in ("twelve", "selfhosted")], ids=lambda s: s.name
)
async def test_rows_of_another_user_are_neither_seen_nor_changed(postgres_18: Cluster, schema: Schema) -> None:
    async with tables(postgres_18, schema.ddl) as (database, sql):
        await migrate(database.url, text=schema.declaration.read_text())
        rng = random.Random(3)
        for user in (ALICE, EVE):
            async with sql.transaction():
                await schema.add_user(sql, user)
        for _ in range(40):
            await schema.write(sql, rng, [ALICE], crossing=False)
        declaration = await declared(sql)
        assert declaration is not None
        async with (
            serving(database, **UNLIMITED) as server,
            device(server.url, ALICE) as alice,
            device(server.url, EVE) as eve,
        ):
            assert str(ALICE) not in json.dumps(eve.rows)
            before = await everything(sql, declaration)
            codes = set()
            for kind in declaration.kinds:
                for row in alice.rows.get(kind.tag, [])[:3]:
                    place = [None if kind.newest is None else row[3 + kind.index[kind.newest]], row[2]]
                    ask = {} if kind.parent is None else {"parent": row[3]}
                    page = await eve.page(kind=kind.name, before=place, **ask)
                    assert str(ALICE) not in json.dumps(page)
                    if kind.devices is not None:
                        for each in attacks(declaration, kind, row, eve.rows):
                            code, _ = await eve.result(*each)
                            codes.add((each[0], code))
            after = await everything(sql, declaration)
            assert all(before[kind] <= after[kind] for kind in before)
            added = [row for kind in before for row in after[kind] - before[kind]]
            assert not any(str(ALICE) in row for row in added)
        assert {code for op, code in codes if op == "~"} == {"unknown_row"}
        assert {code for op, code in codes if op == "-"} == {"applied"}, "as if there were no such row"


async def test_a_row_that_a_device_names_is_its_users_own(postgres_18: Cluster) -> None:
    """A foreign key would say whether another user's row exists, and cascade from it."""
    async with tables(postgres_18, TWELVE.ddl) as (database, sql):
        await migrate(database.url, text=TWELVE.declaration.read_text())
        await sql.execute("INSERT INTO profiles (id, subscription_tier) VALUES ($1, 'core'), ($2, 'core')", ALICE, EVE)
        folder, label = (
            "INSERT INTO folders (user_id, name) VALUES ($1, '') RETURNING id::text",
            "INSERT INTO labels (user_id, name) VALUES ($1, '') RETURNING id",
        )
        hers, mine = [await sql.fetchval(folder, user) for user in (ALICE, EVE)]
        her_label, my_label = [await sql.fetchval(label, user) for user in (ALICE, EVE)]
        async with serving(database, **UNLIMITED) as server, device(server.url, EVE) as eve:
            home = str(uuid4())
            assert await eve.result("+", "c", home, {"folder_id": mine}, now()) == ("applied", None)
            for foreign in (hers, str(uuid4())):
                assert await eve.result("+", "c", str(uuid4()), {"folder_id": foreign}, now()) == (
                    "bad_value",
                    "folder_id",
                )
                assert await eve.result("~", "c", home, {"folder_id": foreign}, now()) == ("bad_value", "folder_id")
                assert await eve.result("~", "f", mine, {"parent_id": foreign}, now()) == ("bad_value", "parent_id")
            assert await eve.result("~", "c", home, {"folder_id": None}, now()) == ("applied", None)
            for foreign in (her_label, 99):
                assert (await eve.result("+", "k", [home, foreign], {"conversation_id": home}, now()))[0] == "bad_value"
            assert await eve.result("+", "k", [home, my_label], {"conversation_id": home}, now()) == ("applied", None)


# ---- Generated SQL -------------------------------------------------------------------------------------------------

SEIZE: Final = "$$; ALTER ROLE eve SUPERUSER; --"
SCHEMA: Final = "we ird's $$ \\"
TABLE: Final = 'ta"b\nALTER ROLE eve SUPERUSER; --$$'
COLUMN: Final = "co'l$$\\%s{x}"


def name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


async def test_no_name_and_no_value_ends_what_is_generated(every_postgres: Cluster) -> None:
    ddl = (
        f"CREATE SCHEMA {name(SCHEMA)}; CREATE TYPE {name(SCHEMA)}.{name(SEIZE)} AS ENUM ('a''b', 'c$$d');"
        f"CREATE TABLE {name(SCHEMA)}.{name(TABLE)} ({name('i$$d')} uuid PRIMARY KEY, {name(SEIZE)} uuid UNIQUE,"
        f" {name(COLUMN)} text DEFAULT 'x{SEIZE}''\\', mood {name(SCHEMA)}.{name(SEIZE)} DEFAULT 'c$$d', tier text);"
        f"CREATE TABLE below (id int PRIMARY KEY, {name(SEIZE)} uuid, x text)"
    )
    table = json.dumps(f"{name(SCHEMA)}.{name(TABLE)}")
    toml = f"""
        [gate]
        table = {table}
        column = "tier"
        syncs = {json.dumps([SEIZE, "core"])}
        [kind.one]
        tag = "o"
        table = {table}
        owner = {json.dumps(SEIZE)}
        columns = [{json.dumps(name(COLUMN) + " as c")}, "mood"]
        newest = "c"
        devices = {{ insert = ["c", "mood"], update = ["c"], delete = true }}
        limits = {{ c = {json.dumps([SEIZE, "{x}%s", "b" + chr(92)])} }}
        [kind.two]
        tag = "t"
        table = "public.below"
        parent = {{ kind = "one", column = {json.dumps(name(SEIZE) + " as one")} }}
        columns = ["x"]
        devices = {{ update = ["x"], delete = true }}
    """
    async with tables(every_postgres, ddl) as (database, sql):
        await sql.execute("DROP ROLE IF EXISTS eve; CREATE ROLE eve")
        await migrate(database.url, text=toml)
        of = f"{name(SCHEMA)}.{name(TABLE)}"
        await sql.execute(f"INSERT INTO {of} VALUES (gen_random_uuid(), $1, 'old', 'a''b', 'core')", EVE)
        assert await migrate(database.url) == [], "the inventory finds what it made"
        async with serving(database, **UNLIMITED) as server, device(server.url, EVE) as eve:
            ((_, _, key, *columns),) = eve.rows["o"]
            assert columns == ["old", "a'b"]
            await sql.execute("INSERT INTO below VALUES (7, $1, '')", UUID(key))
            assert await eve.result("~", "t", 7, {"x": SEIZE}, now()) == ("applied", None)
            assert await eve.result("~", "o", key, {"c": SEIZE}, now()) == ("bad_value", None), "it holds another value"
            # Her own row decides whether she syncs: the end of her connection may come before the answer.
            await eve.say({"t": "push", "n": 3, "mutations": [["-", "o", key]]})
            await eventually(lambda: sql.fetchval(f"SELECT count(*) = 0 FROM {of}"))
        assert not await sql.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = 'eve'")
        await sql.execute("DROP ROLE eve")


async def test_no_operator_of_schema_public_precedes_that_of_postgres(postgres_18: Cluster) -> None:
    """Functions that apply mutations run as the owner of the tables, with schema public in their path."""
    ddl = """
        CREATE TABLE items (id varchar(40) PRIMARY KEY, user_id varchar(40), x text DEFAULT '', at timestamp);
        CREATE TABLE below (id int PRIMARY KEY, item text REFERENCES items, x varchar(9));
        CREATE FUNCTION seize(jsonb, jsonb) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'seized'; END $$;
        CREATE FUNCTION seized(jsonb, jsonb) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'seized'; END $$;
        CREATE OPERATOR ->> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = seize);
        CREATE OPERATOR ? (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = seized);
    """
    for left, right in (("varchar", "varchar"), ("varchar", "text"), ("text", "varchar")):
        function = f"same_{left}_{right}"
        ddl += (
            f"CREATE FUNCTION {function}({left}, {right}) RETURNS boolean LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'seized'; END $$;"
            f"CREATE OPERATOR = (LEFTARG = {left}, RIGHTARG = {right}, FUNCTION = {function});"
        )
    toml = (
        ITEMS.replace("delete = true", 'delete = true, created = "at"')
        + """
        [kind.below]
        table = "public.below"
        parent = { kind = "item", column = "item" }
        columns = ["x"]
        devices = { insert = ["x"], update = ["x"], delete = true }
    """
    )
    async with tables(postgres_18, ddl) as (database, _):
        await migrate(database.url, text=toml)
        async with serving(database, **UNLIMITED) as server, device(server.url, EVE) as eve:
            assert await eve.result("+", "i", "k", {"x": "1"}, now()) == ("applied", None)
            assert await eve.result("~", "i", "k", {"x": "2"}, now()) == ("applied", None)
            assert await eve.result("+", "b", 1, {"x": "1", "item": "k"}, now()) == ("applied", None)
            assert await eve.result("~", "b", 1, {"x": "2"}, now()) == ("applied", None)
            assert await eve.result("-", "b", 1) == ("applied", None)
            assert await eve.result("-", "i", "k") == ("applied", None)


REFUSED: Final = (
    ("not DEFERRABLE", "id uuid PRIMARY KEY DEFERRABLE, user_id uuid, x text"),
    ("not DEFERRABLE", "id uuid, user_id uuid, x text, PRIMARY KEY (id, user_id)) PARTITION BY HASH (user_id"),
    ("which functions of the server use", "_at uuid PRIMARY KEY, user_id uuid, x text"),
    ("which functions of the server use", "_key1 text PRIMARY KEY, user_id uuid, x text"),
    ("An owner must be uuid or text", "id uuid PRIMARY KEY, user_id mood, x text"),
)
"""Tables of which every insert of a device, or every commit of the app, would fail."""


async def test_a_declaration_of_which_every_insert_or_commit_would_fail_is_refused(postgres_18: Cluster) -> None:
    async with tables(postgres_18, "CREATE TYPE mood AS ENUM ('sad')") as (_, sql):
        for says, columns in REFUSED:
            await sql.execute(f"DROP TABLE IF EXISTS items; CREATE TABLE items ({columns})")
            with pytest.raises(DeclarationError, match=says):
                load(ITEMS, await facts(sql), "")


async def test_devices_do_not_write_the_column_of_the_gate(postgres_18: Cluster) -> None:
    async with tables(postgres_18, "CREATE TABLE items (id uuid PRIMARY KEY, user_id uuid UNIQUE, x text)") as (_, sql):
        gate = '[gate]\ntable = "public.items"\ncolumn = "x"\nsyncs = ["paid"]\n'
        with pytest.raises(DeclarationError, match="could decide to sync"):
            load(gate + ITEMS, await facts(sql), "")


# ---- Out of proportion ---------------------------------------------------------------------------------------------


async def test_few_bytes_do_not_become_many(postgres_18: Cluster) -> None:
    """99 KB of JSON, which Postgres stores in 3 KB, would be sent as 180 MB."""
    ddl = (
        "CREATE TABLE items (id text PRIMARY KEY, user_id uuid, x jsonb, n numeric, ns numeric[]);"
        "CREATE TABLE numbers (id int PRIMARY KEY, user_id uuid, x text);"
        "CREATE TABLE below (id int PRIMARY KEY, number int REFERENCES numbers)"
    )
    toml = ITEMS.replace('["x"]', '["x", "n", "ns"]') + (
        '[kind.number]\ntable = "public.numbers"\nowner = "user_id"\ncolumns = ["x"]\n'
        '[kind.below]\ntable = "public.below"\nparent = { kind = "number", column = "number" }\n'
    )
    poison = f"[{','.join(['1e-16383'] * 11_000)}]"
    async with tables(postgres_18, ddl) as (database, _):
        await migrate(database.url, text=toml)
        async with serving(database, **UNLIMITED) as server, device(server.url, EVE) as eve:
            for column in ("x", "ns"):
                assert await eve.result("+", "i", column, {column: poison}, now()) == ("too_long", column)
            assert await eve.result("+", "i", "n", {"n": "1e9999"}, now()) == ("bad_value", "n")
            assert await eve.result("+", "i", "ok", {"x": '[1e-300, "1e-16383"]', "n": "1e-300"}, now()) == (
                "applied",
                None,
            )
            # A key of 200,000 bytes that compresses fits into an index of Postgres.
            assert (await eve.result("+", "i", "k" * 200_000, {}, now()))[0] == "bad_id"
            # Postgres refused these: the page was asked for again for ever, each time on a new connection.
            for ask in ({"kind": "number", "before": [None, 1 << 40]}, {"kind": "below", "parent": 1 << 40}):
                assert (await eve.page(**ask))["code"] == "bad_page"


def test_what_is_written_out_is_counted_in_numbers_only() -> None:
    assert written_out('{"1e9": "2e9\\"3e9", "a": [1, 1.5, true, false]}') == 0
    assert written_out("[1e9, -2.5E+10, 3e-0011]") == 9 + 10 + 11
    assert written_out("1e" + "9" * 5_000) > 200_000
    begun = time.perf_counter()
    written_out(json.dumps(["1e9\\" * 25_000]))
    assert time.perf_counter() - begun < LIMIT


async def test_a_row_with_many_rows_two_levels_below_it_is_deleted_in_portions(postgres_18: Cluster) -> None:
    ddl = """
        CREATE TABLE items (id uuid PRIMARY KEY, user_id uuid, x text);
        CREATE TABLE middles (id uuid PRIMARY KEY, item uuid REFERENCES items ON DELETE CASCADE);
        CREATE TABLE lows (id int PRIMARY KEY, middle uuid REFERENCES middles ON DELETE CASCADE);
        CREATE TABLE most (deleted int);
        CREATE FUNCTION count_deleted() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO most SELECT count(*) FROM gone; RETURN NULL; END $$;
        CREATE TRIGGER counted AFTER DELETE ON lows REFERENCING OLD TABLE AS gone
            FOR EACH STATEMENT EXECUTE FUNCTION count_deleted();
    """
    toml = ITEMS + (
        '[kind.middle]\ntable = "public.middles"\nparent = { kind = "item", column = "item" }\n'
        '[kind.low]\ntable = "public.lows"\nparent = { kind = "middle", column = "middle" }\n'
    )
    async with tables(postgres_18, ddl) as (database, sql):
        await migrate(database.url, text=toml)
        await sql.execute(
            "CREATE OR REPLACE FUNCTION sync.portion() RETURNS int LANGUAGE sql IMMUTABLE"
            " SET search_path = pg_catalog, pg_temp AS 'SELECT 100'"
        )
        item, middles = uuid4(), [uuid4(), uuid4()]
        await sql.execute("INSERT INTO items VALUES ($1, $2)", item, EVE)
        await sql.execute("INSERT INTO middles SELECT unnest($1::uuid[]), $2", middles, item)
        await sql.execute("INSERT INTO lows SELECT n, ($1::uuid[])[1 + n % 2] FROM generate_series(1, 450) n", middles)
        async with serving(database, **UNLIMITED) as server, device(server.url, EVE) as eve:
            assert await eve.result("-", "i", str(item)) == ("applied", None)
        assert await sql.fetchval("SELECT count(*) FROM lows") == 0
        assert await sql.fetchval("SELECT max(deleted) FROM most") == 100
