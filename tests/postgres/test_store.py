"""The store answers by one declaration: the one by which its statement was made; and each of many as if alone."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from protocol.cursor import Position
from protocol.frames import Key
from server.declaration.chat import CHAT
from server.declaration.model import Declaration
from server.declaration.synced import EMPTY, Synced
from server.exceptions import UnavailableError
from server.feed.ports import ANYWHERE, Asked, Before, ReadKey, Want
from server.postgres.pool import Pool
from server.postgres.store import PostgresStore
from tests.support.cluster import Database
from tests.support.people import add_conversation, add_message, add_user
from tests.support.pools import pool_for
from tests.support.second import SECOND

ANNE, ID = str(UUID(int=1)), UUID(int=2)
MESSAGES = CHAT.kind["message"]
LAST = (1 << 53) - 1
READS: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "a feed": lambda store: store.read_feed([ReadKey(ANNE, Position(5))], 10, 1_000),
    "the newest rows": lambda store: store.rows(MESSAGES, ANNE, [Want(ID, None, 5)], 1_000, ANYWHERE),
    "rows of many": lambda store: store.rows_of(MESSAGES, [Asked(ANNE, [Want(ID, None, 5)], None)] * 2, 1_000),
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


async def test_a_read_whose_connection_is_closed_between_two_steps_is_tried_again_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a connection to another history is found at that moment, and the pool gives up those to this one."""
    synced = Synced(CHAT)
    pool = pool_for(database, synced)
    prepare = asyncpg.Connection._get_statement

    async def closed_before(connection: Any, *arguments: Any, **named: Any) -> Any:
        pool.terminate()
        return await prepare(connection, *arguments, **named)

    monkeypatch.setattr(asyncpg.Connection, "_get_statement", closed_before)
    with pytest.raises(UnavailableError, match="closed meanwhile"):
        await PostgresStore(pool, synced).read_feed([ReadKey(ANNE, Position(5))], 10, 1_000)
    monkeypatch.undo()
    await PostgresStore(pool, synced).read_feed([ReadKey(ANNE, Position(5))], 10, 1_000)
    pool.terminate()


@pytest.mark.parametrize("content_bytes", [1_000_000, 450])
async def test_many_users_get_what_each_would_get_alone(every_database: Database, content_bytes: int) -> None:
    sql = await every_database.connect()
    synced = Synced(CHAT)
    pool = pool_for(every_database, synced)
    try:
        store = PostgresStore(pool, synced)
        users = [str(await add_user(sql, tier)) for tier in ("core", "core", "free", "core")] + [str(uuid4())]
        talks: dict[str, list[UUID]] = {user: [] for user in users}
        for user, count in zip(users[:3], (3, 1, 2), strict=True):
            for number in range(count):
                talks[user].append(await add_conversation(sql, UUID(user), f"conversation {number}"))
                for text in ("a text", "another text" * 10, "a third one"):
                    await add_message(sql, talks[user][-1], text)
        for kind in CHAT.kinds:
            parents: dict[str, list[Key | None]] = {user: [None] for user in users}
            if kind.parent is not None:
                # One of another user, too, of which nothing may be found.
                parents = {user: [*talks[user], talks[users[0]][0]] for user in users}
            asked = [Asked(user, [Want(parent, None, 2) for parent in parents[user]], ANYWHERE) for user in users]
            asked.append(asked[0])  # another device of one of them
            alone = [await store.rows(kind, each.user, each.wants, content_bytes) for each in asked]
            assert await store.rows_of(kind, asked, content_bytes) == alone
            assert await store.rows_of(kind, asked[:1], content_bytes) == alone[:1]
            if kind.name == "message":
                assert any(answer.cut for answer in alone) is (content_bytes == 450)
                # The rest of each list, behind the rows that were found.
                rest = [
                    each._replace(wants=wants)
                    for each, answer in zip(asked, alone, strict=True)
                    if (wants := answer.rest(kind, [want._replace(rows=9) for want in each.wants], each.wants))
                ]
                assert len(rest) > 2
                left = [await store.rows(kind, each.user, each.wants, content_bytes) for each in rest]
                assert await store.rows_of(kind, rest, content_bytes) == left
                assert any(answer.rows for answer in left)
    finally:
        pool.terminate()
        await sql.close()
