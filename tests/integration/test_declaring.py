"""Another declaration takes force while an app writes: no write fails, nothing is lost, and each device ends up with
what SELECT finds."""

import asyncio
import itertools
import random
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import orjson
import pytest

from server.postgres.migrate import migrate
from tests.support.cluster import Cluster, Database, administrator
from tests.support.notes import DECLARATION, FOLDER, GATE, PERSON, add_folder, add_note, notes
from tests.support.serving import serving
from tests.support.waiting import eventually
from tests.support.watching import State, Watching

WRITERS: Final = 8
EACH: Final = 0.04
"""Seconds between two writes of a writer: 200 a second together."""
PERIOD: Final = 50
"""Writes before and after each declaration."""
WITH_PARTS: Final = DECLARATION.replace('columns = ["said"]', 'columns = ["said", "parts"]')
WITH_INSTANT: Final = DECLARATION.replace('columns = ["said"]', 'columns = ["said", "parts", "editedAt as edited_at"]')
SELECTS: Final = {
    "person": "SELECT id, plan FROM people WHERE id = $1::text::uuid",
    "folder": "SELECT id, name FROM folders WHERE owner = $1",
    "note": 'SELECT n.id, n.folder, n.said, n.parts, (extract(epoch FROM n."editedAt") * 1000000)::bigint AS edited_at '
    "FROM notes n JOIN folders f ON f.id = n.folder WHERE f.owner = $1",
}


async def select(sql: Any, user: UUID, columns: Mapping[str, list[str]]) -> State:
    """What a device of this user must hold."""
    found: State = {}
    for kind, names in columns.items():
        for row in await sql.fetch(SELECTS[kind], str(user)):
            values = {name: row[name] for name in names}
            if values.get("parts") is not None:
                values["parts"] = orjson.loads(values["parts"])
            key = row["id"]
            found[kind, UUID(int=key.int) if kind == "person" else key] = values
    return found


class App:
    """Writes for these users, until it is cancelled."""

    def __init__(self, database: Database, users: list[UUID]) -> None:
        self._database = database
        self._users = users
        self.written = 0
        self.longest = 0.0
        """Seconds that the slowest transaction took."""
        self.parts = False
        """Whether it writes the columns that were not used before."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(self._write(random.Random(number)))

    async def _write(self, rng: random.Random) -> None:
        async with administrator(self._database) as sql:
            for number in itertools.count():
                await asyncio.sleep(EACH * 2 * rng.random())
                began = time.monotonic()
                async with sql.transaction():
                    await self._one(sql, rng, f"{rng.random()}", number)
                self.longest = max(self.longest, time.monotonic() - began)
                self.written += 1

    async def _one(self, sql: Any, rng: random.Random, text: str, number: int) -> None:
        user = str(rng.choice(self._users))
        pick = "(SELECT id FROM {} ORDER BY random() LIMIT 1)"
        folder = pick.format("folders WHERE owner = $1")
        note = pick.format("notes WHERE folder IN (SELECT id FROM folders WHERE owner = $1)")
        match rng.choice("iiuuufdp"):
            case "i":
                await sql.execute(f"INSERT INTO notes (folder, said) SELECT {folder}, $2", user, text)
            case "u":
                await sql.execute(f"UPDATE notes SET said = $2 WHERE id = {note}", user, text)
            case "f":
                await sql.execute(f"UPDATE folders SET name = $2 WHERE id = {folder}", user, text)
            case "d":
                await sql.execute(f"DELETE FROM notes WHERE id = {note}", user)
            case _ if self.parts:
                await sql.execute(
                    f'UPDATE notes SET parts = $2, "editedAt" = now() WHERE id = {note}', user, str(number)
                )

    async def goes_on(self) -> None:
        until = self.written + PERIOD
        await eventually(lambda: self.written >= until, 60.0)


async def have_snapshots(devices: list[Watching]) -> None:
    """A device whose snapshot another declaration cuts off has no cursor, and comes back as a new one."""
    for each in devices:
        await eventually(lambda each=each: each.device.cursor is not None)  # type: ignore[misc]  # mypy cannot infer it


@pytest.mark.parametrize("parts_are_used", [False, True], ids=["new columns are NULL", "new columns are used"])
async def test_kinds_and_columns_come_and_go_while_the_app_writes(
    every_postgres: Cluster, parts_are_used: bool
) -> None:
    users = [uuid4() for _ in range(3)]
    async with notes(every_postgres, FOLDER) as (database, sql):
        for user in users:
            await sql.execute("INSERT INTO people VALUES ($1, 'paid')", user)
            for _ in range(3):
                await add_note(sql, await add_folder(sql, user))
        app = App(database, users)
        app.parts = parts_are_used
        async with serving(database) as server:
            devices = [Watching(server.url, user) for user in users for _ in range(2)]
            writing = asyncio.create_task(app.run())
            await app.goes_on()
            await have_snapshots(devices)
            for text in (DECLARATION, WITH_PARTS, WITH_INSTANT, GATE + PERSON + WITH_INSTANT, WITH_PARTS):
                assert await asyncio.to_thread(asyncio.run, migrate(database.url, text=text)) == []
                await app.goes_on()
                await have_snapshots(devices)
                assert not writing.done()
            # Without an assertion: machines differ.
            print(f"the longest of {app.written} writes took {app.longest * 1000:.0f} ms")  # noqa: T201 (pytest shows it when the test fails)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            async with administrator(database) as fresh:
                await eventually(lambda: nobody_else(fresh))
            schema = await sql.fetchval("SELECT hash FROM sync.declaration")
            for number, device in enumerate(devices):
                await eventually(partial(device.has, schema))
                expected = await select(sql, users[number // 2], device.columns())
                assert len(expected) > 10
                try:
                    await eventually(partial(device.holds, expected))
                except AssertionError:
                    assert device.state() == expected
                assert device.snapshots[0] == "new"
                assert set(device.snapshots[1:]) == {"schema"}, "the kind of the notes had rows"
                await device.stop()


async def nobody_else(sql: Any) -> bool:
    return not await sql.fetchval(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL)"
    )
