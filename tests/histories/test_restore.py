"""A backup is restored, in each of the ways that PostgreSQL has: devices find the past, and bring what they hold."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from uuid import uuid4

import pytest

from tests.support.cluster import Database, administrator
from tests.support.diary import diarist, living, settled
from tests.support.histories import DATABASE, Machine, Machines
from tests.support.maintenance import maintained
from tests.support.proxy import postgres_behind_proxy, socket_of
from tests.support.serving import Service
from tests.support.waiting import eventually

NO_READING = "REVOKE SELECT ON sync.log FROM atlas_sync"
"""What is pushed is acknowledged, and nobody is told of it."""
NOBODY = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = $1)"


class Way(ABC):
    """To save what `machine` has, and to get it back."""

    def __init__(self, site: Machines) -> None:
        self.site = site
        self.machine = self.begin()

    def begin(self) -> Machine:
        return self.site.primary()

    @abstractmethod
    async def save(self) -> None: ...

    @abstractmethod
    async def restore(self) -> Machine:
        """Nobody is connected. Returns the machine that has the database now."""


class ADump(Way):
    async def save(self) -> None:
        self.dump = self.machine.dump()


class IntoAnotherDatabase(ADump):
    """Which gets the name of the one before."""

    async def restore(self) -> Machine:
        await self.machine.restore(self.dump, "restored")
        for before, after in ((DATABASE, "before"), ("restored", DATABASE)):
            await self.machine.query(f"ALTER DATABASE {before} RENAME TO {after}")
        return self.machine


class OverTheSameDatabase(ADump):
    async def restore(self) -> Machine:
        self.machine.restore_over(self.dump)
        return self.machine


class IntoAnotherCluster(ADump):
    async def restore(self) -> Machine:
        machine = self.site.empty()
        await machine.restore(self.dump)
        return machine


class AtAPointInTime(Way):
    def begin(self) -> Machine:
        return self.site.archiving_primary()

    async def save(self) -> None:
        self.backup = self.site.back_up(self.machine)
        await self.machine.query("SELECT pg_create_restore_point('here')")

    async def restore(self) -> Machine:
        return await self.site.restored(self.machine, self.backup, "here")


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(IntoAnotherDatabase, id="into another database"),
        pytest.param(OverTheSameDatabase, id="over the same database"),
        pytest.param(IntoAnotherCluster, id="into another cluster"),
        pytest.param(AtAPointInTime, id="at a point in time"),
    ],
)
async def test_devices_find_what_was_restored_and_bring_what_they_hold(
    every_site: Machines, chosen: Callable[[Machines], Way]
) -> None:
    way = chosen(every_site)
    before = way.machine
    async with postgres_behind_proxy(before.database.server_url) as (door, url), Service(url) as service:
        async with administrator(before.database) as sql:
            seeing, waiting = await diarist(sql, service.url), await diarist(sql, service.url)
        devices = (seeing, waiting)
        async with living(*devices):
            for device in devices:
                device.say(3)
            async with administrator(before.database) as sql:
                await settled(sql, *devices)
            await way.save()
            async with administrator(before.database) as sql:
                # One has gone on, one stands where the backup does; that holds what was acknowledged.
                seeing.say(3)
                await settled(sql, seeing)
                await sql.execute(NO_READING)
            waiting.say(3)
            await eventually(lambda: waiting.all_acked)
            assert len(waiting.held) == 3
            door.refusing = True
            door.cut()
            await eventually(lambda: before.query(NOBODY, DATABASE))
            for device in devices:
                device.part()
            after = await way.restore()
            door.target = socket_of(after.database.server_url)
            door.refusing = False
            async with administrator(after.database) as sql:
                await settled(sql, *devices)
                for device in devices:
                    device.say(3)
                await settled(sql, *devices)
        for device in devices:
            assert device.epochs[-1] != device.epochs[0]


async def test_events_that_were_not_counted_when_the_dump_was_made_are_counted_once_after_it(site: Machines) -> None:
    machine, user = site.primary(), uuid4()
    use = f"INSERT INTO sync.usage_logs (user_id, event, data) VALUES ('{user}', 'x', '{{\"input_tokens\": $1}}')"
    tokens = "SELECT sum(total_tokens_used)::int FROM sync.daily_usage"

    async def used(of: Database, some: int) -> None:
        await machine.query(use.replace("$1", str(some)), database=of.name)

    await used(machine.database, 1)
    await maintained(machine.database)
    await used(machine.database, 10)
    dump = machine.dump()
    await maintained(machine.database)
    await machine.restore(dump, "restored")
    restored = Database(machine, "restored")
    await used(restored, 100)
    await maintained(restored)
    assert await machine.query(tokens, database=DATABASE) == 11
    assert await machine.query(tokens, database="restored") == 111
