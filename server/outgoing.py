"""Outgoing frames as bytes. A frame for many sockets is encoded once for each encoding."""

from struct import Struct
from typing import Final

from protocol.codec import Codec
from protocol.frames import ToClient


class Outgoing:
    """One frame for any number of sockets."""

    __slots__ = ("_frame", "_wire")

    def __init__(self, frame: ToClient) -> None:
        self._frame = frame
        self._wire: dict[Codec, bytes] = {}

    def wire(self, codec: Codec) -> bytes:
        """The WebSocket message, header included. A server does not mask, so the bytes are the same for all sockets."""
        data = self._wire.get(codec)
        if data is None:
            data = self._wire[codec] = message(self._frame, codec)
        return data


_TEXT: Final = 0x81
_BINARY: Final = 0x82
"""First bytes of a WebSocket message: the last frame of it, and what it holds (RFC 6455, 5.2)."""
_MEDIUM: Final = Struct(">BBH")
_LONG: Final = Struct(">BBQ")


def message(frame: ToClient, codec: Codec) -> bytes:
    data = codec.encode(frame)
    first, size = _TEXT if codec.text else _BINARY, len(data)
    if size < 126:
        return bytes((first, size)) + data
    return (_MEDIUM.pack(first, 126, size) if size < 65_536 else _LONG.pack(first, 127, size)) + data
