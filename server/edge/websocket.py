"""A WebSocket of the server: bytes in, whole messages out, and a limit on everything that a peer can send.

An asyncio protocol. A message that arrives alone and whole, as nearly all do, is unmasked here; everything else goes
to the sans-I/O core of `websockets`, which a connection gets when it first needs one. Every frame counts against the
limits, also pings, pongs and empty fragments. Input is read in slices, so that a socket that floods occupies the loop
for one slice at a time.
"""

import asyncio
from typing import Final, cast
from typing import Protocol as Interface

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it was not compiled
    from websockets.utils import apply_mask

SLICE: Final = 4 * 1024
"""Bytes read before others get the loop; uvloop alone would read 8 MiB. In frames of 6 bytes, the smallest, they take
5 ms."""
PIECE: Final = 512
"""Bytes between two checks of the limits: some 80 of the smallest frames, 0.7 ms."""
HIGH_WATER: Final = 64 * 1024
"""Bytes in a socket's buffer that make it full. With one batch on top (ports.CONTENT_BYTES) this bounds the
memory that a slow device costs."""
LOW_WATER: Final = 16 * 1024
"""Bytes in a full socket's buffer at which it takes data again."""
CLOSE_SECONDS: Final = 5.0
"""How long a peer may take to end a connection after our close."""
DISCARDED: Final = 16 * 1024 * 1024
"""Bytes that are read and thrown away at the end. Closing a socket with unread input resets it, and the peer may then
never see our close frame."""

_slice: Final = memoryview(bytearray(SLICE))
_waste: Final = memoryview(bytearray(256 * 1024))
# Shared by all sockets: the contents are used before the loop reads again.


class Events(Interface):
    """What a WebSocket reports to its connection. No call may wait."""

    def opened(self) -> None:
        """The WebSocket is open."""

    def received(self, data: bytes) -> None:
        """The peer sent a whole message."""

    def wrong_kind(self) -> None:
        """The peer sent a text message instead of a binary one, or the reverse."""

    def within_limits(self, frames: int, size: int) -> bool:
        """Whether the peer may send so many frames and bytes between two calls of `reset_counts`."""

    def over_limits(self) -> None:
        """The peer has sent more. The connection is closed; further input is thrown away."""

    def writable(self, yes: bool) -> None:
        """The peer takes data, or has stopped taking it while more waits to be sent."""

    def ending(self) -> None:
        """The closing handshake has begun: nothing more is sent. May be reported more than once."""

    def lost(self) -> None:
        """The WebSocket is gone. Nothing more is reported."""


