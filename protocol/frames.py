"""Every frame and every row, one Struct each. A row's fields are in their order on the wire (SPEC.md, section 5)."""

from typing import Annotated, Final, Literal, NamedTuple, NewType
from uuid import UUID

from msgspec import Meta, Raw, Struct, field

Instant = int
"""Microseconds since 1970-01-01 UTC."""
LAST_INSTANT: Final = (1 << 53) - 1
FIRST_INSTANT: Final = -LAST_INSTANT
"""The years 2255 and 1684: the range that every decoder represents exactly. Instants beyond it are clamped."""
Seq = int
"""A transaction's position within a feed; it is also an instant (section 6)."""

Milliseconds = NewType("Milliseconds", int)
"""A type of its own, because `int` also means microseconds here."""

MAX_TOKEN = 16_384
"""Characters. Supabase tokens with large app_metadata reach some 4,000."""
MAX_CURSOR = 128
"""Bytes. Ours have 37; the rest leaves room for later versions."""
MAX_EXTRAS = 16
MAX_ROWS_ASKED = 1_000
MAX_MUTATIONS = 1_000
"""Mutations of one push, whatever the server's settings."""

# --- rows -----------------------------------------------------------------------------------------------------------


class Profile(Struct, frozen=True, array_like=True, tag="p"):
    """The user's own profile; `id` is the user."""

    seq: Seq
    id: UUID
    tier: str
    status: str | None


class Conversation(Struct, frozen=True, array_like=True, tag="c"):
    seq: Seq
    id: UUID
    title: str | None
    created_at: Instant
    updated_at: Instant


class Message(Struct, frozen=True, array_like=True, tag="m"):
    seq: Seq
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    created_at: Instant
    updated_at: Instant


class ProfileDeleted(Struct, frozen=True, array_like=True, tag="-p"):
    seq: Seq
    id: UUID


class ConversationDeleted(Struct, frozen=True, array_like=True, tag="-c"):
    """The conversation and all its messages are deleted."""

    seq: Seq
    id: UUID


class MessageDeleted(Struct, frozen=True, array_like=True, tag="-m"):
    seq: Seq
    id: UUID


Row = Profile | Conversation | Message | ProfileDeleted | ConversationDeleted | MessageDeleted

# --- mutations ------------------------------------------------------------------------------------------------------


class CreateConversation(Struct, frozen=True, array_like=True, tag="+c"):
    id: UUID
    title: str | None
    at: Instant


class RenameConversation(Struct, frozen=True, array_like=True, tag="~c"):
    id: UUID
    title: str | None
    at: Instant


class DeleteConversation(Struct, frozen=True, array_like=True, tag="-c"):
    """Deletes the conversation with its messages."""

    id: UUID


class CreateMessage(Struct, frozen=True, array_like=True, tag="+m"):
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    at: Instant


class EditMessage(Struct, frozen=True, array_like=True, tag="~m"):
    """`created_at` is the other half of the row's key."""

    id: UUID
    created_at: Instant
    content: str
    at: Instant


class DeleteMessage(Struct, frozen=True, array_like=True, tag="-m"):
    id: UUID
    created_at: Instant


Mutation = CreateConversation | RenameConversation | DeleteConversation | CreateMessage | EditMessage | DeleteMessage


class Applied(Struct, frozen=True, array_like=True, tag="applied"):
    n: int
    seq: Seq


class Repeated(Struct, frozen=True, array_like=True, tag="repeated"):
    """The mutation was applied before."""

    n: int
    seq: Seq


class Rejected(Struct, frozen=True, array_like=True, tag="rejected"):
    """The mutation is never applied. `code` is for programs, `message` for people; neither quotes the text."""

    n: int
    code: str
    message: str


Result = Applied | Repeated | Rejected

# --- client → server ------------------------------------------------------------------------------------------------


DEFAULT_ROWS = 50
"""Default for numbers that a client omits: conversations, messages of each, rows of a page."""


class Window(Struct, frozen=True, kw_only=True):
    """How much of the past a device wants at first: the newest conversations, and the newest messages of each."""

    conversations: Annotated[int, Meta(ge=0, le=500)] | None = None
    messages: Annotated[int, Meta(ge=0, le=200)] | None = None


class Before(NamedTuple):
    """A place in a list, newest first. The rows after it are older than `at`, or as old with a smaller id."""

    at: Instant
    id: UUID


class Hello(Struct, frozen=True, kw_only=True, tag_field="t", tag="hello"):
    """The first frame of a connection."""

    token: Annotated[str, Meta(max_length=MAX_TOKEN)]
    client_id: UUID
    cursor: Annotated[bytes, Meta(max_length=MAX_CURSOR)] | None = None
    window: Window | None = None
    extras: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=MAX_EXTRAS)] | None = None
    generation: Annotated[int, Meta(ge=1, le=1 << 53)] | None = None
    """Of two connections of one client_id the one with the larger generation keeps it."""


class AskPage(Struct, frozen=True, kw_only=True, tag_field="t", tag="page"):
    """Asks for older rows: of one conversation, or (`conversation` nil) of the list of conversations."""

    id: Annotated[int, Meta(ge=0, le=1 << 53)]
    conversation: UUID | None = None
    before: Before | None = None
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


ToServer = Hello | AskPage | Push | Refresh | Ping

# --- server → client ------------------------------------------------------------------------------------------------


class Limits(Struct, frozen=True, kw_only=True):
    """What this server accepts from a client."""

    frame_bytes: int
    page_rows: int
    pages_in_flight: int
    mutations: int
    """Of one push."""
    title_bytes: int
    content_bytes: int


class Welcome(Struct, frozen=True, kw_only=True, tag_field="t", tag="welcome", omit_defaults=True):
    session: str
    epoch: str
    tier: str
    mode: Literal["resumed", "snapshot"]
    why: str | None = None
    time: Instant
    expires: Instant
    keepalive: Milliseconds
    limits: Limits


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


ToClient = Welcome | Snapshot | Changes | Live | Page | Ack | Refreshed | Error | Pong
