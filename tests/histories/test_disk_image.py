"""An image of the disk is put back: the same cluster, timeline and database, which lost its tail."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed

from protocol.frames import Ack, Error
from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells
from tests.support.cluster import administrator
from tests.support.device import live_device, now
from tests.support.diary import Diarist, diarist, diarists, living, settled
from tests.support.histories import Machine, Machines
from tests.support.people import add_message, add_user
from tests.support.proxy import Proxy, postgres_behind_proxy
from tests.support.rows import CreateConversation, RenameConversation
from tests.support.serving import Service
from tests.support.waiting import eventually

AHEAD = "UPDATE sync.feeds SET seq = seq + 3600000000"
"""Feeds that are ahead of the clock count by ones: what is lost and what comes instead have the same seqs."""
NO_READING = {
    Doorbells.LISTEN: "REVOKE SELECT ON sync.log FROM atlas_sync",
    Doorbells.WAL: "REVOKE SELECT ON sync.log FROM atlas_sync; ALTER PUBLICATION atlas_sync DROP TABLE sync.log",
}
"""What is pushed is acknowledged, and nobody is told of it."""


@pytest.fixture(
    params=[("running", Doorbells.LISTEN), ("restarted", Doorbells.LISTEN), ("running", Doorbells.WAL)],
    ids=lambda param: "-".join(map(str, param)),
)
def situation(request: pytest.FixtureRequest) -> tuple[str, Doorbells]:
    """What the server does meanwhile, and where it learns of changes."""
    found: tuple[str, Doorbells] = request.param
    return found


class Disk:
    """A machine with a server, and an image of its disk. While it is put back, the server is away or waits."""

    def __init__(self, machine: Machine, door: Proxy, service: Service, server_is: str, doorbells: Doorbells) -> None:
        self.machine = machine
        self.service = service
        self.doorbells = doorbells
        self._door = door
        self._server_is = server_is

    async def take_image(self, how: str) -> None:
        if how == "stopped":
            # Postgres waits until a server that streams from it, here in this process, has all that was written.
            await asyncio.to_thread(self.machine.postgres.stop)
        else:
            self.machine.postgres.kill()
        self._image = self.machine.image()
        self.machine.postgres.start()

    @contextlib.asynccontextmanager
    async def put_back(self, *devices: Diarist) -> AsyncIterator[None]:
        """What is done within is done before the server comes."""
        self._door.refusing = True
        self._door.cut()
        for device in devices:
            device.part()
        if self._server_is == "restarted":
            await self.service.stop()
        self.machine.postgres.kill()
        self.machine.put_back(self._image)
        self.machine.postgres.start()
        yield
        self._door.refusing = False
        if self._server_is == "restarted":
            await self.service.start()


@pytest.fixture
async def disk(site: Machines, situation: tuple[str, Doorbells]) -> AsyncIterator[Disk]:
    machine = site.primary()
    if situation[1] is Doorbells.WAL:
        machine.database.streamed = True
        await migrate(machine.database.url, doorbells=Doorbells.WAL)
    async with postgres_behind_proxy(machine.database.server_url) as (door, url), Service(url) as service:
        yield Disk(machine, door, service, *situation)


async def acknowledge_what_the_image_lacks(disk: Disk, device: Diarist, taken: str) -> None:
    """An image is taken when all is seen; what the device writes afterwards is acknowledged, and not seen."""
    device.say(3)
    async with administrator(disk.machine.database) as sql:
        await settled(sql, device)
    await disk.take_image(taken)
    async with administrator(disk.machine.database) as sql:
        await sql.execute(NO_READING[disk.doorbells])
    device.say(3)
    await eventually(lambda: device.all_acked)
    assert len(device.held) == 3


async def test_a_mutation_that_was_acknowledged_and_not_seen_is_applied_again(disk: Disk) -> None:
    """The device stands where the image does: nothing of what it knows of the feed is wrong."""
    async with administrator(disk.machine.database) as sql:
        device = await diarist(sql, disk.service.url)
    async with living(device):
        await acknowledge_what_the_image_lacks(disk, device, "stopped")
        async with disk.put_back(device):
            pass
        async with administrator(disk.machine.database) as sql:
            await settled(sql, device)
            device.say(3)
            await settled(sql, device)


async def test_a_device_that_is_ahead_starts_over_and_goes_on(disk: Disk) -> None:
    async with administrator(disk.machine.database) as sql:
        devices = await diarists(sql, disk.service.url, disk.service.url)
    async with living(*devices):
        for device in devices:
            device.say(3)
        async with administrator(disk.machine.database) as sql:
            await settled(sql, *devices)
        await disk.take_image("killed")
        for device in devices:
            device.say(3)
        async with administrator(disk.machine.database) as sql:
            await settled(sql, *devices)
        async with disk.put_back(*devices):
            devices[0].say(3)
        async with administrator(disk.machine.database) as sql:
            await settled(sql, *devices)
            devices[1].say(3)
            await settled(sql, *devices)


async def test_a_device_whose_seqs_were_given_again_holds_no_ghosts(disk: Disk) -> None:
    async with administrator(disk.machine.database) as sql:
        devices = [await diarist(sql, disk.service.url) for _ in range(3)]
        await sql.execute(AHEAD)
    async with living(*devices):
        await disk.take_image("stopped")
        async with administrator(disk.machine.database) as sql:
            for device in devices:
                await add_message(sql, device.conversation, f"{device.user} is a ghost")
            await settled(sql, *devices)
        async with disk.put_back(*devices), administrator(disk.machine.database) as sql:
            # The same number of changes, and more.
            for times, device in enumerate(devices, 1):
                for _ in range(times):
                    await add_message(sql, device.conversation, f"{device.user} came instead")
        async with administrator(disk.machine.database) as sql:
            await settled(sql, *devices)
            for device in devices:
                device.say(3)
            await settled(sql, *devices)


async def test_a_seq_that_was_given_to_others_settles_no_acknowledged_mutation(disk: Disk) -> None:
    async with administrator(disk.machine.database) as sql:
        device = await diarist(sql, disk.service.url)
        await sql.execute(AHEAD)
    async with living(device):
        await acknowledge_what_the_image_lacks(disk, device, "killed")
        async with disk.put_back(device), administrator(disk.machine.database) as sql:
            for _ in range(5):
                await add_message(sql, device.conversation, f"{device.user} came instead")
        async with administrator(disk.machine.database) as sql:
            await settled(sql, device)


async def test_a_device_that_does_not_number_its_connections_is_not_sent_away(site: Machines) -> None:
    """The image says that an earlier connection of it has its client_id."""
    machine = site.primary()
    async with postgres_behind_proxy(machine.database.server_url) as (door, url), Service(url) as service:
        disk = Disk(machine, door, service, "running", Doorbells.LISTEN)
        async with administrator(machine.database) as sql:
            user = await add_user(sql)
        conversation = uuid4()
        async with live_device(service.url, user) as earlier:
            await earlier.apply(CreateConversation(conversation, f"{user} begins", now()))
        await disk.take_image("killed")
        async with live_device(service.url, user, earlier.client_id, n=2) as device:
            await device.reach(await device.apply(RenameConversation(conversation, f"{user} goes on", now())))
            async with disk.put_back():
                pass
            answer: Ack | Error | None = None
            with contextlib.suppress(ConnectionClosed):
                while not isinstance(answer, Error) or answer.code == "unavailable":
                    await device.say_push(RenameConversation(conversation, f"{user} goes further", now()), n=3)
                    answer = await device.answer()
                assert answer.code == "gap"
            code, _ = await device.closed()
            assert code == 4000
