"""Machines whose histories part, for the tests of this folder."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.cluster import temporary_folder
from tests.support.diary import Diarist
from tests.support.histories import Machines, machines, prepare
from tests.support.people import add_message
from tests.support.waiting import eventually

NOTICED = 15.0
"""Seconds within which every device is on the new history."""
PROMPTLY = 5.0
"""Seconds within which a change arrives, which no sweep would find so soon."""


def _prepared(version: str) -> Iterator[Path]:
    with temporary_folder() as folder:
        prepare(version, folder)
        yield folder


@pytest.fixture(scope="session")
def prepared_18() -> Iterator[Path]:
    yield from _prepared("18")


@pytest.fixture(scope="session")
def prepared_15() -> Iterator[Path]:
    yield from _prepared("15")


@pytest.fixture
def site(prepared_18: Path) -> Iterator[Machines]:
    """Machines with the newest PostgreSQL."""
    with temporary_folder() as folder, machines("18", folder, prepared_18) as made:
        yield made


@pytest.fixture(params=["18", "15"])
def every_site(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Machines with the newest and with the oldest PostgreSQL that is supported."""
    prepared = request.getfixturevalue(f"prepared_{request.param}")
    with temporary_folder() as folder, machines(request.param, folder, prepared) as made:
        yield made


def at_once(start: int, stop: int | None = None) -> int:
    return 0 if stop is None else start


PATIENCE = "import random; random.randrange = lambda start, stop=None: 0 if stop is None else start"
"""The same for a server that is a process of its own."""


@pytest.fixture(autouse=True)
def nobody_waits_longer_than_they_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server asks each device for another delay, up to seconds: here for the least."""
    monkeypatch.setattr(random, "randrange", at_once)


# ---- Through a failover --------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def writing(*devices: Diarist) -> AsyncIterator[None]:
    """Each of them goes on and on, meanwhile."""

    async def go_on(device: Diarist) -> None:
        while True:
            device.say()
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(go_on(device)) for device in devices]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def readiness(port: int) -> tuple[int, str]:
    answer = httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False)
    return answer.status_code, answer.text.strip()


async def is_said(port: int, *expected: object) -> bool:
    return await asyncio.to_thread(readiness, port) == expected


async def moved(*devices: Diarist) -> None:
    """Wait until each is welcomed by another history than before. Nobody is told to stay away."""

    def have_moved() -> bool:
        for device in devices:
            device.check()
        return all(len(device.epochs) > 1 for device in devices)

    await eventually(have_moved, NOTICED)


async def hear_at_once(sql: Any, *devices: Diarist) -> None:
    for device in devices:
        message = await add_message(sql, device.conversation, f"{device.user} is told")
        await eventually(partial(device.replica.rows["message"].get, message), PROMPTLY)
