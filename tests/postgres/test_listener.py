"""How a connection that listens proves that notifications arrive."""

import asyncio
from typing import Any

import pytest

from server.exceptions import UnavailableError
from server.postgres.listener import Listening
from tests.support.cluster import Database


@pytest.mark.parametrize("how", ["Postgres ends it", "a newer history is met"])
async def test_a_connection_that_ends_while_it_proves_itself_is_not_mistaken_for_a_pooler(
    database: Database, sql: Any, how: str
) -> None:
    """As in a failover while a server starts, which would end for a pooler."""
    made: list[Any] = []

    async def connect() -> Any:
        if made and how == "Postgres ends it":
            await sql.execute("SELECT pg_terminate_backend($1)", made[0].get_server_pid())
        elif made:
            # Nothing that the second one says is heard by the first.
            await made[0].execute("UNLISTEN *")
            listening.end()
        made.append(await database.connect())
        return made[-1]

    listening = Listening(connect, lambda payload: None, asyncio.Lock())
    with pytest.raises(UnavailableError):
        async with listening:
            pass
    for each in made:
        each.terminate()
