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
SCHEMAS: Final = {path.stem: path.read_text() for path in sorted((HERE / "schemas").glob("*.sql"))}
"""The schemas of other apps."""
FactsOf = Callable[[str], Facts]


async def read_facts(cluster: Cluster, ddl: str, template: str = "template1") -> Facts:
    """The facts of a database that is made of SQL."""
    made = await cluster.create(template)
    try:
        async with administrator(made) as sql:
            await sql.execute(ddl or "SELECT")
            return await facts(sql)
    finally:
        await made.drop()


@pytest.fixture(scope="session")
def facts_of(postgres_18: Cluster) -> FactsOf:
    """The facts of one of SCHEMAS, or of `chat`, the tables that `migrate` makes."""
    known: dict[str, Facts] = {}

    def get(name: str) -> Facts:
        if name not in known:
            template = "template_atlas" if name == "chat" else "template1"
            known[name] = asyncio.run(read_facts(postgres_18, SCHEMAS.get(name, ""), template))
        return known[name]

    return get


@pytest.fixture(scope="session")
def chat(facts_of: FactsOf) -> Facts:
    """Those of the tables that `migrate` makes."""
    return facts_of("chat")


@pytest.fixture(scope="session")
def odd(postgres_18: Cluster) -> Facts:
    """Those of a schema that has everything that cannot be declared as it is."""
    return asyncio.run(read_facts(postgres_18, (HERE / "odd.sql").read_text()))
