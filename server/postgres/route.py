"""Where connections lead: of the hosts that a URL names, to the one that holds the newest history."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.frames import Instant
from server.errors import AtlasError, UnavailableError, UnfitError
from server.feed.history import History, Standing, newer
from server.postgres.connection import connect, decode_plainly, give_up, standing
from server.postgres.errors import none_left, translated
from server.postgres.shortage import Shortage
from server.url import hosts

HOST_SECONDS: Final = 3.0
"""To connect to one of several hosts: after a failover one of them is dead, and the others are waiting."""
SHORT_SECONDS: Final = 10.0
"""How long a connection that must be had is tried for where Postgres has none left: some statement may have to end."""


@dataclass(slots=True)
class Lead:
    """An open connection, and what was found at its end."""

    url: str
    raw: Any
    standing: Standing
    ahead: Instant
    """How far that Postgres' clock is ahead of ours, in microseconds."""


@dataclass(slots=True, eq=False)
class Route:
    """The hosts of `url`, the one that answered last first, and the newest history of any route of this process.

    `pooled`: it leads through a transaction-mode pooler, where neither prepared statements nor settings stay.
    """

    url: str
    history: History
    pooled: bool = False
    spare: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held around a connection that is there for a moment, so that a process has one such at a time."""
    shortage: Shortage = field(default_factory=Shortage)
    _urls: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._urls = hosts(self.url)

    async def connect(self, *, surely: bool = False, **options: Any) -> Lead:
        """A connection to the newest history. `surely`: where Postgres has none left for this login, a pool gives one
        back. Raises UnavailableError, UnfitError."""
        problems: list[AtlasError] = []
        for url in list(self._urls):
            lead = None
            try:
                lead = await (self._open_surely if surely else self._open)(url, **options)
                self.history.met(lead.standing)
            except (UnavailableError, UnfitError) as error:
                problems.append(error)
                if lead is not None:
                    await give_up(lead.raw)
            else:
                self._prefer(url)
                return lead
        raise next((each for each in problems if isinstance(each, UnavailableError)), problems[0])

    async def survey(self, look: Callable[[Lead], Awaitable[None]]) -> bool:
        """Connect to every host, meet the newest history of those that answer, and `look` at it. Whether another host
        answered with an earlier one. Raises UnavailableError, UnfitError if none of them counts."""
        async with self.spare:
            answers = await asyncio.gather(*map(self._open_surely, self._urls), return_exceptions=True)
            leads = [each for each in answers if isinstance(each, Lead)]
            try:
                problems = [each for each in answers if isinstance(each, BaseException)]
                if not leads:
                    raise next((each for each in problems if not isinstance(each, UnfitError)), problems[0])
                best = leads[0]
                for lead in leads[1:]:
                    if newer(lead.standing, best.standing):
                        best = lead
                self.history.met(best.standing)
                self._prefer(best.url)
                await look(best)
            finally:
                await asyncio.gather(*(give_up(lead.raw) for lead in leads))
        return any(lead.standing.epoch != best.standing.epoch for lead in leads)

    async def _open_surely(self, url: str, **options: Any) -> Lead:
        end = asyncio.get_running_loop().time() + SHORT_SECONDS
        while True:
            try:
                return await self._open(url, **options)
            except UnavailableError as error:
                # Pools lead to the first one; what they give back helps none of the others.
                if not none_left(error) or url != self._urls[0] or asyncio.get_running_loop().time() >= end:
                    raise
                await self.shortage.ease()

    async def _open(self, url: str, **options: Any) -> Lead:
        if self.pooled:
            options["statement_cache_size"] = 0
        if len(self._urls) > 1:
            options["timeout"] = HOST_SECONDS
        raw = await connect(url, **options)
        try:
            with translated():
                await decode_plainly(raw)
                asked = time.time_ns()
                found, now = await standing(raw)
                return Lead(url, raw, found, now - (asked + time.time_ns()) // 2_000)
        except BaseException:
            await give_up(raw)
            raise

    def _prefer(self, url: str) -> None:
        self._urls.remove(url)
        self._urls.insert(0, url)
