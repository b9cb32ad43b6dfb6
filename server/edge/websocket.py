"""An open WebSocket: bytes in, whole messages out; what a peer may send, and an end that it can see.

An asyncio protocol over the sans-I/O core of `websockets`. Every frame counts: pings, pongs and empty fragments too.
The input is read in slices, so that a socket that floods has the loop for one slice at a time.
"""

import asyncio
from typing import Final, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

SLICE: Final = 4 * 1024
"""Bytes read before others get the loop; uvloop would read 8 MiB. In frames of 6 bytes, the smallest, that is 5 ms."""
PIECE: Final = 512
"""Bytes between two looks whether it is too much: some 80 of the smallest frames, 0.7 ms."""
HIGH_WATER: Final = 64 * 1024
"""Bytes in a socket's buffer from which on it is full. With one batch on top (pump.CONTENT) that is all a slow device
can cost."""
LOW_WATER: Final = 16 * 1024
CLOSE_SECONDS: Final = 5.0
"""How long a peer may take to end a connection on which we have said our last."""
DISCARDED: Final = 16 * 1024 * 1024
"""Bytes that are read and thrown away at the end. A socket that is closed with unread input is reset, and the peer may
never see our close frame."""

_slice: Final = memoryview(bytearray(SLICE))
_waste: Final = memoryview(bytearray(256 * 1024))
# Shared by all sockets: what is read into them is used before the loop reads again.


class WebSocket(asyncio.BufferedProtocol):
    """A subclass says what a message means, and when the connection has sent too much."""

    __slots__ = (
        "_bytes",
        "_core",
        "_deaf",
        "_discarded",
        "_fragments",
        "_frames",
        "_full",
        "_transport",
        "_yielding",
    )

    text: bool
    """Messages are text; else binary."""

    def __init__(self, max_size: int) -> None:
        self._core = Protocol(Side.SERVER, state=State.OPEN, max_size=max_size)
        self._transport: asyncio.Transport | None = None
        self._fragments: bytearray | None = None
        self._frames = 0
        self._bytes = 0
        self._full = False
        self._yielding = False
        self._deaf = False
        """What the peer still says is thrown away."""
        self._discarded = 0

    # --- what a subclass says

    def opened(self) -> None:
        """The connection is there."""

    def lost(self) -> None:
        """The connection is no more."""

    def message(self, data: bytes) -> None:
        """The peer sent a whole message."""
        raise NotImplementedError

    def wrong_kind(self) -> None:
        """The peer sent text for binary, or binary for text."""
        raise NotImplementedError

    def ending(self) -> None:
        """The end has begun: nothing more is said, and it must not take for ever. Called again as it goes on."""
        raise NotImplementedError

    def filled(self) -> None:
        """More is waiting to be sent than the peer takes."""
        raise NotImplementedError

    def drained(self) -> None:
        """The peer takes data again."""
        raise NotImplementedError

    def sends_too_much(self) -> bool:
        """Whether `frames` and `bytes` since the last `forgive` are more than are permitted."""
        raise NotImplementedError

    def cut_off(self) -> None:
        """It sends too much. To be closed."""
        raise NotImplementedError

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class is none, but does what one does
        self._transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        self.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.lost()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _waste if self._deaf else _slice

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            self._discard(nbytes)
            return
        self.receive(bytes(_slice[:nbytes]))
        if nbytes == SLICE and not self._deaf:
            # There is more. Others come first.
            self._yielding = True
            self._read_or_not()
            asyncio.get_running_loop().call_soon(self._go_on)

    def receive(self, data: bytes) -> None:
        """The peer sent `data`."""
        core = self._core
        for begin in range(0, len(data), PIECE):
            piece = data[begin : begin + PIECE]
            self._bytes += len(piece)
            core.receive_data(piece)
            for event in core.events_received():
                self._frames += 1
                self._frame(cast(Frame, event))
            self._flush()
            if self._deaf:
                return
            if self.sends_too_much():
                self.cut_off()
                self._hang_up()
                return

    def eof_received(self) -> None:
        if not self._deaf:
            self._core.receive_eof()
            self._flush()

    def pause_writing(self) -> None:
        self._full = True
        # Whoever does not read its answers asks no more questions.
        self._read_or_not()
        self.filled()

    def resume_writing(self) -> None:
        self._full = False
        self._read_or_not()
        self.drained()

    def _go_on(self) -> None:
        self._yielding = False
        self._read_or_not()

    def _read_or_not(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if self._yielding or (self._full and not self._deaf):
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # --- in

    def forgive(self) -> None:
        """Begin to count anew what the peer sends."""
        self._frames = self._bytes = 0

    def _frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return  # the core answers pings and closes
        if frame.opcode is not Opcode.CONT and (frame.opcode is Opcode.TEXT) is not self.text:
            self.wrong_kind()
            return
        data = bytes(frame.data)
        # The core's parser holds on to what it parsed last for as long as the connection lives.
        frame.data = b""
        if self._fragments is not None:
            self._fragments += data
            if not frame.fin:
                return
            data, self._fragments = bytes(self._fragments), None
        elif not frame.fin:
            self._fragments = bytearray(data)
            return
        if self.text and not _is_utf8(data):
            self._core.fail(1007, "text that is not UTF-8")
            return
        self.message(data)

    def _hang_up(self) -> None:
        """Say no more, and hear no more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()
        self._deaf = True
        self._fragments = None
        self._read_or_not()
        self.ending()

    def _discard(self, nbytes: int) -> None:
        self._discarded += nbytes
        if self._discarded > DISCARDED:
            self.abort()

    # --- out

    @property
    def full(self) -> bool:
        return self._full

    @property
    def gone(self) -> bool:
        # A transport that is closing, because the peer reset it for instance, refuses what is written to it.
        return self._transport is None or self._transport.is_closing() or self._core.state is not State.OPEN

    @property
    def close_code(self) -> int | None:
        """The one that ended it, or is about to: ours, else the peer's."""
        close = self._core.close_sent or self._core.close_rcvd
        return None if close is None else int(close.code)

    @property
    def close_codes(self) -> tuple[int | None, int | None]:
        """Ours and the peer's."""
        sent, received = self._core.close_sent, self._core.close_rcvd
        return None if sent is None else int(sent.code), None if received is None else int(received.code)

    def write(self, wire: bytes) -> None:
        """Send bytes of whole messages."""
        if not self.gone:
            assert self._transport is not None
            self._transport.write(wire)

    def send_close(self, code: int, reason: str) -> None:
        """`reason` has 123 bytes at most."""
        self._core.send_close(code, reason)
        self._flush()

    def abort(self) -> None:
        """`close` would wait for the buffer to empty, which a peer that has stopped reading never lets happen."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        """Send what the core has to say by itself: pongs, the answer to a close, its own."""
        for data in self._core.data_to_send():
            if self._transport is None or self._transport.is_closing():
                return
            if data:
                self._transport.write(data)
            else:
                self._hang_up()
        if self._core.close_expected():
            self.ending()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
