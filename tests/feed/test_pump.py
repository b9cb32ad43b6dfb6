"""The pump reads for many at once, and for nobody too late."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import cast
from uuid import UUID, uuid4

from protocol.codec import JSON
from protocol.cursor import Position
from protocol.frames import Changes, Live
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.feed.change import Entry, Reading
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


class ChangedStore:
    """Has one new conversation for everybody."""

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        key = UUID(int=7)
        row = ("c", 2_000, key, "a title", 1, 1)
        return [Reading(2_000, "core", [Entry(2_000, 1, each.after.seq, None, "c", key, row)]) for each in keys]


@contextlib.asynccontextmanager
async def pumping(quick: QuickStore | ChangedStore) -> AsyncIterator[Hub]:
    wakes = {lane: asyncio.Event() for lane in Lane}
    hub = Hub(lambda lane: wakes[lane].set())
    history = History(hub)
    history.connected(HistoryReport("0" * 16, (), 1, 1, 0, 0))
    store = cast(Store, quick)
    synced = Synced(CHAT)
    pump = Pump(hub, history, store, Snapshots(hub, history, store, synced), synced, wakes)
    running = asyncio.create_task(pump.run())
    try:
        yield hub
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_returning_device_is_told_everything_in_one_write() -> None:
    async with pumping(ChangedStore()) as hub:
        sinks = [FakeSink(), FakeSink()]
        sinks[1].codec = JSON
        for sink in sinks:
            hub.place(hub.add(str(UUID(int=1)), uuid4(), sink, {}), Position(1_000), Phase.HELLO)
        await eventually(lambda: all(reader.live for reader in hub.readers()))
    for sink in sinks:
        assert sink.welcomes == [("core", None)]
        assert [type(frame) for frame in map(sink.frame, sink.sent)] == [Changes, Live]
        assert sink.writes == 1


async def test_a_crowd_that_comes_one_by_one_shares_its_statements() -> None:
    quick = QuickStore()
    async with pumping(quick) as hub:
        for number in range(CROWD):
            reader = hub.add(str(UUID(int=number)), uuid4(), FakeSink(), {})
            hub.place(reader, Position(1_000), Phase.HELLO)
            if number % 2:  # two in each turn of the loop
                await asyncio.sleep(0)
        await eventually(lambda: all(reader.cohort and reader.cohort.phase is Phase.LIVE for reader in hub.readers()))
        assert sum(quick.groups) == CROWD
        assert len(quick.groups) <= CROWD / 10
