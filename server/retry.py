"""Retrying what failed: one back-off, one form of log line."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

log = structlog.get_logger()

SHORTEST: Final = 0.1
"""Seconds of the first delay, before jitter."""


def backoff(failures: int, longest: float = 2.0) -> float:
    """Return the delay in seconds after `failures` failures in a row.

    The delay doubles from 0.1 s up to `longest`. Jitter takes away up to half of it, so that clients that failed
    together do not retry together.
    """
    return min(SHORTEST / 2 * 2.0 ** min(failures, 16), longest) * random.uniform(0.5, 1)


class Retry:
    """Counts the failures in a row of one operation, logs each, and waits before the next attempt.

        retry = Retry("postgres is away, readers wait", lane=lane.name)
        while True:
            try:
                await attempt()
            except UnavailableError as error:
                await retry.pause(error)
            else:
                retry.reset()

    Only failures that the caller catches are retried; the caller decides when to give up.
    """

    def __init__(
        self,
        event: str | None,
        *,
        longest: float = 2.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        **fields: object,
    ) -> None:
        """`event` and `fields` go into the log line of each failure; without an event, failures are not logged.
        `longest` is the longest delay in seconds."""
        self.failures = 0
        """Failures since the last success."""
        self._event = event
        self._fields = fields
        self._longest = longest
        self._sleep = sleep

    def failed(self, error: BaseException) -> float:
        """Count and log a failure. Return the seconds until the next attempt, for callers that do not sleep."""
        self.failures += 1
        delay = backoff(self.failures, self._longest)
        if self._event is not None:
            log.warning(self._event, **self._fields, error=str(error), again_in=round(delay, 3))
        return delay

    async def pause(self, error: BaseException) -> None:
        """Count and log a failure, then wait for the delay."""
        await self._sleep(self.failed(error))

    def reset(self) -> None:
        """Record a success: the next failure gets the shortest delay again."""
        self.failures = 0
