"""What the pools of a process do where Postgres has fewer connections for its login than they would open."""

import asyncio
import math
import time
from typing import Final, Protocol

import structlog

log = structlog.get_logger()

PAUSE_SECONDS: Final = 0.05
"""Until it is tried again, after a connection was given back."""
TOLD_SECONDS: Final = 600.0
"""Between two lines in the log about it."""


class Lender(Protocol):
    """What may give a connection back."""

    @property
    def open(self) -> int:
        """How many it has."""

    @property
    def owes(self) -> bool:
        """It has one to give back whose statement goes on."""

    def give_back(self) -> None:
        """Close one: at once, or as soon as its statement ends."""


class Shortage:
    """What the pools of a process do where Postgres has no connection left for its login: each statement that must have
    one finds one, and what listens and what looks out find theirs."""

    def __init__(self) -> None:
        self.lenders: list[Lender] = []
        self._told_at = -math.inf

    async def ease(self) -> None:
        """Have the pool that has most give one back. Returns when it is worth trying again."""
        self.tell()
        lender = max(self.lenders, key=lambda each: each.open, default=None)
        if lender is not None and lender.open and not any(each.owes for each in self.lenders):
            lender.give_back()
        await asyncio.sleep(PAUSE_SECONDS)

    def tell(self) -> None:
        """Once, and not at every statement."""
        if time.monotonic() - self._told_at >= TOLD_SECONDS:
            self._told_at = time.monotonic()
            log.warning(
                "postgres has no connection left for this login, making do with fewer than ATLAS_POOL_SIZE",
                pools=sum(lender.open for lender in self.lenders),
            )
