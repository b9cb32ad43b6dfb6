"""The time. Postgres' clock decides: the timestamps of Postgres and the checks of this process must agree."""

import time
from typing import Final

import structlog

from protocol.frames import Instant
from server import metrics

log = structlog.get_logger()

TOLERATED: Final = 2_000_000
"""Microseconds that two clocks may differ. A smaller difference may be a slow answer rather than a wrong clock."""


def machine_now() -> Instant:
    """The time of this machine's clock, in microseconds since 1970."""
    return time.time_ns() // 1_000


def ahead_of_machine(theirs: Instant, asked: Instant) -> Instant:
    """How far another clock is ahead of this machine's, in microseconds. It was asked at `asked` and has just answered
    `theirs`; half of the round trip is assumed each way."""
    return theirs - (asked + machine_now()) // 2


class Clock:
    """This machine's clock, corrected by that of Postgres if they differ."""

    def __init__(self) -> None:
        self._ahead = 0

    def set_ahead(self, ahead: Instant) -> None:
        """Postgres' clock is `ahead` microseconds ahead of this machine's."""
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
        """The time in microseconds since 1970."""
        return machine_now() + self._ahead

    def seconds(self) -> float:
        """The time in seconds since 1970, the unit of tokens."""
        return time.time() + self._ahead / 1_000_000
