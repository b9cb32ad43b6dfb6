"""P4 where several servers write: a number is consumed once, although others write at the same moment."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.postgres.writer import PostgresWriter
from server.write.ports import Cause, WriteError
from server.write.push import Change, Outcome, OwnedPush
from tests.support.checked import checked
from tests.support.cluster import Database, administrator
from tests.support.people import add_conversation, add_user
from tests.support.pools import pool_of_one
from tests.support.rows import CreateConversation, CreateMessage, DeleteConversation
from tests.support.waiting import eventually

SERVERS = 3
SECONDS = 10.0


@contextlib.asynccontextmanager
async def writer(database: Database) -> AsyncIterator[PostgresWriter]:
    """A server's own, with a pool of its own."""
    pool = pool_of_one(database)
    await pool.start()
    yield PostgresWriter(pool, Synced(CHAT))
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


def push(user: UUID, conversation: UUID, client_id: UUID, first: int, ids: list[UUID], session: str = "s") -> OwnedPush:
    now = time.time_ns() // 1000
    return OwnedPush(
        user=user,
        client_id=client_id,
        session=session,
        claims_client_id=True,
        first=first,
        mutations=[
            checked(CreateMessage(row_id, conversation, "user", "hello", now + i)) for i, row_id in enumerate(ids)
        ],
    )


async def test_several_servers_that_receive_the_same_numbers_apply_them_once(
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
        outcomes = await asyncio.gather(*(each.write([it], SECONDS) for each, it in zip(writers, pushes, strict=True)))
        befores = sorted(outcome.before for (outcome,) in outcomes)
        assert befores == [first - 1, *[first + 2] * (SERVERS - 1)]
        assert {outcome.after for (outcome,) in outcomes} == {first + 2}
    assert await admin.fetchval("SELECT count(*) FROM messages") == 30


async def test_servers_that_write_for_the_same_users_do_not_deadlock(writers: list[PostgresWriter], admin: Any) -> None:
    users = [await add_user(admin) for _ in range(12)]
    conversations = {user: await add_conversation(admin, user) for user in users}

    async def serve(each: PostgresWriter, rng: random.Random) -> int:
        clients = {user: uuid4() for user in users}
        numbers = dict.fromkeys(users, 0)
        for _ in range(25):
            some = sorted(rng.sample(users, 8), key=lambda user: user.bytes)
            group = [push(user, conversations[user], clients[user], numbers[user] + 1, [uuid4()]) for user in some]
            outcomes: list[Outcome] = await each.write(group, SECONDS)
            for user, outcome in zip(some, outcomes, strict=True):
                numbers[user] += 1
                assert (outcome.before, outcome.after, outcome.rejected) == (numbers[user] - 1, numbers[user], {})
        return sum(numbers.values())

    written = await asyncio.gather(*(serve(each, random.Random(i)) for i, each in enumerate(writers)))
    assert await admin.fetchval("SELECT count(*) FROM messages") == sum(written) == SERVERS * 25 * 8


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
        [push(user, home, uuid4(), 1, [row]) for user, home, row in zip(users, conversations, ids, strict=True)],
        SECONDS,
    )
    assert {row["row_id"]: row["who"] for row in await admin.fetch("SELECT * FROM seen")} == dict(
        zip(ids, users, strict=True)
    )


# ---- Why a transaction failed --------------------------------------------------------------------------------------

RAISES = "RAISE EXCEPTION USING ERRCODE = '{}'"
FAILURES = {
    "a rule of the app": (RAISES.format("P0001"), Cause.RULE),
    "a check": (RAISES.format("23514"), Cause.RULE),
    "a policy": (RAISES.format("42501"), Cause.RULE),
    "a table that a trigger does not find": ("PERFORM FROM public.not_there", Cause.STATE),
    "no memory": (RAISES.format("53200"), Cause.STATE),
    "a deadlock": (RAISES.format("40P01"), Cause.STATE),
    "time": ("PERFORM pg_sleep(20)", Cause.TIME),
    "a cancel": ("PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(20)", Cause.TIME),
    "the end of its backend": ("PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(20)", Cause.END),
}


