"""A device comes back: how soon it has all that it missed, and what that costs. By the number of changes missed, by the
time it was away, and by the number of other users' messages in the tables."""

import statistics
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import machine
from benchmarks.past import past
from benchmarks.stage import Stage
from protocol.cursor import Cursor, Position

DAY: Final = 86_400.0
TOGETHER: Final = 50
"""Messages per transaction, unless a case has its own number."""
ROWS_OF_A_CASE: Final = 20_000
"""Rows that arrive at least in all reconnects of a device, because a single quick one is measured badly."""
LEAST: Final = 5
"""Reconnects of a device at least."""


@dataclass(frozen=True, slots=True)
class Case:
    """A device that comes back. Each belongs to another user; `name` begins the names of its figures."""

    name: str
    rows: int
    together: int = TOGETHER
    away: float | None = None
    """Seconds over which the messages are spread; None: they are written at once."""


def cases(rows: int) -> list[Case]:
    few, some, many = max(1, rows // 500), max(1, rows // 50), max(1, rows // 10)
    return [
        *(Case(f"rows_{count}", count) for count in sorted({rows // 10_000 or 1, some, many, rows * 2 // 5, rows})),
        Case(f"one_by_one_{some}", some, together=1),
        Case(f"at_once_{many}", many, together=many),
        *(
            Case(f"{what}_{name}", count, away=away)
            for what, count in (("away", few), ("away_for_nothing", 0))
            for name, away in (("a_minute", 60.0), ("a_day", DAY), ("80_days", 80 * DAY))
        ),
    ]


async def catchup(stage: Stage, messages: int, rows: int, times: int = 50) -> dict[str, float]:
    """`messages` of other users are in the tables, a device missed `rows` at most, and comes back `times` times at
    most. Needs a user for each of `cases(rows)`."""
    devices = stage.devices
    began = time.monotonic()
    async with past(stage) as before:
        await before.fill(messages)
        filled = time.monotonic()
        await devices.connect(stage.server.port)
        await stage.disconnect()
        known = [Cursor.decode(bytes.fromhex(cursor)) for cursor in await devices.call("cursors")]
        absences = []
        for number, (case, cursor) in enumerate(zip(cases(rows), known, strict=True)):
            assert cursor is not None
            if case.away is None:
                missed = await stage.write_many(number, case.rows, case.together)
            else:
                seq, missed = await before.missed(stage.users[number], case.rows, case.away)
                cursor = cursor._replace(position=Position(seq))
            absences.append((case, cursor, missed))
        await before.vacuum()

    figures: dict[str, float] = {"messages": messages, "fill_seconds": filled - began, "lost": 0.0}
    for number, (case, cursor, missed) in enumerate(absences):
        found = await _comeback(stage, number, cursor.encode().hex(), missed, times)
        figures["lost"] += found.pop("lost")
        figures |= {f"{case.name}_{key}": figure for key, figure in found.items()}
        if case.rows == rows and case.together == TOGETHER:
            figures |= {
                "rows": rows,
                "rows_per_second": 1000 * rows / found["ms"],
                **{
                    # CPU time is counted in hundredths of a second.
                    f"{who}_rows_per_second": 1000 * rows / max(found[f"{who}_ms"], 10 / times)
                    for who in ("server", "postgres")
                },
            }
    return figures


async def _comeback(stage: Stage, number: int, cursor: str, missed: list[str], times: int) -> dict[str, float]:
    """Let one device come back repeatedly with the same cursor. Return the figures of one time: milliseconds from its
    connect until it is live; CPU of the server (with the end of the connection) and of Postgres; statements of the read
    and the buffers that they used."""

    async def spent() -> list[float]:
        server, postgres = stage.server.cpu_seconds(), machine.cpu_seconds(stage.postgres.pid, family=True)
        return [1000 * server, 1000 * postgres, *await stage.reads(), 1000 * devices.cpu_seconds()]

    devices, expected = stage.devices, Counter(missed)
    times = min(times, max(LEAST, ROWS_OF_A_CASE // max(1, len(missed))))
    waits, lost = [], 0
    await stage.quiet()
    before = await spent()
    for _ in range(times):
        await devices.call("place", number=number, cursor=cursor)
        state = await devices.connect(stage.server.port, only=[number])
        waits.append((state["last_live"] - state["began"]) / 1e6)
        arrived = Counter(message for _, message, _ in await devices.arrivals(len(missed)))
        lost += ((expected - arrived) + (arrived - expected)).total()
        await stage.disconnect()
    once: Any = ((now - then) / times for now, then in zip(await spent(), before, strict=True))
    return {
        "ms": statistics.median(waits),
        **dict(
            zip(("server_ms", "postgres_ms", "statements", "statements_ms", "buffers", "client_ms"), once, strict=True)
        ),
        "lost": lost,
    }
