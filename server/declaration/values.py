"""Values between the wire and Postgres, by the types of the schema. Pure.

Postgres gets every value of a device as text, and casts it. What it sends is encoded as it is, except where a device
could not hold it.
"""

import base64
import binascii
import calendar
import math
import re
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

import msgspec

from protocol.codec import Value
from protocol.frames import COLUMNS, FIRST_INSTANT, ID, LAST_INSTANT, TAG, Key, Row
from protocol.schema import Type
from server.declaration.model import Field, Kind

EXACT: Final = (1 << 53) - 1
"""The largest integer that every device holds exactly. Larger ones travel as text."""
INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
NUMERIC: Final = re.compile(r"-?(?:[0-9]{1,1000}(?:\.[0-9]{0,1000})?(?:[eE][+-]?[0-9]{1,3})?|Infinity)|NaN")
"""Postgres writes out the digits of an exponent: with a longer one, few bytes would become many."""
EXPONENT: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[eE]([+-]?[0-9]+)')
"""In JSON: a string, or the exponent of a number."""
DATE: Final = re.compile(r"([0-9]{4,7})-([0-9]{2})-([0-9]{2})( BC)?")
LAST_YEAR: Final = 5_874_897
FIRST_YEAR_BC: Final = 4_714
"""What a date can hold. In its first year, from the 24th of November on."""
BITS: Final = {"smallint": 15, "integer": 31}
"""Of the integers that are smaller than a bigint, without the sign."""
NULL_CHARACTER: Final = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
"""As an escape in JSON."""
KEY_BYTES: Final = 1_000
"""The longest text in the key of a row that a device inserts. The log repeats it at each change of the row."""


class BadValue(Exception):  # noqa: N818 (a reason, given to the device)
    """A value does not fit. `code` is that of the rejection."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


BAD_VALUE: Final = "bad_value"
BAD_TEXT: Final = "bad_text"


def uuid_text(data: bytes) -> str:
    """The canonical form of a uuid, from its 16 bytes. By way of UUID it takes thrice as long."""
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


# --- from a device


def _text(value: Value) -> str:
    if not isinstance(value, str):
        raise BadValue(BAD_VALUE)
    if "\0" in value:
        raise BadValue(BAD_TEXT)
    return value


def _uuid(value: Value) -> str:
    if isinstance(value, bytes):
        if len(value) != 16:
            raise BadValue(BAD_VALUE)
        return uuid_text(value)
    try:
        return str(UUID(_text(value)))
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
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise BadValue(BAD_VALUE)
    return repr(float(value))


def _numeric(value: Value) -> str:
    if not isinstance(value, str) or not NUMERIC.fullmatch(value):
        raise BadValue(BAD_VALUE)
    return value


def _date(value: Value) -> str:
    if not isinstance(value, str):
        raise BadValue(BAD_VALUE)
    if value in ("infinity", "-infinity"):
        return value
    if (match := DATE.fullmatch(value)) is None:
        raise BadValue(BAD_VALUE)
    year, month, day = map(int, match.group(1, 2, 3))
    before_christ = match[4] is not None
    leap = 1 - year if before_christ else year  # there is no year 0
    days = 28 + calendar.isleap(leap) if month == 2 else 30 + (month in (1, 3, 5, 7, 8, 10, 12))
    within = (year, -month, -day) <= (FIRST_YEAR_BC, -11, -24) if before_christ else year <= LAST_YEAR
    if not (year >= 1 and 1 <= month <= 12 and 1 <= day <= days and within):
        raise BadValue(BAD_VALUE)
    return value


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
    if NULL_CHARACTER.search(text):
        raise BadValue(BAD_TEXT)
    return text


def _array(value: Value) -> str:
    text = _json(value)
    found = msgspec.json.decode(text)
    if not isinstance(found, list) or any(isinstance(element, dict | list) for element in found):
        raise BadValue(BAD_VALUE)
    return text


def _bytes(value: Value) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    try:
        return _bytes(base64.b64decode(_text(value), validate=True))
    except (binascii.Error, ValueError):
        raise BadValue(BAD_VALUE) from None


_READ: Final[dict[Type, Callable[[Value], str]]] = {
    Type.TEXT: _text,
    Type.UUID: _uuid,
    Type.BOOL: _bool,
    Type.INT: _int,
    Type.BIGINT: _int,
    Type.FLOAT: _float,
    Type.NUMERIC: _numeric,
    Type.INSTANT: _instant,
    Type.DATE: _date,
    Type.JSON: _json,
    Type.ARRAY: _array,
    Type.BYTES: _bytes,
}


def as_text(field: Field) -> Callable[[Value], str | None]:
    """Makes of a device's value what Postgres gets: text; of an instant its microseconds, of bytes base64, of an array
    JSON. What it returns raises BadValue if the column cannot hold the value."""
    read = reader(field)
    if not field.nullable:
        return read  # None is of no type
    return lambda value: None if value is None else read(value)


def reader(field: Field) -> Callable[[Value], str]:
    """As `as_text`, whether or not the column may be NULL."""
    read = _READ[field.of]
    if field.of is Type.INT:
        return _checked(read, partial(_is_short, BITS[field.type]))
    return _checked(read, _is_real) if field.type == "real" else read


def _checked(read: Callable[[Value], str], holds: Callable[[str], bool]) -> Callable[[Value], str]:
    def checked(value: Value) -> str:
        text = read(value)
        if not holds(text):
            raise BadValue(BAD_VALUE)
        return text

    return checked


def read(field: Field, value: Value) -> str:
    """A device's value as text, whether or not the column may be NULL. Raises BadValue."""
    return reader(field)(value)


