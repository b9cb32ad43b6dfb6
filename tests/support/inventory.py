"""What of Atlas Sync is not as it should be in a test's database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from server.operations.inventory import Wrong
from server.postgres.connection import SAFE_PATH
from server.postgres.inventory import take_inventory
from tests.support.cluster import SERVER_LOGIN


@asynccontextmanager
async def undone(sql: Any) -> AsyncIterator[None]:
    """What is done meanwhile is rolled back."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def inventory(sql: Any, role: str = SERVER_LOGIN) -> list[Wrong]:
    """As a login finds it; the server's, unless another one is named. `sql` is an administrator's."""
    async with undone(sql):
        await sql.execute(f"{SAFE_PATH}; SET LOCAL ROLE {role}")
        return await take_inventory(sql)
