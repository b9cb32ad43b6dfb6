"""Postgres is started anew and has lost nothing: devices notice a pause."""

import os
import signal
from typing import Any

import asyncpg

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


async def test_a_postgres_that_recovered_from_a_crash_counts_as_started_anew(every_site: Machines) -> None:
    """It may have lost transactions, like one whose disk is an earlier image."""
    machine = every_site.primary(restart_after_crash="on")

    async def started(what: str) -> Any:
        try:
            async with administrator(machine.database) as sql:
                return await sql.fetchval(f"SELECT {what}")
        except (asyncpg.PostgresError, OSError):
            return None  # it recovers

    process, before = await started("pg_postmaster_start_time()"), await started("started FROM sync.standing()")
    sql = await machine.database.connect()
    os.kill(await sql.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)

    async def anew() -> bool:
        found = await started("started FROM sync.standing()")
        return found is not None and bool(found > before)

    await eventually(anew)
    assert await started("pg_postmaster_start_time()") == process
    sql.terminate()
