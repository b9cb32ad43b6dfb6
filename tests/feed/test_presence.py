"""The last status of each device is recorded once, however often Postgres is away meanwhile."""

import asyncio
from collections.abc import Sequence
from functools import partial
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol.cursor import Position
from server.exceptions import UnavailableError
from server.feed import presence as module
from server.feed.hub import Hub, Phase, Reader, Stalled
from server.feed.ports import DeviceState, DeviceStatus
from server.feed.presence import AT_ONCE, Presence
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

USER = str(UUID(int=1))
SERVER = "a server"


class FakePresenceStore:
    """Keeps every statement, and what the database would hold after them."""

    def __init__(self) -> None:
        self.statements: list[list[DeviceStatus]] = []
        self.held: dict[UUID, DeviceStatus] = {}
        self.away = 0
        """How many of the next statements fail."""
        self.until_away: int | None = None
        """How many come before the one that fails."""

    async def record(self, server: str, statuses: Sequence[DeviceStatus]) -> None:
        await asyncio.sleep(0)
        assert server == SERVER
        assert len({(status.user, status.client_id) for status in statuses}) == len(statuses)
        if self.until_away is not None:
            self.away, self.until_away = (1, None) if not self.until_away else (0, self.until_away - 1)
        if self.away:
            self.away -= 1
            raise UnavailableError("Postgres is away.")
        self.statements.append(list(statuses))
        self.held.update((status.client_id, status) for status in statuses)

    def take(self) -> list[list[DeviceStatus]]:
        """The statements since the last time."""
        statements, self.statements = self.statements, []
        return statements


class House:
    """A hub of readers that a test moves, and the presence of it."""

    def __init__(self) -> None:
        self.hub = Hub(lambda _: None)
        self.store = FakePresenceStore()
        self.presence = Presence(self.hub, self.store, SERVER)
        self.sockets: dict[Reader, FakeSink] = {}

    def connect(self, seq: int = 1, client_id: UUID | None = None, user: str = USER) -> Reader:
        socket = FakeSink(uuid4().hex[:12])
        reader = self.hub.add(user, client_id or uuid4(), socket, {})
        reader.welcomed_at = 1
        self.hub.place(reader, Position(seq), Phase.LIVE)
        self.sockets[reader] = socket
        return reader

    def move(self, reader: Reader, position: Position, phase: Phase = Phase.LIVE) -> None:
        self.hub.stall(reader)
        reader.stalled = Stalled(position, partial(self.hub.place, reader, position, phase))
        self.hub.resume(reader)

    def leave(self, reader: Reader, code: int = 1000) -> None:
        self.presence.left(reader, code)
        self.hub.remove(reader)


@pytest.fixture
def house() -> House:
    return House()


def seen(reader: Reader, seq: int | None = 1, state: str = "live", code: int | None = None) -> DeviceStatus:
    return DeviceStatus(
        reader.feed.user, reader.client_id, reader.sink.session, seq, DeviceState(state), code, reader.welcomed_at or 0
    )


async def test_devices_that_moved_are_noted_together_and_the_others_not_at_all(house: House) -> None:
    stays, moves, falls = house.connect(), house.connect(), house.connect(user=str(uuid4()))
    await house.presence.record()
    (first,) = house.store.take()
    assert set(first) == {seen(stays), seen(moves), seen(falls)}
    house.move(moves, Position(7))
    house.hub.stall(falls)
    await house.presence.record()
    (second,) = house.store.take()
    assert set(second) == {seen(moves, 7), seen(falls, 1, "stalled")}


async def test_what_keeps_them_from_being_recorded_is_said_once_and_not_if_it_is_known(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0)
    for known, times in ((None, 1), ("Postgres is away.", 0)):
        house.presence = Presence(house.hub, house.store, SERVER, partial(str, known) if known else lambda: None)
        house.connect()
        house.store.away = 3
        with capture_logs() as logged:
            running = asyncio.ensure_future(house.presence.run())
            await eventually(lambda: house.store.statements)
            running.cancel()
        assert [line["error"] for line in logged] == ["Postgres is away."] * times
        house.store.take()


async def test_of_idle_devices_nothing_is_noted_but_that_their_server_lives(house: House) -> None:
    for _ in range(10):
        house.connect()
    await house.presence.record()
    house.store.take()
    for _ in range(3):
        await house.presence.record()
    assert house.store.take() == [[], [], []]


async def test_what_a_device_is_doing_is_noted(house: House) -> None:
    catches_up = house.connect()
    house.move(catches_up, Position(3), Phase.CATCHING_UP)
    snapshot = house.hub.add(USER, uuid4(), FakeSink("a session"), {})
    snapshot.welcomed_at = True
    await house.presence.record()
    assert set(house.store.statements[0]) == {seen(catches_up, 3, "catching_up"), seen(snapshot, None, "snapshot")}


async def test_a_closed_device_is_noted_once_with_its_code_and_where_it_was(house: House) -> None:
    reader = house.connect(5)
    house.leave(reader, 4302)
    await house.presence.record()
    assert house.store.take() == [[seen(reader, 5, "closed", 4302)], []]
    await house.presence.record()
    assert house.store.take() == [[]]


async def test_whoever_is_not_welcomed_is_nobody(house: House) -> None:
    waits, leaves = house.connect(), house.connect()
    waits.welcomed_at = leaves.welcomed_at = None
    house.leave(leaves)
    await house.presence.record()
    assert house.store.take() == [[]]


async def test_a_socket_that_is_closing_is_not_noted_as_here(house: House) -> None:
    house.sockets[house.connect()].gone = True
    await house.presence.record()
    assert house.store.take() == [[]]


