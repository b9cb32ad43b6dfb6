"""A WebSocket passes whole messages on, counts what a peer sends, and ends so that the peer can see why."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Opcode

from server.edge import websocket as module
from server.edge.websocket import HIGH_WATER, LOW_WATER, SLICE, WebSocket
from tests.support.transport import FarEnd


class Recorder:
    """Keeps the events of a WebSocket."""

    def __init__(self, frames: int = 1_000_000) -> None:
        self.events: list[str] = []
        self.messages: list[bytes] = []
        self.frames = frames
        """More are not permitted."""
        self.counted = (0, 0)

    def opened(self) -> None:
        self.events.append("opened")

    def received(self, data: bytes) -> None:
        self.messages.append(data)

    def wrong_kind(self) -> None:
        self.events.append("wrong kind")

    def within_limits(self, frames: int, size: int) -> bool:
        self.counted = frames, size
        return frames <= self.frames

    def over_limits(self) -> None:
        self.events.append("over limits")

    def writable(self, yes: bool) -> None:
        self.events.append("writable" if yes else "full")

    def ending(self) -> None:
        self.events.append("ending")

    def lost(self) -> None:
        self.events.append("lost")


def opened(*, text: bool = False, frames: int = 1_000_000, max_size: int = 1_000_000) -> tuple[Recorder, FarEnd]:
    recorder = Recorder(frames)
    return recorder, FarEnd(WebSocket(recorder, text=text, max_size=max_size))


@given(st.lists(st.lists(st.binary(max_size=2_000), min_size=1, max_size=4), max_size=6))
def test_messages_arrive_whole_however_they_are_fragmented(messages: list[list[bytes]]) -> None:
    recorder, far = opened()
    for first, *rest in messages:
        far.send(first, fin=not rest)
        for i, part in enumerate(rest):
            far.ping()  # control frames may come between fragments
            far.send_continuation(part, fin=i == len(rest) - 1)
    assert recorder.messages == [b"".join(parts) for parts in messages]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Bytes that arrive at once: mostly a frame, mostly a whole message, and perhaps not all of it, or more than it."""
    fin, rsv = draw(st.sampled_from([0x80] * 3 + [0])), draw(st.sampled_from([0] * 6 + [0x40]))
    opcode = draw(st.sampled_from([1, 2] * 4 + [0, 3, 8, 9, 10]))
    masked = draw(st.sampled_from([0x80] * 6 + [0]))
    data, mask = (
        draw(st.sampled_from([b"", b"hello", b"\xff", b"x" * 119, b"x" * 125, b"x" * 126, b"x" * 300])),
        draw(st.binary(min_size=4, max_size=4)),
    )
    length = len(data) + draw(st.sampled_from([0] * 9 + [1, -1]))
    form = draw(st.sampled_from([0, 0, 0, 126, 127]))
    if form == 127:
        size = bytes([masked | 127]) + max(0, length).to_bytes(8)
    elif form == 126 or length > 125:
        size = bytes([masked | 126]) + max(0, length).to_bytes(2)
    else:
        size = bytes([masked | max(0, length)])
    whole = bytes([fin | rsv | opcode]) + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
    return whole[: draw(st.sampled_from([len(whole)] * 6 + [0, 1, 5]))]


@given(st.booleans(), st.lists(frames(), max_size=5))
@example(False, [b"\x82\xff" + (119).to_bytes(8) + bytes(4) + b"x" * 119])  # 6 + 127 bytes in all
def test_a_message_that_comes_whole_is_taken_as_the_library_takes_it(text: bool, arriving: list[bytes]) -> None:
    found = []
    for with_library in (False, True):
        recorder, far = opened(text=text, max_size=200)
        if with_library:
            far.websocket._with_core()
        for data in arriving:
            if not far.transport.ended:
                far.websocket.receive(data)
        found.append((recorder.messages, recorder.events, far.transport.written, far.websocket.close_codes))
    assert found[0] == found[1]


def test_whole_messages_need_no_library_whose_objects_cost_memory() -> None:
    for text in (False, True):
        recorder, far = opened(text=text)
        sent = [b"x" * size for size in (0, 1, 125, 126, 1_000)]
        for data in sent:
            far.send(data, text=text)
        assert recorder.messages == sent
        assert far.websocket._core is None
        assert not far.websocket.gone
        far.ping()
        far.send(b"afterwards", text=text)
        assert recorder.messages[-1] == b"afterwards"


