"""Every frame, one Struct each; rows and mutations."""

from typing import Annotated, Any, Final, Literal, NewType
from uuid import UUID

from msgspec import Meta, Raw, Struct, field

from protocol.schema import Kind

Instant = int
"""Microseconds since 1970-01-01 UTC."""
LAST_INSTANT: Final = (1 << 53) - 1
FIRST_INSTANT: Final = -LAST_INSTANT
"""The years 2255 and 1684: the range that every decoder represents exactly. Instants beyond it are clamped."""
Seq = int
"""A transaction's position within a feed; it is also an instant (section 6)."""

Milliseconds = NewType("Milliseconds", int)
"""A type of its own, because `int` also means microseconds here."""

NO_CLIENT: Final = UUID(int=0)

MAX_TOKEN = 16_384
"""Characters. Supabase tokens with large app_metadata reach some 4,000."""
MAX_CURSOR = 128
"""Bytes. Ours have 37; the rest leaves room for later versions."""
MAX_EXTRAS = 16
MAX_KINDS = 64
MAX_ROWS_ASKED = 1_000
MAX_MUTATIONS = 1_000
"""Mutations of one push, whatever the server's settings."""
STREAMS: Final = "streams"
"""The extension by which a device asks for streams."""

# --- rows -----------------------------------------------------------------------------------------------------------

Key = UUID | str | int | tuple[UUID | str | int, UUID | str | int]
"""A row's id: unique within its kind."""

Row = tuple[Any, ...]
"""Tag, seq, id, and the columns of the kind in the order of the schema. A deletion has the tag `-` and that of the
kind, and no columns. A tuple is encoded in half the time of a Struct (0.25 instead of 0.46 µs)."""
TAG: Final = 0
SEQ: Final = 1
ID: Final = 2
COLUMNS: Final = 3
"""Where a row's columns begin. For a kind with a parent, the first is the parent's key."""

# --- mutations ------------------------------------------------------------------------------------------------------


class Insert(Struct, frozen=True, array_like=True, tag="+"):
    """Creates a row. `columns` has the parent's key too."""

    kind: str
    """The tag."""
    id: Raw
    columns: dict[str, Raw]
    at: Instant


class Update(Struct, frozen=True, array_like=True, tag="~"):
    """Changes columns of a row."""

    kind: str
    id: Raw
    columns: dict[str, Raw]
    at: Instant


class Delete(Struct, frozen=True, array_like=True, tag="-"):
    """Deletes a row, with the rows below it."""

    kind: str
    id: Raw


Mutation = Insert | Update | Delete


class Applied(Struct, frozen=True, array_like=True, tag="applied"):
    n: int
    seq: Seq


class Repeated(Struct, frozen=True, array_like=True, tag="repeated"):
    """The mutation was applied before."""

    n: int
    seq: Seq


class Rejected(Struct, frozen=True, array_like=True, tag="rejected"):
    """The mutation is never applied. `code` is for programs, `message` for people; neither quotes a value. `column` is
    the one that is at fault, as far as it is known."""

    n: int
    code: str
    message: str
    column: str | None = None


Result = Applied | Repeated | Rejected

# --- client → server ------------------------------------------------------------------------------------------------


NOTHING: Final = Raw()
"""The default of a field that is decoded later."""
MAX_WINDOW: Final = 500
"""Rows of a list in a snapshot, whatever the declaration says."""

Window = dict[Annotated[str, Meta(max_length=64)], Annotated[int, Meta(ge=0, le=MAX_WINDOW)]]
"""By kind: how many of the newest rows a device wants at first, of the list or of each parent."""


class Hello(Struct, frozen=True, kw_only=True, tag_field="t", tag="hello"):
    """The first frame of a connection."""

    token: Annotated[str, Meta(max_length=MAX_TOKEN)]
    client_id: UUID
    cursor: Annotated[bytes, Meta(max_length=MAX_CURSOR)] | None = None
    window: Annotated[Window, Meta(max_length=MAX_KINDS)] | None = None
    extras: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=MAX_EXTRAS)] | None = None
    generation: Annotated[int, Meta(ge=1, le=1 << 53)] | None = None
    """Of two connections of one client_id the one with the larger generation keeps it."""
    schema: Annotated[str, Meta(max_length=64)] | None = None
    """The hash of the schema that the device has; empty if it has none. None: it does not want to be sent any."""

    def __post_init__(self) -> None:
        # Several devices that lost theirs would have this one, and one would get the answers to another's mutations.
        if self.client_id == NO_CLIENT:
            raise ValueError("client_id: the nil UUID names no device. Make one at random, and keep it.")


class AskPage(Struct, frozen=True, kw_only=True, tag_field="t", tag="page", omit_defaults=True):
    """Asks for older rows of a kind: of its list, or of one parent's rows."""

    id: Annotated[int, Meta(ge=0, le=1 << 53)]
    kind: Annotated[str, Meta(max_length=64)]
    parent: Raw = NOTHING
    before: Raw = NOTHING
    """A place in the list, [value of the column that orders it, id]. The rows after it are older."""
    limit: Annotated[int, Meta(ge=1, le=MAX_ROWS_ASKED)] | None = None


