"""What a device may ask the server to change, and what became of it (SPEC.md, 8.3 and 8.4).

Pure values. Knows neither how they travel nor where they wait.
"""

from dataclasses import dataclass, fields
from typing import ClassVar
from uuid import UUID

FRAME_BYTES = 262_144  # what `limits.frame_bytes` is where no server has said so yet
NUMBER_END = 2**53  # the last number that JavaScript has exactly


@dataclass(frozen=True, slots=True)
class CreateConversation:
    """Ids are the device's to make. Instants, here and below, are microseconds since 1970-01-01 UTC."""

    kind: ClassVar[str] = "+c"
    id: UUID
    title: str | None
    at: int


@dataclass(frozen=True, slots=True)
class RenameConversation:
    kind: ClassVar[str] = "~c"
    id: UUID
    title: str | None
    at: int


@dataclass(frozen=True, slots=True)
class DeleteConversation:
    """With its messages."""

    kind: ClassVar[str] = "-c"
    id: UUID


@dataclass(frozen=True, slots=True)
class CreateMessage:
    kind: ClassVar[str] = "+m"
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    at: int


@dataclass(frozen=True, slots=True)
class EditMessage:
    """`created_at` is the row's: the other half of its key."""

    kind: ClassVar[str] = "~m"
    id: UUID
    created_at: int
    content: str
    at: int


@dataclass(frozen=True, slots=True)
class DeleteMessage:
    kind: ClassVar[str] = "-m"
    id: UUID
    created_at: int


Mutation = CreateConversation | RenameConversation | DeleteConversation | CreateMessage | EditMessage | DeleteMessage


def columns(mutation: Mutation) -> tuple[object, ...]:
    """As it travels: its kind, and what stands behind it."""
    return (mutation.kind, *(getattr(mutation, field.name) for field in fields(mutation)))


# ---- What became of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Applied:
    """It is durable; the change stands in the feed at `seq` or before."""

    n: int
    seq: int


@dataclass(frozen=True, slots=True)
class Repeated:
    """It was applied before; the same holds."""

    n: int
    seq: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """It will never be applied. `message` is fit to show; `code` may be one from the future."""

    n: int
    code: str
    message: str


Result = Applied | Repeated | Rejected


# ---- What can never be sent ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a mutation may be, as far as a server has said so."""

    frame_bytes: int = FRAME_BYTES
    title_bytes: int | None = None
    content_bytes: int | None = None


class WriteError(ValueError):
    """No server would take this; `code` is that of its rejection. The words never contain what somebody wrote."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def check(mutation: Mutation, bounds: Bounds) -> None:
    """Raises WriteError for what no server would take."""
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
        # Its own error would carry the whole text along.
        raise WriteError(
            "bad_text", f"{name} contains half of a surrogate pair, which the server cannot keep: leave it out"
        ) from None
    if at_most is not None and size > at_most:
        raise WriteError("too_long", f"{name} has {size} bytes of UTF-8, and the server takes {at_most}: shorten it")
