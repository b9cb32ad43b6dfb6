"""Postgres is started anew and has lost nothing: devices notice a pause."""

from tests.support.cluster import administrator
from tests.support.diary import diarist, living, settled
from tests.support.histories import Machines
from tests.support.proxy import postgres_behind_proxy
from tests.support.serving import serving
from tests.support.waiting import eventually

NO_READING = "REVOKE SELECT ON sync.log FROM atlas_sync"
READING = "GRANT SELECT ON sync.log TO atlas_sync"


async def test_a_device_that_was_acknowledged_and_not_told_asks_again_and_does_not_start_over(site: Machines) -> None:
    machine = site.primary()
    async with postgres_behind_proxy(machine.database.server_url) as (door, url), serving(url) as server:
        async with administrator(machine.database) as sql:
            device = await diarist(sql, server.url)
        async with living(device):
            device.say(3)
            async with administrator(machine.database) as sql:
                await settled(sql, device)
                await sql.execute(NO_READING)
            device.say(3)
            await eventually(lambda: device.all_acked)
            assert len(device.held) == 3
            door.refusing = True
            door.cut()
            machine.postgres.stop()
            machine.postgres.start()
            async with administrator(machine.database) as sql:
                await sql.execute(READING)
                door.refusing = False
                await settled(sql, device)
                device.say(3)
                await settled(sql, device)
        assert device.snapshots == ["new"], "it started over"
