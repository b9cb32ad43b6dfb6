"""One device, two connections: what was said on the older one arrives late, and takes nothing from the newer one."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from protocol.codec import MSGPACK
from protocol.frames import Ack, Applied, Error, Live, Repeated
from tests.support.audit import audit, keep_audit
from tests.support.cluster import Database, administrator
from tests.support.device import PushingDevice, encoded, live_device, now
from tests.support.diary import diarist, living, settled
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.proxy import Proxy, postgres_behind_proxy
from tests.support.rows import CreateConversation, Mutation, RenameConversation
from tests.support.serving import Running, serving, token
from tests.support.waiting import eventually

NOTHING_GOES_ON = """
    SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                       AND pid <> pg_backend_pid() AND state = 'active')
"""


class Person:
    """A user with one device: what it says, in one conversation."""

    def __init__(self, user: UUID) -> None:
        self.user = user
        self.client_id = uuid4()
        self.conversation = uuid4()
        self.mutations: list[Mutation] = [CreateConversation(self.conversation, "1", now())]
        self.mutations += [RenameConversation(self.conversation, str(n), now()) for n in range(2, 10)]

    async def check(self, sql: Any, said: int) -> None:
        """The first so many were applied, each once and in order."""
        assert [text for _, _, text in await audit(sql, self.conversation)] == [str(n) for n in range(1, said + 1)]

    async def goes_on(self, device: PushingDevice, n: int) -> None:
        """Push the next ones, from number `n` on, one by one: two of them."""
        for number in (n, n + 1):
            (result,) = await device.push(self.mutations[number - 1], n=number)
            assert isinstance(result, Applied | Repeated), result

    @contextlib.asynccontextmanager
    async def connected(self, port: int, generation: int) -> AsyncIterator[PushingDevice]:
        """Its connection of that generation, live."""
        async with self.dialled(port) as device:
            await self.hello(device, generation)
            await device.hear_a(Live)
            yield device

    @contextlib.asynccontextmanager
    async def dialled(self, port: int) -> AsyncIterator[PushingDevice]:
        """On which nothing was said."""
        async with peer(f"ws://127.0.0.1:{port}/sync") as one:
            yield PushingDevice(one.socket, MSGPACK, self.user, self.client_id, 1)

    async def hello(self, device: PushingDevice, generation: int) -> None:
        hello = {"t": "hello", "token": token(self.user), "client_id": self.client_id, "generation": generation}
        await device.say_raw(encoded(hello))


async def heard_late(device: PushingDevice) -> Ack | Error | None:
    """What the older connection is told in the end: the answer to its push; None if it was closed without one."""
    try:
        return await device.answer()
    except ConnectionClosed:
        return None


def is_harmless(answer: Ack | Error | None) -> bool:
    """It was carried out before the newer connection said anything else, or not at all."""
    if isinstance(answer, Ack):
        return all(isinstance(result, Applied | Repeated) for result in answer.results)
    return answer is None or answer.code in ("replaced", "unavailable")


@pytest.fixture
async def person(sql: Any) -> Person:
    await keep_audit(sql)
    return Person(await add_user(sql))


@pytest.fixture
async def here(database: Database, person: Person) -> AsyncIterator[Running]:
    async with serving(database) as running:
        yield running


@pytest.fixture
async def there(database: Database, person: Person) -> AsyncIterator[Running]:
    async with serving(database) as running:
        yield running


# ---- A late push ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pushed", [1, 2, 4], ids=["less than", "the same as", "more than"])
async def test_a_push_that_is_late_on_its_way_to_a_server_takes_nothing_over(
    here: Running, there: Running, person: Person, sql: Any, pushed: int
) -> None:
    """It carries less than what the newer connection has pushed by then, the same, or more."""
    async with Proxy(("127.0.0.1", here.port)) as network, person.connected(network.port, 1) as older:
        network.stall()
        await older.say_push(*person.mutations[:pushed], n=1)
        async with person.connected(there.port, 2) as newer:
            await person.goes_on(newer, 1)
            await eventually(lambda: network.late)
            network.release()
            assert is_harmless(await heard_late(older))
            await person.goes_on(newer, 3)
            await person.goes_on(newer, 5)
        await person.check(sql, 6)


@pytest.mark.parametrize("given_up", [False, True], ids=["in time", "given up"])
async def test_a_push_that_is_late_on_its_way_to_postgres_takes_nothing_over(
    database: Database, there: Running, person: Person, sql: Any, given_up: bool
) -> None:
    async with (
        postgres_behind_proxy(database.server_url) as (door, url),
        serving(url) as here,
        person.connected(here.port, 1) as older,
    ):
        # So that the server has a connection to write on.
        async with live_device(here.url, await add_user(sql)) as somebody:
            await somebody.apply(CreateConversation(uuid4(), "somebody's", now()))
        door.stall()
        await older.say_push(person.mutations[0], n=1)
        async with person.connected(there.port, 2) as newer:
            await person.goes_on(newer, 1)
            await eventually(lambda: door.late)
            if given_up:
                assert is_harmless(await heard_late(older))
                await person.goes_on(newer, 3)
                door.release()
                await eventually(lambda: sql.fetchval(NOTHING_GOES_ON))
            else:
                door.release()
                assert is_harmless(await heard_late(older))
                await person.goes_on(newer, 3)
            await person.goes_on(newer, 5)
        await person.check(sql, 6)


# ---- A late hello --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same", [True, False], ids=["the same server", "another server"])
async def test_a_hello_that_is_late_takes_nothing_over(
    here: Running, there: Running, person: Person, sql: Any, same: bool
) -> None:
    async with Proxy(("127.0.0.1", here.port)) as network, person.dialled(network.port) as older:
        network.stall()
        await person.hello(older, 1)
        async with person.connected(here.port if same else there.port, 2) as newer:
            await person.goes_on(newer, 1)
            await eventually(lambda: network.late)
            network.release()
            # Another server need not know before it pushes.
            with contextlib.suppress(ConnectionClosed):
                await older.hear_a(Live)
                await older.say_push(*person.mutations[:3], n=1)
                await older.answer()
            await person.goes_on(newer, 3)
            assert (await older.closed())[0] == 4302
            await person.goes_on(newer, 5)
        await person.check(sql, 6)


# ---- A whole device ------------------------------------------------------------------------------------------------


async def test_a_device_that_comes_back_by_another_server_before_its_push_arrives_is_never_sent_away(
    database: Database,
) -> None:
    async with (
        serving(database, keepalive=0.5) as here,
        serving(database, keepalive=0.5) as there,
        Proxy(("127.0.0.1", here.port)) as network,
        administrator(database) as sql,
    ):
        await keep_audit(sql)
        device = await diarist(sql, f"ws://127.0.0.1:{network.port}/sync")
        async with living(device):
            network.stall()
            network.target = "127.0.0.1", there.port
            device.say(3)
            # Once it has waited in vain it comes back.
            await settled(sql, device)
            network.release()
            for _ in range(5):
                device.say(1)
                await settled(sql, device)
