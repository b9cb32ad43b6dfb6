"""Which history the database holds, as far as this process knows, and which of two is the newer one. Knows no Postgres:
whoever connects tells what was found there."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from protocol.frames import Instant
from server import metrics
from server.errors import UnavailableError
from server.feed import notices
from server.feed.hub import Hub

log = structlog.get_logger()

EARLIER: Final = (
    "This Postgres holds an earlier history than the one that was served before, as a former primary does after a "
    "failover. If you want it to be served, restart the servers with a DATABASE_URL that leads to it alone."
)
SPLIT: Final = (
    "Another host of DATABASE_URL answers, too, with an earlier history than the one that is served, as a former "
    "primary does after a failover. What is written there is lost: stop it."
)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a Postgres says of the history that it holds."""

    epoch: str
    lineage: tuple[str, ...]
    """The epochs that it went through before, oldest first."""
    system: int
    """The system identifier of the cluster that began this epoch, and its timeline."""
    timeline: int
    began_at: Instant
    started: Instant
    """When this Postgres was started."""


def newer(one: Standing, other: Standing) -> bool:
    """Whether `one` holds a newer history than `other`. Of two different histories exactly one does.

    Who went through the other's history is newer. Where both went on from a common one, within one cluster the later
    timeline is: a promotion and a restore begin one. Else the history that was begun later is.
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
    """The history that every cursor handed out belongs to: the newest that this process has met."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._standing: Standing | None = None
        self.blind: str | None = None
        """Why this server would not see every change; then nothing is read or written."""
        self.split = False
        """Another Postgres, with an earlier history, answers too."""
        self.unseen: str | None = None
        """Why the database could not be looked at the last time, where trying again does not help."""
        self.changed: list[Callable[[], object]] = []
        """Called when another history than before counts."""
        self.doubted: Callable[[], object] = lambda: None
        """Called when a statement saw another epoch than this one."""

    @property
    def epoch(self) -> str:
        """Empty before Postgres was first asked."""
        return "" if self._standing is None else self._standing.epoch

    def met(self, standing: Standing) -> None:
        """A connection leads to this history. Raises UnavailableError for an earlier one, which must not be used."""
        before = self._standing
        if before is None or before.epoch == standing.epoch:
            self._standing = standing
            if before is not None and before.started != standing.started:
                self._restarted()
        elif newer(standing, before):
            self._standing = standing
            metrics.HISTORIES.inc()
            log.warning("history changed, every device starts over", before=before.epoch, now=standing.epoch)
            for reader in self._hub.readers():
                notices.start_over(reader.sink)
            for tell in self.changed:
                tell()
        else:
            raise UnavailableError(EARLIER)

    def blinded(self, why: str) -> None:
        """This server would not see every change, or Postgres does not record it: nobody is told that it has all."""
        self.blind = why
        self._hub.doorbells_work = False

    def sees(self) -> None:
        """It sees every change. The sweep, which goes on trying, finds out whether doorbells work."""
        self.blind = None

    def saw(self, epoch: str) -> None:
        """A statement saw this epoch. Raises UnavailableError if it is not the one that counts."""
        if epoch != self.epoch:
            self.doubted()
            raise UnavailableError("The database has another history than this server knows.")

    def _restarted(self) -> None:
        """The same history, in a Postgres that was started anew: of a disk that may be an older image of it. Positions
        are proved by the log itself. An acknowledged write whose change has not been read is proved by nothing, and
        would count as settled as soon as any later change is read: the device is to push it again. And where no
        generation tells, the image may say that an earlier connection has the client_id: the next one takes it."""
        for reader in self._hub.readers():
            position, _ = reader.whereabouts
            settled = 0 if position is None or reader.generation is None else position.seq
            if reader.acknowledged > settled:
                notices.come_back(reader.sink)
