"""The frames of the feed that many readers get."""

from protocol.cursor import Cursor, Position
from protocol.frames import Changes, Live
from server.feed.change import Batch
from server.outgoing import Outgoing


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
