"""What streams need from outside: a database that keeps them, and word of what other processes did."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from protocol.codec import Codec
from protocol.frames import Seq


class State(StrEnum):
    """Whether the text of a stream may grow, or why it does not."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Place(NamedTuple):
    """A column of a row."""

    tag: str
    key: tuple[str, ...]
    """As texts."""
    column: str
    """Its name on the wire."""


class Found(NamedTuple):
    """A stream in the database."""

    id: UUID
    user: str
    place: Place
    since: Seq
    """The feed's position when it was opened."""
    state: State
    settled: bool
    stopping: bool
    """Somebody wants it to end."""
    at: int | None
    """Where `text` begins; None: there is no text behind the offset that was asked for."""
    text: str | None


class Opened(NamedTuple):
    id: UUID
    fresh: bool
    """It was opened by this call."""
    state: State
    since: Seq
    text: str
    """What was written already. May be gone once it is settled."""


class Part(NamedTuple):
    """A part of a text."""

    id: UUID
    at: int
    text: str


class Settled(NamedTuple):
    """What became of a stream whose row was looked at."""

    id: UUID
    state: State
    settled: bool
    written: bool
    """The server wrote the row."""
    trouble: str | None
    """The SQLSTATE with which the row could not be written."""


class NoRowError(Exception):
    """There is no such row of this user."""


class TooManyError(Exception):
    """The user has the permitted number of open streams."""


ANYWHERE = 2_147_483_647
"""An offset behind all texts: of these streams only the states are read."""


class StreamStore(Protocol):
    """Every call is one transaction, and raises UnavailableError."""

    async def open(self, id_: UUID, user: UUID, place: Place, most: int, *, restart: bool) -> Opened:
        """Raises NoRowError, TooManyError."""

    async def append(self, parts: Sequence[Part]) -> set[UUID]:
        """Append to different streams. Returns those to which it was appended: the others end elsewhere."""

    async def read(self, wants: Sequence[tuple[UUID, int]]) -> list[Found]:
        """What these streams have from an offset on, which is the beginning of a part. Those that do not exist are left
        out."""

    async def unsettled(self) -> list[Found]:
        """All that are not settled, without their texts."""

    async def end(self, id_: UUID, state: State, expected: int | None, *, write: bool) -> tuple[State, int] | None:
        """End a stream, if its text ends at `expected`. Returns its state, and where its text ends; None: there is no
        such stream."""

    async def stop(self, ids: Sequence[UUID]) -> set[UUID]:
        """Note that these are to end. Returns those that are open."""

    async def touch(self, ids: Sequence[UUID]) -> None:
        """The writers of these are there."""

    async def lost(self, ids: Sequence[UUID]) -> set[UUID]:
        """Those of these that are open and whose row is gone, or another user's."""

    async def settle(self, *, silent: bool) -> list[Settled]:
        """Look at the rows of those that have ended. `silent`: those with a silent writer have ended, too."""

    async def rotate(self) -> None:
        """Remove what is not needed any more."""


class Notices(Protocol):
    """Word of what other processes did. Some may be lost while it is down."""

    async def run(
        self, heard: Callable[[float, list[UUID]], object], up: Callable[[], None], down: Callable[[], None]
    ) -> None:
        """Call `heard` with the time, in seconds since 1970, and the streams that changed then; until cancelled."""


class Sink(Protocol):
    """A socket, as streams see it. One that is full gets nothing until it is not."""

    @property
    def codec(self) -> Codec: ...

    @property
    def full(self) -> bool: ...

    def send(self, wire: bytes) -> None:
        """Send bytes of whole WebSocket messages."""

    def prove(self) -> None:
        """Send the device `live` as soon as it has been sent all rows that are committed by now, and not before."""
