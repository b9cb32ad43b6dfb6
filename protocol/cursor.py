"""A device's position in its feed, as opaque bytes that the device keeps."""

import struct
from hashlib import blake2b
from typing import NamedTuple, Self
from uuid import UUID

VERSION = 2
_LAYOUT = struct.Struct(">B4s8sQQQ")
_UNMARKED = struct.Struct(">B4s8sQQ")
"""The layout of version 1, which had no mark."""
SIZE = _LAYOUT.size
"""Size of a cursor in bytes: 37."""


class Position(NamedTuple):
    """A position in one feed. `n` is 0 after a whole transaction, otherwise the last row read of transaction `seq`.

    `mark` names that transaction, because a database that lost it may have given its seq to another one; 0: unknown.
    """

    seq: int
    n: int = 0
    mark: int = 0


class Cursor(NamedTuple):
    """A position, with the history and the feed that it belongs to.

    `epoch` has 16 hexadecimal digits. `owner` is a digest of the user: it reveals another user's cursor, which would
    otherwise skip changes silently.
    """

    epoch: str
    owner: bytes
    position: Position

    @classmethod
    def of(cls, epoch: str, user: UUID, position: Position) -> Self:
        return cls(epoch, owner_digest(user), position)

    def encode(self) -> bytes:
        return _LAYOUT.pack(VERSION, self.owner, bytes.fromhex(self.epoch), *self.position)

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Return the cursor in `data`; None if it is not a cursor of a known version."""
        layout = {(VERSION, SIZE): _LAYOUT, (1, _UNMARKED.size): _UNMARKED}.get((data[0] if data else 0, len(data)))
        if layout is None:
            return None
        _, owner, epoch, *place = layout.unpack(data)
        # Postgres stores them as bigint, so a cursor with larger numbers was not made by a server.
        if max(place) >= 1 << 63:
            return None
        return cls(epoch.hex(), owner, Position(*place))


def owner_digest(user: UUID) -> bytes:
    """Four bytes that distinguish users' cursors. They are no secret, and prove nothing."""
    return blake2b(user.bytes, digest_size=4, person=b"atlas-cursor").digest()
