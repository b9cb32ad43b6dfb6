"""Frames and rows as bytes or text, in both encodings (SPEC.md, sections 2 and 5).

The only module of the client that knows MessagePack and JSON, through msgpack instead of the server's codec, so that
each checks the other. It checks types; what a frame means, and whether it may come now, is client.py's.
"""

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgpack

from protocol.replica import Conversation, Deleted, Message, Profile, Row

Encoding = Literal["msgpack", "json"]
T = TypeVar("T")

SEQ_END = 2**53  # beyond it a JavaScript number is no longer exact
CURSOR_BYTES = 128


class ProtocolError(Exception):
    """The server sent what the protocol does not allow. The connection is of no more use."""


# ---- Checks --------------------------------------------------------------------------------------------------------
# Each takes a decoded value and returns it typed, or raises ProtocolError. Its words never contain the value: that may
# be somebody's message, and errors end in logs.


def integer(value: Any) -> int:
    if type(value) is not int:  # not isinstance: True is an int to Python, and not to the protocol
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
    if str(parsed) != value.lower():  # UUID() would also take braces, a urn, no hyphens
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
    """A map that arrived. Its fields are checked when they are read, and errors name the field."""

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
        """A field marked «?»: absent and nil are the same."""
        return None if self._fields.get(name) is None else self.read(name, check)


# ---- Encodings -----------------------------------------------------------------------------------------------------


class Codec:
    """One encoding. `uuid` and `cursor` are the checks of those two types, which are what the encodings differ in."""

    def __init__(
        self,
        load: Callable[[bytes | str], Any],
        dump: Callable[[Any], bytes | str],
        uuid: Callable[[Any], UUID],
        cursor: Callable[[Any], bytes],
    ) -> None:
        self._load, self._dump, self.cursor = load, dump, cursor
        self._shapes: dict[str, tuple[Callable[..., Row], tuple[Callable[[Any], object], ...]]] = {
            "p": (Profile, (seq, uuid, text, _text_or_nil)),
            "c": (Conversation, (seq, uuid, _text_or_nil, integer, integer)),
            "m": (Message, (seq, uuid, uuid, text, text, integer, integer)),
            "-p": (partial(Deleted, "p"), (seq, uuid)),
            "-c": (partial(Deleted, "c"), (seq, uuid)),
            "-m": (partial(Deleted, "m"), (seq, uuid)),
        }

    def encode(self, frame: dict[str, object], at_most: int) -> bytes | str:
        """A frame of values as Python has them, UUID and bytes too. Raises ValueError beyond `at_most` bytes."""
        encoded = self._dump(frame)
        size = len(encoded.encode() if isinstance(encoded, str) else encoded)
        if size > at_most:
            raise ValueError(f"a frame of {size} bytes is more than the server takes")
        return encoded

    def decode(self, data: bytes | str) -> Frame:
        """Raises ProtocolError for what is no frame."""
        try:
            return Frame(self._load(data))
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise ProtocolError(f"not a frame: {type(error).__name__}") from error

    def rows(self, value: Any) -> tuple[Row, ...]:
        """A check, like those above. Rows of kinds that we do not know are left out, columns beyond ours too."""
        if not isinstance(value, list):
            raise ProtocolError("not an array")
        rows = []
        for columns in value:
            if not isinstance(columns, list) or not columns:
                raise ProtocolError("a row is an array that starts with its kind")
            if (shape := self._shapes.get(text(columns[0]))) is None:
                continue
            make, checks = shape
            if len(columns) <= len(checks):
                raise ProtocolError("a row with too few columns")
            rows.append(make(*(check(column) for check, column in zip(checks, columns[1:], strict=False))))
        return tuple(rows)


def _load_msgpack(data: bytes | str) -> Any:
    if not isinstance(data, bytes):
        raise ProtocolError("a text message, but the encoding is MessagePack")
    # Any map key is let through: a field that we do not know may hold whatever it likes.
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
