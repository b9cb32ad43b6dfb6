"""Rows and mutations of the chat schema, by name. On the wire they are arrays (SPEC.md, 5 and 8.3)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from protocol.codec import MSGPACK, Codec
from protocol.frames import Instant, Row, Seq

_PACKER = msgspec.msgpack.Encoder(uuid_format="bytes")


class _Row(tuple[Any, ...]):
    """Equal to the array that is sent. `fields` are those after the tag."""

    __slots__ = ()
    tag: ClassVar[str]
    fields: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        for i, name in enumerate(cls.fields, 1):
            setattr(cls, name, property(itemgetter(i)))

    def __new__(cls, *values: Any, **named: Any) -> Any:
        given = dict(zip(cls.fields, values, strict=False)) | named
        assert given.keys() == set(cls.fields), given
        return super().__new__(cls, (cls.tag, *(given[name] for name in cls.fields)))


class Profile(_Row):
    tag, fields = "p", ("seq", "id", "tier", "status")
    seq: Seq
    id: UUID
    tier: str
    status: str | None


class Conversation(_Row):
    tag, fields = "c", ("seq", "id", "title", "created_at", "updated_at")
    seq: Seq
    id: UUID
    title: str | None
    created_at: Instant
    updated_at: Instant


class Message(_Row):
    tag, fields = "m", ("seq", "id", "conversation_id", "role", "content", "created_at", "updated_at")
    seq: Seq
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    created_at: Instant
    updated_at: Instant


class ProfileDeleted(_Row):
    tag, fields = "-p", ("seq", "id")
    seq: Seq
    id: UUID


class ConversationDeleted(_Row):
    tag, fields = "-c", ("seq", "id")
    seq: Seq
    id: UUID


class MessageDeleted(_Row):
    tag, fields = "-m", ("seq", "id")
    seq: Seq
    id: UUID


ROWS: dict[str, type[_Row]] = {
    each.tag: each for each in (Profile, Conversation, Message, ProfileDeleted, ConversationDeleted, MessageDeleted)
}


def received(row: Sequence[Any]) -> Any:
    """A row as it was decoded, by name, with its uuids."""
    known = ROWS[row[0]]
    return known(
        *(_uuid(value) if name.endswith("id") else value for name, value in zip(known.fields, row[1:], strict=True))
    )


def all_received(rows: Iterable[Row]) -> list[Any]:
    return [received(row) for row in rows]


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(bytes=value) if isinstance(value, bytes) else UUID(value)


# --- mutations


@dataclass(frozen=True)
class CreateConversation:
    id: UUID
    title: str | None
    at: Instant

    @property
    def array(self) -> list[Any]:
        return ["+", "c", self.id, {"title": self.title}, self.at]


@dataclass(frozen=True)
class RenameConversation:
    id: UUID
    title: str | None
    at: Instant

    @property
    def array(self) -> list[Any]:
        return ["~", "c", self.id, {"title": self.title}, self.at]


@dataclass(frozen=True)
class DeleteConversation:
    id: UUID

    @property
    def array(self) -> list[Any]:
        return ["-", "c", self.id]


@dataclass(frozen=True)
class CreateMessage:
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    at: Instant

    @property
    def array(self) -> list[Any]:
        columns = {"conversation_id": self.conversation_id, "role": self.role, "content": self.content}
        return ["+", "m", self.id, columns, self.at]


@dataclass(frozen=True)
class EditMessage:
    id: UUID
    created_at: Instant
    content: str
    at: Instant

    @property
    def array(self) -> list[Any]:
        return ["~", "m", [self.id, self.created_at], {"content": self.content}, self.at]


@dataclass(frozen=True)
class DeleteMessage:
    id: UUID
    created_at: Instant

    @property
    def array(self) -> list[Any]:
        return ["-", "m", [self.id, self.created_at]]


Mutation: TypeAlias = (
    CreateConversation | RenameConversation | DeleteConversation | CreateMessage | EditMessage | DeleteMessage
)


class Before(NamedTuple):
    """A place in a list."""

    at: Instant | None
    id: UUID


def encoded_value(value: object, codec: Codec = MSGPACK) -> msgspec.Raw:
    """A value, or an array of values."""
    return msgspec.Raw(msgspec.json.encode(value) if codec.text else _PACKER.encode(value))


def encoded(mutation: Mutation, codec: Codec = MSGPACK) -> msgspec.Raw:
    """The mutation as a push carries it."""
    return encoded_value(mutation.array, codec)
