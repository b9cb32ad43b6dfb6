"""The door to the read path: connections join, stall, resume and leave here, and doorbells ring here."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from protocol import errors
from protocol.frames import AskPage, Error, Milliseconds
from server import metrics
from server.feed import encode
from server.feed.history import SPLIT, History
from server.feed.hub import Hub, Phase, Reader, State
from server.feed.pages import PAGE_ROWS, Pages
from server.feed.ports import Sink, Window
from server.feed.presence import Presence
from server.feed.progress import Progress
from server.feed.resume import Why, start
from server.feed.snapshot import Snapshots
from server.outgoing import Outgoing
from server.rate_limit import TokenBuckets

__all__ = ["PAGE_ROWS", "Reader", "Readers", "Readiness"]

HELLO_DELAY: Final = (1_000, 10_000)
"""Milliseconds added to the wait of a user who connects too often; random, to spread the user's devices."""
SOCKETS_DELAY: Final = (30_000, 60_000)
"""Milliseconds until a user with too many sockets may try again. Some sockets may be dead, which the server notices
within a minute."""

NO_DOORBELLS: Final = "Postgres cannot be reached, or LISTEN does not deliver"

_WOKE: Final = metrics.DOORBELLS.labels("woke")
_CARRIED: Final = metrics.DOORBELLS.labels("carried")
_IGNORED: Final = metrics.DOORBELLS.labels("ignored")


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this process can serve new connections, and a sentence for the operator."""

    ready: bool
    reason: str


class Readers:
    """`sockets_per_user`: connections of one user at the same time. `hellos`: how often one user may connect.
    `count`: called when a device joins, to count what it receives until it has everything."""

    def __init__(
        self,
        hub: Hub,
        history: History,
        snapshots: Snapshots,
        pages: Pages,
        presence: Presence,
        *,
        hellos: TokenBuckets,
        sockets_per_user: int,
        count: Callable[[], Progress | None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._history = history
        self._snapshots = snapshots
        self._pages = pages
        self._presence = presence
        self._hellos = hellos
        self._sockets_per_user = sockets_per_user
        self._count = count

    @property
    def epoch(self) -> str:
        """The epoch of the history that counts; empty before Postgres was first asked."""
        return self._history.epoch

    def join(
        self, sink: Sink, user: UUID, client_id: UUID, cursor: bytes | None, window: Window, generation: int | None
    ) -> Reader | Error:
        """Register a connection whose token was accepted. Its hello is answered through `sink.welcome`.

        Ends an earlier connection of the same device. Returns the error to close with if this one cannot join.
        """
        hub, name = self._hub, str(user)
        if (wait := self._hellos.take(user, 1, asyncio.get_running_loop().time())) > 0:
            delay = Milliseconds(int(wait * 1000) + random.randrange(*HELLO_DELAY))
            return errors.TOO_MANY_HELLOS.frame(answers="hello", retry_after=delay)
        if (other := hub.of_client(name, client_id)) is not None:
            if (other.generation or 0) > (generation or other.generation or 0):
                # The device has given this connection up, and its hello was delayed on the way.
                return errors.REPLACED.frame()
            other.sink.close(errors.REPLACED.frame())
        if hub.sockets(name) >= self._sockets_per_user:
            message = f"This user has {self._sockets_per_user} connections open, which is the limit."
            delay = Milliseconds(random.randrange(*SOCKETS_DELAY))
            return errors.TOO_MANY_SOCKETS.frame(message, answers="hello", retry_after=delay)
        position = start(cursor, user, self._history.epoch, self._history.outdated)
        reader = hub.add(name, client_id, sink, window, generation)
        reader.progress = self._count()
        if isinstance(position, Why):
            self._snapshots.begin(reader, position)
        else:
            hub.place(reader, position, Phase.HELLO)
        return reader

    def stall(self, reader: Reader) -> None:
        """The reader's socket is full: nothing is read for it until `resume`."""
        self._hub.stall(reader)

    def resume(self, reader: Reader) -> None:
        """The reader's socket takes data again."""
        self._hub.resume(reader)

    def prove(self, reader: Reader) -> None:
        """Send the reader `live` as soon as a read that begins from now on has found everything, and none before."""
        self._hub.prove(reader)

    def leave(self, reader: Reader, close_code: int) -> None:
        """The reader's connection ends with this close code."""
        self._presence.left(reader, close_code)
        self._hub.remove(reader)

    def acknowledged(self, reader: Reader, seq: int) -> None:
        """An acknowledgement of the reader's own writes named `seq`."""
        reader.acknowledged = max(reader.acknowledged, seq)

    def live(self, reader: Reader) -> Outgoing | None:
        """The `live` frame for the reader's position; None unless it certainly has everything."""
        cohort = reader.cohort
        if cohort is None or not reader.live or cohort.state is not State.IDLE or not self._hub.doorbells_work:
            return None
        return encode.live(self._history.epoch, reader.feed.owner, cohort.position)

    async def answer_page(self, reader: Reader, ask: AskPage) -> None:
        """Send the page to the reader as soon as Postgres answers; send nothing if its socket closes before."""
        await self._pages.answer(reader, ask)

    def ring(self, user: str, seq: int, *, carried: bool = False) -> None:
        """A doorbell says that the user's feed reached `seq`. `carried`: readers here have got what it stands for."""
        woke = self._hub.ring(user, seq)
        (_WOKE if woke else _CARRIED if carried else _IGNORED).inc()

    def readiness(self) -> Readiness:
        """A process that is not ready goes on serving its open connections."""
        history = self._history
        if history.blind is not None:
            return Readiness(False, history.blind)
        if not self._hub.doorbells_work:
            return Readiness(False, history.inspection_error or NO_DOORBELLS)
        return Readiness(True, history.inspection_error or (SPLIT if history.split else "ready"))
