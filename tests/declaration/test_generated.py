"""What follows from two declarations, as it was read and found good: the SQL, and what devices know.

To write the files anew, and then to read their difference:

    ATLAS_WRITE_GOLDEN=1 .venv/bin/pytest -n0 tests/declaration/test_generated.py

Twice, if the second declaration itself, golden/second.json, has changed.
"""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import pytest

from protocol.codec import MSGPACK
from protocol.cursor import Position
from protocol.frames import COLUMNS, ID, TAG, Key, Row
from server.declaration.chat import CHAT, CHAT_TOML
from server.declaration.check import load
from server.declaration.model import Declaration
from server.declaration.sql import reading
from server.declaration.sql.generated import functions, generate
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.change import Reading
from server.feed.ports import ANYWHERE, Before, ReadingError, ReadKey, Want, place_of
from server.postgres.declared import declare, declared, is_declared
from server.postgres.steps import SILENT
from server.postgres.store import PostgresStore
from server.postgres.tables import facts
from server.write.push import Change
from server.write.rules import check
from tests.support.cluster import Cluster, Database, administrator
from tests.support.pools import pool_of_one
from tests.support.second import SECOND

HERE: Final = Path(__file__).parent
GOLDEN: Final = HERE / "golden"
WRITE: Final = bool(os.environ.get("ATLAS_WRITE_GOLDEN"))
SECOND_TOML: Final = (HERE / "second.toml").read_text()


def declaration(name: str) -> Declaration:
    if name == "chat":
        return CHAT
    return msgspec.json.decode((GOLDEN / f"{name}.json").read_bytes(), type=Declaration)


def is_golden(name: str, text: str) -> None:
    """Compare the text with the file of this name, or write it."""
    path = GOLDEN / name
    if WRITE:
        path.write_text(text)
    assert path.read_text().splitlines() == text.splitlines(), f"{path.name} has changed"


def pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value)).decode() + "\n"


@pytest.fixture
async def second_database(every_postgres: Cluster) -> AsyncIterator[Database]:
    """A migrated database with the tables of the second declaration."""
    database = await every_postgres.create()
    async with administrator(database) as sql:
        await sql.execute((HERE / "second.sql").read_text())
    yield database
    await database.drop()


@pytest.fixture
async def second(second_database: Database) -> AsyncIterator[Any]:
    async with administrator(second_database) as sql:
        yield sql


async def test_the_second_declaration_resolves_to_this(second: Any) -> None:
    resolved = load(SECOND_TOML, await facts(second), "second.toml")
    is_golden("second.json", pretty(resolved))
    assert declaration("second") == resolved


@pytest.mark.parametrize("name", ["chat", "second"])
def test_migrate_makes_this_sql(name: str) -> None:
    generated = generate(declaration(name))
    is_golden(f"{name}.sql", f"{generated}\n{generated.kinds}")


@pytest.mark.parametrize("name", ["chat", "second"])
def test_the_server_reads_with_these_statements(name: str) -> None:
    found = reading.statements(declaration(name))
    is_golden(f"{name}.reading.sql", "\n".join(f"-- {key}\n\n{text}" for key, text in found.items()))


@pytest.mark.parametrize("name", ["chat", "second"])
def test_devices_know_this(name: str) -> None:
    is_golden(f"{name}.schema.json", pretty(declaration(name).schema))


def test_the_file_that_ships_is_the_declaration_of_the_chat_schema() -> None:
    assert 'table = "public.messages"' in CHAT_TOML
    assert [kind.name for kind in CHAT.kinds] == ["profile", "conversation", "message"]


@pytest.mark.parametrize("name", ["chat", "second"])
def test_all_sql_is_made_of_the_declaration_alone(name: str) -> None:
    made = generate(declaration(name))
    again = generate(msgspec.json.decode(msgspec.json.encode(declaration(name)), type=Declaration))
    assert (str(made), made.kinds, made.checksum) == (str(again), again.kinds, again.checksum)
    assert all(f"FUNCTION sync.{function}(" in made.definitions for function in functions(declaration(name)))


