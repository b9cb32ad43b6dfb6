"""Keeps answers of the read path in Redis."""

import contextlib
from typing import Final

from server.exceptions import CacheError
from server.redis.link import Link

KEPT_SECONDS: Final = 3_600
"""How long an answer is kept. It would stay right for longer; after an hour without a change few devices ask for it."""


class RedisAnswers:
    """`Cache`, in Redis."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def get(self, key: str) -> bytes | None:
        try:
            found = await self._link.command("GET", key)
        except CacheError:
            return None
        return found if isinstance(found, bytes) else None

    async def put(self, key: str, value: bytes) -> None:
        with contextlib.suppress(CacheError):
            await self._link.command("SET", key, value, "EX", KEPT_SECONDS)
