"""Frames, rows and mutations as bytes or text, in both encodings (SPEC.md, sections 2, 5 and 8).

The only module of the client that knows MessagePack and JSON. It uses msgpack instead of the server's codec, so that
tests check the two against each other. It checks types; session.py decides what a frame means and whether it may
arrive.
"""

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgpack

from atlas_sync.mutation import (
    Applied,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
    Result,
    columns,
)
from atlas_sync.replica import Conversation, Deleted, Message, Profile, Row

Encoding = Literal["msgpack", "json"]
T = TypeVar("T")
Shapes = dict[str, tuple[Callable[..., T], tuple[Callable[[Any], object], ...]]]

SEQ_END = 2**53  # a larger number is not exact in JavaScript
CURSOR_BYTES = 128


class ProtocolError(Exception):
    """The server broke the protocol. The device closes the connection, and connects again."""


# ---- Checks --------------------------------------------------------------------------------------------------------
# Each takes a decoded value and returns it typed, or raises ProtocolError. Errors are logged, so they never contain the
# value, which may be a person's text.


def integer(value: Any) -> int:
    if type(value) is not int:  # not isinstance: in Python True is an int, in the protocol it is not
        raise ProtocolError("not an integer")
    return value


def natural(value: Any) -> int:
    if integer(value) < 0:
        raise ProtocolError("negative")
    return int(value)


def seq(value: Any) -> int:
    if natural(value) >= SEQ_END:
        raise ProtocolError("a seq of 2^53 or more")
    return int(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError("not a boolean")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a text")
    return value


def _text_or_nil(value: Any) -> str | None:
    return None if value is None else text(value)


def _uuid_bytes(value: Any) -> UUID:
    if not isinstance(value, bytes) or len(value) != 16:
        raise ProtocolError("not a uuid of 16 bytes")
    return UUID(bytes=value)


def _uuid_text(value: Any) -> UUID:
    try:
        parsed = UUID(text(value))
    except ValueError as error:
        raise ProtocolError("not a uuid") from error
    if str(parsed) != value.lower():  # UUID() also accepts braces, a urn, no hyphens
        raise ProtocolError("not a uuid in canonical form")
    return parsed


def _cursor_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) > CURSOR_BYTES:
        raise ProtocolError(f"not a cursor of at most {CURSOR_BYTES} bytes")
    return value


def _cursor_text(value: Any) -> bytes:
    try:
        return _cursor_bytes(base64.b64decode(text(value), validate=True))
    except ValueError as error:
        raise ProtocolError("not base64") from error


class Frame:
    """A decoded map. Fields are checked when they are read; an error names the field."""

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise ProtocolError("not a map")
        self._fields: dict[Any, Any] = fields

    def read(self, name: str, check: Callable[[Any], T]) -> T:
        if name not in self._fields:
            raise ProtocolError(f"{name}: missing")
        try:
            return check(self._fields[name])
        except ProtocolError as error:
            raise ProtocolError(f"{name}: {error}") from error

    def maybe(self, name: str, check: Callable[[Any], T]) -> T | None:
        """Read an optional field: None if it is absent or nil."""
        return None if self._fields.get(name) is None else self.read(name, check)


# ---- Encodings -----------------------------------------------------------------------------------------------------


