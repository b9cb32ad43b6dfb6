"""One mutation that fails, wherever and however, is rejected or held back, and holds nobody else up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.frames import Ack, Applied, Error, Rejected, Result
from server.postgres import pool
from server.write import suspects
from tests.support.cluster import Database, administrator
from tests.support.device import UNLIMITED, PushingDevice, live_device, now
from tests.support.people import add_user
from tests.support.rows import CreateConversation, CreateMessage, DeleteConversation, Message, RenameConversation
from tests.support.serving import serving

DOES = {
    "raises": "RAISE EXCEPTION 'no'",
    "hangs": "PERFORM pg_sleep(600)",
    "is cancelled": "PERFORM pg_cancel_backend(pg_backend_pid()), pg_sleep(600)",
    "kills its backend": "PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(600)",
}
"""What a message says, and what it does."""
SETTLED = {"raises": "refused", "kills its backend": "refused", "hangs": "too_slow", "is cancelled": "too_slow"}
LOCK = "PERFORM set_config('lock_timeout', '100ms', true), pg_advisory_xact_lock(4711)"
WHERE = {
    "before the row": "CREATE TRIGGER poison BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION poison()",
    "after the row": "CREATE TRIGGER poison AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION poison()",
    "deferred": "CREATE CONSTRAINT TRIGGER poison AFTER INSERT ON messages DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW EXECUTE FUNCTION poison()",
    # Queued by a deferred trigger, and deferred again: nothing but COMMIT itself runs it.
    "at commit": """
        CREATE TABLE later (content text);
        CREATE FUNCTION put_off() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO later VALUES (NEW.content); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER put_off AFTER INSERT ON messages DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION put_off();
        CREATE CONSTRAINT TRIGGER poison AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION poison();
    """,
}


async def lay(sql: Any, where: str) -> None:
    """A trigger of the app that does what a message says."""
    whens = " ".join(f"WHEN '{says}' THEN {does};" for says, does in {**DOES, "waits for a lock": LOCK}.items())
    await sql.execute(
        "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN CASE NEW.content {whens} ELSE NULL; END CASE; RETURN NEW; END $$; {WHERE[where]}"
    )


@contextlib.asynccontextmanager
async def a_crowd(url: str, sql: Any, number: int) -> AsyncIterator[list[tuple[PushingDevice, UUID]]]:
    """Devices of as many users, each with a conversation of its own."""
    async with contextlib.AsyncExitStack() as stack:
        devices = [await stack.enter_async_context(live_device(url, await add_user(sql))) for _ in range(number)]
        conversations = [uuid4() for _ in devices]
        pairs = list(zip(devices, conversations, strict=True))
        await asyncio.gather(*(writes(device, CreateConversation(home, "0", now())) for device, home in pairs))
        yield pairs


async def writes(device: PushingDevice, *mutations: CreateConversation | CreateMessage) -> None:
    """What is applied, if need be after a pause: where the machine is busy the limits of a try are short."""
    results = await device.patient_push(*mutations)
    assert not any(isinstance(result, Rejected) for result in results), results


def says(home: UUID, *contents: str) -> list[CreateMessage]:
    return [CreateMessage(uuid4(), home, "user", content, now()) for content in contents]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of a try are right for a server, and long for a test."""
    monkeypatch.setattr("server.write.batcher.GROUP_SECONDS", 0.5)
    monkeypatch.setattr(suspects, "FIRST_ATTEMPT", 0.2)
    monkeypatch.setattr(suspects, "LONGEST_ATTEMPT", 0.4)
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(suspects, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(suspects, "ATTEMPTS", 3)
    monkeypatch.setattr("server.write.isolation.JITTER_MILLISECONDS", (1, 50))


async def poison(culprit: PushingDevice, home: UUID, does: str) -> None:
    """Push it between two good mutations. Only it is rejected, and the device goes on."""
    mutations = says(home, "before", does, "after")
    await culprit.say_push(*mutations)
    results = await settled(culprit, mutations)
    assert [result.code for result in results if isinstance(result, Rejected)] == [SETTLED[does]], does
    assert isinstance(results[1], Rejected)
    await culprit.reach(await culprit.apply(RenameConversation(home, "goes on", now())))
    rows = [row for row in culprit.rows if isinstance(row, Message)]
    assert [row.content for row in rows] == ["before", "after"]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("does", DOES)
async def test_a_poisoned_mutation_is_settled(database: Database, where: str, does: str) -> None:
    async with (
        administrator(database) as sql,
        serving(database, **UNLIMITED) as server,
        a_crowd(server.url, sql, 1) as ((culprit, home),),
    ):
        await lay(sql, where)
        await poison(culprit, home, does)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("where", WHERE)
async def test_poisoned_mutations_in_a_group_of_fifty_hold_nobody_up(database: Database, where: str) -> None:
    async with (
        administrator(database) as sql,
        serving(database, **UNLIMITED) as server,
        a_crowd(server.url, sql, len(DOES) + 50) as devices,
    ):
        await lay(sql, where)
        async with asyncio.TaskGroup() as tasks:
            culprits = [tasks.create_task(poison(*pair, does)) for does, pair in zip(DOES, devices, strict=False)]
            for _ in range(3):
                await asyncio.gather(*(writes(device, *says(its, "hello")) for device, its in devices[len(DOES) :]))
            assert not all(culprit.done() for culprit in culprits), "the others did not wait for them"


async def settled(device: PushingDevice, mutations: list[CreateMessage]) -> Sequence[Result]:
    """The results of what has been pushed, pushed again for as long as it is held back."""
    while isinstance(answer := await device.answer(), Error):
        assert (answer.code, answer.retryable) == ("unavailable", True)
        await asyncio.sleep((answer.retry_after or 0) / 1000)
        await device.say_push(*mutations, n=device.number)
    device.number += len(mutations)
    return answer.results


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("where", WHERE)
async def test_a_mutation_that_waits_for_another_transactions_lock_is_held_back_and_never_rejected(
    database: Database, where: str
) -> None:
    async with (
        administrator(database) as sql,
        administrator(database) as holder,
        serving(database, **UNLIMITED) as server,
        a_crowd(server.url, sql, 8) as ((victim, home), *crowd),
    ):
        await lay(sql, where)
        mutations = says(home, "before", "waits for a lock", "after")
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock(4711)")
            await victim.say_push(*mutations)
            for _ in range(suspects.ATTEMPTS + 1):
                await asyncio.gather(*(writes(device, *says(its, "hello")) for device, its in crowd))
                answer = await victim.answer()
                assert isinstance(answer, Error)
                await asyncio.sleep((answer.retry_after or 0) / 1000)
                await victim.say_push(*mutations, n=victim.number)
        assert not any(isinstance(result, Rejected) for result in await settled(victim, mutations))


@pytest.mark.usefixtures("hasty")
async def test_two_devices_of_one_user_that_are_both_poisoned_are_both_settled(database: Database) -> None:
    async with (
        administrator(database) as sql,
        serving(database, **UNLIMITED) as server,
        a_crowd(server.url, sql, 1) as ((device, home),),
        live_device(server.url, device.user) as other,
    ):
        await lay(sql, "after the row")
        for results in await asyncio.gather(*(each.patient_push(*says(home, "hangs")) for each in (device, other))):
            assert [result.code for result in results if isinstance(result, Rejected)] == ["too_slow"]


async def test_a_role_with_a_statement_timeout_of_its_own_jams_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "FIRST_PAUSE", 0.01)
    async with administrator(database) as sql:
        await sql.execute(f"ALTER ROLE atlas_server IN DATABASE {database.name} SET statement_timeout = '300ms'")
        async with serving(database, **UNLIMITED) as server, a_crowd(server.url, sql, 3) as ((culprit, home), *crowd):
            await lay(sql, "before the row")
            await culprit.say_push(*says(home, "hangs"))
            await asyncio.gather(*(writes(device, *says(its, "hello")) for device, its in crowd))
            answer = await culprit.answer()
            assert isinstance(answer, Error)
            (result,) = await culprit.patient_push(*says(home, "hangs"))
            assert isinstance(result, Rejected)
            assert result.code == "too_slow"


