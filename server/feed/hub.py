"""Which readers are connected to this process, by user and position, and which of them are behind. Pure.

Readers of one user at one position form a *cohort*: what is read for one of them is right for all of them, so a cohort
is read for once, and moves as one. A reader belongs to one cohort, or to none while its socket is full or while it gets
a snapshot. A cohort is idle, queued (behind), or being read for; a doorbell that rings meanwhile is remembered.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from uuid import UUID

from protocol.cursor import Position, owner_digest
from protocol.frames import Instant
from server.feed.change import same
from server.feed.ports import Sighting, Sink, Window


class Phase(IntEnum):
    HELLO = 0
    """Nothing was sent yet; behind by definition."""
    CATCHING_UP = 1
    LIVE = 2
    """Has been told that it has everything."""


class Lane(IntEnum):
    """Two queues, so that those who come back do not delay those who are live."""

    LIVE = 0
    CATCH_UP = 1


class State(IntEnum):
    IDLE = 0
    QUEUED = 1
    READING = 2


class Feed:
    """One connected user's readers."""

    __slots__ = ("cohorts", "owner", "readers", "tier", "user", "welcomed")

    def __init__(self, user: str) -> None:
        self.user = user
        self.owner = owner_digest(UUID(user))
        self.cohorts: dict[tuple[Position, Phase], Cohort] = {}
        self.readers: set[Reader] = set()
        self.tier = ""
        """When the first of its readers that are here was welcomed."""
        self.welcomed = 0
        """Readers that were."""


class Cohort:
    """The readers of one feed at one position, in one phase."""

    __slots__ = ("feed", "phase", "position", "readers", "rung", "state")

    def __init__(self, feed: Feed, position: Position, phase: Phase) -> None:
        self.feed = feed
        self.position = position
        self.phase = phase
        self.readers: set[Reader] = set()
        self.state = State.IDLE
        self.rung = 0
        """The highest seq that a doorbell named while this cohort was being read for."""


class Reader:
    """One connection at a position."""

    __slots__ = (
        "acknowledged",
        "client_id",
        "cohort",
        "feed",
        "generation",
        "sighting",
        "sink",
        "stalled_at",
        "told_to_wait",
        "welcomed_at",
        "window",
    )

    def __init__(self, feed: Feed, client_id: UUID, sink: Sink, window: Window, generation: int | None) -> None:
        self.feed = feed
        self.client_id = client_id
        self.sink = sink
        self.window = window
        self.generation = generation
        """Of the connections of a client_id the one with the largest has it. None: the device does not say."""
        self.acknowledged = 0
        """The seq up to which its own writes were acknowledged to it; 0: nothing was."""
        self.cohort: Cohort | None = None
        self.stalled_at: tuple[Position, Phase] | None = None
        """Where it goes on once its socket takes data again; None if it does not wait for that."""
        self.told_to_wait = False
        """Its hello waits for Postgres, and it knows."""
        self.welcomed_at: Instant | None = None
        self.sighting: Sighting | None = None
        """The last that was noted."""

    @property
    def live(self) -> bool:
        return self.cohort is not None and self.cohort.phase is Phase.LIVE

    @property
    def whereabouts(self) -> tuple[Position | None, str]:
        """Its position, if it has one, and what it is doing."""
        if self.cohort is not None:
            return self.cohort.position, "live" if self.live else "catching_up"
        return (self.stalled_at[0], "stalled") if self.stalled_at is not None else (None, "snapshot")


