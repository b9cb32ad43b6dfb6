"""Keeps answers of the read path in Redis."""

import asyncio
import contextlib
from typing import Final

from server.exceptions import CacheError
from server.redis.link import Link

PENDING: Final = 64
"""Answers on their way to Redis. More are not kept: it does not keep up."""


class RedisAnswers:
    """`Cache`, in Redis."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pending: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> bytes | None:
        try:
            found = await self._link.command("GET", key)
        except CacheError:
            return None
        return found if isinstance(found, bytes) else None

    def put(self, key: str, value: bytes, seconds: int) -> None:
        if len(self._pending) < PENDING and self._link.up:
            task = asyncio.create_task(self._put(key, value, seconds), name="redis-put")
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _put(self, key: str, value: bytes, seconds: int) -> None:
        with contextlib.suppress(CacheError):
            await self._link.command("SET", key, value, "EX", seconds)
