"""How asyncpg reads and writes a timestamptz.

Postgres sends microseconds since 2000. The smallest and the largest bigint stand for -infinity and infinity.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Instant

START: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""Postgres' epoch."""
EPOCH: Final = int(START.timestamp()) * 1_000_000
"""Postgres' epoch in microseconds since 1970."""
MINUS_INFINITY: Final = -(1 << 63)
INFINITY: Final = (1 << 63) - 1
NEVER: Final = MINUS_INFINITY + EPOCH
"""-infinity, as a parameter of a connection with `use_instants`."""
ALWAYS: Final = INFINITY + EPOCH
"""infinity, as a parameter of a connection with `use_instants`."""
FIRST_TIMESTAMP: Final = -211_813_488_000_000_000
"""MIN_TIMESTAMP of PostgreSQL (datatype/timestamp.h). It refuses a timestamptz before it."""
END_TIMESTAMP: Final = 9_223_371_331_200_000_000
"""END_TIMESTAMP of PostgreSQL. It refuses a timestamptz at or after it."""


async def use_instants(connection: Any) -> None:
    """Exchange every timestamptz as an integer, microseconds since 1970, as devices do. No datetime is built."""
    await _set_codec(connection, instant_to_timestamp, timestamp_to_instant)


async def use_datetimes(connection: Any) -> None:
    """Exchange every timestamptz as a datetime. A value that it cannot hold is read as its
    minimum or maximum."""
    await _set_codec(connection, datetime_to_timestamp, timestamp_to_datetime)


def instant_to_timestamp(instant: Instant) -> tuple[int]:
    since = instant - EPOCH
    # A device may send an instant that Postgres refuses. It is stored as infinity.
    return (MINUS_INFINITY if since < FIRST_TIMESTAMP else INFINITY if since >= END_TIMESTAMP else since,)


def timestamp_to_instant(parts: tuple[int]) -> Instant:
    instant = parts[0] + EPOCH
    # SPEC.md, 2.4
    return instant if FIRST_INSTANT <= instant <= LAST_INSTANT else FIRST_INSTANT if instant < 0 else LAST_INSTANT


def datetime_to_timestamp(moment: datetime) -> tuple[int]:
    return ((moment - START) // timedelta(microseconds=1),)


def timestamp_to_datetime(parts: tuple[int]) -> datetime:
    try:
        return START + timedelta(microseconds=parts[0])
    except OverflowError:
        return (datetime.min if parts[0] < 0 else datetime.max).replace(tzinfo=UTC)


async def _set_codec(connection: Any, encoder: Any, decoder: Any) -> None:
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=encoder, decoder=decoder, format="tuple"
    )
