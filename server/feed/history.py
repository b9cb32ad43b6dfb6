"""Which history the database holds, as far as this process knows, and which of two histories is newer. Sans-I/O: the
code that connects to Postgres reports what it found there."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import structlog

from protocol import errors
from protocol.frames import Instant, Milliseconds
from server import metrics
from server.exceptions import UnavailableError
from server.feed.hub import Hub
from server.retry import Alarm

log = structlog.get_logger()

SOONEST: Final = 100
"""Milliseconds after which the first of those devices comes back that all learn of a failover at the same moment."""
EACH: Final = 1.0
"""Milliseconds by which each device more delays the last of them: two cores, with Postgres on them, give 1,000 devices
their snapshots in 1.2 s."""
LATEST: Final = 5_000
"""Milliseconds after which the last of them comes back, however many there are."""
RESTARTED: Final = "Postgres was restarted. Come back after the delay: acknowledged changes have to be confirmed again."
EARLIER: Final = (
    "This Postgres holds an earlier history than the one that was served before, as a former primary does after a "
    "failover. If you want it to be served, restart the servers with a DATABASE_URL that leads to it alone."
)
DECLARED: Final = "What is synced was declared anew. Come back after the delay."
SPLIT: Final = (
    "Another host of DATABASE_URL answers, too, with an earlier history than the one that is served, as a former "
    "primary does after a failover. What is written there is lost: stop it."
)


@dataclass(frozen=True)
class HistoryReport:
    """What a Postgres reports of the history that it holds."""

    epoch: str
    lineage: tuple[str, ...]
    """The epochs before this one, oldest first."""
    system: int
    """The system identifier of the cluster that began this epoch, and its timeline."""
    timeline: int
    began_at: Instant
    started: Instant
    """When this Postgres was started."""
    schemas: frozenset[str] = frozenset()
    """Those of all these epochs that began because of another schema: nothing was lost."""

    @cached_property
    def outdated(self) -> frozenset[str]:
        """The epochs before this one since which nothing has begun another one but other schemas."""
        found = set()
        follower = self.epoch
        for epoch in reversed(self.lineage):
            if follower not in self.schemas:
                break
            found.add(epoch)
            follower = epoch
        return frozenset(found)


def newer(one: HistoryReport, other: HistoryReport) -> bool:
    """Whether `one` holds a newer history than `other`. Of two different histories exactly one is newer.

    A history that descends from the other is newer. Otherwise, within one cluster, the history on the later timeline
    is newer: a promotion and a restore begin a timeline. Otherwise the history that began later is newer.
    """
    if one.epoch == other.epoch:
        return False
    if other.epoch in one.lineage:
        return True
    if one.epoch in other.lineage:
        return False
    if one.system == other.system and one.timeline != other.timeline:
        return one.timeline > other.timeline
    return (one.began_at, one.epoch) > (other.began_at, other.epoch)


class History:
    """The history that all cursors of this process belong to: the newest that it has connected to."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._report: HistoryReport | None = None
        self.blind: str | None = None
        """Why this server may not see every change; while this is set, nothing is read or written."""
        self.split = False
        """Whether another Postgres, with an earlier history, answers too."""
        self.inspection_error: str | None = None
        """Why the last inspection of the database failed, if retrying does not help."""
        self.on_change: list[Callable[[], object]] = []
        """Called when the history has changed."""
        self.alarm = Alarm()
        """Rings when Postgres can be reached again, and when the history has changed."""
        self.on_mismatch: Callable[[], object] = lambda: None
        """Called when a statement reported another epoch than this one."""

    @property
    def epoch(self) -> str:
        """Empty before Postgres was first asked."""
        return "" if self._report is None else self._report.epoch

    @property
    def outdated(self) -> frozenset[str]:
        """The epochs before this one since which only the schema has changed."""
        return frozenset() if self._report is None else self._report.outdated

    def is_newer(self, report: HistoryReport) -> bool:
        """Whether this history is newer than the one that counts."""
        return self._report is not None and newer(report, self._report)

    @property
    def since_start(self) -> str:
        """Names the history, and the start of Postgres, whose disk may be an older image since then."""
        return "" if self._report is None else f"{self._report.epoch}.{self._report.started}"

    def connected(self, report: HistoryReport) -> None:
        """A connection leads to this history. Raises UnavailableError if it is earlier than the one that counts."""
        before = self._report
        if before is None or before.epoch == report.epoch:
            self._report = report
            if before is not None and before.started != report.started:
                self._restarted()
        elif newer(report, before):
            self._report = report
            self._hub.expected.forget()
            metrics.HISTORIES.inc()
            devices = self._hub.count
            if before.epoch in report.outdated:
                log.info("the schema changed, every device gets a snapshot", before=before.epoch, now=report.epoch)
                for reader in self._hub.readers():
                    # With its cursor, which says why it needs a snapshot.
                    reader.sink.close(errors.GOING_AWAY.frame(DECLARED, retry_after=come_back_apart(devices)))
            else:
                log.warning("history changed, every device starts over", before=before.epoch, now=report.epoch)
                for reader in self._hub.readers():
                    reader.sink.close(errors.POSITION_LOST.frame(retry_after=come_back_apart(devices)))
            for notify in self.on_change:
                notify()
            self.alarm.ring()
        else:
            raise UnavailableError(EARLIER)

    def set_blind(self, why: str) -> None:
        """This server may not see every change, or Postgres does not record every change: no device may be told that it
        has everything."""
        self.blind = why
        self._hub.doorbells_work = False

    def clear_blind(self) -> None:
        """This server sees every change again. The next sweep finds out whether doorbells work."""
        self.blind = None

    def require(self, epoch: str) -> None:
        """A statement reported this epoch. Raises UnavailableError if it is not the one that counts."""
        if epoch != self.epoch:
            self.on_mismatch()
            raise UnavailableError("The database has another history than this server knows.")

    def _restarted(self) -> None:
        """Postgres was restarted with the same history; its disk may now be an older image.

        The log itself proves positions. Nothing proves an acknowledged write whose change the device has not received:
        any later change would make it count as confirmed. Devices with such writes have to reconnect and push them
        again. Without a generation, the image may also give the client_id to an earlier connection; reconnecting takes
        it back.
        """
        self._hub.expected.forget()
        devices = self._hub.count
        for reader in self._hub.readers():
            position = reader.position
            confirmed = 0 if position is None or reader.generation is None else position.seq
            if reader.acknowledged > confirmed:
                reader.sink.close(errors.GOING_AWAY.frame(RESTARTED, retry_after=come_back_apart(devices)))


def come_back_apart(devices: int) -> Milliseconds:
    """The delay after which one of so many devices comes back that all lose their position at the same moment."""
    return Milliseconds(random.randrange(SOONEST, latest(devices)))


def latest(devices: int) -> int:
    """The milliseconds before which the last of so many devices comes back."""
    return min(2 * SOONEST + int(EACH * devices), LATEST)