class WebSocket(asyncio.BufferedProtocol):
    """One open WebSocket. `text`: messages are text, otherwise binary. `max_size`: bytes of a message."""

    __slots__ = (
        "_bytes",
        "_core",
        "_deaf",
        "_discarded",
        "_events",
        "_fragments",
        "_frames",
        "_full",
        "_max_size",
        "_text",
        "_transport",
        "_yielding",
    )

    def __init__(self, events: Events, *, text: bool, max_size: int) -> None:
        self._events = events
        self._text = text
        self._max_size = max_size
        self._core: Protocol | None = None
        """None: every message so far came whole, and nothing else did. Most connections never need one: 11 µs and
        1.1 KB."""
        self._transport: asyncio.Transport | None = None
        self._fragments: bytearray | None = None
        self._frames = 0
        self._bytes = 0
        self._full = False
        self._yielding = False
        self._deaf = False
        """Whether further input is thrown away."""
        self._discarded = 0

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is no subclass, but behaves like one
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self._events.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._events.lost()
        # Collections are rare, so break the cycles: connection and WebSocket hold each other, and websockets' core and
        # its parser (1.26 KB) do.
        del self._events
        if self._core is not None:
            self._core.parser.close()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _waste if self._deaf else _slice

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            self._discard(nbytes)
            return
        self.receive(bytes(_slice[:nbytes]))
        if nbytes == SLICE and not self._deaf:
            # There is more; others get the loop first.
            self._yielding = True
            self._pause_or_resume()
            asyncio.get_running_loop().call_soon(self._stop_yielding)

    def receive(self, data: bytes) -> None:
        """The peer sent `data`."""
        if not data:
            return
        if self._core is None and (message := self._whole(data)) is not None:
            self._frames += 1
            self._bytes += len(data)
            self._message(message)
            if self._core is not None:  # the message was refused
                self._flush()
            self._check_limits()
            return
        core = self._with_core()
        for begin in range(0, len(data), PIECE):
            piece = data[begin : begin + PIECE]
            self._bytes += len(piece)
            core.receive_data(piece)
            for event in core.events_received():
                self._frames += 1
                self._frame(cast(Frame, event))
            self._flush()
            if self._deaf or not self._check_limits():
                return

    def _check_limits(self) -> bool:
        if self._deaf or self._events.within_limits(self._frames, self._bytes):
            return True
        self._events.over_limits()
        self._stop_receiving()
        return False

    def eof_received(self) -> None:
        if not self._deaf:
            self._with_core().receive_eof()
            self._flush()

    def pause_writing(self) -> None:
        self._full = True
        # A peer that does not read our answers may not ask for more.
        self._pause_or_resume()
        self._events.writable(False)

    def resume_writing(self) -> None:
        self._full = False
        self._pause_or_resume()
        self._events.writable(True)

    def _stop_yielding(self) -> None:
        self._yielding = False
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if self._yielding or (self._full and not self._deaf):
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # --- in

    def reset_counts(self) -> None:
        """Count the peer's frames and bytes from 0 again."""
        self._frames = self._bytes = 0

    def _frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # the core answers pings and closes
        if frame.opcode is not Opcode.CONT and (frame.opcode is Opcode.TEXT) is not self._text:
            self._events.wrong_kind()
            return
        data = bytes(frame.data)
        # websockets' parser keeps the last frame for the connection's lifetime. Clearing its data saves memory.
        frame.data = b""
        if self._fragments is not None:
            self._fragments += data
            if not frame.fin:
                return
            data, self._fragments = bytes(self._fragments), None
        elif not frame.fin:
            self._fragments = bytearray(data)
            return
        self._message(data)

    def _whole(self, data: bytes) -> bytes | None:
        """The message, if `data` is one frame with a whole message of the kind that is spoken; None otherwise."""
        size, begin = len(data), 6
        if size < 6 or data[0] != (0x81 if self._text else 0x82) or data[1] < 0x80:
            return None
        length = data[1] - 0x80
        if length == 126:
            length, begin = int.from_bytes(data[2:4], "big"), 8
        if length == 127 or length > self._max_size or begin + length != size:
            return None
        return apply_mask(data[begin:], data[begin - 4 : begin])

    def _message(self, data: bytes) -> None:
        if self._text and not _is_utf8(data):
            self._with_core().fail(1007, "text that is not UTF-8")
            return
        self._events.received(data)

    def _stop_receiving(self) -> None:
        """End our side, and throw away further input."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
        self._deaf = True
        self._fragments = None
        self._pause_or_resume()
        self._events.ending()

    def _discard(self, nbytes: int) -> None:
        self._discarded += nbytes
        if self._discarded > DISCARDED:
            self.abort()

    # --- out

    @property
    def connected(self) -> bool:
        """Whether it has a transport, which may be closing."""
        return self._transport is not None

    @property
    def full(self) -> bool:
        """Whether the buffer exceeded HIGH_WATER and has not drained to LOW_WATER yet."""
        return self._full

    @property
    def gone(self) -> bool:
        """Whether it is closed or closing. Data sent now is lost."""
        # A closing transport, for instance one that the peer reset, accepts no data.
        if self._transport is None or self._transport.is_closing():
            return True
        return self._core is not None and self._core.state is not State.OPEN

    @property
    def close_code(self) -> int | None:
        """The code that ends the connection: ours, otherwise the peer's."""
        sent, received = self.close_codes
        return received if sent is None else sent

    @property
    def close_codes(self) -> tuple[int | None, int | None]:
        """Our code and the peer's."""
        if self._core is None:
            return None, None
        sent, received = self._core.close_sent, self._core.close_rcvd
        return None if sent is None else int(sent.code), None if received is None else int(received.code)

    def send(self, wire: bytes) -> None:
        """Send bytes of whole messages."""
        if not self.gone:
            assert self._transport is not None
            self._transport.write(wire)

    def send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake. `reason`: at most 123 bytes."""
        self._with_core().send_close(code, reason)
        self._flush()

    def abort(self) -> None:
        """End the connection at once. A closing transport would wait for a buffer that a stalled peer never empties."""
        if self._transport is not None:
            self._transport.abort()

    def _with_core(self) -> Protocol:
        """The core. It begins between two frames."""
        if self._core is None:
            self._core = Protocol(Side.SERVER, state=State.OPEN, max_size=self._max_size)
        return self._core

    def _flush(self) -> None:
        """Send what the core produces by itself: pongs, the answer to a close, its own closes."""
        core = self._with_core()
        for data in core.data_to_send():
            if self._transport is None or self._transport.is_closing():
                return
            if data:
                self._transport.write(data)
            else:
                self._stop_receiving()
        if core.close_expected():
            self._events.ending()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
