"""Connects to the host with the newest history, of those that a URL names."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.frames import Instant
from server.clock import ahead_of_machine, machine_now
from server.exceptions import UnavailableError, UnfitError
from server.feed.history import History, HistoryReport, newer
from server.postgres.connection import connect, give_up, report, to_report
from server.postgres.errors import none_left, translated
from server.postgres.shortage import Shortage
from server.postgres.timestamps import use_instants
from server.url import hosts

HOST_SECONDS: Final = 3.0
"""Limit for one of several hosts to take a connection, and then to report its history: after a failover one of them is
down, and the others are up."""
NEXT_SECONDS: Final = 0.3
"""After this time without an answer the next host is tried, too. A host that is up answers in some 10 ms."""
OTHERS_SECONDS: Final = 1.0
"""How long a survey of a process that serves waits for further hosts after one has answered. If that one was a standby,
it is then asked again, because it may be promoted while the primary is silent."""
SILENT_SECONDS: Final = 0.5
"""How long a survey waits for hosts that did not answer the last time, once all others have answered."""
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
    _silent: set[str] = field(init=False, default_factory=set)
    """Hosts that did not answer the last survey in time."""

    def __post_init__(self) -> None:
        self._urls = hosts(self.url)

    @property
    def several(self) -> bool:
        """Whether the URL names several hosts."""
        return len(self._urls) > 1

    @property
    def first(self) -> str:
        """The URL of the host that answered last."""
        return self._urls[0]

    async def connect(self, *, required: bool = False, **options: Any) -> OpenConnection:
        """Connect to the newest history. `required`: if Postgres has no connection left for this login, have a pool
        close one. Raises UnavailableError, UnfitError."""
        problems: list[BaseException] = []
        untried = list(self._urls)
        opening: dict[asyncio.Future[OpenConnection], str] = {}
        rings = self.history.alarm.next
        try:
            while untried or opening:
                if untried:
                    url = untried.pop(0)
                    work = (self._open_required if required else self._open)(url, **options)
                    opening[asyncio.ensure_future(work)] = url
                wait = NEXT_SECONDS if untried else None
                either: list[asyncio.Future[Any]] = [*opening, rings]
                done, _ = await asyncio.wait(either, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for each in [task for task in opening if task in done]:
                    try:
                        found = each.result()
                        self.history.connected(found.report)
                    except (UnavailableError, UnfitError) as error:
                        problems.append(error)
                        del opening[each]
                        await _drop([each])
                    else:
                        del opening[each]
                        self._prefer(found.url)
                        return found
                if rings.done():
                    # A standby that was passed over may be the primary now, while the former one does not answer.
                    rings = self.history.alarm.next
                    untried = [url for url in self._urls if url not in opening.values()]
        finally:
            await _drop(opening)
        raise to_report(problems) if self.several else problems[0]

    async def survey(self, inspect: Callable[[OpenConnection], Awaitable[None]]) -> bool:
        """Connect to every host and `inspect` the one with the newest history. Returns whether another host answered
        with an earlier history. Raises UnavailableError, UnfitError if no host has the current history or a newer one.
        """
        async with self.spare:
            opening: dict[asyncio.Future[OpenConnection], str] = {
                asyncio.ensure_future(self._open_required(url)): url for url in self._urls
            }
            try:
                found = await self._answers(opening)
                best = found[0]
                for each in found[1:]:
                    if newer(each.report, best.report):
                        best = each
                self.history.connected(best.report)
                self._prefer(best.url)
                await inspect(best)
            finally:
                # Also when this was cancelled: some connections may be open already.
                await _drop(opening)
        return any(each.report.epoch != best.report.epoch for each in found)

    async def _answers(self, opening: dict[asyncio.Future[OpenConnection], str]) -> list[OpenConnection]:
        """The connections to the hosts that answer. One with a newer history than the current one counts at once:
        until then devices are not served. Raises UnavailableError, UnfitError if there is none."""
        found: list[OpenConnection] = []
        problems: list[BaseException] = []
        waiting = set(opening)
        silent, self._silent = self._silent, set()
        hurry = False
        while waiting:
            some_answered = len(waiting) < len(opening)
            hurry = hurry or (some_answered and silent.issuperset(opening[each] for each in waiting))
            patient = OTHERS_SECONDS if some_answered and self.history.epoch else None
            limit = SILENT_SECONDS if hurry else patient
            done, waiting = await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                slow = {opening[each] for each in waiting}
                if found:
                    self._silent |= slow
                    break
                for url in self._urls:
                    if url not in slow:
                        again = asyncio.ensure_future(self._open_required(url))
                        opening[again] = url
                        waiting.add(again)
            for each in done:
                if (problem := each.exception()) is not None:
                    problems.append(problem)
                    if isinstance(problem.__cause__, TimeoutError):
                        self._silent.add(opening[each])
                    continue
                found.append(each.result())
                if self.history.is_newer(each.result().report):
                    self._prefer(opening[each])
                    self.history.connected(each.result().report)
                    hurry = True
        if not found:
            raise to_report(problems) if self.several else problems[0]
        return found

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
        if self.several:
            options["timeout"] = HOST_SECONDS
        raw = await connect(url, **options)
        try:
            with translated():
                async with asyncio.timeout(HOST_SECONDS if self.several else None):
                    await use_instants(raw)
                    return OpenConnection(url, raw, *await self._standing(raw))
        except BaseException:
            await give_up(raw)
            raise

    async def _standing(self, raw: Any) -> tuple[HistoryReport, Instant]:
        """The history that a connection leads to, and how far its clock is ahead of ours. Raises UnfitError."""
        asked = machine_now()
        found, now = await report(raw)
        return found, ahead_of_machine(now, asked)

    def _prefer(self, url: str) -> None:
        self._urls.remove(url)
        self._urls.insert(0, url)


async def _drop(opening: Iterable[asyncio.Future[OpenConnection]]) -> None:
    """Close these connections, and those that are not open yet."""
    tasks = list(opening)
    for each in tasks:
        each.cancel()
    try:
        if tasks:
            await asyncio.wait(tasks)
        opened = [each.result() for each in tasks if not each.cancelled() and each.exception() is None]
        await asyncio.gather(*(give_up(each.raw) for each in opened))
    except asyncio.CancelledError:
        for each in tasks:
            each.add_done_callback(_terminate)
        raise


def _terminate(opening: asyncio.Future[OpenConnection]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().raw.terminate()
