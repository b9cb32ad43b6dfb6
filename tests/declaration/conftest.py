"""Catalogues of real databases, each read once."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from server.declaration.catalogue import Facts
from server.postgres.tables import facts
from tests.support.cluster import Cluster, administrator

HERE: Final = Path(__file__).parent
SCHEMAS: Final = {path.stem: path for path in (HERE / "chat.sql", *sorted((HERE / "schemas").glob("*.sql")))}
"""The chat schema, and those of other apps."""
FactsOf = Callable[[str], Facts]


async def read_facts(cluster: Cluster, ddl: str) -> Facts:
    """The facts of a database that is made of SQL."""
    made = await cluster.create("template1")
    try:
        async with administrator(made) as sql:
            await sql.execute(ddl)
            return await facts(sql)
    finally:
        await made.drop()


@pytest.fixture(scope="session")
def facts_of(postgres_18: Cluster) -> FactsOf:
    """The facts of one of SCHEMAS."""
    known: dict[str, Facts] = {}

    def get(name: str) -> Facts:
        if name not in known:
            known[name] = asyncio.run(read_facts(postgres_18, SCHEMAS[name].read_text()))
        return known[name]

    return get


@pytest.fixture(scope="session")
def chat(facts_of: FactsOf) -> Facts:
    """Those of the chat schema."""
    return facts_of("chat")


@pytest.fixture(scope="session")
def odd(postgres_18: Cluster) -> Facts:
    """Those of a schema that has everything that cannot be declared as it is."""
    return asyncio.run(read_facts(postgres_18, (HERE / "odd.sql").read_text()))