class Hub:
    def __init__(self, wake: Callable[[Lane], None]) -> None:
        self._wake = wake
        self._feeds: dict[str, Feed] = {}
        self._queues: dict[Lane, deque[Cohort]] = {lane: deque() for lane in Lane}
        self.doorbells_work = False
        """While they do not, nobody can be told that it has everything."""

    # --- who is here

    def add(self, user: str, client_id: UUID, sink: Sink, window: Window, generation: int | None = None) -> Reader:
        """Register a reader. It belongs to no cohort until `place` says where it stands."""
        feed = self._feeds.get(user)
        if feed is None:
            feed = self._feeds[user] = Feed(user)
        reader = Reader(feed, client_id, sink, window, generation)
        feed.readers.add(reader)
        return reader

    def of_client(self, user: str, client_id: UUID) -> Reader | None:
        """The connection of this installation, if it has one."""
        feed = self._feeds.get(user)
        return next((reader for reader in feed.readers if reader.client_id == client_id), None) if feed else None

    def remove(self, reader: Reader) -> None:
        self._leave(reader)
        reader.stalled_at = None
        reader.feed.readers.discard(reader)
        if not reader.feed.readers:
            self._feeds.pop(reader.feed.user, None)

    def sockets(self, user: str) -> int:
        feed = self._feeds.get(user)
        return 0 if feed is None else len(feed.readers)

    def users(self) -> list[str]:
        return list(self._feeds)

    def readers(self) -> Iterator[Reader]:
        for feed in list(self._feeds.values()):
            yield from list(feed.readers)

    # --- who stands where

    def place(self, reader: Reader, position: Position, phase: Phase) -> None:
        """The reader stands at `position`, and has to be read for: whoever was away may have missed a ring."""
        if reader not in reader.feed.readers:
            return  # its socket closed meanwhile
        if reader.sink.full:
            reader.stalled_at = position, phase
            return
        cohort = reader.feed.cohorts.get((position, phase))
        if cohort is None:
            cohort = reader.feed.cohorts[position, phase] = Cohort(reader.feed, position, phase)
        cohort.readers.add(reader)
        reader.cohort = cohort
        self._enqueue(cohort)

    def stall(self, reader: Reader) -> None:
        """The reader's socket is full: nothing is read for it until it resumes."""
        cohort = self._leave(reader)
        if cohort is not None:
            reader.stalled_at = cohort.position, min(cohort.phase, Phase.CATCHING_UP)

    def resume(self, reader: Reader) -> None:
        """The reader's socket takes data again: it goes on where it stood."""
        if reader.stalled_at is not None:
            position, phase = reader.stalled_at
            reader.stalled_at = None
            self.place(reader, position, phase)

    def _leave(self, reader: Reader) -> Cohort | None:
        cohort = reader.cohort
        if cohort is not None:
            reader.cohort = None
            cohort.readers.discard(reader)
            if not cohort.readers and cohort.state is not State.READING:
                self._forget(cohort)
        return cohort

    # --- who is behind

    def ring(self, user: str, seq: int) -> bool:
        """Feed `user` reached `seq`. False if nobody here cares."""
        feed = self._feeds.get(user)
        if feed is None:
            return False
        behind = False
        for cohort in feed.cohorts.values():
            if cohort.position.seq < seq:
                self._behind(cohort, seq)
                behind = True
        return behind

    def compare(self, user: str, head: Position) -> bool:
        """Postgres says that feed `user` is at `head`. True if somebody stands elsewhere, which a read will settle."""
        feed = self._feeds.get(user)
        found = False
        for cohort in list(feed.cohorts.values()) if feed is not None else ():
            here = cohort.position
            if cohort.state is State.IDLE and (here.seq != head.seq or not same(here.mark, head.mark)):
                self._enqueue(cohort)
                found = True
        return found

    def waiting(self, lane: Lane) -> int:
        """How many cohorts wait to be taken, at most: one that was merged into another meanwhile still counts."""
        return len(self._queues[lane])

    def take(self, lane: Lane, most: int) -> list[Cohort]:
        """Up to `most` cohorts that are behind, the longest waiting first. Each must be given back through `advance`,
        `lose` or `fail`."""
        queue = self._queues[lane]
        taken: list[Cohort] = []
        while queue and len(taken) < most:
            cohort = queue.popleft()
            if cohort.state is State.QUEUED:  # else it was emptied, or merged into another, while it waited
                cohort.state = State.READING
                cohort.rung = 0
                taken.append(cohort)
        return taken

    def advance(self, cohort: Cohort, to: Position, *, more: bool) -> list[Reader]:
        """The cohort was read for up to `to`. Returns the readers to write to, which already stand there: one that
        turns out to be full while it is written to stalls at `to`."""
        readers = list(cohort.readers)
        self._forget(cohort)
        if not readers:
            return readers
        phase = Phase.CATCHING_UP if more else Phase.LIVE
        there = cohort.feed.cohorts.get((to, phase))
        if there is None:
            cohort.position, cohort.phase = to, phase
            cohort.feed.cohorts[to, phase] = there = cohort
        else:
            for reader in readers:
                reader.cohort = there
            there.readers.update(readers)
            cohort.readers = set()
        if more or cohort.rung > to.seq:
            self._behind(there, cohort.rung)
        return readers

    def lose(self, cohort: Cohort) -> list[Reader]:
        """The cohort's position leads nowhere. Its readers now belong to no cohort."""
        readers = list(cohort.readers)
        self._forget(cohort)
        for reader in readers:
            reader.cohort = None
        cohort.readers = set()
        return readers

    def fail(self, cohorts: Iterable[Cohort]) -> None:
        """These could not be read for; they are still behind."""
        for cohort in cohorts:
            cohort.state = State.IDLE
            if cohort.readers:
                self._enqueue(cohort)
            else:
                self._forget(cohort)

    def _behind(self, cohort: Cohort, seq: int) -> None:
        if cohort.state is State.READING:
            cohort.rung = max(cohort.rung, seq)
        else:
            self._enqueue(cohort)

    def _enqueue(self, cohort: Cohort) -> None:
        if cohort.state is State.IDLE:
            cohort.state = State.QUEUED
            lane = Lane.LIVE if cohort.phase is Phase.LIVE else Lane.CATCH_UP
            self._queues[lane].append(cohort)
            self._wake(lane)

    def _forget(self, cohort: Cohort) -> None:
        cohort.state = State.IDLE
        if cohort.feed.cohorts.get((cohort.position, cohort.phase)) is cohort:
            del cohort.feed.cohorts[cohort.position, cohort.phase]