async def test_the_database_accepts_all_sql_of_the_second_declaration(second: Any) -> None:
    """And every statement that reads."""
    await declare(second, SECOND, SILENT)
    assert await is_declared(second, SECOND)
    assert await declared(second) == SECOND
    for text in reading.statements(SECOND).values():
        await second.prepare(text)


# ---- That it does what it should -----------------------------------------------------------------------------------

ANNE, BEN = UUID(int=1), UUID(int=2)
NOW: Final = 1_800_000_000_000_000
VALUES: Final[dict[str, list[Any]]] = {
    "title": ["", "ä🔑", "x" * 200],
    "price": ["0.00", "-12345678.99", "NaN"],
    "read_on": ["2024-02-29", "0044-03-15 BC", "infinity", "5874897-12-31"],
    "meta": ['{"a": [1, 2.50, "ä"]}', "null"],
    "source": [' {"b":1,"a":2,"b":3} ', "null", r'"\u00e4"'],
    "tags": ["[]", '["a","NULL","with \\"quotes\\", commas",null,""]'],
    "loans": ["[]", '["9223372036854775807","-1"]'],
    "mood": ["calm"],
    "rating": [0.1, -3.0e38, "NaN", "-Infinity", -0.0, 16777216.0, 3.4028235e38, 1e-45],
    "score": [0.1, -0.0, 5e-324, 1.7976931348623157e308, "Infinity"],
    "pages": [0, -(1 << 31), (1 << 31) - 1],
    "isbn": [(1 << 53) - 1, str(1 << 53), str(-(1 << 63))],
    "cover": [b"", bytes(range(256))],
    "borrower": [BEN],
    "lent": [True, False],
}
"""Of the columns of a book that devices write."""


async def write(sql: Any, user: UUID, mutation: list[Any]) -> str | None:
    """What a device sends, as the server lets it through; returns the code of its rejection."""
    raw = msgspec.Raw(msgspec.msgpack.Encoder(uuid_format="bytes").encode(mutation))
    change = check(MSGPACK.mutation(raw), SECOND, MSGPACK, NOW)
    assert isinstance(change, Change), change
    code: str | None = await sql.fetchval(
        "SELECT sync.write($1, $2, $3, $4, $5::text::jsonb, sync.instant($6))",
        *(change.tag, change.op, user, list(change.key), change.patch, None if change.at is None else str(change.at)),
    )
    return code


@dataclass
class Library:
    """A database that follows the second declaration, in which Anne syncs, and what the server reads of hers."""

    sql: Any
    store: PostgresStore

    async def write(self, *mutation: Any, user: UUID = ANNE) -> str | None:
        return await write(self.sql, user, list(mutation))

    async def rows(self, kind: str, parent: Key | None = None, before: Before | None = None) -> list[Row]:
        answer = await self.store.rows(SECOND.kind[kind], str(ANNE), [Want(parent, before, 100)], 1 << 20)
        return [row for _, row in answer.rows]

    async def feed(self, after: Position = ANYWHERE) -> Reading:
        (reading,) = await self.store.read_feed([ReadKey(str(ANNE), after)], 500, 1 << 20)
        return reading


@pytest.fixture
async def library(second_database: Database, second: Any) -> AsyncIterator[Library]:
    await declare(second, SECOND, SILENT)
    await second.execute("INSERT INTO library.account VALUES (1, $1, 'paid'), (2, $2, 'paid')", ANNE, BEN)
    pool = pool_of_one(second_database, SECOND)
    yield Library(second, PostgresStore(pool, Synced(SECOND)))
    pool.terminate()


def columns(row: Row) -> dict[str, Any]:
    return dict(zip(SECOND.tagged[row[TAG]].column, row[COLUMNS:], strict=True))


