"""P4 where several servers write: whoever else writes at the same moment, a number is consumed once."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.frames import CreateMessage
from server.postgres.pool import Pool
from server.postgres.writer import PostgresWriter
from server.write.mutation import Outcome, Push
from tests.support.cluster import Database
from tests.support.people import add_conversation, add_user

SERVERS = 3


@contextlib.asynccontextmanager
async def writer(database: Database) -> AsyncIterator[PostgresWriter]:
    """A server's own, with a pool of its own."""
    pool = Pool(database.server_url, size=1, pooled=False, on_epoch=lambda _: None)
    await pool.start()
    yield PostgresWriter(pool)
    pool.terminate()


@pytest.fixture
async def writers(every_database: Database) -> AsyncIterator[list[PostgresWriter]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(writer(every_database)) for _ in range(SERVERS)]


@pytest.fixture
async def admin(every_database: Database) -> AsyncIterator[Any]:
    connection = await every_database.connect()
    yield connection
    await connection.close()


def push(user: UUID, conversation: UUID, client_id: UUID, first: int, ids: list[UUID], session: str = "s") -> Push:
    now = time.time_ns() // 1000
    return Push(
        user=user,
        client_id=client_id,
        session=session,
        takes=True,
        first=first,
        mutations=[CreateMessage(row_id, conversation, "user", "hello", now + i) for i, row_id in enumerate(ids)],
    )


async def test_servers_that_are_pushed_the_same_numbers_at_once_apply_them_once(
    writers: list[PostgresWriter], admin: Any
) -> None:
    user = await add_user(admin)
    conversation = await add_conversation(admin, user)
    client_id = uuid4()
    for first in range(1, 31, 3):
        # Ids of its own for each: should a number be applied twice, two rows tell.
        pushes = [
            push(user, conversation, client_id, first, [uuid4() for _ in range(3)], f"s{i}") for i in range(SERVERS)
        ]
        outcomes = await asyncio.gather(*(each.write([it]) for each, it in zip(writers, pushes, strict=True)))
        befores = sorted(outcome.before for (outcome,) in outcomes)
        assert befores == [first - 1, *[first + 2] * (SERVERS - 1)]
        assert {outcome.after for (outcome,) in outcomes} == {first + 2}
    assert await admin.fetchval("SELECT count(*) FROM messages") == 30


async def test_servers_that_write_for_the_same_users_do_not_deadlock(
    writers: list[PostgresWriter], admin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = [await add_user(admin) for _ in range(12)]
    conversations = {user: await add_conversation(admin, user) for user in users}
    failed: list[str] = []
    fetch = Pool.fetch

    async def first_try_only(pool: Pool, name: str, *arguments: object) -> list[Any]:
        if arguments and arguments[-1] is True:
            failed.append(name)
        return await fetch(pool, name, *arguments)

    monkeypatch.setattr(Pool, "fetch", first_try_only)

    async def serve(each: PostgresWriter, rng: random.Random) -> int:
        clients = {user: uuid4() for user in users}
        numbers = dict.fromkeys(users, 0)
        for _ in range(25):
            some = sorted(rng.sample(users, 8), key=lambda user: user.bytes)
            group = [push(user, conversations[user], clients[user], numbers[user] + 1, [uuid4()]) for user in some]
            outcomes: list[Outcome] = await each.write(group)
            for user, outcome in zip(some, outcomes, strict=True):
                numbers[user] += 1
                assert (outcome.before, outcome.after, outcome.rejected) == (numbers[user] - 1, numbers[user], {})
        return sum(numbers.values())

    written = await asyncio.gather(*(serve(each, random.Random(i)) for i, each in enumerate(writers)))
    assert await admin.fetchval("SELECT count(*) FROM messages") == sum(written) == SERVERS * 25 * 8
    assert not failed


async def test_the_apps_triggers_learn_who_wrote_each_row(writers: list[PostgresWriter], admin: Any) -> None:
    users = sorted([await add_user(admin) for _ in range(3)])
    conversations = [await add_conversation(admin, user) for user in users]
    await admin.execute(
        """
        CREATE TABLE seen (row_id uuid, who uuid);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO seen VALUES (NEW.id, auth.uid()); RETURN NEW; END $$;
        CREATE TRIGGER see BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION see();
        """
    )
    ids = [uuid4() for _ in users]
    await writers[0].write(
        [push(user, home, uuid4(), 1, [row]) for user, home, row in zip(users, conversations, ids, strict=True)]
    )
    assert {row["row_id"]: row["who"] for row in await admin.fetch("SELECT * FROM seen")} == dict(
        zip(ids, users, strict=True)
    )