class Codec:
    """One encoding. `uuid` and `cursor` check the two types in which the encodings differ."""

    def __init__(
        self,
        load: Callable[[bytes | str], Any],
        dump: Callable[[Any], bytes | str],
        uuid: Callable[[Any], UUID],
        cursor: Callable[[Any], bytes],
    ) -> None:
        self._load, self._dump, self.cursor = load, dump, cursor
        self._rows: Shapes[Row] = {
            "p": (Profile, (seq, uuid, text, _text_or_nil)),
            "c": (Conversation, (seq, uuid, _text_or_nil, integer, integer)),
            "m": (Message, (seq, uuid, uuid, text, text, integer, integer)),
            "-p": (partial(Deleted, "p"), (seq, uuid)),
            "-c": (partial(Deleted, "c"), (seq, uuid)),
            "-m": (partial(Deleted, "m"), (seq, uuid)),
        }
        self._mutations: Shapes[Mutation] = {
            "+c": (CreateConversation, (uuid, _text_or_nil, integer)),
            "~c": (RenameConversation, (uuid, _text_or_nil, integer)),
            "-c": (DeleteConversation, (uuid,)),
            "+m": (CreateMessage, (uuid, uuid, text, text, integer)),
            "~m": (EditMessage, (uuid, integer, text, integer)),
            "-m": (DeleteMessage, (uuid, integer)),
        }
        self._results: Shapes[Result] = {
            "applied": (Applied, (natural, seq)),
            "repeated": (Repeated, (natural, seq)),
            "rejected": (Rejected, (natural, text, text)),
        }

    def encode(self, frame: dict[str, object], at_most: int) -> bytes | str:
        """Encode a frame of Python values, UUID and bytes included. Raises ValueError if it exceeds `at_most` bytes."""
        encoded = self._dump(frame)
        if (size := _bytes(encoded)) > at_most:
            raise ValueError(f"a frame of {size} bytes is larger than the server accepts ({at_most})")
        return encoded

    def decode(self, data: bytes | str) -> Frame:
        """Decode a message. Raises ProtocolError if it is not a frame."""
        try:
            return Frame(self._load(data))
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise ProtocolError(f"not a frame: {type(error).__name__}") from error

    def rows(self, value: Any) -> tuple[Row, ...]:
        """A check, like those above. Rows of unknown kinds and further columns are left out."""
        rows = (_shaped(array, self._rows) for array in _array(value))
        return tuple(row for row in rows if row is not None)

    def results(self, value: Any) -> tuple[Result, ...]:
        """A check. A result of an unknown kind is a ProtocolError: it does not say whether the mutation was applied."""
        results = tuple(result for array in _array(value) if (result := _shaped(array, self._results)) is not None)
        if len(results) != len(value):
            raise ProtocolError("a result of an unknown kind")
        return results

    def size(self, mutation: Mutation) -> int:
        """The mutation's size in a push, in bytes, with the separator after it."""
        return _bytes(self.pack(mutation)) + 1

    def pack(self, mutation: Mutation) -> bytes | str:
        """Encode a mutation for storage."""
        return self._dump(columns(mutation))

    def unpack(self, data: bytes | str) -> Mutation:
        """Decode a mutation from `pack`. Raises ProtocolError for other data."""
        try:
            mutation = _shaped(self._load(data), self._mutations)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise ProtocolError(f"not a mutation: {type(error).__name__}") from error
        if mutation is None:
            raise ProtocolError("not a mutation of a known kind")
        return mutation


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ProtocolError("not an array")
    return value


def _shaped(array: Any, shapes: Shapes[T]) -> T | None:
    """Read an array that starts with its kind; None for an unknown kind."""
    if not _array(array):
        raise ProtocolError("an array without its kind")
    if (shape := shapes.get(text(array[0]))) is None:
        return None
    make, checks = shape
    if len(array) <= len(checks):
        raise ProtocolError("too few columns")
    return make(*(check(column) for check, column in zip(checks, array[1:], strict=False)))


def _bytes(encoded: bytes | str) -> int:
    return len(encoded.encode() if isinstance(encoded, str) else encoded)


def _load_msgpack(data: bytes | str) -> Any:
    if not isinstance(data, bytes):
        raise ProtocolError("a text message, but the encoding is MessagePack")
    # Accepts maps with any keys: an unknown field may contain any value.
    return msgpack.unpackb(data, strict_map_key=False)


def _load_json(data: bytes | str) -> Any:
    if not isinstance(data, str):
        raise ProtocolError("a binary message, but the encoding is JSON")
    return json.loads(data)


def _as_text(value: UUID | bytes) -> str:
    return str(value) if isinstance(value, UUID) else base64.b64encode(value).decode("ascii")


CODECS: dict[Encoding, Codec] = {
    "msgpack": Codec(
        load=_load_msgpack,
        dump=partial(msgpack.packb, default=lambda uuid: uuid.bytes),
        uuid=_uuid_bytes,
        cursor=_cursor_bytes,
    ),
    "json": Codec(
        load=_load_json,
        dump=partial(json.dumps, ensure_ascii=False, separators=(",", ":"), default=_as_text),
        uuid=_uuid_text,
        cursor=_cursor_text,
    ),
}
