"""Values between the wire and Postgres, by the types of the schema. Pure.

Postgres gets every value of a device as text, and casts it. What it sends is encoded as it is, except where a device
could not hold it.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec

from protocol.codec import Value
from protocol.frames import COLUMNS, FIRST_INSTANT, ID, LAST_INSTANT, Key, Row
from protocol.schema import Type
from server.declaration.model import Field, Kind

EXACT: Final = (1 << 53) - 1
"""The largest integer that every device holds exactly. Larger ones travel as text."""
BOUNDS: Final = {"smallint": 1 << 15, "integer": 1 << 31}
"""By type in SQL: the first integer that is too large; its negative is the smallest."""
INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
NUMERIC: Final = re.compile(r"-?(?:[0-9]{1,1000}(?:\.[0-9]{0,1000})?(?:[eE][+-]?[0-9]{1,4})?|NaN|Infinity)")
DATE: Final = re.compile(r"[0-9]{4,7}-[0-9]{2}-[0-9]{2}(?: BC)?|-?infinity")


class BadValue(Exception):  # noqa: N818 (a reason, given to the device)
    """A value does not fit. `code` is that of the rejection."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


BAD_VALUE: Final = "bad_value"
BAD_TEXT: Final = "bad_text"


# --- from a device


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise BadValue(BAD_VALUE)
    if "\0" in value:
        raise BadValue(BAD_TEXT)
    return value


def _uuid(value: Value) -> str:
    try:
        return str(UUID(bytes=value) if isinstance(value, bytes) else UUID(_text(value)))
    except ValueError:
        raise BadValue(BAD_VALUE) from None


def _bool(value: Value) -> str:
    if not isinstance(value, bool):
        raise BadValue(BAD_VALUE)
    return "true" if value else "false"


def _int(value: Value) -> str:
    if isinstance(value, str) and INTEGER.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(1 << 63) <= value < 1 << 63:
        raise BadValue(BAD_VALUE)
    return str(value)


def _float(value: Value) -> str:
    if value in ("NaN", "Infinity", "-Infinity"):
        return str(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadValue(BAD_VALUE)
    return repr(float(value)) if abs(value) < 1e308 else _refuse(value)


def _refuse(value: Value) -> str:
    raise BadValue(BAD_VALUE)


def _matching(pattern: re.Pattern[str]) -> Callable[[Value], str]:
    def read(value: Value) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise BadValue(BAD_VALUE)
        return value

    return read


def _instant(value: Value) -> str:
    if not isinstance(value, int) or isinstance(value, bool) or not FIRST_INSTANT <= value <= LAST_INSTANT:
        raise BadValue(BAD_VALUE)
    return str(value)


def _json(value: Value) -> str:
    text = _text(value)
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        raise BadValue(BAD_VALUE) from None
    if "\\u0000" in text:
        raise BadValue(BAD_TEXT)
    return text


def _array(value: Value) -> str:
    text = _json(value)
    if not text.lstrip().startswith("["):
        raise BadValue(BAD_VALUE)
    return text


def _bytes(value: Value) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    try:
        base64.b64decode(_text(value), validate=True)
    except (binascii.Error, ValueError):
        raise BadValue(BAD_VALUE) from None
    return str(value)


_READ: Final[dict[Type, Callable[[Value], str]]] = {
    Type.TEXT: _text,
    Type.UUID: _uuid,
    Type.BOOL: _bool,
    Type.INT: _int,
    Type.BIGINT: _int,
    Type.FLOAT: _float,
    Type.NUMERIC: _matching(NUMERIC),
    Type.INSTANT: _instant,
    Type.DATE: _matching(DATE),
    Type.JSON: _json,
    Type.ARRAY: _array,
    Type.BYTES: _bytes,
}


def as_text(field: Field, value: Value) -> str | None:
    """A device's value as Postgres gets it: text; of an instant its microseconds, of bytes base64, of an array JSON.
    Raises BadValue if the column cannot hold it."""
    if value is None:
        if field.nullable:
            return None
        raise BadValue(BAD_VALUE)
    return read(field, value)


def read(field: Field, value: Value) -> str:
    """A device's value as text, whether or not the column may be NULL. Raises BadValue."""
    text = _READ[field.of](value)
    bound = BOUNDS.get(field.type)
    # A statement in which Postgres cannot cast the text would fail, and a page would be asked for again and again.
    if bound is not None and not -bound <= int(text) < bound:
        raise BadValue(BAD_VALUE)
    return text


def read_key(kind: Kind, values: Sequence[Value]) -> Key:
    """A device's id of a row. Raises BadValue."""
    if len(values) != len(kind.key):
        raise BadValue(BAD_VALUE)
    return key_of(kind, [read(field, value) for field, value in zip(kind.key, values, strict=True)])


def key_of(kind: Kind, texts: Sequence[str]) -> Key:
    """The id of a row, of its key as texts."""
    if len(texts) == 1:
        return _KEYS[kind.key[0].of](texts[0])
    first, second = (_KEYS[field.of](text) for field, text in zip(kind.key, texts, strict=True))
    return first, second


# --- to a device


def _exact(value: Any) -> Any:
    return value if value is None or -EXACT <= value <= EXACT else str(value)


def _finite(value: Any) -> Any:
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


_SENT: Final[dict[Type, Callable[[Any], Any]]] = {Type.BIGINT: _exact, Type.FLOAT: _finite}


class Rows:
    """Makes the rows of a kind of what Postgres sends."""

    __slots__ = ("_columns", "_deletion", "_keys", "_uuids", "tag")

    def __init__(self, kind: Kind) -> None:
        self.tag = kind.tag
        self._deletion = f"-{kind.tag}"
        self._columns = [(i, _SENT[c.field.of]) for i, c in enumerate(kind.columns) if c.field.of in _SENT]
        self._uuids = [COLUMNS + i for i, c in enumerate(kind.columns) if c.field.of is Type.UUID]
        if len(kind.key) == 1 and kind.key[0].of is Type.UUID:
            self._uuids.append(ID)
        self._keys = [_KEYS[field.of] for field in kind.key]

    def upsert(self, seq: int, key: Key, values: Sequence[Any]) -> Row:
        if self._columns:
            values = list(values)
            for i, sent in self._columns:
                values[i] = sent(values[i])
        return (self.tag, seq, key, *values)

    def restored(self, row: Sequence[Any]) -> Row:
        """The row, from a cache that keeps uuids as bytes."""
        values = list(row)
        for i in self._uuids:
            if values[i] is not None:
                values[i] = UUID(bytes=values[i])
        if len(self._keys) > 1:
            values[ID] = tuple(
                UUID(bytes=half) if read is UUID else half for read, half in zip(self._keys, values[ID], strict=True)
            )
        return tuple(values)

    def deletion(self, seq: int, key: Key) -> Row:
        return (self._deletion, seq, key)

    def key(self, texts: Sequence[str]) -> Key:
        """The id of a row, of its key as the log and the statements have it: text."""
        if len(texts) == 1:
            return self._keys[0](texts[0])
        first, second = (read(text) for read, text in zip(self._keys, texts, strict=True))
        return first, second


_KEYS: Final[dict[Type, Callable[[str], UUID | str | int]]] = {
    Type.UUID: UUID,
    Type.TEXT: str,
    Type.INT: int,
    Type.INSTANT: int,
    Type.BIGINT: lambda text: _exact(int(text)),
}
