"""P4: exactly once, in the order of the client, whatever breaks between a device, the servers and Postgres."""

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from protocol.frames import Ack, Applied, Error, Ping, Pong, Repeated
from tests.support.audit import audit, keep_audit
from tests.support.cluster import Database, administrator, end_connections
from tests.support.device import UNLIMITED, live_device, now
from tests.support.faults import seeded
from tests.support.people import add_user
from tests.support.proxy import Proxy, postgres_behind_proxy
from tests.support.rows import CreateConversation, RenameConversation
from tests.support.serving import ServerProcess, serving
from tests.support.story import Delivery, Story
from tests.support.waiting import eventually

PROCESS = {
    "ATLAS_PUSH_RATE": "1000000",
    "ATLAS_PUSH_BURST": "1000000",
    "ATLAS_HELLOS_PER_MINUTE": "1000000",
}
PATIENCE = 60.0
"""Seconds until everything must be delivered."""
A_PUSH = re.compile(rb"\{[-+~]")
"""Among the arguments of a statement that writes: what its first mutation does, in an array literal."""


@contextlib.asynccontextmanager
async def an_audited(database: Database) -> AsyncIterator[Any]:
    async with administrator(database) as sql:
        await keep_audit(sql)
        yield sql


async def outboxes(sql: Any, rng: random.Random, number: int, length: int) -> list[Delivery]:
    return [
        Delivery(await add_user(sql), Story(random.Random(rng.random()), length), random.Random(rng.random()))
        for _ in range(number)
    ]


async def deliver(made: list[Delivery], url: str, fault: Callable[[], Awaitable[None]], most: int) -> int:
    """Deliver them all, through faults until `most` have happened, or the last one is through; how many it were."""
    faults = 0
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as tasks:
        for outbox in made:
            tasks.create_task(outbox.deliver(url))
        while faults < most and not all(outbox.done for outbox in made):
            await fault()
            faults += 1
    return faults


# ---- The network ---------------------------------------------------------------------------------------------------


async def test_answers_that_are_lost_at_any_moment_lose_and_repeat_nothing(every_database: Database) -> None:
    rng = seeded()
    async with (
        an_audited(every_database) as sql,
        serving(every_database, **UNLIMITED) as server,
        Proxy(("127.0.0.1", server.port)) as network,
    ):
        made = await outboxes(sql, rng, 6, 150)

        async def cut() -> None:
            await asyncio.sleep(rng.random() * 0.02)
            network.cut()

        faults = await deliver(made, f"ws://127.0.0.1:{network.port}/sync", cut, 100)
        for outbox in made:
            await outbox.check(sql)
        assert faults > 10
        assert sum(outbox.kinds()["Repeated"] for outbox in made) > 0, "no answer was lost"
        assert sum(outbox.kinds()["Applied"] for outbox in made) > 0


async def test_an_answer_that_never_arrives_on_a_black_line_is_got_on_the_next_one(database: Database) -> None:
    async with (
        an_audited(database) as sql,
        serving(database, **UNLIMITED) as server,
        Proxy(("127.0.0.1", server.port)) as network,
    ):
        user, conversation = await add_user(sql), uuid4()
        url = f"ws://127.0.0.1:{network.port}/sync"
        async with live_device(url, user) as device:
            create = CreateConversation(conversation, "0", now())
            await device.say_push(create)
            network.silent = True  # the push is through or not, the answer is not
            rows = "SELECT count(*) FROM conversations WHERE id = $1"
            with contextlib.suppress(AssertionError):
                await eventually(lambda: sql.fetchval(rows, conversation), 0.5)
            network.swallow()
            network.silent = False
            async with live_device(url, user, device.client_id) as again:
                (result,) = await again.push(create)
                assert isinstance(result, Applied | Repeated)
                await again.apply(RenameConversation(conversation, "1", now()))
            network.cut()
        assert [said for _, _, said in await audit(sql, conversation)] == ["0", "1"]


# ---- Postgres ------------------------------------------------------------------------------------------------------


async def go_away(proxy: Proxy, how: str) -> None:
    if how == "silent":
        proxy.silent = True
    else:
        proxy.refusing = True
        proxy.cut()


def come_back(proxy: Proxy) -> None:
    proxy.silent = False
    proxy.refusing = False


