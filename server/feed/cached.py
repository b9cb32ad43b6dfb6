"""Rows from a cache before Postgres: pieces of snapshots and pages that were read before, and are right still."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from protocol.cursor import Position
from protocol.frames import ID, TAG
from server import metrics
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.feed import kept
from server.feed.change import same
from server.feed.history import History
from server.feed.hub import Hub
from server.feed.ports import Answer, Cache, Rows, Want

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

    def __init__(self, source: Rows, cache: Cache, history: History, hub: Hub, synced: Synced) -> None:
        self._source = source
        self._cache = cache
        self._history = history
        self._hub = hub
        self._synced = synced

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        async def read() -> Answer:
            return await self._source.rows(kind, user, wants, content_bytes, since)

        if self._history.blind is not None:
            return await read()  # which refuses
        history, digest = self._history.since_start, self._synced.declaration.digest
        made = self._synced.rows[kind.tag]
        key = kept.key(history, digest, user, kind.name, wants, content_bytes)
        if since is not None:
            data = await self._cache.get(key)
            found = None if data is None else kept.unpack(made, key, data)
            right = None if found is None else self._right(kind, user, found, wants, since)
            metrics.KEPT.labels(_result(data, found, right)).inc()
            if right is not None:
                return right
        answer = await read()
        # What was read in another history is unknown in this one. That a user does not sync is true only at this
        # moment.
        if history == self._history.since_start and self._synced.admits(answer.tier):
            first = any(want.parent is None and want.before is None for want in wants)
            self._cache.put(key, kept.pack(key, answer), OVERVIEW_SECONDS if first else KEPT_SECONDS)
        return answer

    def _right(self, kind: Kind, user: str, found: Answer, wants: Sequence[Want], since: Position) -> Answer | None:
        """`found` for a device at `since`; None if it may be older than what the device has."""
        at = found.position
        if at.seq > since.seq or (at.seq == since.seq and not since.n and same(at.mark, since.mark)):
            return found
        lists = [(kind.name, want.parent) for want in wants]
        if not since.n and self._hub.untouched(user, lists, at, since):
            return _as_of(found, since)
        return None


def _result(data: bytes | None, found: object, right: object) -> str:
    if right is not None:
        return "hit"
    return "miss" if data is None else "unusable" if found is None else "older"


def _as_of(answer: Answer, position: Position) -> Answer:
    """The same answer at a later position, up to which it has not changed."""
    rows = [(i, (row[TAG], position.seq, *row[ID:])) for i, row in answer.rows]
    return replace(answer, position=position, rows=rows)
