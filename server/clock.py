"""What time it is. Postgres decides: what it stamps and what this process judges must agree."""

import time
from typing import Final

import structlog

from protocol.frames import Instant
from server import metrics

log = structlog.get_logger()

TOLERATED: Final = 2_000_000
"""Microseconds that two clocks may differ: less is a slow answer as likely as a wrong clock."""


def machine_now() -> Instant:
    """The time of this machine's clock."""
    return time.time_ns() // 1_000


class Clock:
    """This machine's clock, put right by that of Postgres where they differ."""

    def __init__(self) -> None:
        self._ahead = 0

    def set_ahead(self, ahead: Instant) -> None:
        """Postgres' clock is so many microseconds ahead of this machine's."""
        metrics.CLOCK_AHEAD.set(ahead / 1_000_000)
        before, self._ahead = self._ahead, ahead if abs(ahead) > TOLERATED else 0
        if bool(before) != bool(self._ahead):
            log.warning(
                "the clocks of this machine and of postgres differ, postgres' one counts. Run NTP on both"
                if self._ahead
                else "the clocks of this machine and of postgres agree",
                postgres_ahead_seconds=round(ahead / 1_000_000, 1),
            )

    def now(self) -> Instant:
        return machine_now() + self._ahead

    def seconds(self) -> float:
        """The same in seconds, as tokens count."""
        return time.time() + self._ahead / 1_000_000
