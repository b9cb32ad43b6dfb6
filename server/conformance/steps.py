"""The steps of a scenario, as values. runner.py carries them out, one after the other."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from protocol.frames import Row, ToClient

Json = dict[str, Any]
LATE: Final = 10.0
"""Seconds that a step may take: a device may wait up to a second before it comes back, and the machine may be busy."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the client, and connect it. The store is kept over the starts of a scenario."""

    window: dict[str, int] | None = None
    user: UUID | None = None
    """The one that the token is of; None: the client's own."""


@dataclass(frozen=True, slots=True)
class Token:
    """The app has another token from now on, of the same life."""

    user: UUID | None = None
    """As at Start."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh comes with the app's last token. extends: It is answered, with an hour more."""

    extends: bool = True


@dataclass(frozen=True, slots=True)
class NoHello:
    """No hello comes for so many seconds."""

    seconds: float = 1.5


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A connection comes, and is greeted.

    cursors: Those that `hello` may have; None: it has none. snapshot: Why the device gets one, although it has a
    cursor. clock_ahead: Of the server, in microseconds. limits: Those of `welcome` that are not the usual ones.
    keepalive: Milliseconds. greets: `welcome` follows. lasts: Microseconds until the token ends.
    """

    cursors: tuple[bytes | None, ...] = (None,)
    snapshot: str | None = None
    clock_ahead: int = 0
    limits: tuple[tuple[str, int], ...] = ()
    keepalive: int = 25_000
    greets: bool = True
    lasts: int = 3_600_000_000


@dataclass(frozen=True, slots=True)
class Send:
    """A frame, or a map that is none of this version."""

    frame: ToClient | Json


@dataclass(frozen=True, slots=True)
class Slowly:
    """The same, some bytes at a time."""

    frame: ToClient


@dataclass(frozen=True, slots=True)
class Close:
    """The server closes with a code; None: the connection is cut."""

    code: int | None = None


@dataclass(frozen=True, slots=True)
class Closes:
    """The client closes with one of these codes; None: without a close frame."""

    codes: tuple[int | None, ...] = (4000,)


@dataclass(frozen=True, slots=True)
class StaysAway:
    """No connection comes for so many seconds."""

    seconds: float = 2.5


@dataclass(frozen=True, slots=True)
class Push:
    """A push comes with these mutations: its sign and the id of its row for each, None for an empty array."""

    n: int
    mutations: tuple[tuple[str, UUID] | None, ...]
    held: int | None = None
    """None: any."""
    ahead: int | None = None
    """The mutations' `at` is by the server's clock, which is this much ahead, within a minute (microseconds)."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing but pings comes for so many seconds."""

    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Page:
    """A page is asked for, before this place; None: the newest."""

    kind: str
    parent: UUID | None
    before: tuple[int, UUID] | None


@dataclass(frozen=True, slots=True)
class Write:
    """The app writes."""

    op: str
    kind: str
    id: UUID
    columns: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Older:
    """The app asks for older rows. The answer may take as long as the page does."""

    kind: str
    parent: UUID | None = None


@dataclass(frozen=True, slots=True)
class Holds:
    """At last the client holds exactly these synced rows. One of them should arrive after what must change nothing: the
    client would hold the others before it has received that."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Outbox:
    """At last so many mutations have no result, and these codes of rejected ones are in the quarantine."""

    pending: int
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shows:
    """At last the client shows exactly these rows, each with the state of the stream that it shows; None: of none."""

    rows: tuple[tuple[Row, str | None], ...]


@dataclass(frozen=True, slots=True)
class AskStop:
    """The app stops the stream of a row. The answer may take as long as the server does."""

    kind: str
    id: UUID


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop of this row's streams comes."""

    tag: str
    id: UUID


@dataclass(frozen=True, slots=True)
class AnswerStop:
    """The last stop is answered. found: whether there was an open stream; None: with an error, which is for later."""

    found: bool | None


@dataclass(frozen=True, slots=True)
class Is:
    """At last the client's status is this."""

    state: str


Step = (
    Start
    | Token
    | Refresh
    | NoHello
    | Kill
    | Hello
    | Send
    | Slowly
    | Close
    | Closes
    | StaysAway
    | Push
    | Quiet
    | Page
    | Write
    | Older
    | Holds
    | Outbox
    | Shows
    | AskStop
    | Stop
    | AnswerStop
    | Is
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A course of events, and what it proves: a sentence, with the rules of SPEC.md."""

    name: str
    sentence: str
    steps: tuple[Step, ...]
    extra: str | None = None
    """For clients only that ask for this extension in `hello`."""
