"""Cached responses in Postgres: the `Store` of the response cache, one function call each."""

from collections.abc import Sequence
from decimal import Decimal
from uuid import UUID

from protocol.frames import Instant
from server.postgres.pool import Pool
from server.responses.ports import Busy, Lease, Response
from server.responses.question import Key


class PostgresResponses:
    """`Store` on a pool of connections."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, key: Key, seconds: float | None) -> tuple[Response | Lease | Busy | None, Instant]:
        (row,) = await self._pool.fetch("take_response", *key, seconds, although_blind=True)
        text, tokens, cost, created_at, expires_at, version, fence, left, answered_at = row
        if text is not None:
            return Response(text, tokens, cost, created_at, expires_at, version), answered_at
        if seconds is None:
            return None, answered_at
        # Without either, the former holder's lease ended at this moment.
        return Busy(left or 0.0) if fence is None else Lease(fence, left), answered_at

    async def put(
        self, key: Key, text: str, ttl: float, tokens: int, cost: Decimal, fence: int | None
    ) -> tuple[Response, Instant] | None:
        rows = await self._pool.fetch("put_response", *key, text, ttl, tokens, cost, fence, although_blind=True)
        if not rows:
            return None
        ((created_at, expires_at, version, answered_at),) = rows
        return Response(text, tokens, cost, created_at, expires_at, version), answered_at

    async def drop(self, key: Key) -> int:
        (row,) = await self._pool.fetch("drop_response", *key, although_blind=True)
        return int(row["version"])

    async def release(self, key: Key, fence: int) -> None:
        await self._pool.fetch("release_response", *key, fence, although_blind=True)

    async def count(self, process: UUID, number: int, hits: Sequence[tuple[Key, int]]) -> None:
        keys, counts = zip(*hits, strict=True)
        hashes, tiers = zip(*keys, strict=True)
        await self._pool.fetch("count_hits", process, number, hashes, tiers, counts, although_blind=True)
