"""The pump reads for many at once, and for nobody too late."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from protocol.codec import JSON
from protocol.cursor import Position
from protocol.frames import Changes, Live, ToClient
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.feed.change import Entry, Reading
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub, Lane, Phase, Reader, State
from server.feed.ports import Moved, ReadKey, Store
from server.feed.pump import Pump
from server.feed.snapshot import Snapshots
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

CROWD = 200
USER = str(UUID(int=7))


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


# --- The short ways: read at once for one live reader, or carried by the WAL


class AFeed:
    """One user's log, as the store and the express read it: each entry deletes a row."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.asked: list[str] = []
        self.free = True
        self.leaves: Callable[[Sequence[Entry]], bool] = lambda _: False
        """What the express leaves to the store."""

    def commit(self, times: int = 1) -> int:
        for _ in range(times):
            prev = self.entries[-1].seq if self.entries else 1_000
            row = ("-m", prev + 1, UUID(int=prev))
            self.entries.append(Entry(prev + 1, 1, prev, None, "m", UUID(int=prev), row, deletion=True))
        return self.entries[-1].seq

    def after(self, seq: int) -> list[Entry]:
        return [entry for entry in self.entries if entry.seq > seq]

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        self.asked.append("store")
        await asyncio.sleep(0)
        head = self.entries[-1].seq if self.entries else 1_000
        return [Reading(head, "core", self.after(key.after.seq)) for key in keys]

    def read(self, user: str, after: int, done: Callable[[Sequence[Entry] | None], None]) -> None:
        self.asked.append("express")
        found = self.after(after)
        asyncio.get_running_loop().call_soon(done, None if not found or self.leaves(found) else found)


@dataclass
class Feeding:
    feed: AFeed
    hub: Hub
    pump: Pump
    history: History
    running: asyncio.Task[None]

    def connect(self) -> Reader:
        reader = self.hub.add(USER, uuid4(), FakeSink(), {})
        self.hub.place(reader, Position(self.feed.entries[-1].seq if self.feed.entries else 1_000), Phase.HELLO)
        return reader

    def move(self) -> Moved:
        """The next transaction, as the WAL has it."""
        seq = self.feed.commit()
        return Moved(USER, seq, seq - 1, lambda: [entry for entry in self.feed.entries if entry.seq == seq])


@contextlib.asynccontextmanager
async def feeding() -> AsyncIterator[Feeding]:
    """A pump with a live reader."""
    feed = AFeed()
    wakes = {lane: asyncio.Event() for lane in Lane}
    hub = Hub(lambda lane: pump.wake(lane))
    history = History(hub)
    history.connected(HistoryReport("0" * 16, (), 1, 1, 0, 0))
    store, synced = cast(Store, feed), Synced(CHAT)
    pump = Pump(hub, history, store, Snapshots(hub, history, store, synced), synced, wakes, None, feed)
    running = asyncio.create_task(pump.run())
    made = Feeding(feed, hub, pump, history, running)
    try:
        reader = made.connect()
        await eventually(lambda: reader.live)
        feed.asked.clear()
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


def at(feeding: Feeding) -> set[int]:
    """Where the readers are, and stay."""
    cohorts = [reader.cohort for reader in feeding.hub.readers()]
    return {cohort.position.seq for cohort in cohorts if cohort is not None and cohort.state is State.IDLE}


async def test_a_live_reader_is_read_for_at_once() -> None:
    async with feeding() as made:
        seq = made.feed.commit()
        made.hub.ring(USER, seq)
        await eventually(lambda: at(made) == {seq})
        assert made.feed.asked == ["express"]


async def test_what_cannot_be_read_at_once_is_read_by_the_store() -> None:
    async with feeding() as made:
        made.feed.leaves = lambda _: True
        seq = made.feed.commit()
        made.hub.ring(USER, seq)
        await eventually(lambda: at(made) == {seq})
        assert made.feed.asked == ["express", "store"]
        made.feed.free = False
        seq = made.feed.commit()
        made.hub.ring(USER, seq)
        await eventually(lambda: at(made) == {seq})
        assert made.feed.asked == ["express", "store", "store"]


