"""Whoever joins is resumed, gets a snapshot or a reason; a stalled device goes on where it was; nobody is forgotten."""

import asyncio
from collections.abc import Sequence
from typing import cast
from uuid import UUID, uuid4

import pytest

from protocol.codec import MSGPACK
from protocol.cursor import Cursor, Position, owner_digest
from protocol.frames import Error, Live, Row, Snapshot
from server import metrics
from server.declaration.chat import CHAT
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.change import Reading
from server.feed.history import SPLIT, History, HistoryReport
from server.feed.hub import Hub, Lane, Phase
from server.feed.pages import Pages
from server.feed.ports import (
    Answer,
    DeviceState,
    DeviceStatus,
    PresenceStore,
    ReadKey,
    Store,
    Want,
)
from server.feed.presence import Presence
from server.feed.pump import Pump
from server.feed.readers import Reader, Readers, Readiness
from server.feed.resume import Why
from server.feed.snapshot import Snapshots
from server.metrics.catalogue import REGISTRY
from server.rate_limit import TokenBuckets
from tests.support.rows import Conversation, Message
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

ANNE = UUID(int=1)
EPOCH = "0" * 16
HEAD = 1_000


class FakeStore:
    """A database in which every user has two conversations of one message each and no profile, and the feed stands at
    HEAD."""

    def __init__(self) -> None:
        self.tier: str | None = "core"
        self.away = False
        self.pieces = 0
        self.recorded: list[DeviceStatus] = []
        self.gate = asyncio.Event()
        """Pieces of snapshots wait for it."""
        self.gate.set()

    def _reach(self) -> None:
        if self.away:
            raise UnavailableError("away")

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        self._reach()
        return [Reading(HEAD, self.tier, []) for _ in keys]

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        await self._piece()
        found: list[tuple[int, Row]] = []
        if kind.name == "conversation":
            found = [(0, Conversation(1, UUID(int=number), "t", 1, 1)) for number in (10, 11)]
        elif kind.name == "message":
            found = [(i, Message(1, uuid4(), want.parent, "user", "x", 1, 1)) for i, want in enumerate(wants)]
        return Answer(Position(HEAD), self.tier, found, cut=False)

    async def _piece(self) -> None:
        await self.gate.wait()
        self._reach()
        self.pieces += 1

    async def record(self, server: str, statuses: Sequence[DeviceStatus]) -> None:
        self.recorded += statuses


