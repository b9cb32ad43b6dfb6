"""A connection carries out what its session decides, keeps its deadlines, and tells the read path when it is full."""

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import pytest
from msgspec import structs

from protocol import errors
from protocol.codec import JSON, MSGPACK, Codec
from protocol.frames import (
    Ack,
    Applied,
    AskPage,
    Error,
    Hello,
    Live,
    Milliseconds,
    Ping,
    Pong,
    Push,
    Refresh,
    Refreshed,
    Rejected,
    Result,
    SchemaFrame,
    Streams,
    ToClient,
    ToServer,
    Welcome,
)
from server.clock import Clock
from server.declaration.chat import CHAT
from server.declaration.synced import Synced
from server.edge.auth import RefusedError, Verifier
from server.edge.connection import (
    EXPIRY_MARGIN,
    FRAMES_PER_SECOND,
    HELLO_SECONDS,
    STRANGERS_BYTES,
    STRANGERS_FRAMES,
    Connection,
    Services,
    Timing,
)
from server.edge.registry import Registry
from server.edge.timers import TimerWheel
from server.edge.websocket import CLOSE_SECONDS, WebSocket
from server.feed.readers import Readers
from server.feed.resume import Why
from server.metrics.catalogue import REGISTRY
from server.outgoing import Outgoing, message
from server.session import Claims
from server.streams.streams import Streams as StreamsDoor
from server.write.intake import Intake
from tests.support.transport import FarEnd

ANNE = UUID(int=1)
HELLO = Hello(token="good", client_id=UUID(int=2))
KEEPALIVE, DEADLINE = 30.0, 20.0
both = pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])


class FakeClock:
    """Monotonic seconds and the time of day, which a test moves."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def __call__(self) -> float:
        return self.time

    def seconds(self) -> float:
        return self.time

    def now(self) -> int:
        return int(self.time * 1_000_000)


class FakeVerifier:
    def __init__(self, clock: FakeClock) -> None:
        self.expires = int(clock.time) + 10_000
        self.fails = False
        """It raises what nobody expects."""
        self.known = False
        """It has verified the token before."""

    def recall(self, token: str) -> Claims | None:
        return Claims(ANNE, self.expires) if self.known and token == "good" else None

    async def verify(self, token: str) -> Claims:
        if self.fails:
            raise RuntimeError("unexpected")
        if token != "good":
            raise RefusedError("This token is bad.")
        return Claims(ANNE, self.expires)


@dataclass
class FakeReader:
    sink: Connection


@dataclass
class FakeReaders:
    """The door to the read path, on which a test stands on the other side."""

    epoch = "0" * 16
    refuses: Error | None = None
    calls: list[str] = field(default_factory=list)
    up_to_date: Outgoing | None = None
    seq = 0

    def join(self, sink: Connection, *rest: object) -> object:
        self.calls.append("join")
        return self.refuses or FakeReader(sink)

    def stall(self, reader: object) -> None:
        self.calls.append("stall")

    def resume(self, reader: object) -> None:
        self.calls.append("resume")

    def leave(self, reader: object, code: int) -> None:
        self.calls.append(f"leave {code}")

    def prove(self, reader: object) -> None:
        self.calls.append("prove")

    def live(self, reader: object) -> Outgoing | None:
        return self.up_to_date

    def acknowledged(self, reader: object, seq: int) -> None:
        self.seq = seq

    async def answer_page(self, reader: FakeReader, ask: AskPage) -> None:
        await reader.sink.wait_writable()
        self.calls.append(f"page {ask.id}")


@dataclass
class FakeStreams:
    """The door to streams, which writes into the list of the read path's calls."""

    calls: list[str]
    settles: bool = False
    """A stream is settled while the device joins."""

    def join(self, user: str, sink: Connection) -> Connection:
        self.calls.append("join streams")
        return sink

    def welcome(self, device: Connection) -> bytes:
        if self.settles:
            device.prove()
        return message(Streams(open=[]), device.codec)

    def resume(self, device: Connection) -> None:
        self.calls.append("resume streams")

    def leave(self, device: Connection) -> None:
        self.calls.append("leave streams")


class FakePushes:
    mutations = 10

    def __init__(self) -> None:
        self.waiting: list[tuple[bool, Callable[[Any], None]]] = []

    def apply(
        self, frame: Push, codec: Codec, answer: Callable[[Any], None], gone: Callable[[], bool], **rest: Any
    ) -> None:
        self.waiting.append((rest["claims_client_id"], answer))


