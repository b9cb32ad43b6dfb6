"""Shares the connections among the pools of a process when Postgres has fewer for its login than they would open."""

import asyncio
import math
import time
from typing import Final, Protocol

import structlog

log = structlog.get_logger()

PAUSE_SECONDS: Final = 0.05
"""Seconds until the next attempt to connect, after a connection was closed."""
REPORT_SECONDS: Final = 600.0
"""Seconds between two lines in the log about it."""


class Lender(Protocol):
    """A pool that can close a connection so that another one can be opened."""

    @property
    def open(self) -> int:
        """How many connections it has."""

    @property
    def owes(self) -> bool:
        """Whether it still has to close one, whose statement goes on."""

    def give_back(self) -> None:
        """Close a connection: at once, or as soon as its statement ends."""


class Shortage:
    """Frees connections when Postgres has none left for this login, so that every statement, the listener and the
    inspector get one."""

    def __init__(self) -> None:
        self.lenders: list[Lender] = []
        self._reported_at = -math.inf

    async def ease(self) -> None:
        """Have the pool with the most connections close one. Returns when a new attempt may succeed."""
        self.report()
        lender = max(self.lenders, key=lambda each: each.open, default=None)
        if lender is not None and lender.open and not any(each.owes for each in self.lenders):
            lender.give_back()
        await asyncio.sleep(PAUSE_SECONDS)

    def report(self) -> None:
        """Log it, once every ten minutes and not at every statement."""
        if time.monotonic() - self._reported_at >= REPORT_SECONDS:
            self._reported_at = time.monotonic()
            log.warning(
                "postgres has no connection left for this login, making do with fewer than ATLAS_POOL_SIZE",
                pools=sum(lender.open for lender in self.lenders),
            )
