"""Readers that a replica brought up to date are all confirmed, however many they are and however often it fails."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast
from uuid import UUID, uuid4

import pytest

from protocol.cursor import Position
from server.exceptions import UnavailableError
from server.feed import confirmation
from server.feed.confirmation import Confirmation
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub, Lane, Phase
from server.feed.ports import Store
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

EPOCH = "0" * 16
HERE = Position(1_000, 0, 7)


class Primary:
    """All feeds are at `head`."""

    def __init__(self) -> None:
        self.head = HERE
        self.failures = 0
        self.asked: list[int] = []

    async def heads(self, users: Sequence[str]) -> tuple[str, list[Position]]:
        self.asked.append(len(users))
        if self.failures:
            self.failures -= 1
            raise UnavailableError("away")
        return EPOCH, [self.head for _ in users]


class House:
    def __init__(self) -> None:
        self.hub = Hub(lambda lane: None)
        self.history = History(self.hub)
        self.history.connected(HistoryReport(EPOCH, (), 1, 1, 0, 0))
        self.primary = Primary()
        self.confirmation = Confirmation(self.hub, self.history, cast(Store, self.primary))

    def come(self, readers: int) -> None:
        """So many users' readers, whom a replica has brought up to date."""
        for number in range(readers):
            self.hub.place(self.hub.add(str(UUID(int=number)), uuid4(), FakeSink(), {}), HERE, Phase.CATCHING_UP)
        for cohort in self.hub.take(Lane.CATCH_UP, readers):
            self.hub.advance(cohort, HERE, more=False, confirmed=False)
        self.confirmation.want()

    def all_live(self) -> bool:
        return all(reader.live and len(cast(FakeSink, reader.sink).sent) == 1 for reader in self.hub.readers())


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(confirmation, "CROWD", 0.0)
    house = House()
    running = asyncio.create_task(house.confirmation.run())
    yield house
    running.cancel()
    await asyncio.wait([running])


async def test_more_readers_than_one_statement_asks_for_are_all_confirmed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "MOST", 3)
    house.come(8)
    await eventually(house.all_live)
    assert house.primary.asked[:3] == [3, 3, 2]


async def test_readers_are_confirmed_once_the_primary_is_back(house: House) -> None:
    house.primary.failures = 2
    house.come(4)
    await eventually(house.all_live)
    assert house.primary.asked == [4, 4, 4]


async def test_readers_that_the_primary_has_more_for_are_read_for_and_not_live(house: House) -> None:
    house.primary.head = Position(1_001, 0, 8)
    house.come(2)
    await eventually(lambda: house.hub.waiting(Lane.CATCH_UP) == 2)
    assert not any(reader.live for reader in house.hub.readers())
    assert all(cohort.needs_primary for cohort in house.hub.take(Lane.CATCH_UP, 2))
