"""`Rows` of Postgres, a few at a time: an answer from a cache before it takes no turn."""

import asyncio
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from protocol.cursor import Position
from protocol.frames import Before
from server.feed.ports import MessagesRead, Overview, Rows, Titles, Want

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

    async def conversations(
        self, user: str, before: Before | None, rows: int, content_bytes: int, since: Position | None
    ) -> Overview:
        async with self._turn:
            return await self._source.conversations(user, before, rows, content_bytes, since)

    async def titles(self, user: str, ids: Sequence[UUID], content_bytes: int, since: Position | None) -> Titles:
        async with self._turn:
            return await self._source.titles(user, ids, content_bytes, since)

    async def messages(
        self, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> MessagesRead:
        async with self._turn:
            return await self._source.messages(user, wants, content_bytes, since)
