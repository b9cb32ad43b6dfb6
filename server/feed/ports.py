"""What the read path needs from outside: a socket to write to, a store to read from, a source of doorbells."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol
from uuid import UUID

from msgspec import Struct

from protocol.codec import Codec
from protocol.cursor import Position
from protocol.frames import COLUMNS, ID, Error, Instant, Key, Row
from server.declaration.model import Kind
from server.exceptions import UnavailableError
from server.feed.change import Entry, Reading
from server.feed.resume import Why

CONTENT_BYTES: Final = 256 * 1024
"""Content that one statement reads for one connection, in bytes. With websocket.HIGH_WATER it bounds the memory that a
slow device costs."""


class Sink(Protocol):
    """A socket, as the read path sees it.

    No call but `wait_writable` waits. A socket whose buffer is full reports that through `Readers.stall` and
    `Readers.resume`, and nothing is read for it in between: otherwise one slow phone would fill the memory.
    """

    @property
    def codec(self) -> Codec: ...

    @property
    def session(self) -> str:
        """The connection's name in the log."""

    @property
    def full(self) -> bool:
        """Whether its buffer is full."""

    @property
    def gone(self) -> bool:
        """Whether it is closed or closing. Data sent now is lost."""

    def welcome(self, tier: str | None, why: Why | None, wire: bytes) -> Instant:
        """Answer the hello: the device resumes, or (`why`) a snapshot follows. `tier`: None without a gate. Sends
        `wire`, bytes of whole WebSocket messages, behind the answer. Returns the time that the answer names, in
        microseconds since 1970."""

    def send(self, wire: bytes) -> None:
        """Send bytes of whole WebSocket messages."""

    def send_error(self, error: Error) -> None:
        """Send an error and stay open."""

    def close(self, error: Error) -> None:
        """Send an error, then close with the code that belongs to it."""

    async def wait_writable(self) -> None:
        """Wait until it is not full, or gone."""


ANYWHERE: Final = Position(0)


Window = Mapping[str, int]
"""By kind: how many of the newest rows a device wants at first. Of other kinds it gets what the declaration says."""


class ReadKey(NamedTuple):
    user: str
    after: Position


class Before(NamedTuple):
    """A place in a list, newest first. The rows after it are older than `at`, or as old with a smaller id."""

    at: Any
    """The value of the column that orders the list; None without such a column."""
    id: Key


class Want(NamedTuple):
    """The newest `rows` rows of a list, or the newest that are older than `before`."""

    parent: Key | None
    """Whose rows; None for a kind without parents."""
    before: Before | None
    rows: int


def place_of(kind: Kind, row: Row) -> Before:
    """The place of a row in its list."""
    at = None if kind.newest is None else row[COLUMNS + kind.index[kind.newest]]
    return Before(at, row[ID])


@dataclass(frozen=True, slots=True)
class Answer:
    """What a read of rows returns: rows of one kind, in the order of the wants and newest first in each."""

    position: Position
    """The feed's head in the database snapshot that it comes from."""
    tier: str | None
    """The value of the gate's column; empty for NULL. None: the user has no such row."""
    rows: list[tuple[int, Row]]
    """(index of the want, row)"""
    cut: bool
    """Whether the bound on content was reached before all wants were met."""

    def rest(self, kind: Kind, wants: Sequence[Want], asked: Sequence[Want]) -> list[Want]:
        """The part of `wants` that this answer leaves open. `asked`: what was asked of them, from the first on; perhaps
        for fewer rows of each."""
        rest: list[Want] = []
        found: dict[int, int] = {}
        last: dict[int, Row] = {}
        for i, row in self.rows:
            found[i] = found.get(i, 0) + 1
            last[i] = row
        reached = self.rows[-1][0] if self.cut else len(asked)
        for i, want in enumerate(asked):
            whole = wants[i]
            if i > reached:
                rest.append(whole)
                continue
            count = found.get(i, 0)
            more = i == reached or (count == want.rows and want.rows < whole.rows)
            if more and count < whole.rows:
                rest.append(Want(whole.parent, place_of(kind, last[i]), whole.rows - count))
        return [*rest, *wants[len(asked) :]]