class Push(Struct, frozen=True, kw_only=True, tag_field="t", tag="push"):
    """Mutations with the numbers n, n + 1, … Each is decoded separately (`Codec.mutation`), so that a malformed one is
    rejected alone. A device would send a frame that is refused as a whole again for ever."""

    n: Annotated[int, Meta(ge=1, le=1 << 53)]
    mutations: Annotated[list[Raw], Meta(max_length=MAX_MUTATIONS)]
    held: Annotated[int, Meta(ge=1, le=1 << 53)] | None = None
    """The lowest number whose mutation the device still holds, acknowledged or not."""


class Refresh(Struct, frozen=True, kw_only=True, tag_field="t", tag="refresh"):
    """A new token of the same user for the living connection."""

    token: Annotated[str, Meta(max_length=MAX_TOKEN)]


class Ping(Struct, frozen=True, kw_only=True, tag_field="t", tag="ping"):
    pass


class Stop(Struct, frozen=True, kw_only=True, tag_field="t", tag="stop"):
    """Ends an open stream (section 13)."""

    n: Annotated[int, Meta(ge=0, le=1 << 53)]
    """Names this request, for its answer."""
    kind: Annotated[str, Meta(max_length=64)]
    """The tag."""
    id: Raw
    column: Annotated[str, Meta(max_length=64)] | None = None
    """None: the streams of all columns."""


ToServer = Hello | AskPage | Push | Refresh | Ping | Stop

# --- server → client ------------------------------------------------------------------------------------------------


class Limits(Struct, frozen=True, kw_only=True):
    """What this server accepts from a client."""

    frame_bytes: int
    page_rows: int
    pages_in_flight: int
    mutations: int
    """Of one push."""


class Welcome(Struct, frozen=True, kw_only=True, tag_field="t", tag="welcome", omit_defaults=True):
    session: str
    epoch: str
    schema: str
    """The hash of the server's schema."""
    tier: str | None = None
    """The value of the gate's column; None without a gate."""
    mode: Literal["resumed", "snapshot"]
    why: str | None = None
    time: Instant
    expires: Instant
    keepalive: Milliseconds
    limits: Limits


class SchemaFrame(Struct, frozen=True, kw_only=True, tag_field="t", tag="schema"):
    """The server's schema, for a device that has another one."""

    hash: str
    kinds: tuple[Kind, ...]


class Snapshot(Struct, frozen=True, kw_only=True, tag_field="t", tag="snapshot", omit_defaults=True):
    as_of: Seq
    rows: list[Row]
    cursor: bytes | None = None


class Changes(Struct, frozen=True, kw_only=True, tag_field="t", tag="changes", omit_defaults=True):
    from_: bytes = field(name="from")
    to: bytes
    rows: list[Row]
    partial: bool = False
    seq: Seq | None = None
    """The position of `to`; absent within a transaction."""


class Live(Struct, frozen=True, kw_only=True, tag_field="t", tag="live"):
    cursor: bytes
    seq: Seq


class Page(Struct, frozen=True, kw_only=True, tag_field="t", tag="page"):
    id: int
    as_of: Seq
    rows: list[Row]
    more: bool


class Ack(Struct, frozen=True, kw_only=True, tag_field="t", tag="ack"):
    """One result for each mutation of the push, in its order."""

    results: list[Result]


class Refreshed(Struct, frozen=True, kw_only=True, tag_field="t", tag="refreshed"):
    expires: Instant


class Streams(Struct, frozen=True, kw_only=True, tag_field="t", tag="streams"):
    """The streams of the user that are not settled."""

    open: list[UUID]


class StreamText(Struct, frozen=True, kw_only=True, tag_field="t", tag="stream"):
    """A part of a stream's text: what follows the character `offset`."""

    stream: UUID
    kind: str
    """The tag."""
    id: Any
    """A Key. msgspec permits one type of texts in a union."""
    column: str
    """Its name on the wire."""
    since: Seq
    """The feed's position when the stream was opened."""
    offset: int
    """In code points."""
    text: str
    state: str
    """`open`, `done`, `failed` or `stopped`."""


class Stopped(Struct, frozen=True, kw_only=True, tag_field="t", tag="stopped"):
    """Answers `stop`. `found`: whether there was an open stream."""

    n: int
    found: bool


class Error(Struct, frozen=True, kw_only=True, tag_field="t", tag="error", omit_defaults=True):
    """An error: `code` for programs, `message` for people. `answers` is the `t` of the frame that it answers, `id` the
    page's id or the push's `n`. The server makes all errors from `errors.ERRORS`."""

    code: str
    message: str
    retryable: bool
    answers: str | None = None
    id: int | None = None
    retry_after: Milliseconds | None = None
    """The client must not try again before."""
    expected: int | None = None
    """The number that the server expects, if those of a push do not continue the device's numbers."""


class Pong(Struct, frozen=True, kw_only=True, tag_field="t", tag="pong"):
    pass


ToClient = (
    Welcome
    | SchemaFrame
    | Snapshot
    | Changes
    | Live
    | Page
    | Ack
    | Refreshed
    | Streams
    | StreamText
    | Stopped
    | Error
    | Pong
)
