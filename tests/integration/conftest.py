"""Fixtures of the tests that talk to a real server on a real database.

Two marks change what the fixtures `database` and `server` give to the tests of a module (`pytestmark`) or to one test:

- `shared_database`: all tests of the module have one database, and each has users of its own. `audited=True`: it keeps
  an audit of every text.
- `settings(…)`: settings of the server.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import pytest

from tests.support.audit import keep_audit
from tests.support.cluster import Cluster, Database, administrator
from tests.support.device import PushingDevice, live_device
from tests.support.serving import Running, serving


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "shared_database(audited=False): one database for all tests of a module")
    config.addinivalue_line("markers", "settings(**settings): of the server that the fixture `server` gives")


@pytest.fixture(scope="module")
def shared_database(request: pytest.FixtureRequest, postgres_18: Cluster) -> Iterator[Database]:
    mark = request.node.get_closest_marker("shared_database")

    async def make() -> Database:
        made = await postgres_18.create()
        if mark.kwargs.get("audited"):
            async with administrator(made) as sql:
                await keep_audit(sql)
        return made

    made = asyncio.run(make())
    yield made
    asyncio.run(made.drop())


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Database:
    """A migrated database: of this test alone, or of the module (see above)."""
    shared = request.node.get_closest_marker("shared_database") is not None
    made: Database = request.getfixturevalue("shared_database" if shared else "database")
    return made


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
