"""The network's end of a connection, without a network."""

import asyncio
from collections.abc import Sequence
from typing import Final, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from server.edge.websocket import WebSocket

SEGMENT: Final = 1_400
"""Bytes that arrive at once."""


class FakeTransport:
    """Keeps what a protocol does with its transport."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.writes = 0
        self.ended = False
        """Its sending side is closed."""
        self.aborted = False
        self.closing = False
        self.reading = True
        self.limits: tuple[int, int] | None = None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self.limits = high, low

    def write(self, data: bytes) -> None:
        assert not self.ended, "data after the end"
        self.writes += 1
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class FarEnd:
    """The client at the other end of a WebSocket: `websockets`' own core, over a fake transport."""

    def __init__(self, websocket: WebSocket) -> None:
        self.transport = FakeTransport()
        self.websocket = websocket
        self._core = Protocol(Side.CLIENT, state=State.OPEN, max_size=None)
        self._kept: list[Frame] = []
        websocket.connection_made(cast(asyncio.BaseTransport, self.transport))

    def send(self, data: bytes, *, text: bool = False, fin: bool = True) -> None:
        (self._core.send_text if text else self._core.send_binary)(data, fin)
        self._deliver()

    def send_continuation(self, data: bytes, *, fin: bool) -> None:
        self._core.send_continuation(data, fin)
        self._deliver()

    def ping(self, data: bytes = b"") -> None:
        self._core.send_ping(data)
        self._deliver()

    def close(self, code: int = 1000) -> None:
        self._core.send_close(code)
        self._deliver()

    def lose(self) -> None:
        """The connection breaks, or the end of both sides has been exchanged."""
        self.transport.closing = True
        self.websocket.connection_lost(None)

    def received(self) -> list[bytes]:
        """The messages that arrived since the last call."""
        return [bytes(frame.data) for frame in self._frames() if frame.opcode in (Opcode.TEXT, Opcode.BINARY)]

    def received_frames(self) -> list[Opcode]:
        """The kinds of frames that arrived since the last call."""
        return [frame.opcode for frame in self._frames()]

    @property
    def close_code(self) -> int | None:
        """The code of the server's close frame, if one arrived."""
        self._parse()
        return None if self._core.close_rcvd is None else int(self._core.close_rcvd.code)

    def _frames(self) -> Sequence[Frame]:
        self._parse()
        events, self._kept = self._kept, []
        return events

    def _parse(self) -> None:
        data = bytes(self.transport.written)
        self.transport.written.clear()
        if data:
            self._core.receive_data(data)
            self._kept += cast(list[Frame], self._core.events_received())

    def _deliver(self) -> None:
        for data in self._core.data_to_send():
            for begin in range(0, len(data), SEGMENT):
                segment = data[begin : begin + SEGMENT]
                self.websocket.get_buffer(-1)[: len(segment)] = segment
                self.websocket.buffer_updated(len(segment))
