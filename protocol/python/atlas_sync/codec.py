"""Frames and values as bytes or text, in both encodings (SPEC.md, section 2).

The only module of the client that knows MessagePack and JSON on the wire. It uses msgpack instead of the server's
codec, so that tests check the two against each other. It checks types; wire.py knows the rows and mutations of a
schema, and session.py decides what a frame means and whether it may arrive.
"""

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgpack

from atlas_sync.checks import SEQ_END, Fields, ProtocolError, array, flag, integer, natural, seq, text
from atlas_sync.mutation import Applied, Rejected, Repeated, Result

Encoding = Literal["msgpack", "json"]
T = TypeVar("T")

CURSOR_BYTES = 128

_BIGINT = re.compile(r"-?[0-9]{1,19}")
_NO_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


# ---- Values of columns, alike in both encodings --------------------------------------------------------------------


def _bigint(value: Any) -> int:
    if isinstance(value, str):
        if not _BIGINT.fullmatch(value):
            raise ProtocolError("not an integer in decimal digits")
        return int(value)
    return integer(value)


def _instant(value: Any) -> int:
    """The server sends none beyond the bounds (SPEC.md, 2.4), and accepts none."""
    return min(max(integer(value), 1 - SEQ_END), SEQ_END - 1)


def _float(value: Any) -> float:
    if isinstance(value, str) and value in _NO_NUMBERS:
        return _NO_NUMBERS[value]
    if type(value) not in (int, float):
        raise ProtocolError("not a number")
    return float(value)


def _numeric(value: Any) -> Decimal:
    try:
        return Decimal(text(value))
    except InvalidOperation as error:
        raise ProtocolError("not a number as text") from error


def _json(value: Any) -> Any:
    try:
        return json.loads(text(value), parse_int=_json_integer)
    except ValueError as error:
        raise ProtocolError("not JSON") from error
    except RecursionError:
        return value  # the server keeps JSON that is nested deeper than Python reads


def _json_integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)  # more digits than Python converts


def _list(value: Any) -> Any:
    parsed = _json(value)
    return parsed if parsed is value else array(parsed)


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


def _bytes_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ProtocolError("not bytes")
    return value


def _bytes_text(value: Any) -> bytes:
    try:
        return base64.b64decode(text(value), validate=True)
    except ValueError as error:
        raise ProtocolError("not base64") from error


_TYPES: dict[str, Callable[[Any], Any]] = {
    "text": text,
    "bool": flag,
    "int": integer,
    "bigint": _bigint,
    "float": _float,
    "numeric": _numeric,
    "instant": _instant,
    "date": text,
    "json": _json,
    "array": _list,
}


# ---- Encodings -----------------------------------------------------------------------------------------------------


class Codec:
    """One encoding. `types` checks the values of columns, by the names of their types."""

    def __init__(
        self,
        load: Callable[[bytes | str], Any],
        dump: Callable[[Any], bytes | str],
        uuid: Callable[[Any], UUID],
        as_bytes: Callable[[Any], bytes],
    ) -> None:
        self._load, self._dump, self._as_bytes = load, dump, as_bytes
        self.types: Mapping[str, Callable[[Any], Any]] = {**_TYPES, "uuid": uuid, "bytes": as_bytes}

    def encode(self, frame: dict[str, object], at_most: int) -> bytes | str:
        """Encode a frame of Python values, UUID and bytes included. Raises ValueError if it exceeds `at_most` bytes."""
        encoded = self._dump(frame)
        if (size := _size(encoded)) > at_most:
            raise ValueError(f"a frame of {size} bytes is larger than the server accepts ({at_most})")
        return encoded

    def decode(self, data: bytes | str) -> Fields:
        """Decode a message. Raises ProtocolError if it is not a frame."""
        try:
            return Fields(self._load(data))
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise ProtocolError(f"not a frame: {type(error).__name__}") from error

    def size(self, value: object) -> int:
        """The size of an encoded value, in bytes."""
        return _size(self._dump(value))

    def cursor(self, value: Any) -> bytes:
        """A check."""
        cursor = self._as_bytes(value)
        if len(cursor) > CURSOR_BYTES:
            raise ProtocolError(f"not a cursor of at most {CURSOR_BYTES} bytes")
        return cursor


def results(value: Any) -> tuple[Result, ...]:
    """A check. A result of an unknown kind is a ProtocolError: it does not say whether the mutation was applied."""
    return tuple(map(_result, array(value)))


def _result(value: Any) -> Result:
    match array(value):
        case ["applied", n, at, *_]:
            return Applied(natural(n), seq(at))
        case ["repeated", n, at, *_]:
            return Repeated(natural(n), seq(at))
        case ["rejected", n, code, message, *more]:
            column = text(more[0]) if more and more[0] is not None else None
            return Rejected(natural(n), text(code), text(message), column)
    raise ProtocolError("a result of an unknown kind, or with too few columns")


def as_carried(of: str, value: Any, *, nullable: bool = True) -> Any:
    """The value of a column of this type as both encodings carry it; UUIDs and bytes are still to be encoded.

    None is nil, but in a column of JSON that may not be nil it is JSON's null.
    """
    if value is None and (nullable or of != "json"):
        return None
    match of:
        case "bigint" if isinstance(value, int) and abs(value) >= SEQ_END:
            return str(value)
        case "float" if isinstance(value, float) and not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case "numeric" if isinstance(value, int | Decimal):
            return format(Decimal(value), "f")
        case "json" | "array":
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_as_text)
    return value


def _size(encoded: bytes | str) -> int:
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


def _as_binary(value: UUID | Decimal) -> bytes | str:
    return value.bytes if isinstance(value, UUID) else format(value, "f")


def _as_text(value: UUID | bytes | Decimal) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value) if isinstance(value, UUID) else format(value, "f")


CODECS: dict[Encoding, Codec] = {
    "msgpack": Codec(
        load=_load_msgpack,
        dump=partial(msgpack.packb, default=_as_binary),
        uuid=_uuid_bytes,
        as_bytes=_bytes_bytes,
    ),
    "json": Codec(
        load=_load_json,
        dump=partial(json.dumps, ensure_ascii=False, separators=(",", ":"), default=_as_text),
        uuid=_uuid_text,
        as_bytes=_bytes_text,
    ),
}
