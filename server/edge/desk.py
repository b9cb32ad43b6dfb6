"""What every connection of this process works with."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from websockets.typing import Origin

from server import metrics
from server.clock import Clock
from server.edge.auth import Verifier
from server.edge.wheel import Wheel
from server.feed.history import History
from server.feed.hub import Hub, Reader
from server.feed.pages import Pages
from server.feed.roster import Roster
from server.feed.snapshot import Snapshots
from server.write.allowance import Allowance
from server.write.batcher import Batcher
from server.write.rules import Limits


class Guest(Protocol):
    """A connection, as the shutdown sees it."""

    def goodbye(self, retry_after: float) -> None:
        """Tell it to come back after so many seconds, and close."""

    def abort(self) -> None:
        """End it without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The settings of a connection."""

    keepalive: float
    """Seconds."""
    write_deadline: float
    """Seconds that a full socket may take no data."""
    sockets_per_user: int
    mutations: int
    """Of one push."""
    writes: Limits
    origins: Sequence[Origin | re.Pattern[str] | None] | None
    """None: any."""


@dataclass(slots=True, eq=False)
class Desk:
    """What every connection of this process works with."""

    terms: Terms
    verifier: Verifier
    hub: Hub
    history: History
    snapshots: Snapshots
    pages: Pages
    batcher: Batcher
    roster: Roster
    wheel: Wheel
    clock: Clock
    hellos: Allowance
    sockets: set[Guest] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Requests under way: tokens being checked, pages being read."""
    empty: asyncio.Event = field(default_factory=asyncio.Event)
    """No socket is here."""

    def arrived(self, sock: Guest) -> None:
        self.sockets.add(sock)
        self.empty.clear()

    def left(self, sock: Guest) -> None:
        self.sockets.discard(sock)
        if not self.sockets:
            self.empty.set()

    def sit_down(self, reader: Reader, tier: str) -> None:
        """The reader is welcomed. A user counts under the tier at the first welcome."""
        feed = reader.feed
        reader.welcomed_at = self.clock.now()
        feed.welcomed += 1
        if feed.welcomed == 1:
            feed.tier = tier
            metrics.USERS.labels(tier).inc()
        metrics.CONNECTIONS.labels(feed.tier).inc()

    def stand_up(self, reader: Reader, code: int) -> None:
        """The reader's connection ends, with this close code."""
        self.roster.left(reader, code)
        self.snapshots.forget(reader)
        self.hub.remove(reader)
        if reader.welcomed_at is not None:
            feed = reader.feed
            feed.welcomed -= 1
            if not feed.welcomed:
                metrics.USERS.labels(feed.tier).dec()
            metrics.CONNECTIONS.labels(feed.tier).dec()
