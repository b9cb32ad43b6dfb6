"""How much each user may do: a token bucket each. Pure: the time comes in as an argument."""

from typing import Final
from uuid import UUID

FORGET_FROM: Final = 10_000
"""Buckets from which on full ones are looked for, which are as good as none."""


class Allowance:
    """`rate` mutations, or whatever is counted, a second on average; `burst` of them at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._full_at: dict[UUID, float] = {}
        """When each user's bucket will be full again: one number says how full it is at any moment."""
        self._forget_from = FORGET_FROM

    def take(self, user: UUID, count: int, now: float) -> float:
        """Take so many out of the user's bucket. If there are fewer, take none, and return the seconds until there will
        be enough. More than `burst` are never enough."""
        full_at = max(self._full_at.get(user, now), now) + count / self._rate
        wait = full_at - now - self._burst / self._rate
        if wait > 1e-9:  # seconds; a bucket that is exactly full must not fail by a rounding error
            return wait
        self._full_at[user] = full_at
        if len(self._full_at) >= self._forget_from:
            self._full_at = {user: at for user, at in self._full_at.items() if at > now}
            # Not at every push, where there are so many writers at a time.
            self._forget_from = max(FORGET_FROM, 2 * len(self._full_at))
        return 0.0