async def test_values_of_every_type_come_back_as_they_were_written(library: Library) -> None:
    assert await library.write("+", "s", "A", {"name": "a shelf"}, NOW) is None
    for number in range(max(map(len, VALUES.values()))):
        written = {name: values[number % len(values)] for name, values in VALUES.items()}
        assert await library.write("+", "b", number, {"shelf": "A", **written}, NOW + number) is None
        assert await library.write("+", "b", 100 + number, {"shelf": "A", "title": "x"}, NOW - number) is None
        assert await library.write("~", "b", 100 + number, written, NOW) is None
        for of, row in {row[ID]: row for row in await library.rows("book", "A")}.items():
            if of in (number, 100 + number):
                found = columns(row)
                assert {name: found[name] for name in written} == written
                assert [repr(found[name]) for name in ("rating", "score")] == [
                    repr(written[name]) for name in ("rating", "score")
                ]
    entries = {entry.row_id: entry.row for entry in (await library.feed()).entries if entry.row is not None}
    for row in await library.rows("book", "A"):
        assert entries[row[ID]][ID:] == row[ID:], "the feed and the list say the same"


async def test_numbers_keep_their_digits_whatever_the_database_writes_by_default(library: Library) -> None:
    await library.sql.execute(
        f"ALTER DATABASE {await library.sql.fetchval('SELECT current_database()')} SET extra_float_digits = -15"
    )
    await library.write("+", "s", "A", {"name": "a shelf"}, NOW)
    await library.write("+", "b", 1, {"shelf": "A", "title": "x", "rating": 1.2345678, "score": 0.1 + 0.2}, NOW)
    for found in ((await library.rows("book", "A"))[0], (await library.feed()).entries[-1].row):
        assert found is not None
        assert (columns(found)["rating"], columns(found)["score"]) == (1.2345678, 0.1 + 0.2)


async def test_a_row_that_cannot_be_converted_fails_the_statements_that_read_it_and_no_others(library: Library) -> None:
    for user, shelf in ((ANNE, "A"), (BEN, "B")):
        await library.write("+", "s", shelf, {"name": "a shelf"}, NOW, user=user)
        await library.write("+", "b", ord(shelf), {"shelf": shelf, "title": "x"}, NOW, user=user)
    await library.sql.execute("ALTER TYPE library.mood ADD VALUE 'lost'")
    await library.sql.execute("UPDATE library.book SET mood = 'lost' WHERE id = $1", ord("A"))
    await library.sql.execute("DELETE FROM pg_enum WHERE enumlabel = 'lost'")
    keys = [ReadKey(str(user), ANYWHERE) for user in (ANNE, BEN)]
    for asked in (keys, keys[:1]):
        with pytest.raises(ReadingError):
            await library.store.read_feed(asked, 500, 1 << 20)
    with pytest.raises(ReadingError):
        await library.rows("book", "A")
    (reading,) = await library.store.read_feed(keys[1:], 500, 1 << 20)
    assert [entry.kind for entry in reading.entries] == ["a", "s", "b"]
    await library.sql.execute("DROP TABLE sync.log CASCADE")
    with pytest.raises(UnavailableError) as failed:
        await library.store.read_feed(keys[1:], 500, 1 << 20)
    assert not isinstance(failed.value, ReadingError), "no row is why"


async def test_an_update_changes_the_columns_that_it_names_and_no_others(library: Library) -> None:
    await library.write("+", "s", "A", {"name": "a shelf", "position": 3}, NOW)
    await library.write("+", "b", 7, {"shelf": "A", "title": "x", "lent": True}, NOW)
    await library.write("+", "M", [7, 1], {"book": 7, "note": "here"}, NOW)
    assert [row[COLUMNS:] for row in await library.rows("mark", 7)] == [(7, "A", "here")]
    assert await library.write("~", "s", "A", {"name": None}, NOW) is None
    assert [row[COLUMNS:] for row in await library.rows("shelf")] == [(None, 3)]
    assert await library.write("~", "b", 7, {"title": "y"}, NOW) is None
    ((book),) = await library.rows("book", "A")
    assert (columns(book)["title"], columns(book)["lent"]) == ("y", True)


