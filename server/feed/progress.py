"""What a device received until it had everything, for those who count usage."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from protocol.frames import TAG, Row
from server.feed.resume import Why


class CaughtUp(NamedTuple):
    """A device has everything for the first time since its hello."""

    user: str
    tier: str
    why: Why | None
    """Why it got a snapshot; None if it resumed."""
    seconds: float
    """Since its hello was accepted."""
    rows: dict[str, int]
    """By tag; deletions by `-` and the tag."""
    size: int
    """Bytes of frames with rows."""


class Progress:
    """What one device received so far. `clock`: monotonic seconds; `report` is called once, when it has everything."""

    __slots__ = ("_began", "_clock", "_report", "_rows", "_size", "_tier", "_why")

    def __init__(self, clock: Callable[[], float], report: Callable[[CaughtUp], None]) -> None:
        self._clock = clock
        self._report = report
        self._began = clock()
        self._tier = ""
        self._why: Why | None = None
        self._rows: dict[str, int] = {}
        self._size = 0

    def welcomed(self, tier: str, why: Why | None) -> None:
        self._tier, self._why = tier, why

    def sent(self, rows: Sequence[Row], size: int) -> None:
        """Rows were sent, in frames of `size` bytes."""
        self._size += size
        for row in rows:
            tag = row[TAG]
            self._rows[tag] = self._rows.get(tag, 0) + 1

    def live(self, user: str) -> None:
        """The device has everything."""
        self._report(CaughtUp(user, self._tier, self._why, self._clock() - self._began, self._rows, self._size))