class House:
    def __init__(self, *, hellos: int = 1_000, sockets: int = 3) -> None:
        self.store = FakeStore()
        store = cast(Store, self.store)
        wakes = {lane: asyncio.Event() for lane in Lane}
        self.hub = Hub(lambda lane: wakes[lane].set())
        self.history = History(self.hub)
        self.history.connected(HistoryReport(EPOCH, (), 1, 1, 0, 0))
        synced = Synced(CHAT)
        self.snapshots = Snapshots(self.hub, self.history, store, synced)
        self.pump = Pump(self.hub, self.history, store, self.snapshots, synced, wakes)
        self.presence = Presence(self.hub, cast(PresenceStore, self.store), "a server")
        self.readers = Readers(
            self.hub,
            self.history,
            self.snapshots,
            Pages(store, synced),
            self.presence,
            hellos=TokenBuckets(hellos / 60, hellos),
            sockets_per_user=sockets,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "House":
        self._tasks = [asyncio.create_task(self.pump.run()), asyncio.create_task(self.snapshots.run())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def join(
        self,
        sink: FakeSink,
        *,
        user: UUID = ANNE,
        client_id: UUID | None = None,
        at: int | None = HEAD,
        generation: int | None = None,
    ) -> Reader | Error:
        """`at`: where its cursor stands; None: it has none."""
        cursor = None if at is None else Cursor(EPOCH, owner_digest(user), Position(at)).encode()
        return self.readers.join(sink, user, client_id or uuid4(), cursor, {}, generation)

    def joined(self, sink: FakeSink, *, user: UUID = ANNE, at: int | None = HEAD) -> Reader:
        reader = self.join(sink, user=user, at=at)
        assert isinstance(reader, Reader)
        return reader

    async def stalled_in_snapshot(self, sink: FakeSink) -> Reader:
        """A reader whose socket has filled while the first piece of its snapshot was being read."""
        self.store.gate.clear()
        reader = self.joined(sink, at=None)
        sink.full = True
        self.readers.stall(reader)
        self.store.gate.set()
        await eventually(lambda: reader.stalled is not None)
        return reader


def frames(sink: FakeSink) -> list[object]:
    return [MSGPACK.decode_to_client(data[2 if data[1] < 126 else 4 :]) for data in sink.sent]


@pytest.fixture
def connections() -> list[float]:
    """Figures before the test: connections and users of the tier core."""
    return figures()


def figures() -> list[float]:
    metrics.flush()
    return [REGISTRY.get_sample_value(f"atlas_{name}", {"tier": "core"}) or 0.0 for name in ("connections", "users")]


# ---- Joining -------------------------------------------------------------------------------------------------------


async def test_a_device_whose_cursor_is_at_the_head_resumes_and_is_live() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = house.joined(sink)
        await eventually(lambda: reader.live)
        assert sink.welcomes == [("core", None)]
        assert [type(frame) for frame in frames(sink)] == [Live]


async def test_a_device_without_a_cursor_gets_a_snapshot_and_is_live() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = house.joined(sink, at=None)
        await eventually(lambda: reader.live)
        assert sink.welcomes == [("core", Why.NEW)]
        assert [type(frame) for frame in frames(sink)] == [Snapshot, Snapshot, Live]


async def test_a_device_whose_cursor_is_ahead_of_the_feed_gets_a_snapshot() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = house.joined(sink, at=HEAD + 1)
        await eventually(lambda: reader.live)
        assert sink.welcomes == [("core", Why.AHEAD)]


@pytest.mark.parametrize("at", [HEAD, None])
@pytest.mark.parametrize("tier", ["free", None])
async def test_a_user_whose_tier_does_not_sync_is_told_so_and_never_welcomed(at: int | None, tier: str | None) -> None:
    async with House() as house:
        house.store.tier = tier
        sink = FakeSink()
        house.joined(sink, at=at)
        await eventually(lambda: sink.gone)
        assert [error.code for error in sink.errors] == ["local_only"]
        assert sink.welcomes == []


async def test_a_second_connection_of_a_device_replaces_the_first() -> None:
    house, first, second, client_id = House(), FakeSink(), FakeSink(), uuid4()
    house.join(first, client_id=client_id)
    assert isinstance(house.join(second, client_id=client_id), Reader)
    assert [error.code for error in first.errors] == ["replaced"]
    assert second.errors == []


async def test_a_connection_that_the_device_has_given_up_does_not_replace_the_later_one() -> None:
    house, later, delayed, client_id = House(), FakeSink(), FakeSink(), uuid4()
    house.join(later, client_id=client_id, generation=8)
    refused = house.join(delayed, client_id=client_id, generation=7)
    assert isinstance(refused, Error)
    assert refused.code == "replaced"
    assert later.errors == []


async def test_a_user_has_a_limited_number_of_sockets_and_another_user_is_not_affected() -> None:
    house = House(sockets=3)
    for _ in range(3):
        house.joined(FakeSink())
    refused = house.join(FakeSink())
    assert isinstance(refused, Error)
    assert (refused.code, refused.retryable, refused.answers) == ("too_many_sockets", True, "hello")
    assert refused.retry_after is not None
    house.joined(FakeSink(), user=UUID(int=2))


async def test_a_user_who_connects_too_often_is_told_when_to_come_back() -> None:
    house = House(hellos=2, sockets=100)
    house.joined(FakeSink())
    house.joined(FakeSink())
    refused = house.join(FakeSink())
    assert isinstance(refused, Error)
    assert refused.code == "too_many_hellos"
    assert refused.retry_after is not None
    assert refused.retry_after >= 29_000, "a token comes every 30 s"
    assert house.hub.sockets(str(ANNE)) == 2


async def test_a_connection_that_cannot_be_placed_takes_no_place_of_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    house = House()

    def fails(*_: object) -> Position:
        raise RuntimeError("unexpected")

    monkeypatch.setattr("server.feed.readers.start", fails)
    with pytest.raises(RuntimeError):
        house.join(FakeSink())
    assert house.hub.users() == []


# ---- Stalling ------------------------------------------------------------------------------------------------------


async def test_a_stalled_device_goes_on_where_it_was() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = house.joined(sink)
        await eventually(lambda: reader.live)
        sink.full = True
        house.readers.stall(reader)
        assert (reader.state, reader.position) == (DeviceState.STALLED, Position(HEAD))
        house.readers.ring(str(ANNE), HEAD + 1)
        assert reader.cohort is None, "nothing is read for it"
        sink.full = False
        house.readers.resume(reader)
        await eventually(lambda: reader.live)


async def test_a_device_that_stalls_in_the_middle_of_a_snapshot_gets_the_rest_of_it_later() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = await house.stalled_in_snapshot(sink)
        assert house.snapshots.waiting == 1
        assert (reader.state, house.store.pieces) == (DeviceState.SNAPSHOT, 1)
        sink.full = False
        house.readers.resume(reader)
        await eventually(lambda: reader.live)
        assert (house.store.pieces, house.snapshots.waiting) == (3, 0)


async def test_a_device_that_leaves_while_it_is_stalled_is_forgotten() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = await house.stalled_in_snapshot(sink)
        sink.gone = True
        house.readers.leave(reader, 1006)
        assert house.snapshots.waiting == 0
        house.readers.resume(reader)
        assert (house.store.pieces, house.hub.users()) == (1, [])


async def test_a_live_device_that_stalled_catches_up_before_it_is_live_again() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = house.joined(sink)
        await eventually(lambda: reader.live)
        house.readers.stall(reader)
        sink.sent.clear()
        house.readers.resume(reader)
        assert reader.state is DeviceState.CATCHING_UP
        await eventually(lambda: reader.live)
        assert [type(frame) for frame in frames(sink)] == [Live]


async def test_a_reader_that_has_left_gets_no_position() -> None:
    house = House()
    reader = house.joined(FakeSink())
    house.readers.leave(reader, 1000)
    house.hub.place(reader, Position(HEAD), Phase.CATCHING_UP)
    assert (reader.cohort, house.hub.users()) == (None, [])


async def test_a_device_that_leaves_before_its_snapshot_is_never_welcomed(connections: list[float]) -> None:
    async with House() as house:
        sink = FakeSink()
        house.store.gate.clear()
        reader = house.joined(sink, at=None)
        await eventually(lambda: house.snapshots.waiting == 0)  # its first piece is being read
        sink.gone = True
        house.readers.leave(reader, 1006)
        house.store.gate.set()
        await eventually(lambda: house.store.pieces == 1)
        assert (sink.welcomes, figures()) == ([], connections)


async def test_the_last_position_of_a_device_that_leaves_is_recorded() -> None:
    async with House() as house:
        reader = house.joined(FakeSink())
        await eventually(lambda: reader.live)
        house.readers.leave(reader, 4302)
        await house.presence.record()
        (status,) = house.store.recorded
        assert (status.seq, status.state, status.close_code) == (HEAD, DeviceState.CLOSED, 4302)


# ---- While Postgres is away ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [HEAD, None])
async def test_a_device_that_waits_for_postgres_is_told_once(at: int | None) -> None:
    async with House() as house:
        house.store.away = True
        sink = FakeSink()
        reader = house.joined(sink, at=at)
        await eventually(lambda: bool(sink.errors))
        house.readers.ring(str(ANNE), HEAD)
        house.store.away = False
        await eventually(lambda: reader.live)
        assert [(error.code, error.answers) for error in sink.errors] == [("unavailable", "hello")]


# ---- What is counted -----------------------------------------------------------------------------------------------


async def test_connections_and_users_are_counted_from_their_welcome_to_their_end(connections: list[float]) -> None:
    before, users = connections
    async with House() as house:
        readers = [house.joined(FakeSink()) for _ in range(2)]
        assert figures() == [before, users]
        await eventually(lambda: all(reader.live for reader in readers))
        assert figures() == [before + 2, users + 1]
        house.readers.leave(readers[0], 1000)
        assert figures() == [before + 1, users + 1]
        house.readers.leave(readers[1], 1000)
        assert figures() == [before, users]


async def test_a_user_counts_under_the_tier_of_the_first_welcome(connections: list[float]) -> None:
    before, users = connections
    async with House() as house:
        first = house.joined(FakeSink())
        await eventually(lambda: first.live)
        house.store.tier = "studio"
        second = house.joined(FakeSink())
        await eventually(lambda: second.live)
        assert figures() == [before + 2, users + 1]
        house.readers.leave(first, 1000)
        house.readers.leave(second, 1000)
        assert figures() == [before, users]


# ---- Heartbeats and readiness --------------------------------------------------------------------------------------


async def test_only_a_live_device_of_a_server_that_hears_doorbells_is_told_that_it_has_everything() -> None:
    async with House() as house:
        sink = FakeSink()
        reader = house.joined(sink)
        house.hub.doorbells_work = True
        assert house.readers.live(reader) is None
        await eventually(lambda: reader.live)
        assert house.readers.live(reader) is not None
        house.hub.doorbells_work = False
        assert house.readers.live(reader) is None


async def test_a_server_is_ready_once_doorbells_arrive_and_says_what_an_operator_should_know() -> None:
    house = House()
    assert not house.readers.readiness().ready
    house.hub.doorbells_work = True
    assert house.readers.readiness() == Readiness(True, "ready")
    house.history.split = True
    assert house.readers.readiness() == Readiness(True, SPLIT)
    house.history.set_blind("It may not see every change.")
    assert house.readers.readiness() == Readiness(False, "It may not see every change.")
