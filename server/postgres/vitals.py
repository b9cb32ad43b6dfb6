"""The database's vital signs. They are queried when the metrics are scraped, and at no other time."""

import asyncio
import math
import time
from typing import Final

import asyncpg
import structlog

from server import metrics
from server.exceptions import UnavailableError
from server.postgres.pool import Pool
from server.postgres.usage import PostgresUsage

log = structlog.get_logger()

AGE: Final = 2.0
"""Seconds for which an answer is reused, however often the metrics are scraped."""
PATIENCE: Final = 3.0
"""Seconds to wait for Postgres. When it does not answer, the other metrics matter most."""


class Vitals:
    """Updates the gauges of metrics.py that describe the database behind `pool`."""

    def __init__(self, pool: Pool, usage: PostgresUsage | None = None) -> None:
        """`usage`: its figures are updated too."""
        self._pool = pool
        self._usage = usage
        self._asked_at = -AGE
        self._trouble = ""
        self._one_at_a_time = asyncio.Lock()

    async def read(self) -> None:
        """Update them. If Postgres does not answer, the gauge POSTGRES_UP and the log say so."""
        async with self._one_at_a_time:
            if time.monotonic() - self._asked_at < AGE:
                return
            history = self._pool.history
            epoch = history.epoch
            try:
                async with asyncio.timeout(PATIENCE):
                    (row,) = await self._pool.fetch("vitals", although_blind=True)
                    if self._usage is not None:
                        await self._usage.read_figures()
            except (UnavailableError, TimeoutError) as error:
                # Postgres is up if it answers and refuses this statement. It is, too, if another history was found
                # meanwhile: then this connection was closed, or its answer was discarded.
                refused = isinstance(error.__cause__, asyncpg.SyntaxOrAccessError)
                metrics.POSTGRES_UP.set(refused or history.epoch != epoch)
                self._log(str(error) or "no answer in time")
                return
            finally:
                self._asked_at = time.monotonic()
        self._log("")
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

    def _log(self, trouble: str) -> None:
        """Log a trouble when it begins, and not at every scrape."""
        if trouble and trouble != self._trouble:
            log.warning("the database's vital signs cannot be read", error=trouble)
        self._trouble = trouble
