"""P4, P9: what one user's push meets in the database harms no other user's, and is written to no log."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from protocol.frames import Ack, Applied, Error, Rejected, Repeated, Result
from tests.support.audit import audit, keep_audit
from tests.support.cluster import Database, administrator, end_connections
from tests.support.device import UNLIMITED, PushingDevice, encoded, live_device, now, raw
from tests.support.people import add_user
from tests.support.rejections import RULES
from tests.support.rows import CreateConversation, CreateMessage, EditMessage, RenameConversation
from tests.support.serving import Running, ServerProcess, serving
from tests.support.story import Delivery, Story

CANARY = "CANARY-that-no-log-may-sing"
MANY = 24


@contextlib.asynccontextmanager
async def a_crowd(server: Running, sql: Any, number: int) -> AsyncIterator[list[PushingDevice]]:
    """Devices of as many users, live."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(live_device(server.url, await add_user(sql))) for _ in range(number)]


async def converse(devices: list[PushingDevice]) -> list[UUID]:
    """A conversation for each."""
    conversations = [uuid4() for _ in devices]
    await asyncio.gather(
        *(
            device.apply(CreateConversation(conversation, "0", now()))
            for device, conversation in zip(devices, conversations, strict=True)
        )
    )
    return conversations


# ---- A rule against some -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["a check", "a trigger that raises", "a trigger that raises at commit"])
async def test_bad_mutations_of_some_users_leave_mutations_of_others_alone(every_database: Database, rule: str) -> None:
    """Everything good is applied exactly once, however often a group had to be tried."""
    async with administrator(every_database) as sql, serving(every_database, **UNLIMITED) as server:
        await keep_audit(sql)
        await sql.execute(RULES[rule])
        async with a_crowd(server, sql, MANY) as devices:
            conversations = await converse(devices)
            expected: list[list[str]] = [[] for _ in devices]

            async def push(which: int, round_: int) -> None:
                messages = [uuid4() for _ in range(4)]
                said = [f"{round_} {number}" for number in range(4)]
                bad = which % 3 == 0
                if bad:
                    said[which % 4] += " darn"
                results: list[Result] = await devices[which].push(
                    *(
                        CreateMessage(message, conversations[which], "user", text, now())
                        for message, text in zip(messages, said, strict=True)
                    )
                )
                for result, text in zip(results, said, strict=True):
                    if "darn" in text:
                        assert isinstance(result, Rejected)
                        assert result.code == "refused"
                    else:
                        assert isinstance(result, Applied), result
                        expected[which].append(text)

            for round_ in range(2):
                await asyncio.gather(*(push(which, round_) for which in range(MANY)))
            for conversation, said in zip(conversations, expected, strict=True):
                messages = await sql.fetch("SELECT id FROM messages WHERE conversation_id = $1", conversation)
                told = await audit(sql, *(row["id"] for row in messages))
                assert [(what, text) for what, _, text in told] == [("INSERT", text) for text in said]


# ---- Locks ---------------------------------------------------------------------------------------------------------

LESS_PATIENCE = "ALTER FUNCTION sync.push SET lock_timeout = '200ms'"
"""A second for each try is right for a server, and long for a test."""
LOCKS = {
    "its conversation": "SELECT FROM conversations WHERE user_id = ANY($1) FOR UPDATE",
    "its profile": "SELECT FROM profiles WHERE id = ANY($1) FOR UPDATE",
    "its feed": "SELECT FROM sync.feeds WHERE user_id = ANY($1) FOR UPDATE",
    "its numbers": "SELECT FROM sync.clients WHERE user_id = ANY($1) FOR UPDATE",
}


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("locked", [1, 3])
async def test_a_row_that_an_administrator_locks_holds_up_only_its_own_user(
    database: Database, lock: str, locked: int
) -> None:
    async with (
        administrator(database) as sql,
        administrator(database) as holder,
        serving(database, **UNLIMITED) as server,
        a_crowd(server, sql, locked + 12) as devices,
    ):
        await keep_audit(sql)
        await sql.execute(LESS_PATIENCE)
        conversations = await converse(devices)
        victims, others = devices[:locked], devices[locked:]

        def mutations(which: int, title: str) -> list[Any]:
            return [
                RenameConversation(conversations[which], title, now()),
                CreateConversation(uuid4(), title, now()),
            ]

        async with holder.transaction():
            await holder.execute(LOCKS[lock], [device.user for device in victims])
            kept = [mutations(which, "1") for which in range(locked)]
            for victim, pushed in zip(victims, kept, strict=True):
                await victim.say_push(*pushed)
            for title in ("1", "2"):
                await asyncio.gather(
                    *(device.apply(*mutations(locked + which, title)) for which, device in enumerate(others))
                )
            for victim in victims:
                answer = await victim.answer()
                assert isinstance(answer, Error), answer
                assert (answer.code, answer.retryable, answer.id) == ("unavailable", True, 2)
                assert answer.retry_after is not None
        for which, victim in enumerate(victims):
            results = await victim.patient_push(*kept[which])
            assert all(isinstance(result, Applied | Repeated) for result in results), results
        for device, conversation in zip(devices, conversations, strict=True):
            titles = ["0", "1"] if device in victims else ["0", "1", "2"]
            assert [said for _, _, said in await audit(sql, conversation)] == titles


