"""P1 to P5 and P8 with Redis before Postgres, a replica beside it, and two server processes that share both: whatever
happens to them, every device ends up with what SELECT finds.

A longer run, and the same again: tests/support/faults.py.
"""

import asyncio
import contextlib
import itertools
import random
from uuid import UUID

from atlas_sync.connection import PageError
from atlas_sync.device import Status
from atlas_sync.rows import Row
from server.exceptions import CacheError
from tests.histories.conftest import PATIENCE
from tests.support.client_device import ClientDevice
from tests.support.cluster import administrator
from tests.support.faults import go_wrong, seconds, seeded
from tests.support.histories import Machine, Machines
from tests.support.oracle import Writer, nobody_writes
from tests.support.people import add_conversation, add_message, add_user
from tests.support.redis import RedisProcess, needs_redis, running_redis
from tests.support.serving import ServerProcess
from tests.support.waiting import eventually

SECONDS = seconds(8)
SETTLE = 30.0
"""Seconds until every device must be up to date, once the faults have ended."""
SHORT = f"""
{PATIENCE}
from server.postgres import replicas
replicas.EVERY = 0.1
replicas.LAG_SECONDS = 0.5
"""
MEMORY = ("--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru")
"""So little that Redis evicts what it keeps."""
SMALL = {"conversation": 2, "message": 3}


class Scrolling(ClientDevice):
    """A device with a small window that reads all the rest by pages."""

    def __init__(self, url: str, user: UUID) -> None:
        super().__init__(url, user, SMALL)

    async def is_live(self) -> None:
        """Wait for it. The device may be started again meanwhile."""
        await eventually(lambda: self.device is not None and self.device.status is Status.LIVE, SETTLE)

    async def read_on(self) -> None:
        await self.is_live()
        await self._scroll(None)
        for conversation in list(self.replica.rows["conversation"]):
            assert isinstance(conversation, UUID)
            await self._scroll(conversation)

    async def _scroll(self, conversation: UUID | None) -> None:
        before, more = None, True
        while more:
            assert self.device is not None
            with self.replica.expecting_page() as apply:
                try:
                    kind = "conversation" if conversation is None else "message"
                    page = await self.device.page(kind, conversation, before, 20)
                except (ConnectionError, PageError, TimeoutError):
                    await self.is_live()
                    continue
                apply(page.rows)
            if page.rows:
                last = page.rows[-1]
                assert isinstance(last, Row)
                before = (last.updated_at if last.kind == "conversation" else last.created_at), last.id
            more = page.more


