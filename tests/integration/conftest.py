"""Fixtures of the tests that talk to a real server on a real database.

Two marks change what the fixtures `database` and `server` give to the tests of a module (`pytestmark`) or to one test:

- `shared_database`: `database` is one for all tests of the module, and each has users of its own. `audited=True`: it
  keeps an audit of every text. `every_postgres=True`: so is `every_database`, one on each PostgreSQL.
- `settings(…)`: settings of the server.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from server.postgres.publication import Doorbells
from server.write import isolation
from tests.support.audit import keep_audit
from tests.support.cluster import Cluster, Database, administrator
from tests.support.device import PushingDevice, live_device
from tests.support.serving import Running, serving


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "shared_database(audited, every_postgres): one database for all tests of a module"
    )
    config.addinivalue_line("markers", "settings(**settings): of the server that the fixture `server` gives")


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks each device to push again after another delay, of 0.2 to 2 s: here of 50 ms at most."""
    monkeypatch.setattr(isolation, "JITTER_MILLISECONDS", (1, 50))


@pytest.fixture(scope="module")
def module_databases(request: pytest.FixtureRequest) -> Iterator[Callable[..., Database]]:
    """Gives the database of the module on a cluster, and makes it at the first call."""
    mark = request.node.get_closest_marker("shared_database")
    made: dict[tuple[Cluster, Doorbells], Database] = {}

    async def make(cluster: Cluster, doorbells: Doorbells) -> Database:
        database = await cluster.create(doorbells=doorbells)
        if mark.kwargs.get("audited"):
            async with administrator(database) as sql:
                await keep_audit(sql)
        return database

    def get(cluster: Cluster, doorbells: Doorbells = Doorbells.LISTEN) -> Database:
        if (cluster, doorbells) not in made:
            made[cluster, doorbells] = asyncio.run(make(cluster, doorbells))
        return made[cluster, doorbells]

    yield get
    for database in made.values():
        asyncio.run(database.drop())


@pytest.fixture
def database(request: pytest.FixtureRequest, postgres_18: Cluster, doorbells: Doorbells) -> Database:
    """A migrated database on the newest PostgreSQL: of this test alone, or of the module (see above)."""
    if request.node.get_closest_marker("shared_database") is not None:
        made: Database = request.getfixturevalue("module_databases")(postgres_18, doorbells)
    else:
        made = request.getfixturevalue("database")
    return made


@pytest.fixture
def every_database(request: pytest.FixtureRequest, every_postgres: Cluster) -> Database:
    """The same on each supported PostgreSQL."""
    mark = request.node.get_closest_marker("shared_database")
    if mark is not None and mark.kwargs.get("every_postgres"):
        made: Database = request.getfixturevalue("module_databases")(every_postgres)
    else:
        made = request.getfixturevalue("every_database")
    return made


@pytest.fixture
async def every_sql(every_database: Database) -> AsyncIterator[Any]:
    """An administrator's connection to `every_database`."""
    async with administrator(every_database) as connection:
        yield connection


@pytest.fixture
async def server(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Running]:
    """The server of `database`."""
    mark = request.node.get_closest_marker("settings")
    async with serving(database, **(mark.kwargs if mark is not None else {})) as running:
        yield running


@pytest.fixture
async def device(server: Running, user: UUID) -> AsyncIterator[PushingDevice]:
    """A live device of `user` on `server`."""
    async with live_device(server.url, user) as made:
        yield made
