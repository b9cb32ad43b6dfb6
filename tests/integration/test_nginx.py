"""The nginx example of server/README.md: devices write through it while two servers restart one after the other."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest

from protocol.frames import Live
from tests.support.audit import keep_audit
from tests.support.cluster import Database
from tests.support.nginx import NGINX, Nginx, nginx
from tests.support.peer import peer
from tests.support.people import add_user
from tests.support.serving import ServerProcess
from tests.support.story import Delivery, Story
from tests.support.waiting import eventually

UNLIMITED = {"ATLAS_PUSH_RATE": "1e9", "ATLAS_PUSH_BURST": "1000000", "ATLAS_HELLOS_PER_MINUTE": "1000000"}

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason=f"there is no {NGINX}")


def url(proxy: Nginx) -> str:
    return f"wss://localhost:{proxy.port}/sync"


@pytest.fixture
async def servers(database: Database) -> AsyncIterator[list[ServerProcess]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(ServerProcess(database.server_url, **UNLIMITED)) for _ in range(2)]


@pytest.fixture
async def proxy(servers: list[ServerProcess], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Nginx]:
    changes = {f"10.0.0.{11 + i}:8000": f"127.0.0.1:{server.port}" for i, server in enumerate(servers)}
    async with nginx("Behind nginx", "sync.example.com", changes) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        yield running


async def test_only_websockets_pass(proxy: Nginx, user: UUID) -> None:
    async with peer(url(proxy)) as device:
        await device.greet(user)
        await device.hear_a(Live)
    context = ssl.create_default_context(cafile=proxy.certificate)
    async with httpx.AsyncClient(verify=context, trust_env=False) as client:
        for path in ("/", "/metrics", "/readyz", "/healthz", "/sync/more"):
            answer = await client.get(f"https://localhost:{proxy.port}{path}")
            assert answer.status_code == 404, path


async def test_no_write_is_lost_and_no_device_is_turned_away_in_a_rolling_restart(
    servers: list[ServerProcess], proxy: Nginx, sql: Any
) -> None:
    await keep_audit(sql)
    rng = random.Random(7)
    restarted = asyncio.Event()
    delivered: list[Delivery] = []

    async def write(user: UUID) -> None:
        """One device after the other, each with a story of its own, until both servers are back."""
        while not restarted.is_set():
            delivery = Delivery(user, Story(rng, 20), rng)
            await delivery.deliver(url(proxy))
            delivered.append(delivery)

    async def go_on() -> None:
        """Wait until devices write again."""
        count = len(delivered)
        await eventually(lambda: len(delivered) >= count + 8)

    async with asyncio.TaskGroup() as writing:
        for _ in range(4):
            writing.create_task(write(await add_user(sql)))
        await go_on()
        for server in servers:
            assert await server.stop() == 0
            await go_on()  # on the other server
            await server.start()
            await go_on()
        restarted.set()
    for delivery in delivered:
        await delivery.check(sql)
    assert sum(delivery.connections for delivery in delivered) > len(delivered), (
        "nobody was connected to a server that ended"
    )
    assert {request.status for request in proxy.log()} == {101}
