"""Looks every few seconds, on a connection of its own, where new connections lead and whether all is seen there."""

import asyncio
import contextlib
from typing import Final

import structlog

from server import metrics
from server.clock import Clock
from server.errors import AtlasError, UnavailableError, UnfitError
from server.feed.history import EARLIER, History
from server.postgres.connection import LOCAL_PATH, STATEMENT_SECONDS, limited, statement
from server.postgres.errors import translated
from server.postgres.route import Lead, Route
from server.postgres.scripts import newest

log = structlog.get_logger()

EVERY: Final = 5.0
"""Seconds between two looks. A former primary that still answers on old connections is not written to for longer."""
QUEUE: Final = "SELECT pg_catalog.pg_notification_queue_usage()"
"""Asking also lets Postgres forget notifications that only a session which is gone had not heard."""
VERSION: Final = "SELECT version_num FROM sync.migrations"
BEGIN: Final = "SELECT sync.begin_history($1)"
EPOCH: Final = "SELECT sync.epoch()"
NAMED: Final = 3
"""Of many problems, so many are named."""


class Lookout:
    """`every`: seconds from one inventory to the next, while all is well. One takes Postgres some 15 ms."""

    def __init__(self, route: Route, clock: Clock, every: float) -> None:
        self._route = route
        self._every = every
        self._inventory_at = 0.0
        self._epoch = ""
        """Of the last inventory: another one may begin because triggers or policies were changed."""
        self._history: History = route.history
        self._clock = clock
        self._now = asyncio.Event()
        self._seen = False
        """All was well once since this server started."""
        self._trouble = ""
        self._to_begin = False
        self._newest = newest()
        self._history.doubted = self._now.set

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._now.wait()
            self._now.clear()
            try:
                await self.look()
            except (UnavailableError, UnfitError) as error:
                self._tell(error)
                lasts = isinstance(error, UnfitError) or str(error) == EARLIER
                self._history.unseen = str(error) if lasts else None
            else:
                self._trouble = ""
                self._history.unseen = None

    async def look(self) -> None:
        """Raises UnavailableError, and UnfitError for a database that cannot serve."""
        split = await self._route.survey(self._examine)
        if split != self._history.split:
            self._history.split = split
            metrics.HISTORY_SPLIT.set(split)
            if split:
                log.warning("another host answers with an earlier history, and is not used")

    async def _examine(self, lead: Lead) -> None:
        self._clock.set_ahead(lead.ahead)
        with translated():
            async with limited(lead.raw, STATEMENT_SECONDS):
                await lead.raw.execute(LOCAL_PATH)
                metrics.NOTIFICATION_QUEUE.set(await lead.raw.fetchval(QUEUE))
                now = asyncio.get_running_loop().time()
                if self._history.blind is None and now < self._inventory_at and lead.standing.epoch == self._epoch:
                    return
                # What another version made is not ours to judge, until this server is restarted with that one.
                same = await lead.raw.fetchval(VERSION) == self._newest
                found = await lead.raw.fetch(statement("inventory")) if same else []
        self._inventory_at, self._epoch = now + self._every, lead.standing.epoch
        problems = [f"{each['what']} is {each['problem']}" for each in found if each["serving"]]
        metrics.BLIND.set(bool(problems))
        if not problems:
            await self._begin(lead)
            if self._history.blind is not None and await self._newest_epoch(lead) != self._history.epoch:
                # One has begun since this connection was made: that one, or because of what was mended.
                self._now.set()
                return
            self._history.sees()
            self._seen = True
            return
        more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
        why = f"This server may not see every change: {', '.join(problems[:NAMED])}{more}. Run `atlas-sync migrate`."
        # Whoever has read since then may lack rows, and nobody can tell when that began.
        self._to_begin |= self._seen and self._history.blind is None
        self._history.blinded(why)
        await self._begin(lead)
        raise UnfitError(why)

    async def _begin(self, lead: Lead) -> None:
        """Begin the history that is due. What keeps it from that, as a lock does, may last."""
        if self._to_begin:
            with translated():
                async with limited(lead.raw, STATEMENT_SECONDS):
                    await lead.raw.fetchval(BEGIN, self._history.epoch)
            self._to_begin = False

    async def _newest_epoch(self, lead: Lead) -> str:
        with translated():
            async with limited(lead.raw, STATEMENT_SECONDS):
                return str(await lead.raw.fetchval(EPOCH))

    def _tell(self, error: AtlasError) -> None:
        """Once, and not at every look."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.warning("the database could not be looked at", error=str(error))
