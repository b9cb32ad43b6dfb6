"""Rows from a cache before Postgres: pieces of snapshots and pages that were read before, and are right still."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from uuid import UUID

from msgspec import structs

from protocol.cursor import Position
from protocol.frames import Before
from server import metrics, tiers
from server.feed import kept
from server.feed.change import same
from server.feed.history import History
from server.feed.hub import Hub
from server.feed.ports import Answer, Cache, MessagesRead, Overview, Rows, Titles, Want
from server.feed.trail import LIST

A = TypeVar("A", Overview, Titles, MessagesRead)

OVERVIEW_SECONDS: Final = 600
"""How long the beginning of a snapshot is kept. Who gets it catches up from there by the log: the older it is, the more
there is to read."""
KEPT_SECONDS: Final = 3_600
"""How long other answers are kept."""


class CachedRows:
    """`Rows`, from `cache` where it has them. The others are read from `source`, and kept.

    A kept answer is used for a device that is not ahead of it, as if it had been read at this moment; and for one that
    is ahead, if nothing that it shows has changed in between.
    """

    def __init__(self, source: Rows, cache: Cache, history: History, hub: Hub) -> None:
        self._source = source
        self._cache = cache
        self._history = history
        self._hub = hub

    async def conversations(
        self, user: str, before: Before | None, rows: int, content_bytes: int, since: Position | None
    ) -> Overview:
        return await self._answer(
            Overview,
            user,
            ("conversations", before, rows, content_bytes),
            (LIST,),
            since,
            lambda: self._source.conversations(user, before, rows, content_bytes, since),
            KEPT_SECONDS if before else OVERVIEW_SECONDS,
        )

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int, since: Position | None) -> Titles:
        return await self._answer(
            Titles,
            user,
            ("titles", ids, content_bytes),
            (LIST,),
            since,
            lambda: self._source.titles(user, ids, content_bytes, since),
        )

    async def messages(
        self, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> MessagesRead:
        return await self._answer(
            MessagesRead,
            user,
            ("messages", wants, content_bytes),
            [want.conversation for want in wants],
            since,
            lambda: self._source.messages(user, wants, content_bytes, since),
        )

    async def _answer(
        self,
        kind: type[A],
        user: str,
        request: tuple[object, ...],
        parents: Iterable[UUID],
        since: Position | None,
        read: Callable[[], Awaitable[A]],
        seconds: int = KEPT_SECONDS,
    ) -> A:
        """The kept answer to the request, if a device at `since` may have it, or what `read` returns. `parents`: what
        the answer depends on."""
        if self._history.blind is not None:
            return await read()  # which refuses
        history = self._history.since_start
        key = kept.key(history, user, *request)
        if since is not None:
            data = await self._cache.get(key)
            found = None if data is None else kept.unpack(kind, key, data)
            right = None if found is None else self._right(user, found, parents, since)
            metrics.KEPT.labels(_result(data, found, right)).inc()
            if right is not None:
                return right
        answer = await read()
        # What was read in another history is unknown in this one.
        if history == self._history.since_start and _synced(answer):
            self._cache.put(key, kept.pack(key, answer), seconds)
        return answer

    def _right(self, user: str, found: A, parents: Iterable[UUID], since: Position) -> A | None:
        """`found` for a device at `since`; None if it may be older than what the device has."""
        at = found.position
        if at.seq > since.seq or (at.seq == since.seq and not since.n and same(at.mark, since.mark)):
            return found
        if not since.n and self._hub.untouched(user, parents, at, since):
            return _as_of(found, since)
        return None


def _synced(answer: Answer) -> bool:
    """False for the overview of a user who does not sync: that is only true at this moment."""
    return answer.tier in tiers.SYNCED if isinstance(answer, Overview) else True


def _result(data: bytes | None, found: object, right: object) -> str:
    if right is not None:
        return "hit"
    return "miss" if data is None else "unusable" if found is None else "older"


def _as_of(answer: A, position: Position) -> A:
    """The same answer at a later position, up to which it has not changed."""
    if isinstance(answer, MessagesRead):
        messages = [(i, structs.replace(row, seq=position.seq)) for i, row in answer.messages]
        return replace(answer, position=position, messages=messages)
    conversations = [structs.replace(row, seq=position.seq) for row in answer.conversations]
    answer = replace(answer, position=position, conversations=conversations)
    if isinstance(answer, Overview):
        profile = answer.profile
        return replace(answer, profile=profile and structs.replace(profile, seq=position.seq))
    return answer
