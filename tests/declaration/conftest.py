"""Catalogues of real databases."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from server.declaration.catalogue import Facts
from server.postgres.tables import facts
from tests.support.cluster import Cluster, administrator

HERE = Path(__file__).parent
FactsOf = Callable[[str], Awaitable[Facts]]


@pytest.fixture
async def facts_of(every_postgres: Cluster) -> AsyncIterator[FactsOf]:
    """Makes a database of SQL, and returns the facts of its catalogue."""
    made = []

    async def make(ddl: str) -> Facts:
        made.append(await every_postgres.create("template1"))
        async with administrator(made[-1]) as sql:
            await sql.execute(ddl)
            return await facts(sql)

    yield make
    for database in made:
        await database.drop()


@pytest.fixture
async def chat(facts_of: FactsOf) -> Facts:
    """The catalogue of the chat schema."""
    return await facts_of((HERE / "chat.sql").read_text())
