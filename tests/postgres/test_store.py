"""The store answers by one declaration: the one by which its statement was made."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from protocol.cursor import Position
from server.declaration.chat import CHAT
from server.declaration.model import Declaration
from server.declaration.synced import EMPTY, Synced
from server.exceptions import UnavailableError
from server.feed.ports import ANYWHERE, Before, ReadKey, Want
from server.postgres.pool import Pool
from server.postgres.store import PostgresStore
from tests.support.cluster import Database
from tests.support.pools import pool_for
from tests.support.second import SECOND

ANNE, ID = str(UUID(int=1)), UUID(int=2)
MESSAGES = CHAT.kind["message"]
LAST = (1 << 53) - 1
READS: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "a feed": lambda store: store.read_feed([ReadKey(ANNE, Position(5))], 10, 1_000),
    "the newest rows": lambda store: store.rows(MESSAGES, ANNE, [Want(ID, None, 5)], 1_000, ANYWHERE),
    "older rows": lambda store: store.rows(MESSAGES, ANNE, [Want(ID, Before(LAST, ID), 5)], 1_000, ANYWHERE),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_a_read_that_another_declaration_overtakes_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch, read: Callable[[PostgresStore], Awaitable[object]]
) -> None:
    synced = Synced(CHAT)
    pool = pool_for(database, synced)
    store = PostgresStore(pool, synced)
    try:
        await read(store)
        acquire = pool._acquire

        async def overtaken(other: Declaration) -> Any:
            synced.use(other)
            return await acquire()

        for other in (SECOND, EMPTY):
            synced.use(CHAT)
            monkeypatch.setattr(Pool, "_acquire", lambda _, other=other: overtaken(other))
            with pytest.raises(UnavailableError):
                await read(store)
            with pytest.raises(UnavailableError):  # nor is it that of the database
                await read(store)
    finally:
        pool.terminate()
