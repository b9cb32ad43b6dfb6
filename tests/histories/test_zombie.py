"""A failover whose old primary lives on: whoever was connected to it finds out, and nobody is left behind there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from itertools import cycle

import pytest

from server.feed.history import EARLIER, SPLIT
from server.postgres import inspector
from tests.histories.conftest import NOTICED, PATIENCE, hear_at_once, is_said, moved, readiness, writing
from tests.support.cluster import SERVER_LOGIN, administrator
from tests.support.diary import Diarist, diarist, diarists, living, settled
from tests.support.histories import DATABASE, Machine, Machines
from tests.support.proxy import Proxy, postgres_behind_proxy, socket_of
from tests.support.serving import ServerProcess, serving
from tests.support.waiting import eventually

NO_SWEEP = 600.0
ENVIRONMENT = {"ATLAS_SWEEP_SECONDS": str(NO_SWEEP), "ATLAS_HELLOS_PER_MINUTE": "100000"}


class Balancer(Proxy):
    """Each connection leads to the next of several servers."""

    def __init__(self, *ports: int) -> None:
        super().__init__(("127.0.0.1", ports[0]))
        self._ports = cycle(ports)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.target = "127.0.0.1", next(self._ports)
        await super()._accept(reader, writer)


async def is_ready(port: int) -> bool:
    status, _ = await asyncio.to_thread(readiness, port)
    return status == 200


async def fail_over(old: Machine, new: Machine, *doors: Proxy) -> None:
    """Everything acknowledged is on the new primary; from now on new connections lead there. The old one lives on."""
    await new.has_all_of(old)
    await new.promote()
    for door in doors:
        door.target = socket_of(new.database.server_url)


async def all_move(devices: list[Diarist], old: Machine, new: Machine, door: Proxy, *servers: int) -> None:
    """They write through a failover to `new`; the old primary lives on."""
    async with writing(*devices):
        await eventually(lambda: all(device.applied for device in devices))
        await fail_over(old, new, door)
        await moved(*devices)
    async with administrator(new.database) as sql:
        await settled(sql, *devices)
        await hear_at_once(sql, *devices)
        await settled(sql, *devices)
    assert len({tuple(device.epochs) for device in devices}) == 1, "of one history into one other"
    for port in servers:
        await eventually(partial(is_ready, port))


async def test_servers_and_devices_leave_an_old_primary_that_lives_on(every_site: Machines) -> None:
    old = every_site.primary()
    async with (
        administrator(old.database) as sql,
        postgres_behind_proxy(old.database.server_url) as (door, url),
        serving(url, sweep=NO_SWEEP) as server,
    ):
        devices = [device for _ in range(2) for device in await diarists(sql, server.url, server.url)]
        async with living(*devices):
            await all_move(devices, old, every_site.replica(old), door, server.port)


async def test_two_servers_leave_an_old_primary_that_lives_on(site: Machines) -> None:
    """Devices come to either of them, whichever has found out first."""
    old = site.primary()
    async with (
        administrator(old.database) as sql,
        postgres_behind_proxy(old.database.server_url) as (door, url),
        ServerProcess(url, PATIENCE, **ENVIRONMENT) as one,
        ServerProcess(url, PATIENCE, **ENVIRONMENT) as other,
        Balancer(one.port, other.port) as network,
    ):
        balanced = f"ws://127.0.0.1:{network.port}/sync"
        devices = [device for _ in range(2) for device in await diarists(sql, balanced, balanced)]
        async with living(*devices):
            await all_move(devices, old, site.replica(old), door, one.port, other.port)


# ---- An old primary that is first in the URL ------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def first_and_second(old: Machine, new: Machine) -> AsyncIterator[tuple[Proxy, Proxy, str]]:
    """The way to each, and a URL that names the old primary first."""
    async with (
        postgres_behind_proxy(old.database.server_url) as (first, _),
        postgres_behind_proxy(new.database.server_url) as (second, _),
    ):
        hosts = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        yield first, second, f"postgresql://{SERVER_LOGIN}@{hosts}/{DATABASE}"


async def test_a_server_that_runs_does_not_go_back_to_an_old_primary_that_its_url_names_first(
    site: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "EVERY", 0.2)
    old = site.primary()
    async with administrator(old.database) as sql:
        user = await diarists(sql, "", "")
    new = site.replica(old)
    async with first_and_second(old, new) as (first, second, url), serving(url) as server:
        for device in user:
            device.url = server.url
        async with living(*user):
            for device in user:
                device.say(3)
            async with administrator(old.database) as sql:
                await settled(sql, *user)
            await new.has_all_of(old)
            old.postgres.kill()
            await new.promote()
            await moved(*user)
            old.postgres.start()
            # All connections end, and for a moment there are new ones only to the old primary.
            tried = first.connections
            second.refusing = True
            second.cut()
            for device in user:
                device.say(3)
            await eventually(lambda: first.connections > tried)
            await eventually(partial(is_said, server.port, 503, EARLIER))
            second.refusing = False
            async with administrator(new.database) as sql:
                await settled(sql, *user, limit=NOTICED)
            assert [len(device.epochs) for device in user] == [2, 2], "they went somewhere else and came back"
            await eventually(partial(is_said, server.port, 200, SPLIT))
            old.postgres.stop()
            await eventually(partial(is_said, server.port, 200, "ready"))
        old.postgres.start()
        async with administrator(old.database) as sql:
            assert await sql.fetchval("SELECT count(*) FROM audit") == 1 + 3 + 3, "the old primary took something"


async def test_a_server_that_starts_does_not_begin_with_an_old_primary_that_its_url_names_first(site: Machines) -> None:
    old = site.primary()
    async with administrator(old.database) as sql:
        device = await diarist(sql, "")
    new = site.replica(old)
    await new.has_all_of(old)
    await new.promote()
    async with first_and_second(old, new) as (_, _, url), serving(url) as server:
        device.url = server.url
        async with living(device):
            device.say(3)
            async with administrator(new.database) as sql:
                await settled(sql, device, limit=NOTICED)
                await hear_at_once(sql, device)
                await settled(sql, device)
