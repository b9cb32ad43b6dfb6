"""Whether a device resumes from its cursor, or why it needs a snapshot. Pure.

`start` decides from the cursor alone. The first reading of the log from there may still reveal a reason
(`change.follow`).
"""

from collections.abc import Container
from enum import StrEnum
from uuid import UUID

from protocol.cursor import Cursor, Position, owner_digest


class Why(StrEnum):
    """Why a device gets a snapshot (SPEC.md 7.2)."""

    NEW = "new"
    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    EPOCH = "epoch"
    SCHEMA = "schema"
    AHEAD = "ahead"
    TOO_OLD = "too_old"


def start(cursor: bytes | None, user: UUID, epoch: str, outdated: Container[str] = ()) -> Position | Why:
    """The position at which a device with `cursor` resumes, or why it cannot resume. `outdated`: earlier epochs since
    which only the schema has changed."""
    if cursor is None:
        return Why.NEW
    decoded = Cursor.decode(cursor)
    if decoded is None:
        return Why.UNREADABLE
    if decoded.owner != owner_digest(user):
        return Why.FOREIGN
    if decoded.epoch != epoch:
        return Why.SCHEMA if decoded.epoch in outdated else Why.EPOCH
    return decoded.position