@pytest.mark.parametrize("why", FAILURES)
async def test_a_transaction_that_fails_names_its_cause(writers: list[PostgresWriter], admin: Any, why: str) -> None:
    user = await add_user(admin)
    conversation = await add_conversation(admin, user)
    does, cause = FAILURES[why]
    await admin.execute(
        f"CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; RETURN NEW; END $$;"
        "CREATE TRIGGER fail BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    with pytest.raises(WriteError) as failed:
        await writers[0].write([push(user, conversation, uuid4(), 1, [uuid4()])], 0.2)
    assert failed.value.cause is cause
    await admin.execute("DROP FUNCTION fail CASCADE")
    (outcome,) = await writers[0].write([push(user, conversation, uuid4(), 1, [uuid4()])], SECONDS)
    assert outcome.after == 1, "the writer goes on"


async def test_a_mutation_that_cannot_be_sent_to_postgres_breaks_a_rule(
    writers: list[PostgresWriter], admin: Any
) -> None:
    user = await add_user(admin)
    conversation = await add_conversation(admin, user)
    good = push(user, conversation, uuid4(), 1, [uuid4()])
    (mutation,) = good.mutations
    assert isinstance(mutation, Change)
    assert mutation.patch is not None
    bad = replace(good, mutations=[replace(mutation, patch=mutation.patch.replace("hello", "half a pair: \ud800"))])
    with pytest.raises(WriteError) as failed:
        await writers[0].write([bad], SECONDS)
    assert failed.value.cause is Cause.RULE


async def test_a_statement_that_is_given_up_is_cancelled_in_postgres(
    every_database: Database, writers: list[PostgresWriter], admin: Any
) -> None:
    user = await add_user(admin)
    conversation = await add_conversation(admin, user)
    async with admin.transaction():
        await admin.execute("SELECT FROM conversations WHERE id = $1 FOR UPDATE", conversation)
        with pytest.raises(WriteError):
            await writers[0].write([push(user, conversation, uuid4(), 1, [uuid4()])], 0.2)
        active = "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'atlas_server' AND state = 'active'"
        # A transaction sees pg_stat_activity as it was when it first looked.
        async with administrator(every_database) as watching:
            await eventually(lambda: watching.fetchval(active))


async def test_a_shorter_limit_that_an_operator_set_stays(every_database: Database, admin: Any) -> None:
    await admin.execute(f"ALTER ROLE atlas_server IN DATABASE {every_database.name} SET statement_timeout = '300ms'")
    async with writer(every_database) as made:
        user = await add_user(admin)
        conversation = await add_conversation(admin, user)
        await admin.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(9); RETURN NEW; END $$;"
            "CREATE TRIGGER wait BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        with pytest.raises(WriteError) as failed:
            await made.write([push(user, conversation, uuid4(), 1, [uuid4()])], SECONDS)
        assert failed.value.cause is Cause.TIME


async def a_large_conversation(admin: Any, user: UUID, messages: int, portion: int) -> UUID:
    """Of more messages than are deleted at once, which are `portion`."""
    await admin.execute(
        "CREATE OR REPLACE FUNCTION sync.portion() RETURNS int LANGUAGE sql IMMUTABLE"
        f" SET search_path = pg_catalog, pg_temp AS 'SELECT {portion}'"
    )
    conversation = await add_conversation(admin, user)
    await admin.execute(
        "INSERT INTO messages (conversation_id, role, content) SELECT $1, 'user', 'x' FROM generate_series(1, $2)",
        conversation,
        messages,
    )
    return conversation


async def test_a_large_conversation_is_deleted_in_portions_and_is_gone_in_the_end(
    writers: list[PostgresWriter], admin: Any
) -> None:
    user = await add_user(admin)
    conversation = await a_large_conversation(admin, user, messages=25, portion=10)
    after = [uuid4()]
    then = checked(CreateConversation(after[0], "next", time.time_ns() // 1000))
    deletion = replace(
        push(user, conversation, uuid4(), 1, []), mutations=[checked(DeleteConversation(conversation)), then]
    )
    left = []
    while True:
        (outcome,) = await writers[0].write([deletion], SECONDS)
        left.append(await admin.fetchval("SELECT count(*) FROM messages"))
        if not outcome.unfinished(deletion):
            break
    assert left == [15, 5, 0]
    assert (outcome.before, outcome.after, outcome.rejected) == (0, 2, {})
    assert await admin.fetchval("SELECT array_agg(id) FROM conversations") == after
    # Each is in the feed: a device that heard of the messages before hears of their end.
    assert await admin.fetchval("SELECT count(*) FROM sync.log WHERE kind = 'm' AND op = 'd'") == 20


async def test_a_large_conversation_of_another_user_loses_nothing(writers: list[PostgresWriter], admin: Any) -> None:
    user, other = await add_user(admin), await add_user(admin)
    conversation = await a_large_conversation(admin, other, messages=5, portion=1)
    deletion = replace(push(user, conversation, uuid4(), 1, []), mutations=[checked(DeleteConversation(conversation))])
    (outcome,) = await writers[0].write([deletion], SECONDS)
    assert (outcome.after, outcome.rejected) == (1, {})
    assert await admin.fetchval("SELECT count(*) FROM messages") == 5


async def test_deleting_a_large_conversation_whose_messages_a_trigger_keeps_ends(
    writers: list[PostgresWriter], admin: Any
) -> None:
    user = await add_user(admin)
    conversation = await a_large_conversation(admin, user, messages=5, portion=2)
    await admin.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER keep BEFORE DELETE ON messages FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    deletion = replace(push(user, conversation, uuid4(), 1, []), mutations=[checked(DeleteConversation(conversation))])
    (outcome,) = await writers[0].write([deletion], SECONDS)
    assert not outcome.unfinished(deletion)