async def test_while_a_whole_table_is_locked_everybody_is_told_to_come_again(every_database: Database) -> None:
    async with (
        administrator(every_database) as sql,
        administrator(every_database) as holder,
        serving(every_database, **UNLIMITED) as server,
        a_crowd(server, sql, 3) as devices,
    ):
        await keep_audit(sql)
        await sql.execute(LESS_PATIENCE)
        conversations = await converse(devices)
        rename = [[RenameConversation(conversation, "1", now())] for conversation in conversations]
        async with holder.transaction():
            await holder.execute("LOCK TABLE conversations IN EXCLUSIVE MODE")
            for device, mutations in zip(devices, rename, strict=True):
                await device.say_push(*mutations)
            for device in devices:
                answer = await device.answer()
                assert isinstance(answer, Error), answer
                assert answer.code == "unavailable"
        for device, mutations in zip(devices, rename, strict=True):
            await device.patient_push(*mutations)
        for conversation in conversations:
            assert [said for _, _, said in await audit(sql, conversation)] == ["0", "1"]


async def test_deadlocks_with_the_apps_own_transactions_reject_nothing(every_database: Database) -> None:
    """Which take users in any order, as no push would. The app may lose some; the devices lose none."""
    rng = random.Random(7)
    async with administrator(every_database) as sql:
        # Of one second otherwise, for each of them.
        await sql.execute(f"ALTER DATABASE {every_database.name} SET deadlock_timeout = '50ms'")
    async with administrator(every_database) as sql, serving(every_database, **UNLIMITED) as server:
        await keep_audit(sql)
        made = [Delivery(await add_user(sql), Story(random.Random(number), 30), rng) for number in range(6)]

        async def write() -> None:
            async with administrator(every_database) as app:
                while True:
                    with contextlib.suppress(asyncpg.DeadlockDetectedError):
                        async with app.transaction():
                            for outbox in rng.sample(made, 3):
                                await app.execute(
                                    "UPDATE conversations SET updated_at = updated_at WHERE user_id = $1", outbox.user
                                )
                    await asyncio.sleep(rng.random() * 0.01)

        writers = [asyncio.create_task(write()) for _ in range(3)]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(*(outbox.deliver(server.url) for outbox in made))
        finally:
            for writer in writers:
                writer.cancel()
            ends = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
        for outbox in made:
            await outbox.check(sql)


# ---- Logs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
async def test_no_content_is_logged_whatever_the_database_says_of_it(database: Database, rule: str) -> None:
    async with administrator(database) as sql:
        await sql.execute(RULES[rule])
        async with ServerProcess(database.server_url, ATLAS_LOG_LEVEL="debug") as server:
            async with (
                live_device(server.url, await add_user(sql)) as device,
                live_device(server.url, await add_user(sql)) as other,
            ):
                conversations = await converse([device, other])
                message, at = uuid4(), now()
                for one, conversation in zip((device, other), conversations, strict=True):
                    await one.say_push(
                        CreateMessage(message, conversation, "user", CANARY, at),
                        CreateMessage(uuid4(), conversation, "user", f"{CANARY} darn", at),
                        EditMessage(message, at, f"darn {CANARY}", at),
                        RenameConversation(conversation, f"{CANARY}\x00", at),
                    )
                for one in (device, other):
                    answer = await one.answer()
                    assert isinstance(answer, Ack | Error)
                    said = str(answer)
                    assert "CANARY" not in said
            assert await server.stop() == 0
        assert [event for event in server.log if event.get("event") == "connection welcomed"], "that is not the log"
        assert not [event for event in server.log if b"CANARY" in orjson.dumps(event)]


async def test_no_content_of_a_rejected_malformed_or_locked_mutation_is_logged(database: Database) -> None:
    async with administrator(database) as sql, administrator(database) as holder:
        async with ServerProcess(database.server_url, ATLAS_LOG_LEVEL="debug") as server:
            async with live_device(server.url, await add_user(sql)) as device:
                (conversation,) = await converse([device])
                results = await device.push(
                    raw([CANARY, uuid4(), CANARY, now()]),
                    raw({CANARY: CANARY}),
                    CreateMessage(uuid4(), conversation, CANARY, CANARY, now()),
                    CreateMessage(uuid4(), conversation, "user", CANARY * 5_000, now()),
                    CreateConversation(uuid4(), f"\x00{CANARY}", now()),
                    CreateConversation(uuid4(), CANARY, 1),
                    RenameConversation(conversation, CANARY * 100, now()),
                    RenameConversation(conversation, CANARY, now()),
                )
                assert [type(result) for result in results] == [*[Rejected] * 7, Applied]
                assert not [result for result in results if "CANARY" in str(result)]
                async with holder.transaction():
                    await holder.execute("SELECT FROM conversations WHERE id = $1 FOR UPDATE", conversation)
                    await device.refused_push(RenameConversation(conversation, f"{CANARY} again", now()))
                await end_connections(sql)
                await device.patient_push(RenameConversation(conversation, f"{CANARY} again", now()))
                await device.say_raw(encoded({"t": "push", "n": CANARY, "mutations": [CANARY]}))
                assert (await device.closed())[0] == 4300
            assert await server.stop() == 0
        assert [event for event in server.log if event.get("event") == "connection welcomed"], "that is not the log"
        assert not [event for event in server.log if b"CANARY" in orjson.dumps(event)]
