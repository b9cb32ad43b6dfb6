"""P1 to P5: whatever happens, at the end every device holds what SELECT finds, and never saw anything forbidden, and
what the devices wrote was applied exactly once, in their order.

A longer run, and the same again: tests/support/faults.py.
"""

import asyncio
import contextlib
import random

import pytest

from server.postgres.publication import Doorbells
from tests.support.author import TRAIL, Author, trail
from tests.support.client_device import ClientDevice
from tests.support.cluster import Cluster, Database, crashing_cluster
from tests.support.faults import go_wrong, seconds, seeded
from tests.support.oracle import Writer, nobody_writes, select_everything
from tests.support.people import add_conversation, add_user
from tests.support.proxy import Proxy, postgres_behind_proxy
from tests.support.serving import ServerProcess
from tests.support.waiting import eventually

SECONDS = seconds(8)
SETTLE = 30.0
"""Seconds until every device must be up to date, once the faults have ended."""


class Faults:
    """What goes wrong."""

    def __init__(
        self,
        rng: random.Random,
        server: ServerProcess,
        postgres: Proxy,
        network: Proxy,
        devices: list[ClientDevice],
        cluster: Cluster,
    ) -> None:
        self._rng = rng
        self._server = server
        self._postgres = postgres
        self._network = network
        self._devices = devices
        self._cluster = cluster

    async def run(self, lasts: float) -> None:
        faults = [
            self.a_device_restarts,
            self.a_device_restarts,
            self.the_network_breaks,
            self.the_network_stalls,
            self.the_connection_of_the_doorbells_is_cut,
            self.every_connection_to_postgres_is_cut,
            self.the_server_is_killed,
            self.postgres_crashes,
        ]
        await go_wrong(faults, self._rng, lasts, 0.4, self._check)

    def _check(self) -> None:
        for device in self._devices:
            device.check()

    async def a_device_restarts(self) -> None:
        device = self._rng.choice(self._devices)
        await device.stop()
        await asyncio.sleep(self._rng.random() * 0.3)
        device.start()

    async def the_network_breaks(self) -> None:
        self._network.cut()

    async def the_network_stalls(self) -> None:
        self._network.silent = True
        await asyncio.sleep(self._rng.random() * 0.5)
        self._network.silent = False

    async def the_connection_of_the_doorbells_is_cut(self) -> None:
        await self._cluster.end_connections("query ILIKE 'NOTIFY%' OR backend_type = 'walsender'")

    async def every_connection_to_postgres_is_cut(self) -> None:
        self._postgres.cut()

    async def the_server_is_killed(self) -> None:
        await self._server.kill()
        await self._server.start()

    async def postgres_crashes(self) -> None:
        self._cluster.crash()


@pytest.mark.parametrize(
    ("version", "doorbells"), [("18", Doorbells.LISTEN), ("18", Doorbells.WAL), ("15", Doorbells.WAL)]
)
async def test_every_device_ends_up_with_what_select_finds(version: str, doorbells: Doorbells) -> None:
    rng = seeded()
    async with crashing_cluster(version) as cluster:
        await _run(cluster, await cluster.create(doorbells=doorbells), rng)


async def _run(cluster: Cluster, database: Database, rng: random.Random) -> None:
    sql = await database.connect()
    # The partition that a message moved 35 days back belongs to.
    await sql.execute("SELECT sync.ensure_partitions(now() - interval '50 days', now())")
    users = [await add_user(sql) for _ in range(4)]
    stranger = await add_user(sql)
    strangers = [await add_conversation(sql, stranger, str(stranger)) for _ in range(2)]
    theirs = await select_everything(sql, stranger)
    await sql.execute(TRAIL)
    await sql.close()
    async with contextlib.AsyncExitStack() as stack:
        postgres, url = await stack.enter_async_context(postgres_behind_proxy(database.server_url))
        server = await stack.enter_async_context(ServerProcess(url, ATLAS_LOG_LEVEL="info"))
        network = await stack.enter_async_context(Proxy(("127.0.0.1", server.port)))
        devices = [ClientDevice(f"ws://127.0.0.1:{network.port}/sync", user) for user in users for _ in range(2)]
        for device in devices:
            device.start()
        for device in devices:
            assert device.device is not None
            await device.device.wait_live(20)
        writers = [Writer(database.url, users, random.Random(rng.random())) for _ in range(3)]
        authors = [Author(device, strangers, random.Random(rng.random())) for device in devices]
        writing = [asyncio.create_task(work) for work in (*(w.run() for w in writers), *(a.run() for a in authors))]
        faults = Faults(rng, server, postgres, network, devices, cluster)
        await faults.run(SECONDS)
        for task in writing:
            task.cancel()
        async with asyncio.timeout(SETTLE):
            ends = await asyncio.gather(*writing, return_exceptions=True)
        assert not [end for end in ends[len(writers) :] if isinstance(end, Exception)], "an author gave up"

        await eventually(lambda: all(author.done for author in authors), SETTLE)
        sql = await database.connect()
        await nobody_writes(sql)
        for device in devices:
            await device.ends_up_with_what_select_finds(sql, SETTLE)
            assert device.snapshots == ["new"], "a snapshot that no rule made necessary"
        whatever_was_written = await trail(sql)
        for author in authors:
            author.check(whatever_was_written)
        assert await select_everything(sql, stranger) == theirs
        await sql.close()
        for device in devices:
            await device.stop()
        assert sum(author.written for author in authors) > 500
        assert sum(writer.committed for writer in writers) > 50
        assert sum(device.batches for device in devices) > 50
        assert not [event for event in server.log if "exception" in event]
