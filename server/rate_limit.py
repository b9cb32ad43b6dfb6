"""How much each one may do: a user, or the writer of a stream. Sans-I/O: the time is a parameter."""

from typing import Final
from uuid import UUID

PRUNE_FROM: Final = 10_000
"""Buckets from which on full ones are dropped: a full bucket says no more than none."""


class TokenBuckets:
    """One token bucket for each UUID, of a user or of a stream: `rate` tokens a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at: dict[UUID, float] = {}
        """When each bucket will be full again. This one number says how full it is at any moment."""
        self._prune_from = PRUNE_FROM

    def take(self, whose: UUID, count: int, now: float) -> float:
        """Take `count` tokens out of the bucket and return 0.

        If it holds fewer, take none and return the seconds until it will hold enough. It never holds more than `burst`.
        `now`: seconds of a monotonic clock.
        """
        full_at = max(self._full_at.get(whose, now), now) + count / self._rate
        wait = full_at - now - self._burst / self._rate
        if wait > 1e-9:  # seconds; a rounding error must not refuse what exactly fits
            return wait
        self._full_at[whose] = full_at
        if len(self._full_at) >= self._prune_from:
            self._full_at = {each: at for each, at in self._full_at.items() if at > now}
            # Pruning at every push would cost too much where this many write at a time.
            self._prune_from = max(PRUNE_FROM, 2 * len(self._full_at))
        return 0.0