async def test_what_does_not_follow_a_position_is_never_delivered_at_once() -> None:
    async with feeding() as made:
        seq = made.feed.commit(2)
        whole, made.feed.entries = made.feed.entries, made.feed.entries[1:]  # the first entry is gone
        made.hub.ring(USER, seq)
        await eventually(lambda: "store" in made.feed.asked)
        (reader,) = made.hub.readers()
        await eventually(lambda: reader.sink.gone)
        assert whole


async def test_who_is_to_be_proved_has_everything_when_live_is_told_again() -> None:
    async with feeding() as made:
        (reader,) = made.hub.readers()
        seq = made.feed.commit()  # its doorbell is late
        made.hub.prove(reader)
        assert not reader.live
        await eventually(lambda: reader.live)
        assert at(made) == {seq}
        assert told(reader) == [Live, Changes, Live]
        made.hub.prove(reader)
        await eventually(lambda: reader.live)
        assert told(reader) == [Live, Changes, Live, Live]
        assert made.feed.asked == ["store", "store"]


async def test_a_read_that_had_begun_proves_nothing() -> None:
    async with feeding() as made:
        (reader,) = made.hub.readers()
        going, read = asyncio.Event(), made.feed.read_feed

        async def slow(*asked: Any) -> list[Reading]:
            found = await read(*asked)
            await going.wait()
            return found

        made.feed.read_feed = slow  # type: ignore[method-assign, assignment]
        made.hub.prove(reader)
        await eventually(lambda: made.feed.asked)
        made.feed.commit()
        made.hub.prove(reader)
        going.set()
        await eventually(lambda: reader.live)
        assert told(reader) == [Live, Changes, Live]


def told(reader: Reader) -> list[type[ToClient]]:
    assert isinstance(reader.sink, FakeSink)
    return [type(frame) for frame in map(reader.sink.frame, reader.sink.sent)]


async def test_a_transaction_of_the_wal_reaches_who_stands_before_it_and_nothing_is_read() -> None:
    async with feeding() as made:
        for _ in range(3):
            moved = made.move()
            assert made.pump.carry(moved)
            assert at(made) == {moved.seq}
        assert made.feed.asked == []


async def test_a_transaction_that_comes_late_again_or_out_of_order_is_not_delivered() -> None:
    async with feeding() as made:
        first, second = made.move(), made.move()
        assert not made.pump.carry(second)
        assert made.pump.carry(first)
        assert not made.pump.carry(first)
        assert made.pump.carry(second)
        assert at(made) == {second.seq}
        (reader,) = made.hub.readers()
        assert isinstance(reader.sink, FakeSink)
        assert len(reader.sink.sent) == 3, "live, and two changes"


async def test_what_the_wal_cannot_tell_or_tells_of_another_transaction_is_not_delivered() -> None:
    async with feeding() as made:
        before = at(made)
        moved = made.move()
        assert not made.pump.carry(replace(moved, entries=lambda: None))
        other = [replace(made.feed.entries[-1], prev_mark=5, mark=7)]
        made.hub.live_at(USER, moved.prev).position = Position(moved.prev, 0, 3)  # type: ignore[union-attr]
        assert not made.pump.carry(replace(moved, entries=lambda: other))
        assert at(made) == before


async def test_while_the_server_is_blind_nothing_is_delivered() -> None:
    async with feeding() as made:
        before = at(made)
        made.history.set_blind("It does not see every change.")
        assert not made.pump.carry(made.move())
        assert at(made) == before


async def test_an_error_in_a_short_way_ends_the_pump_and_is_not_lost() -> None:
    async with feeding() as made:

        def fail() -> Sequence[Entry]:
            raise RuntimeError("a fault of ours")

        assert not made.pump.carry(replace(made.move(), entries=fail))
        with pytest.raises(BaseExceptionGroup) as raised:
            await made.running
        assert raised.group_contains(RuntimeError, match="a fault of ours")
