"""A failover that lost the tail, and the way back to the old primary: numbers were given twice, and mean two things."""

from contextlib import AsyncExitStack

import pytest

from tests.support.cluster import administrator
from tests.support.diary import Diarist, diarists, given, living, settled, texts
from tests.support.gate import Gate
from tests.support.histories import Machine, Machines
from tests.support.proxy import postgres_behind_proxy, socket_of
from tests.support.serving import Service, serving
from tests.support.waiting import eventually


async def settled_on(machine: Machine, *devices: Diarist) -> None:
    async with administrator(machine.database) as sql:
        await settled(sql, *devices)


async def acked(device: Diarist) -> None:
    await eventually(lambda: device.all_acked)


async def test_a_held_mutation_is_applied_once_on_the_new_primary_and_once_on_the_old_one_after_going_back(
    every_site: Machines,
) -> None:
    old = every_site.primary()
    async with AsyncExitStack() as stack:
        door, url = await stack.enter_async_context(postgres_behind_proxy(old.database.server_url))
        async with serving(url) as server:
            port = server.port
            gates = [await stack.enter_async_context(Gate(server.url)) for _ in range(3)]
            async with administrator(old.database) as sql:
                devices = await diarists(sql, *(gate.url for gate in gates))
            seeing, waiting, young = devices
            # Numbers 1 to 3 are everywhere.
            await stack.enter_async_context(living(seeing, waiting))
            for device in (seeing, waiting):
                device.say(3)
            await settled_on(old, seeing, waiting)
            new = every_site.replica(old)
            await new.has_all_of(old)
            await new.stop_following()
            # The tail. The old primary has 4 to 6 of one device, 4 to 7 of the other, which holds the last three.
            seeing.say(3)
            waiting.say(1)
            await settled_on(old, seeing, waiting)
            gates[1].shut = True
            waiting.say(3)
            await acked(waiting)
            for device in (seeing, waiting):
                device.part()
            old.postgres.kill()
            await new.promote()
            door.target = socket_of(new.database.server_url)
            # Here 4 to 6 are the last three of the one, and what comes next of the other; and one device is new.
            await stack.enter_async_context(living(young))
            seeing.say(2)
            young.say(2)
            await settled_on(new, seeing, young)
            gates[0].shut = gates[2].shut = True
            for device in (seeing, young):
                device.say(3)
                await acked(device)
            await eventually(lambda: len(waiting.epochs) > 1)
            async with administrator(new.database) as sql:
                await given(sql, *devices)
        # Nobody is told what becomes of these.
        for device in devices:
            device.say(1)
            device.part()
        assert [len(device.held) for device in (seeing, young)] == [4, 4]
        new.postgres.kill()
        old.postgres.start()
        door.target = socket_of(old.database.server_url)
        async with administrator(old.database) as sql:
            known = set(await texts(sql))
        told = [len(device.applied) for device in devices]
        for gate in gates:
            gate.shut = False
        async with serving(url, port=port):
            await settled_on(old, *devices)
        for device, before in zip(devices, told, strict=True):
            assert set(device.due) - known <= set(device.applied[before:]), "what is new was called repeated"


@pytest.mark.parametrize("further", [0, 2], ids=["numbers that go on", "numbers beyond the end"])
async def test_a_mutation_that_both_primaries_applied_is_not_applied_again(site: Machines, further: int) -> None:
    old = site.primary()
    async with AsyncExitStack() as stack:
        door, url = await stack.enter_async_context(postgres_behind_proxy(old.database.server_url))
        service = await stack.enter_async_context(Service(url))
        gate = await stack.enter_async_context(Gate(service.url))
        async with administrator(old.database) as sql:
            (device,) = await diarists(sql, gate.url)
        await stack.enter_async_context(living(device))
        device.say(3)
        await settled_on(old, device)
        new = site.replica(old)
        await new.has_all_of(old)
        await new.stop_following()
        device.say(2 + further)
        await settled_on(old, device)

        async def move(to: Machine) -> None:
            door.target = socket_of(to.database.server_url)
            device.part()
            await service.stop()
            epochs = len(device.epochs)
            await service.start()
            await eventually(lambda: len(device.epochs) > epochs)

        await new.promote()
        await move(new)
        gate.shut = True
        device.say(2)
        await acked(device)
        for machine in (old, new):
            await move(machine)
            # On this connection.
            await eventually(lambda: all(entry.seq is not None for entry in device.outbox.entries))
            async with administrator(machine.database) as sql:
                await given(sql, device)
        gate.shut = False
        device.say(1)
        await settled_on(new, device)
