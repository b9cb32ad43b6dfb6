"""Asks the primary whether readers that have all that a replica has, have everything."""

import asyncio
from typing import Final

from server.exceptions import UnavailableError
from server.feed import encode
from server.feed.history import History
from server.feed.hub import Hub
from server.feed.ports import Store
from server.retry import Retry

MOST: Final = 20_000
"""Cohorts that one statement asks for; 10,000 take some 5 ms."""
CROWD: Final = 0.4
"""Minimum interval in seconds between two such statements when the first was for several. In a reconnect storm, one
statement then confirms what some ten statements on the replicas have read. A single device never waits."""


class Confirmation:
    """Turns readers that a replica has brought up to date live, or leaves them to the primary."""

    def __init__(self, hub: Hub, history: History, store: Store) -> None:
        self._hub = hub
        self._history = history
        self._store = store
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Some readers have all that a replica has."""
        self._wanted.set()

    async def run(self) -> None:
        """Confirm until cancelled."""
        loop = asyncio.get_running_loop()
        retry = Retry("postgres is away, readers wait for a confirmation", alarm=self._history.alarm)
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            next_of_crowd = loop.time() + CROWD
            try:
                count = await self._once()
            except UnavailableError as error:
                self._wanted.set()
                await retry.pause(error)
                continue
            retry.reset()
            if count == MOST:
                self._wanted.set()  # more may wait
            if count > 1:
                await asyncio.sleep(next_of_crowd - loop.time())

    async def _once(self) -> int:
        """Confirm what waits. Returns the number of cohorts. Raises UnavailableError."""
        cohorts = self._hub.take_confirming(MOST)
        if not cohorts:
            return 0
        try:
            epoch, heads = await self._store.heads([cohort.feed.user for cohort in cohorts])
            self._history.require(epoch)
        except BaseException:
            for cohort in cohorts:
                self._hub.confirm(cohort, None)
            raise
        for cohort, head in zip(cohorts, heads, strict=True):
            if readers := self._hub.confirm(cohort, head):
                live = encode.live(epoch, cohort.feed.owner, cohort.position)
                for reader in readers:
                    reader.sink.send(live.wire(reader.sink.codec))
                    reader.caught_up()
        return len(cohorts)
