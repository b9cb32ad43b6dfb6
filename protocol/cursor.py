"""Where a device stands in its feed, as the opaque bytes that it keeps."""

import struct
from hashlib import blake2b
from typing import NamedTuple, Self
from uuid import UUID

VERSION = 2
_LAYOUT = struct.Struct(">B4s8sQQQ")
_UNMARKED = struct.Struct(">B4s8sQQ")
"""Of version 1."""
SIZE = _LAYOUT.size
"""Bytes of a cursor: 37."""


class Position(NamedTuple):
    """A place in one feed. `n` is 0 behind a whole transaction; else it is the last row seen of transaction `seq`.

    `mark` names that transaction, because a database that lost it may have given its seq to another one; 0: unknown.
    """

    seq: int
    n: int = 0
    mark: int = 0


class Cursor(NamedTuple):
    """A position, and the history and the feed that it belongs to.

    `epoch` is 16 hexadecimal digits. `owner` is a digest of the user, so that a cursor presented by somebody else
    is recognised instead of silently skipping that person's changes.
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
        """The cursor in `data`, or None when these bytes are no cursor of a version that this one knows."""
        layout = {(VERSION, SIZE): _LAYOUT, (1, _UNMARKED.size): _UNMARKED}.get((data[0] if data else 0, len(data)))
        if layout is None:
            return None
        _, owner, epoch, *place = layout.unpack(data)
        # A bigint in Postgres: larger numbers come only from somebody who made the bytes up.
        if max(place) >= 1 << 63:
            return None
        return cls(epoch.hex(), owner, Position(*place))


def owner_digest(user: UUID) -> bytes:
    """Four bytes that tell one user's cursors from another's; not a secret, and no proof of anything."""
    return blake2b(user.bytes, digest_size=4, person=b"atlas-cursor").digest()
