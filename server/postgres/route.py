"""Connects to the host with the newest history, of those that a URL names."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.frames import Instant
from server.clock import ahead_of_machine, machine_now
from server.exceptions import AtlasError, UnavailableError, UnfitError
from server.feed.history import History, HistoryReport, newer
from server.postgres.connection import connect, give_up, report
from server.postgres.errors import none_left, translated
from server.postgres.shortage import Shortage
from server.postgres.timestamps import use_instants
from server.url import hosts

HOST_SECONDS: Final = 3.0
"""Limit for connecting to one of several hosts: after a failover one of them is down, and the others are up."""
SHORT_SECONDS: Final = 10.0
"""How long a required connection is tried for while Postgres has none left: some statement may have to end first."""


@dataclass(slots=True)
class OpenConnection:
    """An open connection, and the state of the database that it leads to."""

    url: str
    raw: Any
    report: HistoryReport
    ahead: Instant
    """How far Postgres' clock is ahead of this machine's, in microseconds."""


@dataclass(slots=True, eq=False)
class Route:
    """The hosts of `url`, the one that answered last first, and the newest history of all routes of this process.

    `pooled`: the URL leads to a pooler in transaction mode, which keeps neither prepared statements nor settings.
    """

    url: str
    history: History
    pooled: bool = False
    spare: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a short-lived connection is open, so that a process has one of them at a time."""
    shortage: Shortage = field(default_factory=Shortage)
    _urls: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._urls = hosts(self.url)

    async def connect(self, *, required: bool = False, **options: Any) -> OpenConnection:
        """Connect to the newest history. `required`: if Postgres has no connection left for this login, have a pool
        close one. Raises UnavailableError, UnfitError."""
        problems: list[AtlasError] = []
        for url in list(self._urls):
            found = None
            try:
                found = await (self._open_required if required else self._open)(url, **options)
                self.history.connected(found.report)
            except (UnavailableError, UnfitError) as error:
                problems.append(error)
                if found is not None:
                    await give_up(found.raw)
            else:
                self._prefer(url)
                return found
        raise next((each for each in problems if isinstance(each, UnavailableError)), problems[0])

    async def survey(self, inspect: Callable[[OpenConnection], Awaitable[None]]) -> bool:
        """Connect to every host and `inspect` the one with the newest history. Returns whether another host answered
        with an earlier history. Raises UnavailableError, UnfitError if no host has the current history or a newer one.
        """
        async with self.spare:
            opening = [asyncio.ensure_future(self._open_required(url)) for url in self._urls]
            try:
                answers = await asyncio.gather(*opening, return_exceptions=True)
                found = [each for each in answers if isinstance(each, OpenConnection)]
                problems = [each for each in answers if isinstance(each, BaseException)]
                if not found:
                    raise next((each for each in problems if not isinstance(each, UnfitError)), problems[0])
                best = found[0]
                for each in found[1:]:
                    if newer(each.report, best.report):
                        best = each
                self.history.connected(best.report)
                self._prefer(best.url)
                await inspect(best)
            finally:
                # Also when this was cancelled: gather then drops the connections that are open already.
                await asyncio.wait(opening)
                opened = [each.result() for each in opening if not each.cancelled() and each.exception() is None]
                await asyncio.gather(*(give_up(each.raw) for each in opened))
        return any(each.report.epoch != best.report.epoch for each in found)

    async def _open_required(self, url: str, **options: Any) -> OpenConnection:
        end = asyncio.get_running_loop().time() + SHORT_SECONDS
        while True:
            try:
                return await self._open(url, **options)
            except UnavailableError as error:
                # The pools' connections lead to the first host; closing one frees none on the other hosts.
                if not none_left(error) or url != self._urls[0] or asyncio.get_running_loop().time() >= end:
                    raise
                await self.shortage.ease()

    async def _open(self, url: str, **options: Any) -> OpenConnection:
        if self.pooled:
            options["statement_cache_size"] = 0
        if len(self._urls) > 1:
            options["timeout"] = HOST_SECONDS
        raw = await connect(url, **options)
        try:
            with translated():
                await use_instants(raw)
                asked = machine_now()
                found, now = await report(raw)
                return OpenConnection(url, raw, found, ahead_of_machine(now, asked))
        except BaseException:
            await give_up(raw)
            raise

    def _prefer(self, url: str) -> None:
        self._urls.remove(url)
        self._urls.insert(0, url)
