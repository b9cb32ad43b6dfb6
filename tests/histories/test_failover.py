"""A replica is promoted, and the URL of a server process names it and the old primary: devices are back, with all that
they wrote."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from server.exceptions import UnavailableError
from server.feed.history import SPLIT
from server.postgres import inspector
from server.postgres.connection import connect_to_primary
from server.postgres.migrate import migrate
from server.postgres.publication import Doorbells
from tests.histories.conftest import PATIENCE, hear_at_once, is_said, moved, writing
from tests.support.cluster import BOTH_DOORBELLS, administrator
from tests.support.diary import Diarist, diarists, living, settled, texts
from tests.support.histories import DATABASE, Machine, Machines
from tests.support.serving import ServerProcess, serving
from tests.support.waiting import eventually

LOOKS_OFTEN = "from server.postgres import inspector; inspector.EVERY_OF_SEVERAL = 0.3"
PRELUDE = f"{PATIENCE}\n{LOOKS_OFTEN}"
ENVIRONMENT = {"ATLAS_SWEEP_SECONDS": "600", "ATLAS_HELLOS_PER_MINUTE": "100000"}
"""No sweep finds what no doorbell announces."""


def leading_to(*machines: Machine, attributes: str = "read-write") -> str:
    hosts = [parse_qs(urlsplit(each.database.server_url).query)["host"][0] for each in machines]
    login = urlsplit(machines[0].database.server_url).username
    return f"postgresql://{login}@/{DATABASE}?host={','.join(hosts)}&port=5432&target_session_attrs={attributes}"


async def two_people(sql: Any, url: str) -> list[Diarist]:
    """With two devices each."""
    return [device for _ in range(2) for device in await diarists(sql, url, url)]


async def everybody_is_on(new: Machine, *devices: Diarist) -> None:
    """Every device has what the new primary has, all of it once, and hears of changes. The history changed once."""
    async with administrator(new.database) as sql:
        await settled(sql, *devices)
        await hear_at_once(sql, *devices)
        await settled(sql, *devices)
    assert len({tuple(device.epochs) for device in devices}) == 1
    assert [len(device.epochs) for device in devices] == [2] * len(devices)


async def test_commands_work_on_the_primary_although_their_url_names_a_standby_first(site: Machines) -> None:
    old = site.primary()
    new = site.replica(old)
    for attributes in ("any", "read-write"):
        connection = await connect_to_primary(leading_to(new, old, attributes=attributes))
        assert not await connection.fetchval("SELECT pg_is_in_recovery()")
        connection.terminate()
    old.postgres.kill()
    for attributes in ("any", "read-write"):
        with pytest.raises(UnavailableError, match="refused"):
            await connect_to_primary(leading_to(new, old, attributes=attributes))


@pytest.mark.parametrize(
    ("end", "first"),
    [(lambda machine: machine.postgres.kill(), "primary"), (Machine.freeze, "replica")],
    ids=["killed", "silent, and named after its replica"],
)
async def test_what_was_written_through_a_failover_is_on_the_new_primary_once_and_in_order(
    site: Machines, end: Callable[[Machine], None], first: str
) -> None:
    """The replica is synchronous: what is acknowledged is on it."""
    old = site.primary(synchronous_standby_names="*")
    new = site.replica(old)
    url = leading_to(old, new) if first == "primary" else leading_to(new, old)
    async with ServerProcess(url, PRELUDE, **ENVIRONMENT) as server, administrator(old.database) as sql:
        devices = await two_people(sql, server.url)
        async with living(*devices):
            async with writing(*devices):
                await eventually(lambda: all(len(device.applied) > 3 for device in devices))
                end(old)
                await eventually(lambda: all(not device.all_acked for device in devices))
                await new.promote()
                await moved(*devices)
            await everybody_is_on(new, *devices)
            async with administrator(new.database) as there:
                written = await texts(there)
        for device in devices:
            mine = set(device.said)
            assert [text for text in written if text in mine] == device.said
        sql.terminate()


@BOTH_DOORBELLS
async def test_what_a_promoted_replica_lacks_leaves_the_devices_and_the_old_primary_gets_nothing_more(
    site: Machines, monkeypatch: pytest.MonkeyPatch, doorbells: Doorbells
) -> None:
    """The replica lagged, and the old primary, silent meanwhile, goes on afterwards."""
    monkeypatch.setattr(inspector, "EVERY_OF_SEVERAL", 0.3)
    old = site.primary()
    if doorbells is Doorbells.WAL:
        old.database.streamed = True
        await migrate(old.database.url, doorbells=doorbells)
    new = site.replica(old)
    async with serving(leading_to(old, new, attributes="any"), sweep=600.0) as server:
        async with administrator(old.database) as sql:
            devices = await two_people(sql, server.url)
        async with living(*devices):
            for device in devices:
                device.say(3)
            async with administrator(old.database) as sql:
                await settled(sql, *devices)
                await new.has_all_of(old)
                await new.stop_following()
                for device in devices:
                    device.say(3)
                await settled(sql, *devices)
            tail = [text for device in devices for text in device.said[3:]]
            old.freeze()
            for device in devices:
                device.say(2)
            await new.promote()
            await moved(*devices)
            await everybody_is_on(new, *devices)
            old.thaw()
            await eventually(lambda: is_said(server.port, 200, SPLIT))
            before = [len(device.said) for device in devices]
            for device in devices:
                device.say(2)
            await everybody_is_on(new, *devices)
        later = {text for device, count in zip(devices, before, strict=True) for text in device.said[count:]}
        async with administrator(new.database) as sql:
            assert not set(tail) & set(await texts(sql)), "nobody held it"
        async with administrator(old.database) as sql:
            assert not later & set(await texts(sql))
