"""Counts the hits of cached responses in groups, so that a hit costs no write. Each is counted exactly once."""

import asyncio
import contextlib
from typing import Final
from uuid import uuid4

import structlog

from server import metrics
from server.exceptions import UnavailableError
from server.responses.ports import Response, Store
from server.responses.question import Key
from server.retry import Retry

log = structlog.get_logger()

FLUSH_SECONDS: Final = 5.0
"""Seconds between two groups of counted hits."""
FLUSH_KEYS: Final = 1_000
"""Most keys of one group: one statement of 15 ms."""
COUNTED_KEYS: Final = 100_000
"""Most keys whose hits wait to be counted while Postgres is away: 31 MB. Hits of others are lost, and counted as
such."""


class Hits:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._process = uuid4()
        self._waiting: dict[Key, int] = {}
        self._group: list[tuple[Key, int]] = []
        """Hits that were sent, and perhaps not counted."""
        self._number = 0
        self._flushing = asyncio.Lock()
        self._many = asyncio.Event()

    def count(self, key: Key, response: Response, layer: str) -> None:
        """A response was found, in this layer."""
        metrics.RESPONSES.labels(layer).inc()
        if response.tokens:
            metrics.RESPONSES_SAVED_TOKENS.inc(response.tokens)
        if response.cost:
            metrics.RESPONSES_SAVED_COST.inc(float(response.cost))
        if not response.version:
            return  # it was not stored
        if key in self._waiting or len(self._waiting) < COUNTED_KEYS:
            self._waiting[key] = self._waiting.get(key, 0) + 1
        else:
            metrics.RESPONSES_UNCOUNTED.inc()
        if len(self._waiting) >= FLUSH_KEYS:
            self._many.set()

    async def run(self) -> None:
        """Count in groups until cancelled."""
        retry = Retry("hits of responses wait for postgres", longest=FLUSH_SECONDS)
        while True:
            try:
                await self.flush()
            except UnavailableError as error:
                await retry.pause(error)
                continue
            retry.reset()
            self._many.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._many.wait()

    async def flush(self) -> None:
        """Count all hits so far. Raises UnavailableError: a later call counts them. A call may be cancelled."""
        async with self._flushing:
            while self._group or self._waiting:
                if not self._group:
                    some = list(self._waiting)[:FLUSH_KEYS]
                    self._group = [(key, self._waiting.pop(key)) for key in some]
                    self._number += 1
                # If the answer is lost, it is sent again under its number.
                await self._store.count(self._process, self._number, self._group)
                self._group = []

    async def close(self, seconds: float) -> None:
        """Count the last hits, if Postgres answers within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.flush()
        except (UnavailableError, TimeoutError):
            lost = sum(self._waiting.values()) + sum(count for _, count in self._group)
            metrics.RESPONSES_UNCOUNTED.inc(lost)
            log.warning("hits of responses were not counted, postgres is away", hits=lost)