class Faults:
    """What goes wrong, and who comes."""

    def __init__(
        self,
        rng: random.Random,
        servers: list[ServerProcess],
        devices: list[ClientDevice],
        users: list[UUID],
        primary: Machine,
        replica: Machine,
        redis: RedisProcess,
    ) -> None:
        self._rng = rng
        self._servers = servers
        self._devices = devices
        self._users = users
        self._primary = primary
        self._replica = replica
        self._redis = redis
        self._paused = False
        self.scrolling: list[asyncio.Task[None]] = []

    async def run(self, lasts: float) -> None:
        faults = [
            self.a_device_comes_back,
            self.a_device_comes_back,
            self.a_new_device_comes,
            self.a_new_device_comes,
            self.a_new_device_scrolls,
            self.a_new_device_scrolls,
            self.a_server_is_killed,
            self.redis_is_flushed,
            self.redis_is_killed,
            self.redis_stalls,
            self.redis_is_poisoned,
            self.the_replay_pauses_or_goes_on,
            self.the_replica_is_killed,
            self.the_primary_crashes,
        ]
        await go_wrong(faults, self._rng, lasts, 0.3, self._check)
        if self._paused:
            await self.the_replay_pauses_or_goes_on()

    def _check(self) -> None:
        for device in self._devices:
            device.check()

    def _start(self, device: ClientDevice) -> ClientDevice:
        self._devices.append(device)
        device.start()
        return device

    def _somewhere(self) -> tuple[str, UUID]:
        return self._rng.choice(self._servers).url, self._rng.choice(self._users)

    async def a_device_comes_back(self) -> None:
        device = self._rng.choice(self._devices)
        await device.stop()
        await asyncio.sleep(self._rng.random() * 0.3)
        device.url = self._rng.choice(self._servers).url
        device.start()

    async def a_new_device_comes(self) -> None:
        self._start(ClientDevice(*self._somewhere()))

    async def a_new_device_scrolls(self) -> None:
        device = Scrolling(*self._somewhere())
        self._start(device)
        self.scrolling.append(asyncio.create_task(device.read_on()))

    async def a_server_is_killed(self) -> None:
        server = self._rng.choice(self._servers)
        await server.kill()
        await server.start()

    async def redis_is_flushed(self) -> None:
        with contextlib.suppress(CacheError):
            await self._redis.command("FLUSHALL")

    async def redis_is_killed(self) -> None:
        self._redis.kill()
        await asyncio.sleep(self._rng.random() * 0.3)
        await self._redis.start()

    async def redis_stalls(self) -> None:
        self._redis.stall()
        await asyncio.sleep(self._rng.random() * 0.3)
        self._redis.go_on()

    async def redis_is_poisoned(self) -> None:
        """Half of what it keeps is replaced by something else, under the same keys."""
        keys = list(await self._redis.command("KEYS", "atlas:*"))
        values = [await self._redis.command("GET", key) or b"" for key in keys]
        for key, value in zip(keys[::2], [*values[1::2], b"\x92\xa3key\xc0"], strict=False):
            await self._redis.command("SET", key, value)

    async def the_replay_pauses_or_goes_on(self) -> None:
        self._paused = not self._paused
        await self._replica.query(f"SELECT pg_wal_replay_{'pause' if self._paused else 'resume'}()")

    async def the_replica_is_killed(self) -> None:
        self._replica.postgres.stop(immediate=True)
        await asyncio.sleep(self._rng.random() * 0.3)
        self._replica.postgres.start()
        self._paused = False

    async def the_primary_crashes(self) -> None:
        self._primary.postgres.stop(immediate=True)
        self._primary.postgres.start()


@needs_redis
async def test_every_device_ends_up_with_what_select_finds(site: Machines) -> None:
    rng = seeded()
    primary = site.primary()
    async with administrator(primary.database) as sql:
        await sql.execute("SELECT sync.ensure_partitions(now() - interval '50 days', now())")
        *busy, quiet = [await add_user(sql) for _ in range(4)]
        for user in (*busy, *[quiet] * 6):
            conversation = await add_conversation(sql, user, f"{user} begins")
            await add_message(sql, conversation, f"{user} goes on")
    replica = site.replica(primary)
    async with contextlib.AsyncExitStack() as stack:
        redis = await stack.enter_async_context(running_redis(*MEMORY))
        environment = {"REDIS_URL": redis.url, "ATLAS_REPLICA_URLS": replica.database.server_url}
        servers = [
            await stack.enter_async_context(
                ServerProcess(
                    primary.database.server_url,
                    SHORT,
                    ATLAS_HELLOS_PER_MINUTE="100000",
                    ATLAS_LOG_LEVEL="info",
                    **environment,
                )
            )
            for _ in range(2)
        ]
        users = [*busy, *[quiet] * 3]
        devices = [
            ClientDevice(server.url, user) for server, user in zip(itertools.cycle(servers), users, strict=False)
        ]
        for device in devices:
            device.start()
        writers = [
            Writer(primary.database.url, busy, random.Random(rng.random())),
            # What is kept of this user is rarely touched.
            Writer(primary.database.url, [quiet], random.Random(rng.random()), pause=0.1),
        ]
        writing = [asyncio.create_task(writer.run()) for writer in writers]
        faults = Faults(rng, servers, devices, users, primary, replica, redis)
        await faults.run(SECONDS)
        for task in writing:
            task.cancel()
        async with asyncio.timeout(SETTLE):
            await asyncio.gather(*writing, return_exceptions=True)
            await asyncio.gather(*faults.scrolling)
        async with administrator(primary.database) as sql:
            await nobody_writes(sql)
            for device in devices:
                await device.ends_up_with_what_select_finds(sql, SETTLE)
                # A second one if the first was interrupted.
                assert set(device.snapshots) == {"new"}, "a snapshot that no rule made necessary"
        for device in devices:
            await device.stop()
        assert sum(writer.committed for writer in writers) > 50
        for server in servers:
            assert not [event for event in server.log if "exception" in event]
