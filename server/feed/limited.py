"""`Rows` of Postgres, a few at a time: an answer from a cache before it takes no turn."""

import asyncio
from collections.abc import Sequence
from typing import Final

from protocol.cursor import Position
from server.declaration.model import Kind
from server.feed.ports import Answer, Rows, Want

AT_ONCE: Final = 2
"""Statements in progress, for snapshots and for pages. More would not be faster on the same database, and would delay
those of live readers."""
LOOKED_UP_AT_ONCE: Final = 16
"""Look-ups in progress where a cache has most answers."""


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