async def test_what_is_absent_in_an_insert_gets_its_default(library: Library) -> None:
    await library.write("+", "s", "A", {}, NOW)
    await library.write("+", "b", 7, {"shelf": "A", "title": "x"}, NOW)
    await library.write("+", "M", [7, 1], {"book": 7}, NOW)
    assert [row[COLUMNS:] for row in await library.rows("shelf")] == [(None, 0)]
    assert [row[COLUMNS:] for row in await library.rows("mark", 7)] == [(7, "A", "it's here\\")]
    ((book),) = await library.rows("book", "A")
    assert (columns(book)["loans"], columns(book)["mood"], columns(book)["added_at"]) == ("[]", "calm", NOW)


async def test_another_users_rows_are_as_if_they_did_not_exist(library: Library) -> None:
    await library.write("+", "s", "A", {}, NOW)
    await library.write("+", "b", 7, {"shelf": "A", "title": "x"}, NOW)
    await library.write("+", "M", [7, 1], {"book": 7}, NOW)
    before = [await library.rows("shelf"), await library.rows("book", "A"), await library.rows("mark", 7)]
    tries: list[tuple[Any, ...]] = [
        ("+", "s", "A", {}, NOW),
        ("~", "s", "A", {"name": "mine"}, NOW),
        ("-", "s", "A"),
        ("+", "b", 8, {"shelf": "A", "title": "x"}, NOW),
        ("~", "b", 7, {"title": "mine"}, NOW),
        ("-", "b", 7),
        ("+", "M", [7, 2], {"book": 7}, NOW),
        ("~", "M", [7, 1], {"note": "mine"}, NOW),
        ("-", "M", [7, 1]),
        ("+", "0", [ANNE, "x"], {}, NOW),
        ("-", "0", [ANNE, "x"]),
    ]
    answers = [await library.write(*mutation, user=BEN) for mutation in tries]
    assert answers == [
        *("bad_id", "unknown_row", None),
        *("unknown_parent", "unknown_row", None),
        *("unknown_parent", "unknown_row", None),
        *("bad_id", None),
    ]
    assert [await library.rows("shelf"), await library.rows("book", "A"), await library.rows("mark", 7)] == before
    # An id that is another user's cannot be used, under a parent of one's own either.
    await library.write("+", "s", "B", {}, NOW, user=BEN)
    assert await library.write("+", "b", 7, {"shelf": "B", "title": "mine"}, NOW, user=BEN) == "bad_id"


async def test_a_list_is_paged_through_with_nil_last_and_each_row_once(library: Library) -> None:
    await library.write("+", "s", "A", {}, NOW)
    for number, added in enumerate([NOW, None, NOW - 5, NOW, None, NOW + 5]):
        await library.write("+", "b", number, {"shelf": "A", "title": "x"}, added or NOW)
        if added is None:
            await library.sql.execute("UPDATE library.book SET added_at = NULL WHERE id = $1", number)
    whole = await library.rows("book", "A")
    assert [row[ID] for row in whole] == [5, 3, 0, 2, 4, 1]
    for i, row in enumerate(whole):
        assert await library.rows("book", "A", place_of(SECOND.kind["book"], row)) == whole[i + 1 :]
    for author, rank in (("a", 5), ("B", 5), ("ä", None), ("", None), ("c", -(1 << 63))):
        await library.write("+", "0", [ANNE, author], {}, NOW)
        await library.sql.execute("UPDATE library.follow SET rank = $2 WHERE author = $1", author, rank)
    whole = await library.rows("follow")
    assert [row[ID][1] for row in whole] == ["a", "B", "c", "ä", ""]
    for i, row in enumerate(whole):
        assert await library.rows("follow", None, place_of(SECOND.kind["follow"], row)) == whole[i + 1 :]


