"""The database's vital signs, asked for when somebody looks at the figures, and at no other time."""

import asyncio
import math
import time
from typing import Final

import asyncpg
import structlog

from server import metrics
from server.errors import UnavailableError
from server.postgres.pool import Pool

log = structlog.get_logger()

AGE: Final = 2.0
"""Seconds that an answer is good for, however often the figures are asked for."""
PATIENCE: Final = 3.0
"""Seconds to wait for Postgres: the other figures matter most when it does not answer."""


class Vitals:
    """Those of the database behind `pool`, kept in metrics.py."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._asked_at = -AGE
        self._trouble = ""
        self._turn = asyncio.Lock()

    async def read(self) -> None:
        """Bring them up to date; if Postgres does not answer, say that."""
        async with self._turn:
            if time.monotonic() - self._asked_at < AGE:
                return
            try:
                async with asyncio.timeout(PATIENCE):
                    (row,) = await self._pool.fetch("vitals", although_blind=True)
            except (UnavailableError, TimeoutError) as error:
                # It answers, and refuses this statement.
                metrics.POSTGRES_UP.set(isinstance(error.__cause__, asyncpg.SyntaxOrAccessError))
                self._tell(str(error) or "no answer in time")
                return
            finally:
                self._asked_at = time.monotonic()
        self._tell("")
        metrics.POSTGRES_UP.set(1)
        metrics.NOTIFICATION_QUEUE.set(row["notification_queue"])
        metrics.OLDEST_XMIN.set(row["oldest_xmin"])
        metrics.OLDEST_TRANSACTION.set(row["oldest_transaction"])
        ago = row["maintained_ago"]
        metrics.MAINTAINED_AGO.set(math.inf if ago is None else ago)
        metrics.LOG_BYTES.set(row["log_bytes"] or 0)
        for table in ("messages", "log"):
            metrics.DEFAULT_ROWS.labels(table).set(row[f"{table}_default"])
            metrics.PARTITIONS_AHEAD.labels(table).set(row[f"{table}_ahead"])

    def _tell(self, trouble: str) -> None:
        """Once, and not at every scrape."""
        if trouble and trouble != self._trouble:
            log.warning("the database's vital signs cannot be read", error=trouble)
        self._trouble = trouble
