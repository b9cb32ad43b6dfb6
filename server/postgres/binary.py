"""Values in Postgres' binary format, as asyncpg gives them to the rest of the server. Pure."""

import struct
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Instant
from server.postgres.timestamps import EPOCH

BIGINT: Final = struct.Struct(">q")
FLOAT8: Final = struct.Struct(">d")
ARRAY: Final = struct.Struct(">III")
"""Dimensions, whether there are NULLs, and the OID of the elements' type."""
DIMENSION: Final = struct.Struct(">II")
LENGTH: Final = struct.Struct(">I")

Decode = Callable[[bytes], Any]


def text(data: bytes) -> str:
    return data.decode()


def uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def boolean(data: bytes) -> bool:
    return data != b"\0"


def integer(data: bytes) -> int:
    """A smallint, an integer or a bigint."""
    return int.from_bytes(data, "big", signed=True)


def integer_or_zero(data: bytes | None) -> int:
    """The same; 0 for NULL."""
    return 0 if data is None else int.from_bytes(data, "big", signed=True)


def float8(data: bytes) -> float:
    value: float = FLOAT8.unpack(data)[0]
    return value


def instant(data: bytes) -> Instant:
    """A timestamptz, or a timestamp in UTC."""
    at: int = BIGINT.unpack(data)[0] + EPOCH
    # SPEC.md, 2.4
    return at if FIRST_INSTANT <= at <= LAST_INSTANT else FIRST_INSTANT if at < 0 else LAST_INSTANT


def jsonb(data: bytes) -> str:
    """Raises ValueError for a version of the format that is not known."""
    if data[:1] != b"\x01":
        raise ValueError("This is another version of jsonb.")
    return data[1:].decode()


def texts(data: bytes) -> list[str]:
    """An array of texts, of one dimension and without NULLs."""
    dimensions, _, _ = ARRAY.unpack_from(data)
    if dimensions == 0:
        return []
    count, _ = DIMENSION.unpack_from(data, ARRAY.size)
    at = ARRAY.size + DIMENSION.size
    found = []
    for _ in range(count):
        (length,) = LENGTH.unpack_from(data, at)
        at += 4
        found.append(data[at : at + length].decode())
        at += length
    return found


SLOTS: Final[dict[str, Decode]] = {
    "t": text,
    "u": uuid,
    "b": boolean,
    "i": integer,
    "f": float8,
    "s": instant,
    "y": bytes,
}
"""By the letter of a reading's shared column: declaration/sql/reading.py."""
