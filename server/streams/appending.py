"""Writes appends in groups, one transaction after the other."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

from server import metrics
from server.exceptions import UnavailableError
from server.streams.ports import Part, StreamStore
from server.streams.stream import Group

EVERY: Final = 0.008
"""Minimum interval in seconds between the beginnings of two transactions: at most 125 a second. A single append never
waits."""


class Appends:
    """`finished`: called with each group before those that wait for it go on."""

    def __init__(self, store: StreamStore, finished: Callable[[Group], None]) -> None:
        self._store = store
        self._finished = finished
        self._group = Group()
        self._some = asyncio.Event()

    def add(self, id_: UUID, at: int, text: str) -> Group:
        """Have this appended at the offset. Returns the group that it is written with."""
        part = self._group.parts.get(id_)
        if part is None:
            self._group.parts[id_] = (at, [text])
            self._some.set()
        else:
            part[1].append(text)
        return self._group

    async def run(self) -> None:
        """Write until cancelled."""
        clock = asyncio.get_running_loop().time
        next_at = 0.0
        while True:
            await self._some.wait()
            if (wait := next_at - clock()) > 0:
                await asyncio.sleep(wait)
            self._some.clear()
            next_at = clock() + EVERY
            group, self._group = self._group, Group()
            if group.parts:
                await self._write(group)

    async def _write(self, group: Group) -> None:
        parts = [Part(id_, at, "".join(pieces)) for id_, (at, pieces) in group.parts.items()]
        try:
            appended = await self._store.append(parts)
        except UnavailableError as error:
            group.error = error
            appended = set()
        metrics.STREAM_APPENDS.inc(len(appended))
        metrics.STREAM_GROUPS.observe(len(parts))
        for id_ in group.parts.keys() - appended:
            group.lost.add(id_)
            # What follows it here would begin behind the end.
            if self._group.parts.pop(id_, None) is not None:
                self._group.lost.add(id_)
        self._finish(group)
        if self._group.lost and not self._group.parts:
            self._finish(self._group)
            self._group = Group()

    def _finish(self, group: Group) -> None:
        self._finished(group)
        group.finish()
