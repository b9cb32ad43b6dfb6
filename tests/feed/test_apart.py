"""A user whose rows cannot be read delays nobody else, and gets them as soon as they can be."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from protocol.cursor import Position
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed import apart as module
from server.feed.change import Reading
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub, Lane, Phase, Reader
from server.feed.ports import ReadingError, ReadKey, Store
from server.feed.pump import Pump
from server.feed.snapshot import Snapshots
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

BAD, SLOW = str(UUID(int=1)), str(UUID(int=2))


class SickStore:
    """Has nothing new for anybody, but fails where a sick user's row is read, and waits where a slow one's is."""

    def __init__(self) -> None:
        self.sick: set[str] = set()
        self.slow: dict[str, float] = {}
        self.away = False
        self.groups: list[list[str]] = []

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        users = [key.user for key in keys]
        self.groups.append(users)
        await asyncio.sleep(max((self.slow.get(user, 0) for user in users), default=0))
        if self.away:
            raise UnavailableError("Postgres is away.")
        if self.sick.intersection(users):
            raise ReadingError("a value cannot be converted")
        return [Reading(key.after.seq, "core", []) for key in keys]


class House:
    """A pump that runs."""

    def __init__(self) -> None:
        wakes = {lane: asyncio.Event() for lane in Lane}
        self.hub = Hub(lambda lane: wakes[lane].set())
        history = History(self.hub)
        history.connected(HistoryReport("0" * 16, (), 1, 1, 0, 0))
        self.store = SickStore()
        store, synced = cast(Store, self.store), Synced(CHAT)
        self.pump = Pump(self.hub, history, store, Snapshots(self.hub, history, store, synced), synced, wakes)

    def come(self, *users: str) -> list[Reader]:
        """Devices that resume."""
        found = []
        for user in users:
            reader = self.hub.add(user, uuid4(), FakeSink(), {})
            self.hub.place(reader, Position(1_000), Phase.HELLO)
            found.append(reader)
        return found


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    for name, value in {"GROUP_SECONDS": 0.4, "FIRST_SECONDS": 0.1, "FIRST_PAUSE": 0.01, "LONGEST_PAUSE": 0.05}.items():
        monkeypatch.setattr(module, name, value)
    made = House()
    running = asyncio.create_task(made.pump.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


def live(*readers: Reader) -> bool:
    return all(reader.cohort is not None and reader.cohort.phase is Phase.LIVE for reader in readers)


def others(count: int) -> list[str]:
    return [str(uuid4()) for _ in range(count)]


@pytest.mark.parametrize("trouble", ["fails", "takes too long"])
async def test_only_the_user_whose_statement_fails_waits(house: House, trouble: str) -> None:
    if trouble == "fails":
        house.store.sick.add(BAD)
    else:
        house.store.slow[BAD] = 3_600
    with capture_logs() as logged:
        (bad, *good) = house.come(BAD, *others(20))
        await eventually(lambda: live(*good))
        assert not live(bad)
        del house.store.groups[:]
        later = house.come(*others(20))
        await eventually(lambda: live(*later))
        assert not any(BAD in users and len(users) > 1 for users in house.store.groups)
        await eventually(lambda: house.store.groups.count([BAD]) > 1)
    assert [(line["user"], line["event"]) for line in logged] == [
        (BAD, "a user is read for alone, because the statement fails")
    ]
    house.store.sick.clear()
    house.store.slow.clear()
    await eventually(lambda: live(bad))


async def test_a_statement_that_is_slow_but_right_gets_the_time_that_it_needs(house: House) -> None:
    house.store.slow[SLOW] = 0.5
    (slow, *good) = house.come(SLOW, *others(5))
    await eventually(lambda: live(*good))
    await eventually(lambda: live(slow))


async def test_while_all_statements_fail_nobody_is_set_apart(house: House) -> None:
    users = others(20)
    house.store.sick.update(users)
    readers = house.come(*users)
    await eventually(lambda: sum(len(group) > 1 for group in house.store.groups) > 2)
    house.store.sick.clear()
    await eventually(lambda: live(*readers))
    del house.store.groups[:]
    again = house.come(*users)
    await eventually(lambda: live(*again))
    assert [len(group) for group in house.store.groups] == [20]


async def test_a_user_who_is_set_apart_while_postgres_is_away_gets_the_rows_when_it_is_back(house: House) -> None:
    house.store.sick.add(BAD)
    (bad, *good) = house.come(BAD, *others(3))
    await eventually(lambda: live(*good))
    house.store.away = True
    tried = len(house.store.groups)
    await eventually(lambda: len(house.store.groups) > tried + 2)
    house.store.away = False
    house.store.sick.clear()
    await eventually(lambda: live(bad))


async def test_a_user_is_read_for_with_the_others_again_after_a_while(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.store.sick.add(BAD)
    (bad, *good) = house.come(BAD, *others(3))
    await eventually(lambda: live(*good))
    monkeypatch.setattr(module, "WATCHED", 0)
    await eventually(lambda: house.store.groups.count([BAD]) > 2)
    house.store.sick.clear()
    await eventually(lambda: live(bad))
    del house.store.groups[:]
    both = house.come(BAD, *others(1))
    await eventually(lambda: live(*both))
    assert [len(group) for group in house.store.groups] == [2]
