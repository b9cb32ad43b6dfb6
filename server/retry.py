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


class Alarm:
    """Ends pauses early: what failed may work again."""

    def __init__(self) -> None:
        self.rung = 0
        """How often it has rung."""
        self.on_ring: list[Callable[[], object]] = []
        self._next: asyncio.Future[None] | None = None

    @property
    def next(self) -> asyncio.Future[None]:
        """Done when it rings next."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def ring(self) -> None:
        self.rung += 1
        for notify in self.on_ring:
            notify()
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds, or when it rings."""
        await asyncio.wait([self.next], timeout=seconds)


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
        alarm: Alarm | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        **fields: object,
    ) -> None:
        """`event` and `fields` go into the log line of each failure; without an event, failures are not logged.
        `longest` is the longest delay in seconds. `alarm` ends a delay early."""
        self.failures = 0
        """Failures since the last success."""
        self._event = event
        self._fields = fields
        self._longest = longest
        self._alarm = alarm
        self._sleep = sleep if alarm is None else alarm.sleep
        self._rung = 0
        """How often the alarm had rung when the last attempt began."""

    def failed(self, error: BaseException) -> float:
        """Count and log a failure. Return the seconds until the next attempt, for callers that do not sleep."""
        self.failures += 1
        delay = backoff(self.failures, self._longest)
        if self._event is not None:
            log.warning(self._event, **self._fields, error=str(error), again_in=round(delay, 3))
        return delay

    async def pause(self, error: BaseException) -> None:
        """Count and log a failure, then wait for the delay."""
        delay = self.failed(error)
        if self._alarm is not None and self._alarm.rung != self._rung:
            delay = min(delay, SHORTEST)  # it rang during the attempt, which may have begun too early
        await self._sleep(delay)
        if self._alarm is not None:
            self._rung = self._alarm.rung

    def reset(self) -> None:
        """Record a success: the next failure gets the shortest delay again."""
        self.failures = 0
