"""Mutations and their results (SPEC.md, 8.3 and 8.4).

Pure values. Knows neither their encoding nor the outbox.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from atlas_sync.rows import Key
from atlas_sync.schema import Column, Devices, Kind, Schema

FRAME_BYTES = 262_144  # `limits.frame_bytes` before the first `welcome`
NUMBER_END = 2**53  # the largest number that JavaScript represents exactly
INT_END, BIGINT_END = 2**31, 2**63
NUMERIC_DIGITS = 1000  # before the point, and after it
FLOAT_END = 1e308
VALUE_BYTES = 100_000  # of a column without a limit of its own
JSON_DEPTH = 200  # of values in values

_DATE = re.compile(r"-?infinity|[0-9]{4,7}-[0-9]{2}-[0-9]{2}( BC)?")

DatedKey = tuple[Key, int]


@dataclass(frozen=True, slots=True)
class Insert:
    """Create a row. The device makes the id.

    kind: The kind's name. columns: The values by the columns' names, in the types of Row; of a kind with a parent they
    contain the parent's key. at: The instant at which the person acted, in microseconds since 1970-01-01 UTC, here and
    below. `Device.now` gives it.
    """

    kind: str
    id: Key
    columns: Mapping[str, Any]
    at: int


@dataclass(frozen=True, slots=True)
class Update:
    """Change columns of a row. The id of a dated kind is (key, instant): `Kind.target` of the row gives it."""

    kind: str
    id: Key | DatedKey
    columns: Mapping[str, Any]
    at: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a row, and the rows below it. The id is that of an Update."""

    kind: str
    id: Key | DatedKey


Mutation = Insert | Update | Delete


def split(target: Any, kind: Kind) -> tuple[Key, int | None]:
    """The key and the instant of an Update's or Delete's id; no instant if it has none."""
    if isinstance(target, tuple) and len(target) == 2 and (len(kind.key) == 1 or isinstance(target[0], tuple)):
        return target
    return target, None


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
    """The mutation will never be applied.

    `message` can be shown to people; `code` may be an unknown one. `column` is the column that is the reason, None if
    there is none.
    """

    n: int
    code: str
    message: str
    column: str | None = None


Result = Applied | Repeated | Rejected


# ---- Checking before sending ---------------------------------------------------------------------------------------


