"""Two transactions at once: one gives rows to another user, the other one changes rows below them. No device loses a
row, keeps one that is gone, or keeps an old version."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from tests.support.cluster import Cluster, Database, administrator, declared
from tests.support.waiting import eventually

ANNE, BERT = UUID(int=0xA), UUID(int=0xB)
USERS: Final = (ANNE, BERT)
DDL: Final = """
    CREATE TABLE folders (id text PRIMARY KEY, user_id uuid NOT NULL, said text);
    CREATE TABLE notes (id text PRIMARY KEY, folder_id text NOT NULL REFERENCES folders ON DELETE CASCADE, said text);
    CREATE TABLE marks (id text PRIMARY KEY, note_id text NOT NULL REFERENCES notes ON DELETE CASCADE, said text);
    CREATE INDEX ON notes (folder_id, id);
    CREATE INDEX ON marks (note_id, id)
"""
TOML: Final = """
    [kind.folder]
    tag = "f"
    table = "folders"
    owner = "user_id"
    columns = ["said"]
    [kind.note]
    tag = "n"
    table = "notes"
    parent = { kind = "folder", column = "folder_id" }
    columns = ["said"]
    [kind.mark]
    tag = "m"
    table = "marks"
    parent = { kind = "note", column = "note_id" }
    columns = ["said"]
"""
ROWS: Final = """
    SELECT tag, id, above, said FROM (
        SELECT 'f' AS tag, f.id, NULL AS above, f.said, f.user_id FROM folders f
        UNION ALL
        SELECT 'n', n.id, n.folder_id, n.said, (SELECT f.user_id FROM folders f WHERE f.id = n.folder_id) FROM notes n
        UNION ALL
        SELECT 'm', m.id, m.note_id, m.said,
               (SELECT f.user_id FROM notes n JOIN folders f ON f.id = n.folder_id WHERE n.id = m.note_id) FROM marks m
    ) r WHERE user_id = $1
"""
LOG: Final = """
    SELECT seq, kind::text AS tag, op::text AS op, row_key[1] AS id FROM sync.log
    WHERE user_id = $1 AND seq > $2 ORDER BY seq, n
"""
SEED: Final = (
    f"INSERT INTO folders VALUES ('a', '{ANNE}', ''), ('a2', '{ANNE}', ''), ('b', '{BERT}', '')",
    "INSERT INTO notes VALUES ('n', 'a', ''), ('n2', 'a2', ''), ('nb', 'b', '')",
    "INSERT INTO marks VALUES ('m', 'n', ''), ('m2', 'n2', ''), ('mb', 'nb', '')",
)


@dataclass(slots=True)
class Device:
    """What a device holds that reads whatever was committed: of a row the state at the reading, not at the entry."""

    user: UUID
    seq: int = 0
    held: dict[tuple[str, str], tuple[str | None, str]] = field(default_factory=dict)

    async def read(self, sql: Any) -> None:
        async with sql.transaction(isolation="repeatable_read"):
            rows = await self.rows(sql)
            entries = await sql.fetch(LOG, self.user, self.seq)
        for entry in entries:
            key = (entry["tag"], entry["id"])
            self.seq = entry["seq"]
            if entry["op"] == "d":
                self._remove(key)
            elif key in rows:
                self.held[key] = rows[key]

    async def rows(self, sql: Any) -> dict[tuple[str, str], tuple[str | None, str]]:
        return {(row["tag"], row["id"]): (row["above"], row["said"]) for row in await sql.fetch(ROWS, self.user)}

    def _remove(self, key: tuple[str, str]) -> None:
        self.held.pop(key, None)
        below = {"f": "n", "n": "m"}.get(key[0])
        for each in [each for each, (above, _) in self.held.items() if each[0] == below and above == key[1]]:
            self._remove(each)


@dataclass(slots=True)
class Writer:
    """A transaction. One that is asked to try again, or not under this level, is tried again under the usual one."""

    sql: Any
    isolation: str
    statements: tuple[str, ...]
    again: bool = False

    async def begin(self) -> None:
        await self.sql.execute(f"BEGIN ISOLATION LEVEL {self.isolation}; SELECT count(*) FROM folders")

    async def write(self) -> None:
        for statement in self.statements:
            await self._do(statement)

    async def record(self) -> None:
        """The triggers run, as they do at COMMIT. Then it holds all locks that it will ever hold."""
        await self._do("SET CONSTRAINTS ALL IMMEDIATE")

    async def commit(self) -> None:
        await self._do("COMMIT")
        if self.again:
            self.again = False
            await self.sql.execute("ROLLBACK")
            await self.sql.execute("; ".join(["BEGIN", *self.statements, "COMMIT"]))

    async def _do(self, statement: str) -> None:
        if self.again:
            return
        try:
            await self.sql.execute(statement)
        except (asyncpg.SerializationError, asyncpg.FeatureNotSupportedError):
            assert self.isolation != "READ COMMITTED"
            self.again = True


class Race:
    """Two writers, and the devices of both users."""

    def __init__(self, sql: Any, child: Writer, parent: Writer) -> None:
        self.sql = sql
        self.child = child
        self.parent = parent
        self.devices = [Device(user) for user in USERS]

    async def read(self) -> None:
        for device in self.devices:
            await device.read(self.sql)

    async def one_waits(self, first: Writer, then: Writer) -> None:
        """The first has recorded what it changed, and has not committed, when the other one commits."""
        await first.write()
        await then.write()
        await first.record()
        committing = asyncio.create_task(then.commit())
        await eventually(partial(self._is_waiting, then, committing))
        await first.commit()
        await self.read()
        await committing
        await self.read()

    async def one_is_written(self, first: Writer, then: Writer) -> None:
        """The first commits as a whole while the other one is between its changes and its COMMIT."""
        await then.write()
        await first.write()
        await first.commit()
        await self.read()
        await then.commit()
        await self.read()

    async def _is_waiting(self, writer: Writer, committing: "asyncio.Task[None]") -> bool:
        if committing.done():
            return True
        return bool(
            await self.sql.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", writer.sql.get_server_pid()
            )
        )


@pytest.fixture(scope="module")
def folders(request: pytest.FixtureRequest) -> Iterator[Database]:
    yield from shared(request, TOML, DDL)


@pytest.fixture(scope="module")
def nobodys(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Folders may belong to nobody, and notes be in no folder."""
    yield from shared(
        request, TOML, DDL.replace("uuid NOT NULL", "uuid").replace("folder_id text NOT NULL", "folder_id text")
    )


