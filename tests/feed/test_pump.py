"""The pump reads for many at once, and for nobody too late."""

import asyncio
from collections.abc import Sequence
from typing import cast
from uuid import UUID, uuid4

from protocol.cursor import Position
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.feed.change import Reading
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub, Lane, Phase
from server.feed.ports import ReadKey, Store
from server.feed.pump import Pump
from server.feed.snapshot import Snapshots
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

CROWD = 200


class QuickStore:
    """Has nothing new for anybody, and answers before the loop has turned twice."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        self.groups.append(len(keys))
        await asyncio.sleep(0)
        return [Reading(key.after.seq, "core", []) for key in keys]


async def test_a_crowd_that_comes_one_by_one_shares_its_statements() -> None:
    wakes = {lane: asyncio.Event() for lane in Lane}
    hub = Hub(lambda lane: wakes[lane].set())
    history = History(hub)
    history.connected(HistoryReport("0" * 16, (), 1, 1, 0, 0))
    quick = QuickStore()
    store = cast(Store, quick)
    synced = Synced(CHAT)
    pump = Pump(hub, history, store, Snapshots(hub, history, store, synced), synced, wakes)
    running = asyncio.create_task(pump.run())
    try:
        for number in range(CROWD):
            reader = hub.add(str(UUID(int=number)), uuid4(), FakeSink(), {})
            hub.place(reader, Position(1_000), Phase.HELLO)
            if number % 2:  # two in each turn of the loop
                await asyncio.sleep(0)
        await eventually(lambda: all(reader.cohort and reader.cohort.phase is Phase.LIVE for reader in hub.readers()))
        assert sum(quick.groups) == CROWD
        assert len(quick.groups) <= CROWD / 10
    finally:
        running.cancel()
        await asyncio.wait([running])