async def test_a_device_that_left_and_came_back_is_here(house: House) -> None:
    left = house.connect()
    house.leave(left)
    back = house.connect(2, left.client_id)
    await house.presence.record()
    assert house.store.take() == [[seen(left, 1, "closed", 1000)], [seen(back, 2)]]


async def test_one_device_that_left_twice_is_noted_for_the_last_time(house: House) -> None:
    first = house.connect()
    house.leave(first, 1006)
    second = house.connect(2, first.client_id)
    house.leave(second, 1000)
    await house.presence.record()
    assert house.store.take() == [[seen(second, 2, "closed", 1000)], []]


async def test_an_older_connection_of_a_device_that_is_still_here_shares_no_statement_with_the_newer(
    house: House,
) -> None:
    # The notebook objects to two statuses of one device.
    older = house.connect()
    house.connect(2, older.client_id)
    await house.presence.record()
    assert len(house.store.take()[0]) == 1


async def test_what_could_not_be_noted_is_noted_the_next_time(house: House) -> None:
    here, left = house.connect(), house.connect()
    house.leave(left)
    for away in range(2):
        house.store.away = 1
        with pytest.raises(UnavailableError):
            await house.presence.record()
        assert not house.store.take(), away
    await house.presence.record()
    assert house.store.take() == [[seen(left, 1, "closed", 1000)], [seen(here)]]


async def test_a_device_that_leaves_while_the_last_departures_cannot_be_noted_is_noted_with_them(house: House) -> None:
    first, second, again = house.connect(), house.connect(), house.connect()
    house.leave(first)
    house.leave(again, 1006)
    house.store.away = 1
    noting = asyncio.create_task(house.presence.record())
    await asyncio.sleep(0)
    house.leave(second)
    house.leave(house.connect(9, again.client_id), 1001)
    with pytest.raises(UnavailableError):
        await noting
    await house.presence.record()
    assert {(each.client_id, each.close_code) for each in house.store.take()[0]} == {
        (first.client_id, 1000),
        (second.client_id, 1000),
        (again.client_id, 1001),
    }


async def test_a_crowd_is_noted_in_several_statements_and_everybody_once(house: House) -> None:
    here = [house.connect(user=str(uuid4())) for _ in range(2 * AT_ONCE + 500)]
    gone = [house.connect() for _ in range(AT_ONCE + 1)]
    for reader in gone:
        house.leave(reader)
    await house.presence.record()
    statements = house.store.take()
    assert [len(statement) for statement in statements] == [AT_ONCE, 1, AT_ONCE, AT_ONCE, 500]
    noted = [status.client_id for statement in statements for status in statement]
    assert sorted(noted) == sorted(reader.client_id for reader in here + gone)


async def test_groups_that_were_noted_before_postgres_went_away_are_not_noted_again(house: House) -> None:
    everybody = {house.connect(user=str(uuid4())).client_id for _ in range(2 * AT_ONCE)}
    house.store.until_away = 1
    with pytest.raises(UnavailableError):
        await house.presence.record()
    await house.presence.record()
    first, second = house.store.take()
    assert len(first) == len(second) == AT_ONCE
    assert {status.client_id for status in first + second} == everybody


async def test_of_departures_that_nobody_can_note_the_oldest_are_forgotten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEPARTED", 3)
    readers = [house.connect() for _ in range(5)]
    for reader in readers:
        house.leave(reader)
    await house.presence.record()
    assert house.store.take()[0] == [seen(reader, 1, "closed", 1000) for reader in readers[2:]]


async def test_it_goes_on_when_postgres_is_back(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.0)
    reader = house.connect()
    house.store.away = 3
    running = asyncio.create_task(house.presence.run())
    await eventually(lambda: house.store.held.get(reader.client_id) == seen(reader))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_device_inside_a_large_transaction_is_not_noted_behind_it(house: House) -> None:
    reader = house.connect()
    house.move(reader, Position(7, 500), Phase.CATCHING_UP)
    await house.presence.record()
    (status,) = house.store.take()[0]
    assert status.seq is not None
    assert status.seq < 7


deeds = st.lists(
    st.tuples(st.sampled_from(["connect", "move", "stall", "resume", "leave", "record", "away"]), st.integers(0, 4)),
    max_size=60,
)


@given(deeds)
def test_in_the_end_everybody_is_noted_where_they_are_or_were(doings: list[tuple[str, int]]) -> None:
    async def live() -> None:
        house = House()
        clients = [UUID(int=number) for number in range(5)]
        here: dict[UUID, Reader] = {}
        truth: dict[UUID, DeviceStatus] = {}
        for count, (deed, number) in enumerate(doings, 1):
            client = clients[number]
            reader = here.get(client)
            if deed == "connect" and reader is None:
                here[client] = house.connect(count, client)
            elif deed == "move" and reader is not None:
                house.move(reader, Position(count))
            elif deed == "stall" and reader is not None:
                house.hub.stall(reader)
            elif deed == "resume" and reader is not None:
                house.hub.resume(reader)
            elif deed == "leave" and reader is not None:
                position = reader.position
                truth[client] = seen(reader, position.seq if position else None, "closed", 1000 + number)
                house.leave(here.pop(client), 1000 + number)
            elif deed in ("record", "away"):
                house.store.away = int(deed == "away") * (number + 1)
                try:
                    await house.presence.record()
                except UnavailableError:
                    pass
                finally:
                    house.store.away = 0
        await house.presence.record()
        for client, reader in here.items():
            position, state = reader.position, reader.state
            truth[client] = seen(reader, position.seq if position else None, state)
        assert house.store.held == truth

    asyncio.run(live())
