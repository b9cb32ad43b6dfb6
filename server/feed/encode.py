"""Outgoing frames as bytes. A frame for many sockets is encoded once for each encoding."""

from websockets.frames import Frame, Opcode

from protocol.codec import Codec
from protocol.cursor import Cursor, Position
from protocol.frames import Changes, Live, ToClient
from server.feed.change import Batch


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


def message(frame: ToClient, codec: Codec) -> bytes:
    return Frame(Opcode.TEXT if codec.text else Opcode.BINARY, codec.encode(frame)).serialize(mask=False)


def changes(epoch: str, owner: bytes, after: Position, batch: Batch) -> Outgoing:
    return Outgoing(
        Changes(
            from_=Cursor(epoch, owner, after).encode(),
            to=Cursor(epoch, owner, batch.to).encode(),
            rows=batch.rows,
            partial=batch.partial,
            seq=None if batch.partial else batch.to.seq,
        )
    )


def live(epoch: str, owner: bytes, position: Position) -> Outgoing:
    return Outgoing(Live(cursor=Cursor(epoch, owner, position).encode(), seq=position.seq))
