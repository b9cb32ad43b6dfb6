"""What the read path needs from outside: a socket to write to, a store to read from, a source of doorbells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

from protocol.close import CloseCode
from protocol.codec import Codec
from protocol.cursor import Position
from protocol.frames import Before, Conversation, Error, Instant, Message, Profile
from server.feed.change import Page, Why


class Sink(Protocol):
    """A socket, as the read path sees it. No call waits: a socket that takes no more says so through
    `Hub.stall` and `Hub.resume`, and is not read for in between; else one slow phone would fill the memory."""

    @property
    def codec(self) -> Codec: ...

    @property
    def session(self) -> str:
        """What this connection is called in the log."""

    @property
    def full(self) -> bool:
        """More is waiting in its buffer than it takes."""

    @property
    def gone(self) -> bool:
        """It is closed, or closing; what is written now is lost."""

    def welcome(self, tier: str, why: Why | None) -> None:
        """The hello is answered: resumed, or (`why`) a snapshot follows."""

    def write(self, wire: bytes) -> None:
        """Bytes of whole WebSocket messages."""

    def say(self, error: Error) -> None:
        """Tell without closing."""

    def close(self, code: CloseCode, error: Error) -> None:
        """Tell, then close."""

    async def room(self) -> None:
        """Wait until it is not full, or gone."""


class Window(NamedTuple):
    """How many of the newest conversations, and of the newest messages of each, a device wants at first."""

    conversations: int
    messages: int


class ReadKey(NamedTuple):
    user: str
    after: Position


class Want(NamedTuple):
    """The newest `rows` messages of a conversation, older than `before` if it is given."""

    conversation: UUID
    before: Before | None
    rows: int


@dataclass(frozen=True, slots=True)
class Overview:
    """A user's conversations, newest first, and what stands beside them in the same database snapshot."""

    as_of: int
    tier: str | None
    profile: Profile | None
    conversations: list[Conversation]
    rest: list[UUID]
    """Those behind them that did not fit in the bound on content."""
    mark: int = 0
    """The name of the transaction at `as_of`."""


@dataclass(frozen=True, slots=True)
class Titles:
    """Conversations by their ids."""

    as_of: int
    conversations: list[Conversation]
    rest: list[UUID]
    """Those behind them that did not fit in the bound on content."""


@dataclass(frozen=True, slots=True)
class History:
    """Messages, in the order of the wants and newest first in each."""

    as_of: int
    messages: list[tuple[int, Message]]
    """(index of the want, message)"""
    cut: bool
    """The bound on content ended it before all wants were met."""

    def rest(self, wants: Sequence[Want]) -> list[Want]:
        """What is still to be read of `wants`, which this answers."""
        if not self.cut:
            return []
        index, last = self.messages[-1]
        reached = wants[index]
        missing = reached.rows - sum(1 for i, _ in self.messages if i == index)
        rest = [Want(reached.conversation, Before(last.created_at, last.id), missing)] if missing else []
        return [*rest, *wants[index + 1 :]]


class Store(Protocol):
    """Reads what Postgres holds. Every call is one statement in its own snapshot, and raises UnavailableError when
    Postgres cannot be reached."""

    async def read_feed(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Page]:
        """A page for each key, in order; at most `rows` entries and `content_bytes` of content each, but at least one
        entry if there is any."""

    async def conversations(self, user: str, before: Before | None, rows: int, content_bytes: int) -> Overview:
        """At least one conversation if there is any."""

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int) -> Titles:
        """The conversations of these ids that there still are, in this order; at least one if there is any."""

    async def messages(self, user: str, wants: Sequence[Want], content_bytes: int) -> History:
        """At least one message if there is any. What belongs to somebody else is not found."""

    async def heads(self, users: Sequence[str]) -> tuple[str, list[Position]]:
        """The epoch, and where each user's feed is (seq 0: there is none)."""


class Sighting(NamedTuple):
    """Where a device was seen."""

    user: str
    client_id: UUID
    session: str
    seq: int | None
    """Its position; None in the middle of a snapshot."""
    state: str
    """live, catching_up, stalled, snapshot or closed."""
    close_code: int | None
    connected_at: Instant
    """When its connection was welcomed: of two connections of a device the later one counts."""


class Notebook(Protocol):
    """Keeps the last sighting of each device."""

    async def note(self, server: str, sightings: Sequence[Sighting]) -> None:
        """At most one of a client_id. Also without any it notes that the server lives. Raises UnavailableError."""


class Doorbells(Protocol):
    """Tells that feeds moved. May lose a ring, may invent one: the log is what counts."""

    async def run(self, ring: Callable[[str, int], object], up: Callable[[], None], down: Callable[[], None]) -> None:
        """Ring until cancelled. `up`: from now on rings come, and what came before may have been missed. `down`: none
        come."""
