"""Whether Postgres is away, as far as the write path knows."""

from typing import Final

import structlog

from server.backoff import backoff
from server.errors import UnavailableError

log = structlog.get_logger()

LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries while Postgres is away."""


class Outage:
    """All times are the loop's, in seconds."""

    def __init__(self) -> None:
        self.until = 0.0
        """Postgres is not tried before; whoever pushes meanwhile is told so at once."""
        self._failures = 0

    def met(self, error: UnavailableError, now: float) -> float:
        """Postgres could not be reached at `now`. Returns the seconds until it is tried again."""
        if now >= self.until:
            self._failures += 1
            pause = backoff(self._failures, LONGEST_PAUSE)
            self.until = now + pause
            log.warning("postgres takes no pushes", error=str(error), again_in=round(pause, 3))
        return self.until - now

    def over(self) -> None:
        """Postgres answered."""
        self._failures = 0
