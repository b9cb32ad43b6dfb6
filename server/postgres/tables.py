"""Reads the catalogue's facts about the tables of a database."""

from typing import Any

import msgspec

from server.declaration.catalogue import Facts
from server.postgres.connection import LOCAL_PATH, statement


async def facts(connection: Any) -> Facts:
    """All tables that a declaration could name. Any login may read this."""
    async with connection.transaction():
        await connection.execute(LOCAL_PATH)
        return msgspec.json.decode(await connection.fetchval(statement("declared_catalogue")), type=Facts)
