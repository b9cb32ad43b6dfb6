"""Keeps streams alive while their writers are there, and brings the text of those that have ended into their rows."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import structlog

from server import metrics
from server.exceptions import UnavailableError
from server.streams.following import Following
from server.streams.ports import StreamStore
from server.streams.stream import Known, Stream

log = structlog.get_logger()

TOUCH_SECONDS: Final = 5.0
"""Interval between two notes that writers are there: a fifth of the silence after which they count as gone."""
LOOK_SECONDS: Final = 1.0
"""Interval between two looks at the rows of streams."""
LOOKS: Final = 100
"""Rows that one call looks at, at most: more may wait."""
ROTATE_SECONDS: Final = 60.0
RETURN_SECONDS: Final = 2 * TOUCH_SECONDS
"""After a start, and after Postgres was away, nobody counts as gone for so long: the writers have to return first."""


class Keeper:
    """`end`: called with a stream that has lost its row. `gone`: called with one that is settled. `following`: reads
    those that others have changed."""

    def __init__(
        self,
        store: StreamStore,
        known: Known,
        following: Following,
        *,
        end: Callable[[UUID], Awaitable[object]],
        gone: Callable[[UUID], None],
    ) -> None:
        self._store = store
        self._known = known
        self._following = following
        self._end = end
        self._gone = gone
        self._now = asyncio.Event()
        self._touched_at = 0.0
        self._rotated_at = 0.0
        self._away_at = 0.0
        """Loop time when Postgres was last away, or this began."""

    def look(self) -> None:
        """A row is to be looked at now."""
        self._now.set()

    async def run(self) -> None:
        """Keep until cancelled."""
        trouble = ""
        clock = asyncio.get_running_loop().time
        self._away_at = clock()
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS * random.uniform(0.8, 1.2)):
                    await self._now.wait()
            except TimeoutError:
                pass
            self._now.clear()
            before, trouble = trouble, ""
            try:
                await self._keep()
            except UnavailableError as error:
                self._away_at = clock()
                trouble = str(error)
            else:
                try:
                    await self._end_lost()
                except UnavailableError as error:
                    # One table of the app is locked, or gone. Writers could return meanwhile.
                    trouble = str(error)
            if trouble not in ("", before):
                log.warning("streams cannot be kept", error=trouble)

    async def _keep(self) -> None:
        """Raises UnavailableError."""
        now = asyncio.get_running_loop().time()
        written = self._written()
        metrics.STREAMS_OPEN.set(len(written))
        if len(self._known):
            if now - self._touched_at >= TOUCH_SECONDS:
                if here := [stream.id for stream in written if stream.touched > self._touched_at]:
                    await self._store.touch(here)
                await self._following.look()
                self._touched_at = now
            looks = await self._store.settle(silent=now - self._away_at >= RETURN_SECONDS)
            if len(looks) >= LOOKS:
                self.look()
            for settled in looks:
                if settled.trouble is not None:
                    log.warning(
                        "the text of a stream cannot be written", stream=str(settled.id), sqlstate=settled.trouble
                    )
                    metrics.STREAMS_SETTLED.labels("refused").inc()
                if settled.settled:
                    metrics.STREAMS_SETTLED.labels("server" if settled.written else "app").inc()
                    self._gone(settled.id)
                elif (stream := self._known.get(settled.id)) is not None and stream.open:
                    # Its writer is gone.
                    self._following.heard(0.0, [settled.id])
        if now - self._rotated_at >= ROTATE_SECONDS:
            self._rotated_at = now
            await self._store.rotate()

    async def _end_lost(self) -> None:
        """Raises UnavailableError."""
        if written := self._written():
            for id_ in await self._store.lost([stream.id for stream in written]):
                await self._end(id_)

    def _written(self) -> list[Stream]:
        """The open streams to which this process appended last."""
        return [stream for stream in self._known if stream.open and stream.held]
