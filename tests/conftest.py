"""Fixtures of the whole suite."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final
from uuid import UUID

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from server.operations import maintenance_plan
from server.postgres.publication import Doorbells
from tests.support.cluster import Cluster, Database, administrator, running_cluster
from tests.support.people import add_user
from tests.support.serving import Running, serving

LONGEST: Final = ("tests/javascript/", "tests/conformance/", "tests/browser/", "tests/test_cli.py", "tests/test_arch")
"""Where the longest tests are, and those that share what is dear to set up."""

# A machine that has much to do is slow, and fails no test.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the server runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: none of them begins when the other processes are about to end. A process without work takes
    over what is last in another's queue, so these stay in one, which sets their things up once."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.fixture(autouse=True)
async def loop_errors() -> AsyncIterator[list[dict[str, Any]]]:
    """What the loop's exception handler was told. Anything there fails the test: it was nobody's to swallow."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    yield told
    assert not told


@pytest.fixture(scope="session")
def postgres_18() -> Iterator[Cluster]:
    with running_cluster("18") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[Cluster]:
    with running_cluster("15") as cluster:
        yield cluster


@pytest.fixture
def doorbells() -> Doorbells:
    """Where servers of the fixture `database` learn of changes. `BOTH_DOORBELLS` is for tests of either."""
    return Doorbells.LISTEN


@pytest.fixture
async def database(postgres_18: Cluster, doorbells: Doorbells) -> AsyncIterator[Database]:
    """A migrated database on the newest PostgreSQL."""
    made = await postgres_18.create(doorbells=doorbells)
    yield made
    await made.drop()


@pytest.fixture(params=["18", "15"])
def every_postgres(request: pytest.FixtureRequest) -> Cluster:
    """The newest and the oldest PostgreSQL that is supported."""
    cluster: Cluster = request.getfixturevalue(f"postgres_{request.param}")
    return cluster


@pytest.fixture
async def every_database(every_postgres: Cluster) -> AsyncIterator[Database]:
    """A migrated database on each of them."""
    made = await every_postgres.create()
    yield made
    await made.drop()


@pytest.fixture(scope="module")
def shared_database(postgres_18: Cluster) -> Iterator[Database]:
    """One for all tests of a module, each with users of its own."""
    made = asyncio.run(postgres_18.create())
    yield made
    asyncio.run(made.drop())


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Running]:
    """The server of `database`."""
    async with serving(database) as running:
        yield running


@pytest.fixture
def strays_move(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few there are, and however many partitions."""
    monkeypatch.setattr(maintenance_plan, "FEW", 0)
    monkeypatch.setattr(maintenance_plan, "MOST", 10_000)


@pytest.fixture
async def user(sql: Any) -> UUID:
    """A user who pays."""
    return await add_user(sql)


@pytest.fixture
async def sql(database: Database) -> AsyncIterator[Any]:
    """An administrator's connection to `database`."""
    async with administrator(database) as connection:
        yield connection
