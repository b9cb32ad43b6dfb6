"""Read replicas: their connections, and whether each of them can be used."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import structlog

from protocol.frames import Instant
from server import metrics
from server.declaration.synced import Synced
from server.exceptions import UnavailableError, UnfitError
from server.feed.history import History, HistoryReport
from server.feed.replicas import LAG_SECONDS, LAG_SECONDS_BACK, PATIENCE, SILENT, Lag
from server.postgres.connection import statement
from server.postgres.errors import UNMIGRATED
from server.postgres.pool import Pool
from server.postgres.route import OpenConnection, Route
from server.postgres.store import PostgresStore
from server.url import read

log = structlog.get_logger()

EVERY: Final = 1.0
"""Seconds between two looks at the replicas."""
NOT_FOLLOWING: Final = "It follows no primary."
ANOTHER_HISTORY: Final = "It holds another history than the primary, or has not received the primary's yet."
AHEAD: Final = "It holds transactions that the primary lost. Build it again from the primary."


class ReplicaRoute(Route):
    """The way to a replica of the history that counts."""

    async def connect(self, *, required: bool = False, **options: Any) -> OpenConnection:
        """Raises UnavailableError, UnfitError."""
        return await self._open(self.url, **options)

    async def _standing(self, raw: Any) -> tuple[HistoryReport, Instant]:
        try:
            row = await raw.fetchrow(statement("replica"))
        except (*UNMIGRATED, asyncpg.InsufficientPrivilegeError):
            raise UnfitError(ANOTHER_HISTORY) from None
        require(row, self.history.epoch)
        return HistoryReport(row["epoch"], (), row["history_system"], row["history_timeline"], 0, 0), 0


def require(row: Any, epoch: str) -> None:
    """Raise UnfitError unless a row of replica.sql is of a replica of this history."""
    if not row["in_recovery"]:
        raise UnfitError(NOT_FOLLOWING)
    if row["epoch"] != epoch or row["system"] != row["history_system"] or row["timeline"] > row["history_timeline"]:
        raise UnfitError(ANOTHER_HISTORY)


class PostgresReplica:
    """`Replica`, a Postgres at `url`; the one with this number in ATLAS_REPLICA_URLS."""

    def __init__(self, number: int, url: str, history: History, synced: Synced, connections: int) -> None:
        self._number = number
        self._history = history
        self._pool = Pool(ReplicaRoute(url, history, pooled=read(url).pooled), synced, size=connections)
        self.store = PostgresStore(self._pool, synced, replica=True)
        self._why: str | None = ""
        """Why it is not used."""
        self._since_start = ""
        """The history and the start of the primary since which it was found to be well: a primary that was restarted
        may have lost what the replica holds."""
        self._ahead_at = -1
        """How much it had replayed when it was ahead of the primary. While it has replayed just that, it is stuck."""

    @property
    def usable(self) -> bool:
        return self._why is None and self._since_start == self._history.since_start

    def leave(self, why: str) -> None:
        if self._why != why:
            log.warning("a replica is not used", replica=self._number, why=why)
        self._why = why

    async def check(self) -> None:
        await self._replayed()
        if self._since_start != self._history.since_start:
            raise UnavailableError("The primary was restarted.")

    async def _replayed(self) -> int:
        """How much of the primary's WAL it has replayed, in bytes. Raises UnavailableError."""
        (row,) = await self._pool.fetch("replica")
        try:
            require(row, self._history.epoch)
        except UnfitError as error:
            raise UnavailableError(str(error)) from None
        return int(row["replayed"])

    async def look(self) -> int | None:
        """How much of the primary's WAL it has replayed, in bytes; None if it cannot be used."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._replayed()
        except (UnavailableError, TimeoutError) as error:
            self.leave(str(error) or SILENT)
            return None

    def judge(self, replayed: int, lag: Lag, since_start: str) -> None:
        """Decide whether it can be used. The primary was asked after it had replayed so much, and is `since_start`."""
        if lag.ahead(replayed):
            self._ahead_at = replayed
        behind = lag.of(replayed, asyncio.get_running_loop().time())
        metrics.REPLICA_LAG.labels(str(self._number)).set(behind)
        if replayed == self._ahead_at:
            self.leave(AHEAD)
        elif behind > (LAG_SECONDS if self._why is None else LAG_SECONDS_BACK):
            self.leave("It lags behind the primary.")
        else:
            self._since_start = since_start
            if self._why is not None:
                log.info("a replica is used", replica=self._number)
                self._why = None

    def terminate(self) -> None:
        self._pool.terminate()


class ReplicaWatch:
    """Looks at each replica once a second, and at how far the primary is."""

    def __init__(self, replicas: Sequence[PostgresReplica], primary: Pool) -> None:
        self._replicas = replicas
        self._primary = primary
        self._lag = Lag()
        self._count()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(EVERY)

    async def look(self) -> None:
        since_start = self._primary.history.since_start
        known = await self._ask_primary()
        replayed = await asyncio.gather(*(replica.look() for replica in self._replicas))
        if any(at is not None and self._lag.ahead(at) for at in replayed):
            known = await self._ask_primary()  # it may only have gone on meanwhile
        for replica, at in zip(self._replicas, replayed, strict=True):
            if known and at is not None:
                replica.judge(at, self._lag, since_start)
        self._count()

    async def _ask_primary(self) -> bool:
        """Note how far the primary is. False if it does not answer; the inspector logs that."""
        try:
            async with asyncio.timeout(PATIENCE):
                (row,) = await self._primary.fetch("wal", although_blind=True)
        except (UnavailableError, TimeoutError):
            return False
        self._lag.primary_at(row["wal"], asyncio.get_running_loop().time())
        return True

    def _count(self) -> None:
        used = sum(replica.usable for replica in self._replicas)
        metrics.REPLICAS.labels("used").set(used)
        metrics.REPLICAS.labels("left").set(len(self._replicas) - used)
