"""Rows from a cache before Postgres: snapshots and pages that were read before, at the same position of the feed."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

from protocol.cursor import Position
from protocol.frames import Before
from server import metrics, tiers
from server.feed import kept
from server.feed.change import Batch, follow
from server.feed.history import History
from server.feed.ports import ANYWHERE, Cache, MessagesRead, Overview, ReadKey, Source, Titles, Want

A = TypeVar("A", Overview, Titles, MessagesRead)

TAIL_ROWS: Final = 64
"""Changes since a kept overview, at most: with more of them, the overview is read again."""
TAIL_BYTES: Final = 16 * 1024
"""Bytes of content of these changes that are read to make sure that the log continues."""


class CachedRows:
    """`Rows`, from `cache` where it has them. The others are read from `source`, and kept."""

    def __init__(self, source: Source, cache: Cache, history: History) -> None:
        self._source = source
        self._cache = cache
        self._history = history

    async def conversations(
        self, user: str, before: Before | None, rows: int, content_bytes: int, since: Position | None
    ) -> Overview:
        if since == ANYWHERE and before is None:
            return await self._newest_overview(user, rows, content_bytes)
        request = ("conversations", before, rows, content_bytes)
        return await self._answer(
            Overview, user, since, request, lambda: self._source.conversations(user, before, rows, content_bytes, since)
        )

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int, since: Position | None) -> Titles:
        request = ("titles", ids, content_bytes)
        return await self._answer(
            Titles, user, since, request, lambda: self._source.titles(user, ids, content_bytes, since)
        )

    async def messages(
        self, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> MessagesRead:
        request = ("messages", wants, content_bytes)
        return await self._answer(
            MessagesRead, user, since, request, lambda: self._source.messages(user, wants, content_bytes, since)
        )

    async def _answer(
        self,
        kind: type[A],
        user: str,
        since: Position | None,
        request: tuple[object, ...],
        read: Callable[[], Awaitable[A]],
    ) -> A:
        """The answer that was kept at exactly the position `since`, or what `read` returns."""
        if since is None or since.n or self._history.blind is not None:
            return await read()
        epoch = self._history.epoch
        key = kept.key(epoch, user, since, *request)
        found = await self._find(kind, key)
        if found is not None and found.position == since:
            return found
        answer = await read()
        if answer.position == since and epoch == self._history.epoch:
            await self._cache.put(key, kept.pack(key, answer))
        return answer

    async def _newest_overview(self, user: str, rows: int, content_bytes: int) -> Overview:
        """The last overview that was kept, if the log continues from it, as for any reader at its position."""
        if self._history.blind is not None:
            return await self._source.conversations(user, None, rows, content_bytes, ANYWHERE)
        epoch = self._history.epoch
        key = kept.key(epoch, user, None, "conversations", rows, content_bytes)
        if (found := await self._find(Overview, key)) is not None:
            (reading,) = await self._source.read_feed([ReadKey(user, found.position)], TAIL_ROWS, TAIL_BYTES)
            tail = follow(found.position, reading)
            if isinstance(tail, Batch) and not tail.more and reading.tier in tiers.SYNCED:
                return replace(found, tier=reading.tier)
        overview = await self._source.conversations(user, None, rows, content_bytes, ANYWHERE)
        if overview.tier in tiers.SYNCED and epoch == self._history.epoch:
            await self._cache.put(key, kept.pack(key, overview))
        return overview

    async def _find(self, kind: type[A], key: str) -> A | None:
        data = await self._cache.get(key)
        found = None if data is None else kept.unpack(kind, key, data)
        metrics.KEPT.labels("miss" if data is None else "unusable" if found is None else "hit").inc()
        return found