def _is_short(bits: int, text: str) -> bool:
    """Whether an integer of so many bits and a sign can hold it."""
    return -1 << bits <= int(text) < 1 << bits


def _is_real(text: str) -> bool:
    """Whether a number of 4 bytes can hold it, rounded."""
    value = float(text)
    try:
        (held,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return False
    return bool(held) == bool(value)


def written_out(text: str) -> int:
    """The digits that Postgres adds to JSON for the exponents of its numbers: `1e-16383` becomes 16,385 characters."""
    if not re.search("[0-9][eE][+-]?[0-9]", text):
        return 0
    exponents = (match[1].lstrip("+-0") for match in EXPONENT.finditer(text) if match[1])
    return sum(int(each[:6]) for each in exponents if each)


def read_key(kind: Kind, values: Sequence[Value]) -> Key:
    """A device's id of a row. Raises BadValue."""
    return key_of(kind, key_texts(kind, values))


def key_texts(kind: Kind, values: Sequence[Value]) -> list[str]:
    """A device's id of a row, as texts. Raises BadValue."""
    if len(values) != len(kind.key):
        raise BadValue(BAD_VALUE)
    return [read(field, value) for field, value in zip(kind.key, values, strict=True)]


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

    __slots__ = ("_columns", "_deletion", "_keys", "_uuids", "_width", "tag")

    def __init__(self, kind: Kind) -> None:
        self.tag = kind.tag
        self._width = COLUMNS + len(kind.columns)
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
        """The row, from a cache that keeps uuids as bytes. Raises ValueError if it is no row of this kind."""
        values = list(row)
        if len(values) != self._width or values[TAG] != self.tag:
            raise ValueError("This is not a row of this kind.")
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
        """The id of a row, of its key as the log and the statements have it: text. Raises ValueError for a key of
        another declaration."""
        if len(texts) == 1:
            (only,) = self._keys
            return only(texts[0])
        first, second = (read(text) for read, text in zip(self._keys, texts, strict=True))
        return first, second


def _nearest(text: str) -> int:
    """The instant that a device can hold and that is the nearest."""
    at = float(text) if text.endswith("infinity") else int(text)
    return int(min(max(at, FIRST_INSTANT), LAST_INSTANT))


_KEYS: Final[dict[Type, Callable[[str], UUID | str | int]]] = {
    Type.UUID: UUID,
    Type.TEXT: str,
    Type.INT: int,
    Type.INSTANT: _nearest,
    Type.BIGINT: lambda text: _exact(int(text)),
}
