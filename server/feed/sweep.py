"""Finds changes whose doorbells were lost, by comparing positions."""

import asyncio
from typing import Final

import structlog

from server import metrics
from server.exceptions import UnavailableError
from server.feed.history import History
from server.feed.hub import Hub
from server.feed.ports import Store

log = structlog.get_logger()

USERS: Final = 20_000
"""Users compared by one statement; 10,000 take some 5 ms."""
AGAIN_SECONDS: Final = 0.5
"""Seconds until the next attempt while Postgres is away."""


class Sweep:
    """Compares the heads of the connected users' feeds with their readers' positions: every `every` seconds, and each
    time that doorbells arrive again after an interruption."""

    def __init__(self, hub: Hub, history: History, store: Store, every: float) -> None:
        self._hub = hub
        self._history = history
        self._store = store
        self._every = every
        self._now = asyncio.Event()
        self._listening = False

    def doorbells_up(self) -> None:
        self._listening = True
        self._now.set()

    def doorbells_down(self) -> None:
        self._listening = False
        self._hub.doorbells_work = False

    async def run(self) -> None:
        """Sweep until cancelled."""
        wait = self._every
        while True:
            try:
                async with asyncio.timeout(wait):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            listening = self._listening
            try:
                missed = await self.once()
            except UnavailableError:
                wait = AGAIN_SECONDS
                continue
            wait = self._every
            # Only now: the sweep has found what changed while no doorbells arrived.
            self._hub.doorbells_work = listening and self._listening and not self._now.is_set()
            self._hub.expected.settle(set(self._hub.users()))
            metrics.DOORBELLS_MISSED.inc(missed)
            if missed:
                log.info("the sweep found changes whose doorbells were lost", missed=missed)

    async def once(self) -> int:
        """Compare once. Returns the number of readers' cohorts that had missed a doorbell. Raises UnavailableError."""
        users = self._hub.users()
        missed = 0
        for begin in range(0, max(len(users), 1), USERS):
            some = users[begin : begin + USERS]
            epoch, heads = await self._store.heads(some)
            self._history.require(epoch)
            missed += sum(self._hub.compare(user, head) for user, head in zip(some, heads, strict=True))
        return missed