@pytest.mark.parametrize("how", ["refusing", "silent"])
async def test_while_postgres_is_away_pushes_are_unavailable_and_keep_their_socket(
    every_database: Database, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Until a silent one is given up: fifteen otherwise, and ten.
    monkeypatch.setattr("server.postgres.pool.STATEMENT_SECONDS", 2.0)
    monkeypatch.setattr("server.postgres.connection.CONNECT_SECONDS", 1.0)
    async with (
        an_audited(every_database) as sql,
        postgres_behind_proxy(every_database.server_url) as (proxy, url),
        serving(url, **UNLIMITED) as server,
        live_device(server.url, await add_user(sql)) as device,
    ):
        conversation = uuid4()
        await device.apply(CreateConversation(conversation, "0", now()))
        await go_away(proxy, how)
        mutations = [RenameConversation(conversation, "1", now()), RenameConversation(conversation, "2", now())]
        for _ in range(1 if how == "silent" else 3):
            error = await device.refused_push(*mutations)
            assert (error.code, error.retryable) == ("unavailable", True)
            assert error.retry_after is not None
            assert 0 < error.retry_after <= 60_000
        await device.say(Ping())
        await device.hear_a(Pong)
        come_back(proxy)
        results = await device.patient_push(*mutations)
        # What was sent to a Postgres that did not answer may have been committed there.
        assert all(isinstance(result, Applied | Repeated) for result in results)
        seq = max(result.seq for result in results if isinstance(result, Applied | Repeated))
        assert (await device.reach(seq))["c", conversation][0] == "2"
        assert [said for _, _, said in await audit(sql, conversation)] == ["0", "1", "2"]


async def test_a_push_that_meets_the_cut_itself_is_answered_and_can_be_sent_again(every_database: Database) -> None:
    async with (
        an_audited(every_database) as sql,
        postgres_behind_proxy(every_database.server_url) as (proxy, url),
        serving(url, **UNLIMITED) as server,
        live_device(server.url, await add_user(sql)) as device,
    ):
        conversation = uuid4()
        await device.apply(CreateConversation(conversation, "0", now()))
        for number in range(1, 11):
            await device.say_push(RenameConversation(conversation, str(number), now()))
            proxy.cut()
            answer = await device.answer()
            if isinstance(answer, Error):
                assert answer.code == "unavailable"
                await asyncio.sleep((answer.retry_after or 0) / 1_000)
                await device.patient_push(RenameConversation(conversation, str(number), now()))
            else:
                device.number += 1
        assert [said for _, _, said in await audit(sql, conversation)] == [str(number) for number in range(11)]


async def test_cuts_in_the_middle_of_commits_lose_and_repeat_nothing(every_database: Database) -> None:
    rng = seeded()
    async with (
        an_audited(every_database) as sql,
        postgres_behind_proxy(every_database.server_url) as (proxy, url),
        serving(url, **UNLIMITED) as server,
    ):
        made = await outboxes(sql, rng, 6, 100)
        proxy.cut_at_answer(A_PUSH)  # the first push meets it

        async def cut() -> None:
            await asyncio.sleep(rng.random() * 0.05)
            if rng.random() < 0.2:
                proxy.cut_at_answer(A_PUSH)
            else:
                proxy.cut()

        faults = await deliver(made, server.url, cut, 40)
        for outbox in made:
            await outbox.check(sql)
            assert outbox.connections == 1, "the socket stays open"
        assert faults > 10
        assert sum(outbox.kinds()["Repeated"] for outbox in made) > 0, "no push met a cut"
        assert sum(outbox.kinds()["Repeated"] for outbox in made) + sum(
            outbox.kinds()["Applied"] for outbox in made
        ) == sum(len(outbox.story.mutations) - len(outbox.story.rejected) for outbox in made)


async def test_backends_that_are_terminated_lose_and_repeat_nothing(every_database: Database) -> None:
    """As at a failover: Postgres itself ends the session, at any statement."""
    rng = seeded()
    async with an_audited(every_database) as sql, serving(every_database, **UNLIMITED) as server:
        made = await outboxes(sql, rng, 4, 80)

        async def terminate() -> None:
            await asyncio.sleep(rng.random() * 0.05)
            await end_connections(sql)

        await deliver(made, server.url, terminate, 25)
        for outbox in made:
            await outbox.check(sql)
            assert outbox.connections == 1, "the socket stays open"


# ---- The server ----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_killed_at_any_moment_loses_and_repeats_nothing(every_database: Database) -> None:
    rng = seeded()
    async with an_audited(every_database) as sql, ServerProcess(every_database.server_url, **PROCESS) as server:
        made = await outboxes(sql, rng, 6, 120)
        first = len(made[0].story.mutations)

        async def kill() -> None:
            done = sum(len(outbox.results) for outbox in made)
            more = rng.randint(1, 60)
            # In the midst of it: after some more results, and then at any moment.
            await eventually(lambda: sum(len(outbox.results) for outbox in made) >= min(done + more, 6 * first - 30))
            await asyncio.sleep(rng.random() * 0.01)
            await server.kill()
            await server.start()

        kills = await deliver(made, server.url, kill, 6)
        for outbox in made:
            await outbox.check(sql)
        assert kills > 3
        assert sum(outbox.connections for outbox in made) > len(made)


async def test_two_servers_of_which_one_is_killed_lose_and_repeat_nothing(database: Database) -> None:
    """A device that comes back on another server: what the dead one had in hand is done, or is not, and is told."""
    async with (
        an_audited(database) as sql,
        ServerProcess(database.server_url, **PROCESS) as there,
        serving(database, **UNLIMITED) as here,
    ):
        user, conversation = await add_user(sql), uuid4()
        async with live_device(there.url, user) as device:
            await device.apply(CreateConversation(conversation, "0", now()))
            rest = [RenameConversation(conversation, str(number), now()) for number in range(1, 200)]
            await device.say_push(*rest)
            await there.kill()
        async with live_device(here.url, user, device.client_id, n=2) as again:
            await again.say_push(*rest, n=2)
            answer = await again.answer()
            assert isinstance(answer, Ack), answer
            kinds = [type(result) for result in answer.results]
            assert set(kinds) <= {Applied, Repeated}
            assert len(set(kinds)) == 1, "a push is one transaction, or its parts are in order"
            assert (await again.reach(answer.results[-1].seq))["c", conversation][0] == "199"  # type: ignore[union-attr]
        assert [said for _, _, said in await audit(sql, conversation)] == [str(number) for number in range(200)]