def test_a_ping_is_answered() -> None:
    _, far = opened()
    far.ping(b"are you there")
    assert far.received_frames() == [Opcode.PONG]


def test_every_frame_and_every_byte_counts_until_the_counts_are_reset() -> None:
    recorder, far = opened()
    far.ping()
    far.send(b"a message")
    far.send(b"", fin=False)
    far.send_continuation(b"", fin=True)
    frames, size = recorder.counted
    assert frames == 4
    assert size == 4 * 6 + len(b"a message")  # a client's frame has 6 bytes beside its data
    far.websocket.reset_counts()
    far.ping()
    assert recorder.counted[0] == 1


def test_a_peer_that_sends_more_than_is_permitted_is_heard_no_more() -> None:
    recorder, far = opened(frames=2)
    for _ in range(5):
        far.send(b"message")
    assert len(recorder.messages) <= 3
    assert recorder.events == ["opened", "over limits", "ending"]
    assert far.transport.ended
    assert far.transport.reading, "the rest must be read and thrown away, or a reset would hide our close"


def test_a_message_of_the_other_kind_is_reported_and_not_delivered() -> None:
    for text in (True, False):
        recorder, far = opened(text=text)
        far.send(b"message", text=not text)
        assert recorder.events == ["opened", "wrong kind"]
        assert recorder.messages == []


def test_text_that_is_not_utf8_ends_the_connection_with_1007() -> None:
    recorder, far = opened(text=True)
    far.send(b"\xff\xfe", text=True)
    assert recorder.messages == []
    assert far.close_code == 1007


def test_a_message_beyond_the_limit_ends_the_connection_with_1009() -> None:
    recorder, far = opened(max_size=1_000)
    far.send(b"x" * 1_001)
    assert recorder.messages == []
    assert far.close_code == 1009


def test_a_close_of_the_peer_is_answered_and_ends_our_side() -> None:
    recorder, far = opened()
    far.close(1000)
    assert far.close_code == 1000
    assert far.transport.ended
    assert "ending" in recorder.events
    assert far.websocket.gone
    assert far.websocket.close_codes == (1000, 1000)


def test_after_our_close_nothing_more_is_sent() -> None:
    recorder, far = opened()
    far.websocket.send_close(4001, "internal")
    assert far.close_code == 4001
    far.websocket.send(b"\x82\x00")
    assert far.received() == []
    assert recorder.events == ["opened", "ending"]
    assert (far.websocket.gone, far.websocket.close_code) == (True, 4001)


def test_a_full_buffer_stops_reading_until_it_has_drained() -> None:
    recorder, far = opened()
    assert far.transport.limits == (HIGH_WATER, LOW_WATER)
    far.websocket.pause_writing()
    assert (far.websocket.full, far.transport.reading) == (True, False)
    far.websocket.resume_writing()
    assert (far.websocket.full, far.transport.reading) == (False, True)
    assert recorder.events == ["opened", "full", "writable"]


async def test_a_full_slice_lets_others_have_the_loop_before_more_is_read() -> None:
    recorder, far = opened()
    buffer = far.websocket.get_buffer(-1)
    assert len(buffer) == SLICE
    buffer[:] = bytes((0x82, 0x80, 0, 0, 0, 0)) * (SLICE // 6) + bytes((0x82, 0x80, 0, 0))
    far.websocket.buffer_updated(SLICE)
    assert len(recorder.messages) == SLICE // 6
    assert not far.transport.reading
    await asyncio.sleep(0)
    assert far.transport.reading


def test_input_after_the_end_is_thrown_away_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISCARDED", 100)
    _, far = opened()
    far.websocket.send_close(4001, "internal")
    far.close(4001)
    far.websocket.get_buffer(-1)
    far.websocket.buffer_updated(100)
    assert not far.transport.aborted
    far.websocket.buffer_updated(1)
    assert far.transport.aborted


def test_a_reset_connection_counts_as_gone_before_it_is_lost() -> None:
    _, far = opened()
    far.transport.closing = True
    assert far.websocket.gone
    far.websocket.send(b"lost")
    assert far.transport.written == b""


def test_a_lost_websocket_reports_once() -> None:
    recorder, far = opened()
    far.lose()
    assert recorder.events == ["opened", "lost"]
    assert not far.websocket.connected
    far.websocket.abort()