class House:
    """One connection, the client at its far end, and everything around it."""

    def __init__(self, codec: Codec = MSGPACK, *, streams: bool = False) -> None:
        self.clock = FakeClock()
        self.verifier = FakeVerifier(self.clock)
        self.readers = FakeReaders()
        self.pushes = FakePushes()
        self.registry = Registry()
        self.timers = TimerWheel(self.clock)
        self.codec = codec
        self.streams = FakeStreams(self.readers.calls)
        self.connection = Connection(
            Services(
                verifier=cast(Verifier, self.verifier),
                readers=cast(Readers, self.readers),
                intake=cast(Intake, self.pushes),
                synced=Synced(CHAT),
                registry=self.registry,
                timers=self.timers,
                clock=cast(Clock, self.clock),
                timing=Timing(KEEPALIVE, DEADLINE),
                streams=cast(StreamsDoor, self.streams) if streams else None,
            ),
            codec,
        )
        self.far = FarEnd(self.connection.websocket)

    def say(self, frame: ToServer) -> None:
        self.far.send(self.codec.encode(frame), text=self.codec.text)

    def heard(self) -> list[ToClient]:
        return [self.codec.decode_to_client(data) for data in self.far.received()]

    def told(self) -> tuple[str, int | None]:
        """The code of the error that arrived last, and that of the close."""
        errors = [frame for frame in self.heard() if isinstance(frame, Error)]
        return errors[-1].code, self.far.close_code

    async def settle(self) -> None:
        """Let requests in progress end."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def greeted(
        self, why: Why | None = None, hello: Hello = HELLO, *, tier: str | None = "core", wire: bytes = b""
    ) -> "House":
        self.say(hello)
        await self.settle()
        self.connection.welcome(tier, why, wire)
        return self

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.time += 1
            self.timers.advance()


def gauge(name: str) -> float:
    return REGISTRY.get_sample_value(name) or 0.0


@both
async def test_a_hello_is_checked_joined_and_welcomed(codec: Codec) -> None:
    house = await House(codec).greeted(Why.TOO_OLD)
    assert house.readers.calls == ["join"]
    (welcome,) = house.heard()
    assert isinstance(welcome, Welcome)
    assert (welcome.mode, welcome.why, welcome.tier, welcome.epoch) == ("snapshot", "too_old", "core", "0" * 16)
    assert welcome.expires == house.verifier.expires * 1_000_000
    assert welcome.limits.mutations == 10
    assert welcome.schema == CHAT.schema.hash


def test_a_token_that_was_verified_before_needs_no_task() -> None:
    house = House()
    house.verifier.known = True
    house.say(HELLO)  # without a loop
    assert house.readers.calls == ["join"]


@both
async def test_all_that_a_device_is_told_first_is_one_write(codec: Codec) -> None:
    house = await House(codec).greeted(
        hello=structs.replace(HELLO, schema=""), wire=message(Pong(), codec) + message(Pong(), codec)
    )
    assert [type(frame) for frame in house.heard()] == [Welcome, SchemaFrame, Pong, Pong]
    assert house.far.transport.writes == 1


async def test_a_device_that_asks_for_streams_is_told_of_them_between_the_schema_and_the_rows() -> None:
    hello = structs.replace(HELLO, schema="", extras=["streams"])
    for streams in (False, True):
        house = await House(streams=streams).greeted(hello=hello, wire=message(Pong(), MSGPACK))
        assert [type(frame) for frame in house.heard()] == [Welcome, SchemaFrame, Streams, Pong]
        assert house.far.transport.writes == 1


async def test_of_streams_a_device_is_told_from_before_its_rows_are_read_until_it_goes() -> None:
    house = await House(streams=True).greeted(hello=structs.replace(HELLO, extras=["streams"]))
    house.connection.writable(False)
    house.connection.writable(True)
    house.far.lose()
    assert house.readers.calls == [
        "join streams",
        "join",
        "stall",
        "resume",
        "resume streams",
        "leave 1006",
        "leave streams",
    ]


async def test_a_device_that_was_settled_for_meanwhile_is_proved_to_have_the_row() -> None:
    house = House(streams=True)
    house.streams.settles = True
    await house.greeted(hello=structs.replace(HELLO, extras=["streams"]))
    assert house.readers.calls == ["join streams", "join", "prove"]
    house.far.lose()
    house.connection.prove()
    assert house.readers.calls.count("prove") == 1, "it is gone"


async def test_a_device_that_resumes_is_told_no_reason() -> None:
    house = await House().greeted(None)
    (welcome,) = house.heard()
    assert isinstance(welcome, Welcome)
    assert (welcome.mode, welcome.why) == ("resumed", None)


@both
@pytest.mark.parametrize("why", [None, Why.NEW])
async def test_a_device_with_another_schema_is_sent_the_servers_behind_the_welcome(
    codec: Codec, why: Why | None
) -> None:
    for its in ("", "0123456789abcdef"):
        house = await House(codec).greeted(why, structs.replace(HELLO, schema=its))
        _, sent = house.heard()
        assert sent == SchemaFrame(hash=CHAT.schema.hash, kinds=CHAT.schema.kinds)


@pytest.mark.parametrize("its", [None, CHAT.schema.hash], ids=["wants none", "has the server's"])
async def test_a_device_that_needs_no_schema_is_sent_none(its: str | None) -> None:
    house = await House().greeted(None, structs.replace(HELLO, schema=its))
    assert [type(frame) for frame in house.heard()] == [Welcome]


async def test_without_a_gate_a_welcome_has_no_tier() -> None:
    house = await House(JSON).greeted(None, tier=None)
    (data,) = house.far.received()
    assert b"tier" not in data


async def test_a_refused_token_ends_the_connection() -> None:
    house = House()
    house.say(Hello(token="bad", client_id=HELLO.client_id))
    await house.settle()
    assert house.told() == ("token_refused", 4101)
    assert house.readers.calls == []


async def test_a_reader_that_cannot_join_is_closed_with_the_reason() -> None:
    house = House()
    house.readers.refuses = errors.TOO_MANY_SOCKETS.frame(answers="hello", retry_after=Milliseconds(5))
    house.say(HELLO)
    await house.settle()
    assert house.told() == ("too_many_sockets", 4003)
    assert house.readers.calls == ["join"], "what did not join cannot leave"


async def test_a_failure_of_the_server_is_told_as_one() -> None:
    house = House()
    house.verifier.fails = True
    house.say(HELLO)
    await house.settle()
    assert house.told() == ("internal", 4001)


@both
async def test_a_message_that_is_no_frame_or_of_the_wrong_kind_ends_the_connection(codec: Codec) -> None:
    house = House(codec)
    house.far.send(b"nonsense", text=codec.text)
    assert house.told() == ("bad_frame", 4300)
    house = House(codec)
    house.far.send(b"{}", text=not codec.text)
    assert house.told() == ("bad_frame", 4300)


async def test_a_frame_of_a_later_version_is_answered_and_the_connection_lives() -> None:
    house = await House(JSON).greeted()
    house.heard()
    house.far.send(b'{"t":"of a later version"}', text=True)
    assert house.told() == ("unknown_frame", None)


async def test_pings_pages_and_refreshes_are_answered() -> None:
    house = await House().greeted()
    house.heard()
    house.say(Ping())
    house.say(AskPage(id=7, kind="conversation"))
    house.say(Refresh(token="good"))
    await house.settle()
    pong, refreshed = house.heard()
    assert isinstance(pong, Pong)
    assert isinstance(refreshed, Refreshed)
    assert house.readers.calls == ["join", "page 7"]


async def test_a_page_waits_until_the_socket_takes_data() -> None:
    house = await House().greeted()
    house.connection.websocket.pause_writing()
    house.say(AskPage(id=7, kind="conversation"))
    await house.settle()
    assert house.readers.calls == ["join", "stall"]
    house.connection.websocket.resume_writing()
    await house.settle()
    assert house.readers.calls == ["join", "stall", "resume", "page 7"]


async def test_the_first_push_claims_the_client_id_and_its_results_tell_the_reader_how_far_it_is() -> None:
    house = await House().greeted()
    house.heard()
    house.say(Push(n=1, mutations=[]))
    ((claims, answer),) = house.pushes.waiting
    assert claims
    answer(Ack(results=[Applied(1, 40), Rejected(2, "too_long", "no"), Applied(3, 41)]))
    assert house.readers.seq == 41
    assert [type(frame) for frame in house.heard()] == [Ack]
    house.say(Push(n=4, mutations=[]))
    assert not house.pushes.waiting[1][0]


@pytest.mark.parametrize(
    "results",
    [[], [Rejected(1, "too_long", "no")], [Applied(1, 0)]],
    ids=["of nothing", "of a rejected mutation", "for a user without a feed"],
)
async def test_an_acknowledgement_without_a_seq_still_counts_as_one(results: list[Result]) -> None:
    house = await House().greeted()
    house.say(Push(n=1, mutations=[]))
    house.pushes.waiting[0][1](Ack(results=results))
    assert house.readers.seq == 1


async def test_an_answer_to_a_push_that_ends_the_connection_closes_it() -> None:
    house = await House().greeted()
    house.say(Push(n=1, mutations=[]))
    house.pushes.waiting[0][1](errors.REPLACED.frame(answers="push", id=1))
    assert house.told() == ("replaced", 4302)
    assert house.readers.calls == ["join", "leave 4302"]


@pytest.mark.parametrize("kind", errors.ERRORS.values(), ids=errors.ERRORS)
async def test_every_error_closes_with_its_own_code(kind: errors.ErrorKind) -> None:
    house = await House().greeted()
    if kind.close is None:
        with pytest.raises(AssertionError):
            house.connection.close(kind.frame())
    else:
        house.connection.close(kind.frame())
        assert house.told() == (kind.code, int(kind.close))
        house.connection.close(errors.INTERNAL.frame())
        assert house.heard() == [], "nothing follows a close"


# ---- Deadlines -----------------------------------------------------------------------------------------------------


async def test_a_connection_without_a_hello_is_closed_and_then_ended() -> None:
    house = House()
    house.pass_time(HELLO_SECONDS + 2)
    assert house.told() == ("hello_timeout", 4002)
    assert not house.far.transport.aborted
    house.pass_time(CLOSE_SECONDS + 2)
    assert house.far.transport.aborted, "the peer had its time to answer the close"


async def test_a_heartbeat_comes_within_each_keepalive_period() -> None:
    house = await House().greeted()
    house.heard()
    house.pass_time(10 * (KEEPALIVE + 1))
    beats = house.heard()
    assert {type(frame) for frame in beats} == {Pong}
    assert 9 <= len(beats) <= 13


async def test_the_heartbeat_of_a_device_that_has_everything_says_so() -> None:
    house = await House().greeted()
    house.heard()
    house.readers.up_to_date = Outgoing(Live(cursor=b"here", seq=7))
    house.pass_time(KEEPALIVE + 2)
    assert {type(frame) for frame in house.heard()} == {Live}


async def test_a_full_socket_gets_no_heartbeat_and_is_ended_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.edge.connection.random.uniform", lambda low, high: low)
    house = await House().greeted()
    house.heard()
    house.connection.websocket.pause_writing()
    house.pass_time(DEADLINE - 2)  # the first heartbeat would have been due after a tenth of the period
    assert not house.far.transport.aborted
    house.pass_time(4)
    assert house.far.transport.aborted
    assert house.heard() == []


async def test_a_socket_that_drains_in_time_has_its_whole_deadline_again() -> None:
    house = await House().greeted()
    for _ in range(5):
        house.connection.websocket.pause_writing()
        house.pass_time(DEADLINE - 2)
        house.connection.websocket.resume_writing()
    assert not house.far.transport.aborted


async def test_a_connection_closes_before_its_token_ends() -> None:
    house = House()
    house.verifier.expires = int(house.clock.time) + 100
    await house.greeted()
    while house.far.close_code is None:
        house.pass_time(1)
    assert house.told() == ("token_expired", 4100)
    assert house.clock.time <= house.verifier.expires
    assert house.clock.time >= house.verifier.expires - EXPIRY_MARGIN - 2


async def test_a_refreshed_token_keeps_the_connection() -> None:
    house = House()
    house.verifier.expires = int(house.clock.time) + 100
    await house.greeted()
    house.verifier.expires += 1_000
    house.say(Refresh(token="good"))
    await house.settle()
    house.pass_time(200)
    assert house.far.close_code is None


# ---- Limits --------------------------------------------------------------------------------------------------------


async def test_a_stranger_may_send_little_and_a_welcomed_device_more() -> None:
    stranger = House()
    for _ in range(STRANGERS_FRAMES):
        stranger.far.ping()
    assert stranger.far.close_code is None
    stranger.far.ping()
    assert stranger.told() == ("too_many_frames", 4004)

    device = await House().greeted()
    for _ in range(int(FRAMES_PER_SECOND * KEEPALIVE) - 1):  # the hello counts too
        device.far.ping()
    assert device.far.close_code is None
    device.far.ping()
    assert device.told() == ("too_many_frames", 4004)


async def test_each_heartbeat_gives_the_whole_allowance_again() -> None:
    device = await House().greeted()
    for _ in range(3):
        for _ in range(int(FRAMES_PER_SECOND * KEEPALIVE) - 1):
            device.far.ping()
        device.pass_time(KEEPALIVE + 1)
    assert device.far.close_code is None


async def test_a_device_that_joins_counts_as_a_stranger_until_it_is_welcomed() -> None:
    house = House()
    house.say(HELLO)
    await house.settle()
    for _ in range(STRANGERS_FRAMES):
        house.far.ping()
    assert house.told() == ("too_many_frames", 4004)


async def test_bytes_are_limited_as_frames_are() -> None:
    stranger, piece = House(JSON), 100_000
    stranger.say(HELLO)
    await stranger.settle()
    for _ in range(STRANGERS_BYTES // piece):
        stranger.far.send(b'{"t":"ping","of a later version":"%s"}' % (b"x" * piece), text=True)
    assert stranger.far.close_code is None
    stranger.far.send(b'{"t":"ping","of a later version":"%s"}' % (b"x" * piece), text=True)
    assert stranger.told() == ("too_many_frames", 4004)


# ---- The end -------------------------------------------------------------------------------------------------------


async def test_a_lost_connection_leaves_once_and_is_forgotten_everywhere() -> None:
    house = await House().greeted()
    house.far.close(1000)
    house.far.lose()
    assert house.readers.calls == ["join", "leave 1000"]
    house.pass_time(1_000)
    assert house.readers.calls == ["join", "leave 1000"]
    await house.registry.drain(0.01)  # nobody to wait for


async def test_a_connection_that_breaks_leaves_as_1006() -> None:
    house = await House().greeted()
    house.far.lose()
    assert house.readers.calls == ["join", "leave 1006"]


async def test_a_token_whose_check_ends_after_the_connection_did_schedules_nothing() -> None:
    house = House()
    house.say(HELLO)
    house.far.lose()
    await house.settle()
    house.pass_time(100)
    assert house.readers.calls == []


async def test_a_lost_connection_is_called_by_no_timer_and_counts_as_stalled_no_more() -> None:
    stalled = gauge("atlas_stalled")
    house = await House().greeted()
    house.connection.websocket.pause_writing()
    assert gauge("atlas_stalled") == stalled + 1
    house.far.lose()
    assert gauge("atlas_stalled") == stalled
    assert house.connection.timer_slot == -1


async def test_a_lost_connection_is_freed_without_a_collection() -> None:
    house = await House().greeted()
    house.connection.websocket.pause_writing()
    house.far.lose()
    await house.settle()
    gc.collect()
    gc.disable()
    try:
        before = kept()
        del house
        assert kept() == before - 2
    finally:
        gc.enable()


def kept() -> int:
    """Connections and WebSockets in memory."""
    return sum(isinstance(each, (Connection, WebSocket)) for each in gc.get_objects())


async def test_requests_in_progress_are_cancelled_at_the_end_of_a_shutdown() -> None:
    house = await House().greeted()
    house.connection.websocket.pause_writing()
    house.say(AskPage(id=7, kind="conversation"))
    await house.settle()
    house.registry.cancel()
    await house.settle()
    house.connection.websocket.resume_writing()
    await house.settle()
    assert "page 7" not in house.readers.calls


async def test_a_page_whose_connection_ends_stops_waiting() -> None:
    house = await House().greeted()
    house.connection.websocket.pause_writing()
    house.say(AskPage(id=7, kind="conversation"))
    await house.settle()
    house.far.lose()
    await house.settle()
    assert house.readers.calls[-1] == "page 7"


async def test_the_goodbye_of_a_shutdown_says_when_to_come_back() -> None:
    house = await House().greeted()
    house.heard()
    draining = asyncio.create_task(house.registry.drain(10))
    await house.settle()
    (goodbye,) = house.heard()
    assert isinstance(goodbye, Error)
    assert (goodbye.code, goodbye.retryable, house.far.close_code) == ("going_away", True, 4000)
    assert goodbye.retry_after is not None
    assert 100 <= goodbye.retry_after <= 1_000
    house.far.lose()
    await draining


async def test_a_shutdown_ends_connections_that_do_not_go() -> None:
    house = await House().greeted()
    await house.registry.drain(0.01)
    assert house.far.transport.aborted