async def test_a_slow_mutation_that_is_not_wrong_gets_through(database: Database) -> None:
    async with (
        administrator(database) as sql,
        serving(database, **UNLIMITED) as server,
        a_crowd(server.url, sql, 2) as ((slow, home), (quick, its)),
    ):
        await sql.execute(
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF NEW.content = 'slow' THEN PERFORM pg_sleep(1.5); END IF; RETURN NEW; END $$;"
            "CREATE TRIGGER wait BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION wait()"
        )
        mutations = says(home, "slow")
        first, _ = await asyncio.gather(slow.patient_push(*mutations), quick.apply(*says(its, "hello")))
        assert isinstance(first[0], Applied)


async def test_a_huge_conversation_is_deleted_while_others_write(database: Database) -> None:
    async with (
        administrator(database) as sql,
        serving(database, **UNLIMITED) as server,
        a_crowd(server.url, sql, 6) as ((device, home), *crowd),
    ):
        await sql.execute(
            "CREATE OR REPLACE FUNCTION sync.portion() RETURNS int LANGUAGE sql IMMUTABLE"
            " SET search_path = pg_catalog, pg_temp AS 'SELECT 500'"
        )
        await sql.execute(
            "INSERT INTO messages (conversation_id, role, content)"
            " SELECT $1, 'user', 'x' FROM generate_series(1, 5200)",
            home,
        )
        await device.say_push(DeleteConversation(home))
        for number in range(5):
            await asyncio.gather(*(each.apply(RenameConversation(its, str(number), now())) for each, its in crowd))
        answer = await device.answer()
        assert isinstance(answer, Ack)
        assert [type(result) for result in answer.results] == [Applied]
        assert await sql.fetchval("SELECT count(*) FROM messages") == 0
