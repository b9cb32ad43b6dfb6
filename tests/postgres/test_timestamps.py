"""A timestamptz is exchanged exactly as far as both sides can hold it. Infinities are the ends of that range."""

from datetime import UTC, datetime, timedelta
from typing import Any

from protocol.frames import FIRST_INSTANT, LAST_INSTANT
from server.postgres.timestamps import ALWAYS, END_TIMESTAMP, EPOCH, FIRST_TIMESTAMP, NEVER, use_datetimes, use_instants

TEXT = "SELECT to_char($1::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
SAME = "SELECT $1::timestamptz"
FINITE = "SELECT isfinite($1::timestamptz)"


async def test_an_instant_is_microseconds_since_1970(sql: Any) -> None:
    await use_instants(sql)
    assert await sql.fetchval(TEXT, 1_600_000_000_000_001) == "2020-09-13 12:26:40.000001"
    assert await sql.fetchval("SELECT '1970-01-01 00:00:00.000001+00'::timestamptz") == 1
    for instant in (FIRST_INSTANT, -1, 0, EPOCH, LAST_INSTANT):
        assert await sql.fetchval(SAME, instant) == instant


async def test_an_instant_that_postgres_refuses_is_an_infinity_and_read_as_an_end_of_the_range(sql: Any) -> None:
    await use_instants(sql)
    for instant, end in ((NEVER, FIRST_INSTANT), (ALWAYS, LAST_INSTANT)):
        assert await sql.fetchval(FINITE, instant) is False
        assert await sql.fetchval(SAME, instant) == end
    for instant, finite in (
        (FIRST_TIMESTAMP + EPOCH, True),
        (FIRST_TIMESTAMP + EPOCH - 1, False),
        (END_TIMESTAMP + EPOCH - 1, True),
        (END_TIMESTAMP + EPOCH, False),
    ):
        assert await sql.fetchval(FINITE, instant) is finite


async def test_a_datetime_is_exact_and_infinity_is_read_as_the_last_one(sql: Any) -> None:
    await use_datetimes(sql)
    for moment in (datetime(1, 1, 1, tzinfo=UTC), datetime(2020, 9, 13, 12, 26, 40, 1, tzinfo=UTC)):
        assert await sql.fetchval(SAME, moment) == moment
        assert await sql.fetchval(TEXT, moment) == f"{moment.replace(tzinfo=None):%Y-%m-%d %H:%M:%S.%f}".zfill(26)
    assert await sql.fetchval("SELECT 'infinity'::timestamptz") == datetime.max.replace(tzinfo=UTC)
    assert await sql.fetchval("SELECT '-infinity'::timestamptz") == datetime.min.replace(tzinfo=UTC)
    assert await sql.fetchval(SAME, datetime(2020, 1, 1, tzinfo=UTC) + timedelta(microseconds=1)) == datetime(
        2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC
    )
