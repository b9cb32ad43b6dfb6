"""Whether Postgres is away, as far as the write path knows."""

from typing import Final

from server.exceptions import UnavailableError
from server.retry import Retry

LONGEST_PAUSE: Final = 5.0
"""Seconds between two attempts while Postgres is away."""


class Outage:
    """All times are the loop's, in seconds."""

    def __init__(self) -> None:
        self.until = 0.0
        """Postgres is not asked before this time. Pushes that arrive meanwhile are answered at once."""
        self._retry = Retry("postgres takes no pushes", longest=LONGEST_PAUSE)

    def met(self, error: UnavailableError, now: float) -> float:
        """Postgres could not be reached at `now`. Returns the seconds until the next attempt."""
        if now >= self.until:
            self.until = now + self._retry.failed(error)
        return self.until - now

    def over(self) -> None:
        """Postgres answered."""
        self._retry.reset()

    def may_be_over(self) -> None:
        """Postgres answered somebody else: the next push tries it."""
        self.until = 0.0
