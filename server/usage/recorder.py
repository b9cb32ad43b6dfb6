"""The door to usage: collects events while others are written, within a bounded memory.

Events of the app's backend are confirmed when they are durable. While Postgres is away they are refused, so that the
backend keeps them. The server's own events are dropped then, and counted.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from server import metrics
from server.exceptions import UnavailableError
from server.usage import events
from server.usage.events import Event, Group, Written
from server.usage.ports import RefusedError, UsageStore

log = structlog.get_logger()

MOST_BYTES: Final = 8 * 1024 * 1024
"""Memory for groups that wait or are being written. It holds what arrives in seconds at any rate of writing."""
MOST_OWN: Final = 20_000
"""Own events that wait: two storms of 10,000 devices."""
GROUP_EVENTS: Final = 250
"""Events of one transaction. At 5,000 a second an event is durable after 4 ms, and the p99 of changes beside it is 1.6
times what it is without; with 500, every 50 ms, after 27 ms and 1.7 times."""
GROUP_BYTES: Final = 1024 * 1024
PAUSE: Final = 0.02
"""Minimum interval in seconds between two transactions: events share commits, and leave the disk to others."""
OWN_SECONDS: Final = 1.0
"""Own events wait this long for others."""
WRITE_SECONDS: Final = 5.0
"""After this time a transaction counts as failed."""
AWAY_SECONDS: Final = 1.0
"""For this long after a failure Postgres is not tried again."""
FULL: Final = "More events arrive than are written. Keep them, and send them again."

_WRITTEN: Final = metrics.USAGE_EVENTS.labels("server", "written")
_DROPPED: Final = metrics.USAGE_EVENTS.labels("server", "dropped")
_PUT_OFF: Final = metrics.USAGE_EVENTS.labels("backend", "put_off")
_REFUSED: Final = metrics.USAGE_EVENTS.labels("backend", "refused")
_BECAME: Final = {
    written: metrics.USAGE_EVENTS.labels("backend", written) for written in (Written.WRITTEN, Written.REPEATED)
}


@dataclass(slots=True, eq=False)
class _Waiting:
    group: Group
    answer: "asyncio.Future[Written]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Recorder:
    """Writes events to `store`, one transaction at a time."""

    def __init__(self, store: UsageStore) -> None:
        self._store = store
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        """Of all groups that are not answered."""
        self._own: deque[Event] = deque()
        self._some = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._away_until = 0.0
        """Loop time before which Postgres is not tried."""
        self._away: str | None = None
        """Why the last transaction failed; None if it did not."""

    def note(self, event: Event) -> None:
        """Record an event of the server itself; it may be dropped."""
        if len(self._own) >= MOST_OWN:
            _DROPPED.inc()
            return
        self._own.append(event)
        if len(self._own) >= GROUP_EVENTS:
            self._some.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(OWN_SECONDS, self._own_are_due)

    def _own_are_due(self) -> None:
        self._timer = None
        self._some.set()

    async def submit(self, group: Group) -> Written:
        """Write a group of the app's backend. Returns when it is durable.

        Raises UnavailableError if the backend must keep its events, and RefusedError if Postgres refuses them.
        """
        if self._away is not None and asyncio.get_running_loop().time() < self._away_until:
            _PUT_OFF.inc(group.events)
            raise UnavailableError(self._away)
        size = sys.getsizeof(group.document)  # its characters may have four bytes each
        if self._bytes + size > MOST_BYTES:
            _PUT_OFF.inc(group.events)
            raise UnavailableError(FULL)
        waiting = _Waiting(group)
        self._waiting.append(waiting)
        self._bytes += size
        self._some.set()
        try:
            written = await waiting.answer
        except UnavailableError:
            _PUT_OFF.inc(group.events)
            raise
        except RefusedError:
            _REFUSED.inc(group.events)
            raise
        finally:
            self._bytes -= size
        _BECAME.get(written, _REFUSED).inc(group.events)
        return written

    def refused(self, count: int) -> None:
        """So many events of the backend were refused before they came here."""
        _REFUSED.inc(count)

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting or self._own:
                next_at = loop.time() + PAUSE
                await self._write_some()
                await asyncio.sleep(next_at - loop.time())

    async def close(self) -> None:
        """Write the own events that are left. Groups of the backend are refused."""
        self._fail("This server is shutting down.")
        while self._own and self._away is None:
            await self._write_some()

    async def _write_some(self) -> None:
        own = [self._own.popleft() for _ in range(min(len(self._own), GROUP_EVENTS))]
        taken = self._take(GROUP_EVENTS - len(own))
        groups = [*([events.own(own)] if own else []), *(waiting.group for waiting in taken)]
        if not groups:
            return
        try:
            try:
                written: Sequence[Written | RefusedError] = await self._store.write(groups, WRITE_SECONDS)
            except RefusedError:
                written = [await self._write_alone(group) for group in groups]
        except UnavailableError as error:
            _DROPPED.inc(len(own) + len(self._own))
            self._own.clear()
            self._waiting.extendleft(reversed(taken))
            self._is_away(error)
            return
        except BaseException:
            self._waiting.extendleft(reversed(taken))
            self._fail("This server is shutting down.")
            raise
        if self._away is not None:
            self._away = None
            log.info("usage is written again")
        if own:
            (_WRITTEN if isinstance(written[0], Written) else _DROPPED).inc(len(own))
        for waiting, became in zip(taken, written[bool(own) :], strict=True):
            if waiting.answer.done():
                continue  # its connection closed meanwhile
            if isinstance(became, RefusedError):
                waiting.answer.set_exception(became)
            else:
                waiting.answer.set_result(became)

    def _take(self, most: int) -> list[_Waiting]:
        """The next groups, the first whatever its size. A key that is taken already waits for the next transaction,
        which finds what became of it."""
        taken: list[_Waiting] = []
        later: list[_Waiting] = []
        count = size = 0
        keys = set()
        while self._waiting:
            group = self._waiting[0].group
            count, size = count + group.events, size + len(group.document)
            if taken and (count > most or size > GROUP_BYTES):
                break
            waiting = self._waiting.popleft()
            if waiting.answer.done():
                count, size = count - group.events, size - len(group.document)
            elif group.key in keys:
                later.append(waiting)
            else:
                keys.add(group.key)
                taken.append(waiting)
        self._waiting.extendleft(reversed(later))
        return taken

    async def _write_alone(self, group: Group) -> Written | RefusedError:
        try:
            (written,) = await self._store.write([group], WRITE_SECONDS)
        except RefusedError as error:
            return error
        return written

    def _is_away(self, error: UnavailableError) -> None:
        if self._away is None:
            log.warning("usage is not written", error=str(error))
        self._away = "Postgres is away. Keep the events, and send them again."
        self._away_until = asyncio.get_running_loop().time() + AWAY_SECONDS
        self._fail(self._away)

    def _fail(self, why: str) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.answer.done():
                waiting.answer.set_exception(UnavailableError(why))
