"""Reads the declaration that the database follows."""

from typing import Any

import asyncpg
import msgspec

from server.declaration.model import Declaration


async def declared(connection: Any) -> Declaration | None:
    """None if there is none, because no migration has run."""
    try:
        text = await connection.fetchval("SELECT declared FROM sync.declaration")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return None if text is None else msgspec.json.decode(text, type=Declaration)