class Rows(Protocol):
    """Reads a user's rows. Every call raises UnavailableError when Postgres cannot be reached.

    The answer's position is at or past `since`, so a device at `since` can apply it. `ANYWHERE`: any position will do,
    because the reader starts at the answer's. None: the device's position is unknown.
    """

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        """At least one row if there is any. Another user's rows are not found."""


class Asked(NamedTuple):
    """What `Rows.rows` is asked for, but for the kind."""

    user: str
    wants: Sequence[Want]
    since: Position | None


class RowsOfMany(Protocol):
    """Reads rows of several users at once. What holds for `Rows` holds for each answer."""

    async def rows_of(self, kind: Kind, asked: Sequence[Asked], content_bytes: int) -> list[Answer]:
        """An answer for each, in order, of at most `content_bytes` each. Raises UnavailableError."""


class ReadingError(UnavailableError):
    """A statement failed in a Postgres that is there: a row that it read may be why."""


class Store(Rows, RowsOfMany, Protocol):
    """Reads one Postgres. Every call is one statement in its own snapshot."""

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        """One reading for each key, in order: at most `rows` entries and `content_bytes` of content each, but at least
        one entry if there is any. Raises UnavailableError, ReadingError."""

    async def heads(self, users: Sequence[str]) -> tuple[str, list[Position]]:
        """The epoch, and the head of each user's feed (seq 0: the user has no feed)."""


class Express(Protocol):
    """Reads for one live reader at once. What is unusual it leaves to the store."""

    @property
    def free(self) -> bool:
        """Whether it can read now."""

    def read(self, user: str, after: int, done: Callable[[Sequence[Entry] | None], None]) -> None:
        """Read what follows the transaction `after`; only while it is `free`. `done` gets all entries up to the end of
        the log, at least one; or None: the store has to read. It is called later, never within this call."""


class Moved(Struct, frozen=True):
    """One transaction moved a feed."""

    user: str
    seq: int
    prev: int
    """The feed's seq before."""
    entries: Callable[[], Sequence[Entry] | None]
    """All entries of the transaction in this feed; None: they have to be read."""


class Replica(Protocol):
    """A copy of the primary that may lag."""

    @property
    def store(self) -> Store:
        """Reads it. What it reads is one state of the primary's past."""

    @property
    def usable(self) -> bool:
        """Whether it answers, follows the primary, and lags little."""

    async def check(self) -> None:
        """Raise UnavailableError unless all that was read up to here is of the history that counts."""

    def leave(self, why: str) -> None:
        """It failed. It is not usable until it was found to be well."""


class Cache(Protocol):
    """Keeps answers for later, and may lose them at any time. No call raises."""

    async def get(self, key: str) -> bytes | None:
        """None if it is not kept, or the cache does not answer within a moment."""

    def put(self, key: str, value: bytes, seconds: int) -> None:
        """Keep it for so many seconds, soon."""


class DeviceState(StrEnum):
    """What a device's connection is doing."""

    CATCHING_UP = "catching_up"
    LIVE = "live"
    STALLED = "stalled"
    """Its socket is full."""
    SNAPSHOT = "snapshot"
    CLOSED = "closed"


class DeviceStatus(NamedTuple):
    """The position and state of a device when it was last checked."""

    user: str
    client_id: UUID
    session: str
    seq: int | None
    """Its position; None in the middle of a snapshot."""
    state: DeviceState
    close_code: int | None
    connected_at: Instant
    """When its connection was welcomed: of two connections of a device the later one counts."""


class PresenceStore(Protocol):
    """Keeps the last status of each device."""

    async def record(self, server: str, statuses: Sequence[DeviceStatus]) -> None:
        """Record at most one status of each client_id, and that the server is alive. Raises UnavailableError."""


class Doorbells(Protocol):
    """Reports that feeds moved. May lose a doorbell and may invent one: the log is what counts."""

    async def run(self, ring: Callable[[str, int], object], up: Callable[[], None], down: Callable[[], None]) -> None:
        """Call `ring` for each doorbell until cancelled. `up`: doorbells arrive from now on; earlier ones may have been
        missed. `down`: none arrive."""