@pytest.mark.parametrize(
    ("kind", "newest", "values", "expected"),
    [
        ("shelf", "name", [None, "", None, "", "a", "\U0001f6b2", "\uffff"], [5, 6, 4, 3, 1, 2, 0]),
        ("book", "pages", [None, -(1 << 31), None, -(1 << 31), 0], [4, 3, 1, 2, 0]),
        ("book", "isbn", [None, -(1 << 63), None, -(1 << 63), 0], [4, 3, 1, 2, 0]),
        ("book", "added_at", [None, "-infinity", None, "-infinity", "1000-01-01"], [4, 3, 1, 2, 0]),
    ],
)
async def test_nil_is_older_than_every_value_of_the_column_that_orders_a_list(
    second_database: Database, second: Any, kind: str, newest: str, values: list[Any], expected: list[int]
) -> None:
    former = {"shelf": "position", "book": "added_at"}[kind]
    file = SECOND_TOML.replace(f'newest = "{former}"', f'newest = "{newest}"')
    ordered = load(file, await facts(second), "second.toml")
    await declare(second, ordered, SILENT)
    await second.execute("INSERT INTO library.account VALUES (1, $1, 'paid')", ANNE)
    await second.execute("""INSERT INTO "Shelf" VALUES ('A', $1)""", str(ANNE))
    for i, value in enumerate(values):
        if kind == "shelf":
            await second.execute("""INSERT INTO "Shelf" VALUES ($1::int::text, $2, $3)""", i, str(ANNE), value)
        else:
            held = "NULL" if value is None else f"'{value}'"
            await second.execute(
                f"INSERT INTO library.book (id, shelf, title, {newest}) VALUES ($1, 'A', '', {held})", i
            )
    await second.execute("""DELETE FROM "Shelf" WHERE "Code" = 'A' AND $1""", kind == "shelf")
    pool = pool_of_one(second_database, ordered)
    store, of, parent = PostgresStore(pool, Synced(ordered)), ordered.kind[kind], None if kind == "shelf" else "A"

    async def rows(before: Before | None) -> list[Row]:
        return [row for _, row in (await store.rows(of, str(ANNE), [Want(parent, before, 100)], 1 << 20)).rows]

    whole = await rows(None)
    assert [int(str(row[ID])) for row in whole] == expected
    for i, row in enumerate(whole):
        assert await rows(place_of(of, row)) == whole[i + 1 :]
    pool.terminate()


async def test_a_shelf_that_is_given_away_is_deleted_there_and_sent_with_all_below_it_here(library: Library) -> None:
    await library.write("+", "s", "A", {}, NOW, user=BEN)
    await library.write("+", "b", 7, {"shelf": "A", "title": "x"}, NOW, user=BEN)
    await library.write("+", "M", [7, 1], {"book": 7}, NOW, user=BEN)
    await library.sql.execute('UPDATE public."Shelf" SET "Owner" = $1', str(ANNE))
    entries = (await library.feed()).entries
    assert [(entry.kind, entry.row_id, entry.deletion) for entry in entries if entry.kind != "a"] == [
        ("s", "A", False),
        ("b", 7, False),
        ("M", (7, 1), False),
    ]
    assert all(entry.row is not None for entry in entries)
    (his,) = await library.store.read_feed([ReadKey(str(BEN), ANYWHERE)], 500, 1 << 20)
    assert [(entry.kind, entry.row_id) for entry in his.entries if entry.deletion] == [("s", "A")]


async def test_what_is_below_a_deleted_row_goes_without_entries_of_its_own(library: Library) -> None:
    await library.write("+", "s", "A", {}, NOW)
    await library.write("+", "b", 7, {"shelf": "A", "title": "x"}, NOW)
    await library.write("+", "M", [7, 1], {"book": 7}, NOW)
    head = (await library.feed()).head
    assert await library.write("-", "s", "A") is None
    reading = await library.feed(Position(head))
    assert [(entry.kind, entry.row_id, entry.deletion) for entry in reading.entries] == [("s", "A", True)]