@pytest.fixture(scope="module")
def loose(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Rows may be there before their parents."""
    yield from shared(request, TOML, re.sub("REFERENCES .* CASCADE", "", DDL))


def shared(request: pytest.FixtureRequest, text: str, ddl: str) -> Iterator[Database]:
    """One database for all tests, each of which removes what was there."""
    cluster: Cluster = request.getfixturevalue(f"postgres_{request.param}")
    with asyncio.Runner() as runner:
        kept = declared(cluster, text, ddl)
        yield runner.run(kept.__aenter__())
        runner.run(kept.__aexit__(None, None, None))


CHILD: Final = {
    "a note is inserted": ("INSERT INTO notes VALUES ('new', 'a', 'new')",),
    "a note is updated": ("UPDATE notes SET said = 'new' WHERE id = 'n'",),
    "a note is deleted": ("DELETE FROM notes WHERE id = 'n'",),
    "a note comes": ("UPDATE notes SET folder_id = 'a' WHERE id = 'n2'",),
    "a note comes from another user": ("UPDATE notes SET folder_id = 'a' WHERE id = 'nb'",),
    "a note leaves": ("UPDATE notes SET folder_id = 'a2' WHERE id = 'n'",),
    "a mark is inserted": ("INSERT INTO marks VALUES ('new', 'n', 'new')",),
    "a mark is updated": ("UPDATE marks SET said = 'new' WHERE id = 'm'",),
    "a mark is deleted": ("DELETE FROM marks WHERE id = 'm'",),
    "a mark comes": ("UPDATE marks SET note_id = 'n' WHERE id = 'm2'",),
    "a mark leaves": ("UPDATE marks SET note_id = 'n2' WHERE id = 'm'",),
    "much is changed": (
        "INSERT INTO notes VALUES ('new', 'a', 'new')",
        "UPDATE marks SET note_id = 'new', said = 'new' WHERE id = 'm'",
        "INSERT INTO marks VALUES ('more', 'n', 'new'), ('most', 'new', 'new')",
    ),
}
PARENT: Final = {
    "its folder gets another owner": (f"UPDATE folders SET user_id = '{BERT}' WHERE id = 'a'",),
}
NOTE: Final = {
    "its note moves to another owner's folder": ("UPDATE notes SET folder_id = 'b' WHERE id = 'n'",),
    "its note moves to another owner's folder, and its own is deleted": (
        "UPDATE notes SET folder_id = 'b' WHERE id = 'n'",
        "DELETE FROM folders WHERE id = 'a'",
    ),
    "its note moves to another owner's folder, and its own goes there, too": (
        "UPDATE notes SET folder_id = 'b' WHERE id = 'n'",
        f"UPDATE folders SET user_id = '{BERT}' WHERE id = 'a'",
    ),
    "its note moves to another owner's folder, and its own gets another key": (
        "UPDATE notes SET folder_id = 'b' WHERE id = 'n'",
        "UPDATE folders SET id = 'z' WHERE id = 'a'",
    ),
}
LEFT: Final = {"its folder loses its owner": ("UPDATE folders SET user_id = NULL WHERE id = 'a'",)}
LEVELS: Final = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
PAIRS: Final = [
    (LEVELS[0], LEVELS[0]),
    (LEVELS[0], LEVELS[1]),
    (LEVELS[1], LEVELS[0]),
    (LEVELS[1], LEVELS[1]),
    (LEVELS[2], LEVELS[2]),
]


CASES: Final = [("18", levels) for levels in PAIRS] + [("15", PAIRS[0])]
OFTEN: Final = ("a note is inserted", "a note comes", "a note leaves", "a mark is inserted", "a mark comes")
"""The changes of which each pair of levels is tried. The others are tried under READ COMMITTED."""


def on_each(database: str) -> pytest.MarkDecorator:
    ids = [f"{version} {'/'.join(levels)}" for version, levels in CASES]
    return pytest.mark.parametrize((database, "levels"), CASES, indirect=[database], ids=ids)


@pytest.mark.parametrize("parent", [*PARENT, *NOTE])
@on_each("folders")
async def test_a_change_below_a_row_that_gets_another_owner_reaches_whose_it_is(
    folders: Database, parent: str, levels: tuple[str, str]
) -> None:
    below = {name: change for name, change in CHILD.items() if parent in PARENT or "a mark" in name}
    assert not await lost(folders, SEED, below, (PARENT | NOTE)[parent], levels)


OWNERLESS: Final = (SEED[0].replace(f"('a', '{ANNE}', '')", "('a', NULL, '')"), *SEED[1:])


@pytest.mark.parametrize("parent", [*PARENT, *NOTE, *LEFT])
@on_each("nobodys")
async def test_a_change_below_a_row_of_nobody_reaches_the_user_who_gets_it(
    nobodys: Database, parent: str, levels: tuple[str, str]
) -> None:
    seed = SEED if parent in LEFT else OWNERLESS
    below = {name: change for name, change in CHILD.items() if parent not in NOTE or "a mark" in name}
    assert not await lost(nobodys, seed, below, (PARENT | NOTE | LEFT)[parent], levels)


@on_each("nobodys")
async def test_a_change_below_a_row_without_a_parent_reaches_the_user_who_gets_it(
    nobodys: Database, levels: tuple[str, str]
) -> None:
    seed = (SEED[0], SEED[1].replace("('n', 'a', '')", "('n', NULL, '')"), SEED[2])
    below = {name: change for name, change in CHILD.items() if "a mark" in name}
    assert not await lost(nobodys, seed, below, ("UPDATE notes SET folder_id = 'b' WHERE id = 'n'",), levels)


ABSENT: Final = {
    "its folder is inserted": (
        (SEED[0].replace(f"('a', '{ANNE}', ''), ", ""), *SEED[1:]),
        (f"INSERT INTO folders VALUES ('a', '{BERT}', 'late')",),
    ),
    "its note is inserted": (
        (SEED[0], SEED[1].replace("('n', 'a', ''), ", ""), SEED[2]),
        ("INSERT INTO notes VALUES ('n', 'b', 'late')",),
    ),
    "both are inserted": (
        (
            SEED[0].replace(f"('a', '{ANNE}', ''), ", ""),
            SEED[1].replace("('n', 'a', ''), ", ""),
            SEED[2],
        ),
        ("INSERT INTO notes VALUES ('n', 'a', 'late')", f"INSERT INTO folders VALUES ('a', '{BERT}', 'late')"),
    ),
}


@pytest.mark.parametrize("parent", ABSENT)
@on_each("loose")
async def test_a_change_below_a_row_that_is_inserted_meanwhile_reaches_whose_it_is(
    loose: Database, parent: str, levels: tuple[str, str]
) -> None:
    below = {name: change for name, change in CHILD.items() if "a mark" in name or "folder" in parent}
    seed, change = ABSENT[parent]
    assert not await lost(loose, seed, below, change, levels)


async def lost(
    database: Database,
    seed: tuple[str, ...],
    below: Mapping[str, tuple[str, ...]],
    parent: tuple[str, ...],
    levels: tuple[str, str],
) -> list[str]:
    """After which changes below, in which order, which user's device holds something else than its rows."""
    found = []
    clear = ["DELETE FROM marks", "DELETE FROM notes", "DELETE FROM folders"]
    async with administrator(database) as sql, administrator(database) as one, administrator(database) as other:
        for name, change in below.items():
            if levels != PAIRS[0] and name not in OFTEN:
                continue
            for how in (Race.one_waits, Race.one_is_written):
                for child_first in (False, True):
                    await sql.execute("; ".join([*clear, *seed]))
                    race = Race(sql, Writer(one, levels[0], change), Writer(other, levels[1], parent))
                    await race.read()
                    await race.child.begin()
                    await race.parent.begin()
                    both = (race.child, race.parent)
                    await how(race, *(both if child_first else both[::-1]))
                    first = "it" if child_first else "the parent"
                    found += [
                        f"{name}: {how.__name__}, {first} first, user {device.user.int:x}"
                        for device in race.devices
                        if device.held != await device.rows(sql)
                    ]
    return found