class WriteError(ValueError):
    """No server of this schema would accept this mutation. `code` and `column` are those of the rejection.

    The message never contains a person's text.
    """

    def __init__(self, code: str, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.code, self.column = code, column


def check(mutation: Mutation, schema: Schema) -> None:
    """Raise WriteError for a mutation that no server of this schema would accept."""
    kind = schema.get(mutation.kind)
    if kind is None:
        raise WriteError("not_allowed", f"the schema has no kind {mutation.kind!r}")
    devices = kind.devices or Devices()
    _check_id(mutation, kind)
    if isinstance(mutation, Delete):
        if not devices.delete:
            raise WriteError("not_allowed", f"devices may not delete a {kind.name}")
        return
    if type(mutation.at) is not int or abs(mutation.at) > NUMBER_END:
        raise WriteError("malformed", "at must be an integer of microseconds, and at most 2^53")
    if isinstance(mutation, Insert):
        if devices.insert is None:
            raise WriteError("not_allowed", f"devices may not create a {kind.name}")
        permitted = devices.insert
        if kind.parent is not None:
            permitted = (*permitted, kind.columns[0].name)
            if mutation.columns.get(kind.columns[0].name) is None:
                name = kind.columns[0].name
                raise WriteError("malformed", f"{name} is missing: the key of its {kind.parent}", name)
    else:
        permitted = devices.update
        if not permitted:
            raise WriteError("not_allowed", f"devices may not change a {kind.name}")
        if not mutation.columns:
            raise WriteError("malformed", "an update has no column")
    for name, value in mutation.columns.items():
        column = kind.column(name)
        if column is None or name not in permitted:
            raise WriteError("not_allowed", f"devices may not write {name!r} of a {kind.name}", name)
        _check_value(column, value, kind.limits.get(name, VALUE_BYTES))


def _check_id(mutation: Mutation, kind: Kind) -> None:
    key: Any = mutation.id
    if kind.dated is not None and not isinstance(mutation, Insert):
        key, instant = split(mutation.id, kind)
        if type(instant) is not int or abs(instant) > NUMBER_END:
            raise WriteError("malformed", f"the id of a {kind.name} must be its key and its {kind.dated}: Kind.target")
    check_key(key, kind)


def check_key(key: Any, kind: Kind) -> None:
    """Raises WriteError for what is no key of a row of this kind."""
    parts = key if len(kind.key) == 2 else (key,)
    if not isinstance(parts, tuple) or len(parts) != len(kind.key):
        raise WriteError("malformed", f"the id of a {kind.name} must be a tuple of {len(kind.key)}")
    for of, part in zip(kind.key, parts, strict=True):
        try:
            _check_value(Column("id", of), part, VALUE_BYTES)
        except WriteError as error:
            raise WriteError(error.code, str(error)) from None  # the key is no column


def _check_value(column: Column, value: Any, limit: int | tuple[str, ...]) -> None:
    name = column.name
    if value is None:
        if isinstance(limit, tuple) or (not column.nullable and column.type != "json"):  # null is a value of JSON
            raise WriteError("bad_value", f"{name} must not be None", name)
        return
    match column.type:
        case "text":
            _check_text(name, value, limit if isinstance(limit, int) else None)
            fits, must = not isinstance(limit, tuple) or value in limit, f"be one of {limit}"
        case "uuid":
            fits, must = isinstance(value, UUID), "be a UUID"
        case "bool":
            fits, must = isinstance(value, bool), "be a bool"
        case "int":
            fits, must = type(value) is int and -INT_END <= value < INT_END, "be an integer of 32 bits"
        case "bigint":
            fits, must = type(value) is int and -BIGINT_END <= value < BIGINT_END, "be an integer of 64 bits"
        case "float":
            number = type(value) in (int, float)
            fits, must = number and (abs(value) < FLOAT_END or _is_no_number(value)), "be a float"
        case "numeric":
            number = type(value) is int or isinstance(value, Decimal)
            fits, must = number and _is_numeric(Decimal(value)), "be a Decimal that Postgres can keep"
        case "instant":
            fits, must = type(value) is int and abs(value) < NUMBER_END, "be an integer of microseconds below 2^53"
        case "date":
            fits, must = isinstance(value, str) and bool(_DATE.fullmatch(value)), "be a date: YYYY-MM-DD"
        case "json":
            fits, must = _is_json(name, value), "be what JSON can say"
        case "array":
            fits, must = isinstance(value, list) and _is_json(name, value), "be a list of what JSON can say"
        case "bytes":
            fits, must = isinstance(value, bytes), "be bytes"
            if fits and isinstance(limit, int) and len(value) > limit:
                raise WriteError("too_long", f"{name} has {len(value)} bytes, and the server accepts {limit}", name)
        case _:
            fits, must = False, f"be of the type {column.type}, which this version does not know"
    if not fits:
        raise WriteError("bad_value", f"{name} must {must}", name)


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_numeric(value: Decimal) -> bool:
    if not value.is_finite():
        return True
    digits, exponent = len(value.as_tuple().digits), int(value.as_tuple().exponent)
    return digits + exponent <= NUMERIC_DIGITS and -exponent <= NUMERIC_DIGITS


def _is_json(name: str, value: Any, depth: int = 0) -> bool:
    match value:
        case str():
            _check_text(name, value, None)
            return True
        case None | bool() | int():
            return True
        case float():
            return math.isfinite(value)
        case list() if depth < JSON_DEPTH:
            return all(_is_json(name, each, depth + 1) for each in value)
        case dict() if depth < JSON_DEPTH:
            return all(isinstance(k, str) and _is_json(name, [k, v], depth + 1) for k, v in value.items())
    return False


def _check_text(name: str, value: object, at_most: int | None) -> None:
    if not isinstance(value, str):
        raise WriteError("bad_value", f"{name} must be a text", name)
    if "\0" in value:
        raise WriteError("bad_text", f"{name} contains U+0000, which the server cannot keep: leave it out", name)
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        # UnicodeEncodeError contains the whole text.
        raise WriteError(
            "bad_text", f"{name} contains half of a surrogate pair, which the server cannot keep: leave it out", name
        ) from None
    if at_most is not None and size > at_most:
        raise WriteError(
            "too_long", f"{name} has {size} bytes of UTF-8, and the server accepts {at_most}: shorten it", name
        )
