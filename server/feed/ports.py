"""What the read path needs from outside: a socket to write to, a store to read from, a source of doorbells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from protocol.codec import Codec
from protocol.cursor import Position
from protocol.frames import Before, Conversation, Error, Instant, Message, Profile
from server.feed.change import Reading
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

    def welcome(self, tier: str, why: Why | None) -> Instant:
        """Answer the hello: the device resumes, or (`why`) a snapshot follows. Returns the time that the answer names,
        in microseconds since 1970."""

    def send(self, wire: bytes) -> None:
        """Send bytes of whole WebSocket messages."""

    def send_error(self, error: Error) -> None:
        """Send an error and stay open."""

    def close(self, error: Error) -> None:
        """Send an error, then close with the code that belongs to it."""

    async def wait_writable(self) -> None:
        """Wait until it is not full, or gone."""


ANYWHERE: Final = Position(0)


class Window(NamedTuple):
    """How many of the newest conversations, and of the newest messages of each, a device wants at first."""

    conversations: int
    messages: int


class ReadKey(NamedTuple):
    user: str
    after: Position


class Want(NamedTuple):
    """The newest `rows` messages of a conversation, or the newest that are older than `before`."""

    conversation: UUID
    before: Before | None
    rows: int


@dataclass(frozen=True, slots=True)
class Overview:
    """A user's conversations, newest first, with the profile."""

    position: Position
    tier: str | None
    profile: Profile | None
    conversations: list[Conversation]
    rest: list[UUID]
    """The conversations after these that exceeded the bound on content."""


@dataclass(frozen=True, slots=True)
class Titles:
    """Conversations by their ids."""

    position: Position
    conversations: list[Conversation]
    rest: list[UUID]
    """The conversations after these that exceeded the bound on content."""


@dataclass(frozen=True, slots=True)
class MessagesRead:
    """Messages, in the order of the wants and newest first in each."""

    position: Position
    messages: list[tuple[int, Message]]
    """(index of the want, message)"""
    cut: bool
    """Whether the bound on content was reached before all wants were met."""

    def rest(self, wants: Sequence[Want]) -> list[Want]:
        """The part of `wants` that this answer leaves open."""
        if not self.cut:
            return []
        index, last = self.messages[-1]
        reached = wants[index]
        missing = reached.rows - sum(1 for i, _ in self.messages if i == index)
        rest = [Want(reached.conversation, Before(last.created_at, last.id), missing)] if missing else []
        return [*rest, *wants[index + 1 :]]


Answer = Overview | Titles | MessagesRead
"""What a read of rows returns. `position` is the feed's head in the database snapshot that it comes from."""


class Rows(Protocol):
    """Reads a user's rows. Every call raises UnavailableError when Postgres cannot be reached.

    The answer's position is at or past `since`, so a device at `since` can apply it. `ANYWHERE`: any position will do,
    because the reader starts at the answer's. None: the device's position is unknown.
    """

    async def conversations(
        self, user: str, before: Before | None, rows: int, content_bytes: int, since: Position | None
    ) -> Overview:
        """At least one conversation if there is any."""

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int, since: Position | None) -> Titles:
        """The conversations of these ids that still exist, in this order; at least one if there is any."""

    async def messages(
        self, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> MessagesRead:
        """At least one message if there is any. Another user's messages are not found."""


class Store(Rows, Protocol):
    """Reads one Postgres. Every call is one statement in its own snapshot."""

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading]:
        """One reading for each key, in order: at most `rows` entries and `content_bytes` of content each, but at least
        one entry if there is any. Raises UnavailableError."""

    async def heads(self, users: Sequence[str]) -> tuple[str, list[Position]]:
        """The epoch, and the head of each user's feed (seq 0: the user has no feed)."""


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
