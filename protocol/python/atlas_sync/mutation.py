"""Mutations and their results (SPEC.md, 8.3 and 8.4).

Pure values. Knows neither their encoding nor the outbox.
"""

from dataclasses import dataclass, fields
from typing import ClassVar
from uuid import UUID

FRAME_BYTES = 262_144  # `limits.frame_bytes` before the first `welcome`
NUMBER_END = 2**53  # the largest number that JavaScript represents exactly


@dataclass(frozen=True, slots=True)
class CreateConversation:
    """Create a conversation. The device makes the ids.

    `at`, here and below, is the instant at which the person acted, in microseconds since 1970-01-01 UTC. `Device.now`
    gives it.
    """

    kind: ClassVar[str] = "+c"
    id: UUID
    title: str | None
    at: int


@dataclass(frozen=True, slots=True)
class RenameConversation:
    """Change a conversation's title."""

    kind: ClassVar[str] = "~c"
    id: UUID
    title: str | None
    at: int


@dataclass(frozen=True, slots=True)
class DeleteConversation:
    """Delete a conversation with its messages."""

    kind: ClassVar[str] = "-c"
    id: UUID


@dataclass(frozen=True, slots=True)
class CreateMessage:
    """Create a message in a conversation. Servers accept the role "user", or those that they are configured for."""

    kind: ClassVar[str] = "+m"
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    at: int


@dataclass(frozen=True, slots=True)
class EditMessage:
    """Replace a message's content. `created_at` is that of the row: it is the other half of the message's key."""

    kind: ClassVar[str] = "~m"
    id: UUID
    created_at: int
    content: str
    at: int


@dataclass(frozen=True, slots=True)
class DeleteMessage:
    """Delete a message. `created_at` is that of the row."""

    kind: ClassVar[str] = "-m"
    id: UUID
    created_at: int


Mutation = CreateConversation | RenameConversation | DeleteConversation | CreateMessage | EditMessage | DeleteMessage


def columns(mutation: Mutation) -> tuple[object, ...]:
    """The mutation as an array of the protocol: its kind and its columns."""
    return (mutation.kind, *(getattr(mutation, field.name) for field in fields(mutation)))


# ---- Results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Applied:
    """The mutation is durable; its change is in the feed at `seq` or before."""

    n: int
    seq: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """The mutation was applied by an earlier push: it is durable, and in the feed at `seq` or before."""

    n: int
    seq: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The mutation will never be applied. `message` can be shown to people; `code` may be an unknown one."""

    n: int
    code: str
    message: str


Result = Applied | Repeated | Rejected


# ---- Checking before sending ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """The largest sizes of a mutation, in bytes. None: no server has named one yet."""

    frame_bytes: int = FRAME_BYTES
    title_bytes: int | None = None
    content_bytes: int | None = None


class WriteError(ValueError):
    """No server would accept this mutation. `code` is that of the rejection.

    The message never contains a person's text.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def check(mutation: Mutation, bounds: Bounds) -> None:
    """Raise WriteError for a mutation that no server would accept."""
    for name, value in ((field.name, getattr(mutation, field.name)) for field in fields(mutation)):
        match name:
            case "id" | "conversation_id":
                if not isinstance(value, UUID):
                    raise WriteError("malformed", f"{name} must be a UUID")
            case "at" | "created_at":
                if type(value) is not int or abs(value) > NUMBER_END:
                    raise WriteError("malformed", f"{name} must be an integer of microseconds, and at most 2^53")
            case "title":
                if value is not None:
                    _check_text(name, value, bounds.title_bytes)
            case _:
                _check_text(name, value, bounds.content_bytes if name == "content" else None)


def _check_text(name: str, value: object, at_most: int | None) -> None:
    if not isinstance(value, str):
        raise WriteError("malformed", f"{name} must be a text")
    if "\0" in value:
        raise WriteError("bad_text", f"{name} contains U+0000, which the server cannot keep: leave it out")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        # UnicodeEncodeError contains the whole text.
        raise WriteError(
            "bad_text", f"{name} contains half of a surrogate pair, which the server cannot keep: leave it out"
        ) from None
    if at_most is not None and size > at_most:
        raise WriteError("too_long", f"{name} has {size} bytes of UTF-8, and the server accepts {at_most}: shorten it")
