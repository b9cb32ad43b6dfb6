"""`Rows` of Postgres, by a few statements at a time."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from protocol.cursor import Position
from server.declaration.model import Kind
from server.exceptions import UnavailableError
from server.feed.ports import Answer, Asked, Rows, RowsOfMany, Want

AT_ONCE: Final = 2
"""Statements in progress, for snapshots and for pages. More would not be faster on the same database, and would delay
those of live readers."""
LOOKED_UP_AT_ONCE: Final = 16
"""Look-ups in progress where a cache has most answers."""
GROUP: Final = 16
"""Reads of one statement. With those of snapshots it returns at most 8,000 rows and 4 MiB."""
COLLECTED_AT_ONCE: Final = AT_ONCE * GROUP
"""Reads in progress that fill the statements."""


class CollectedRows:
    """Rows of `source`, by at most AT_ONCE statements at a time. Reads of a kind that come meanwhile are collected, and
    share the next one: without that, 1,000 new devices took 3,000 statements of 0.2 ms of the server each."""

    def __init__(self, source: RowsOfMany) -> None:
        self._source = source
        self._waiting: deque[_Collected] = deque()
        """The statements to come."""
        self._open: dict[tuple[int, int], _Collected] = {}
        """Those of them that take further reads, by the kind's identity and the bound on content."""
        self._running: set[asyncio.Task[None]] = set()

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        key = id(kind), content_bytes
        group = self._open.get(key)
        if group is None:
            group = self._open[key] = _Collected(kind, content_bytes)
            self._waiting.append(group)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        group.asked.append(Asked(user, wants, since))
        group.answers.append(answer)
        if len(group.asked) == GROUP:
            del self._open[key]
        self._begin()
        return await answer

    def _begin(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE:
            group = self._waiting.popleft()
            if self._open.get(group.key) is group:
                del self._open[group.key]
            task = asyncio.get_running_loop().create_task(self._read(group), name="rows")
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._begin()

    async def _read(self, group: "_Collected") -> None:
        pairs = zip(group.asked, group.answers, strict=True)
        wanted = [(asked, answer) for asked, answer in pairs if not answer.done()]
        try:
            try:
                await self._answer(group, wanted)
            except UnavailableError:
                if len(wanted) == 1:
                    raise
                await self._answer_each(group, wanted)
        except Exception as error:
            _refuse(wanted, error)
        finally:
            for _, answer in wanted:
                answer.cancel()  # only at the end of the process are there any without an answer

    async def _answer_each(self, group: "_Collected", wanted: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        """One by one, because the statement may have failed for one read, which must not harm the others."""
        failed = False
        for each in wanted:
            try:
                await self._answer(group, [each])
                failed = False
            except UnavailableError as error:
                if failed:
                    raise  # two in a row: the reads are not the cause
                failed = True
                _refuse([each], error)

    async def _answer(self, group: "_Collected", wanted: Sequence[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        if wanted:
            found = await self._source.rows_of(group.kind, [asked for asked, _ in wanted], group.content_bytes)
            for (_, answer), each in zip(wanted, found, strict=True):
                if not answer.done():
                    answer.set_result(each)


def _refuse(wanted: Sequence[tuple[Asked, asyncio.Future[Answer]]], error: BaseException) -> None:
    """Raise the error in those that still wait for an answer."""
    for _, answer in wanted:
        if not answer.done():
            answer.set_exception(error)


class _Collected:
    """Reads of one statement."""

    def __init__(self, kind: Kind, content_bytes: int) -> None:
        self.kind = kind
        self.content_bytes = content_bytes
        self.asked: list[Asked] = []
        self.answers: list[asyncio.Future[Answer]] = []

    @property
    def key(self) -> tuple[int, int]:
        return id(self.kind), self.content_bytes


class LimitedRows:
    """`source`, with at most AT_ONCE reads in progress."""

    def __init__(self, source: Rows) -> None:
        self._source = source
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        async with self._turn:
            return await self._source.rows(kind, user, wants, content_bytes, since)
