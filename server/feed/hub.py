"""Which readers are connected to this process, by user and position, and which of them are behind. Sans-I/O.

Readers of one user at one position form a *cohort*. One read serves the whole cohort, and the cohort moves as one. A
reader belongs to one cohort, or to none while its socket is full or while it gets a snapshot. A cohort is idle, queued
(behind), or being read for. The hub remembers a doorbell that rings while a cohort is being read for.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

from protocol import errors
from protocol.cursor import Position, owner_digest
from protocol.frames import Instant
from server import metrics
from server.declaration.model import Declaration
from server.feed.change import Entry, same
from server.feed.expected import Expected
from server.feed.ports import DeviceState, DeviceStatus, Sink, Window
from server.feed.progress import Progress
from server.feed.resume import Why
from server.feed.trail import List, Trail, touched

UNGATED: Final = "all"
"""Stands for the tier where no gate is declared."""


class Phase(IntEnum):
    """How far the readers of a cohort have come."""

    HELLO = 0
    """The hello is unanswered; the cohort is behind by definition."""
    CATCHING_UP = 1
    CONFIRMING = 2
    """The devices have all that a replica has; the primary may have more."""
    PROVING = 3
    """The devices were live, and something is committed that perhaps has not reached them."""
    LIVE = 4
    """`live` was sent: the devices have everything."""


class Lane(IntEnum):
    """Two queues, so that returning devices do not delay live ones."""

    LIVE = 0
    CATCH_UP = 1


class State(IntEnum):
    """Whether a cohort is behind, and whether it is being read for."""

    IDLE = 0
    QUEUED = 1
    READING = 2


class Feed:
    """One connected user's readers."""

    __slots__ = ("cohorts", "owner", "readers", "tier", "trail", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.owner = owner_digest(UUID(user))
        self.cohorts: dict[tuple[Position, Phase], Cohort] = {}
        self.readers: set[Reader] = set()
        self.trail: Trail | None = None
        self.tier: str | None = None
        """The tier at which the first of the current readers was welcomed; its connections count under it. None while
        no reader is welcomed."""


class Cohort:
    """The readers of one feed at one position, in one phase."""

    __slots__ = ("again", "by_primary", "feed", "phase", "position", "readers", "rung", "state")

    def __init__(self, feed: Feed, position: Position, phase: Phase) -> None:
        self.feed = feed
        self.position = position
        self.phase = phase
        self.readers: set[Reader] = set()
        self.state = State.IDLE
        self.rung = 0
        """The highest seq that a doorbell named while this cohort was being read for."""
        self.again = False
        """Whether what it is being read for now is too old to say that its readers have everything."""
        self.by_primary = False
        """Whether no replica can carry it on."""

    @property
    def needs_primary(self) -> bool:
        return self.by_primary or self.phase >= Phase.CONFIRMING


class Stalled(NamedTuple):
    """A reader whose socket is full."""

    position: Position | None
    """None in the middle of a snapshot."""
    go_on: Callable[[], None]
    """Call it once the socket takes data again."""


class Reader:
    """One connection at a position."""

    __slots__ = (
        "acknowledged",
        "client_id",
        "cohort",
        "feed",
        "generation",
        "notified_unavailable",
        "progress",
        "recorded",
        "sink",
        "stalled",
        "welcomed_at",
        "window",
    )

    def __init__(self, feed: Feed, client_id: UUID, sink: Sink, window: Window, generation: int | None) -> None:
        self.feed = feed
        self.client_id = client_id
        self.sink = sink
        self.window = window
        self.generation = generation
        """Of two connections of one client_id the one with the larger generation keeps it. None: the device does not
        number its connections."""
        self.acknowledged = 0
        """The highest seq that an acknowledgement of its own writes named; 0: none was acknowledged."""
        self.cohort: Cohort | None = None
        self.stalled: Stalled | None = None
        """Set while the reader waits for its socket to take data."""
        self.notified_unavailable = False
        self.welcomed_at: Instant | None = None
        """When its hello was answered; None before."""
        self.progress: Progress | None = None
        """What it received so far; None once it has everything, or if nobody counts."""
        self.recorded: DeviceStatus | None = None
        """The status that was recorded last."""

    @property
    def live(self) -> bool:
        return self.cohort is not None and self.cohort.phase is Phase.LIVE

    @property
    def position(self) -> Position | None:
        """None while it has none, as in the middle of a snapshot."""
        if self.cohort is not None:
            return self.cohort.position
        return None if self.stalled is None else self.stalled.position

    @property
    def state(self) -> DeviceState:
        if self.cohort is not None:
            return DeviceState.LIVE if self.live else DeviceState.CATCHING_UP
        return DeviceState.SNAPSHOT if self.position is None else DeviceState.STALLED

    def caught_up(self) -> None:
        """`live` was sent."""
        if self.progress is not None:
            progress, self.progress = self.progress, None
            progress.live(self.feed.user)

    def notify_unavailable(self) -> None:
        """Tell the device, once, that its hello waits for Postgres."""
        if not self.notified_unavailable:
            self.notified_unavailable = True
            self.sink.send_error(errors.UNAVAILABLE.frame(answers="hello"))


class Hub:
    """The connected readers. `wake` is called when a cohort is queued in a lane; `not_yet`, when readers have all that
    was found and the user's feed is known to move to a seq, but no read shows it yet."""

    def __init__(
        self, wake: Callable[[Lane], None], not_yet: Callable[[str, int], None] = lambda user, seq: None
    ) -> None:
        self._wake = wake
        self._not_yet = not_yet
        self.expected = Expected()
        self._feeds: dict[str, Feed] = {}
        self._queues: dict[Lane, deque[Cohort]] = {lane: deque() for lane in Lane}
        self._confirming: deque[Cohort] = deque()
        self.count = 0
        """Connected readers."""
        self.stalled_snapshots = 0
        """Readers that are stalled in the middle of a snapshot."""
        self.doorbells_work = False
        """While it is false, no device may be told that it has everything."""

    # --- which readers are connected

    def add(self, user: str, client_id: UUID, sink: Sink, window: Window, generation: int | None = None) -> Reader:
        """Register a reader. It belongs to no cohort until `place` gives it a position."""
        feed = self._feeds.get(user)
        if feed is None:
            feed = self._feeds[user] = Feed(user)
        reader = Reader(feed, client_id, sink, window, generation)
        feed.readers.add(reader)
        self.count += 1
        return reader

    def of_client(self, user: str, client_id: UUID) -> Reader | None:
        """The connection of this device, if it has one."""
        feed = self._feeds.get(user)
        return next((reader for reader in feed.readers if reader.client_id == client_id), None) if feed else None

    def welcome(self, reader: Reader, tier: str | None, why: Why | None, wire: bytes = b"") -> None:
        """Answer the reader's hello: the device resumes, or (`why`) gets a snapshot. `tier`: None without a gate.
        `wire`: messages behind the answer."""
        feed, gated = reader.feed, tier
        tier = tier or UNGATED
        if feed.tier is None:
            feed.tier = tier
            metrics.USERS.labels(tier).inc()
        metrics.CONNECTIONS.labels(feed.tier).inc()
        metrics.HELLOS.labels(why or "resumed").inc()
        if reader.progress is not None:
            reader.progress.welcomed(tier, why)
        reader.welcomed_at = reader.sink.welcome(gated, why, wire)

    def remove(self, reader: Reader) -> None:
        """The reader's connection has ended."""
        self._leave(reader)
        self._take_stalled(reader)
        feed = reader.feed
        self.count -= reader in feed.readers
        feed.readers.discard(reader)
        if feed.tier is not None and reader.welcomed_at is not None:
            metrics.CONNECTIONS.labels(feed.tier).dec()
            if all(other.welcomed_at is None for other in feed.readers):
                metrics.USERS.labels(feed.tier).dec()
                feed.tier = None
        if not feed.readers:
            self._feeds.pop(feed.user, None)

    def sockets(self, user: str) -> int:
        """The number of the user's connections."""
        feed = self._feeds.get(user)
        return 0 if feed is None else len(feed.readers)

    def users(self) -> list[str]:
        """The connected users."""
        return list(self._feeds)

    def readers(self) -> Iterator[Reader]:
        """All readers. They may join and leave meanwhile."""
        for feed in list(self._feeds.values()):
            yield from list(feed.readers)

    # --- where each reader is

    def place(self, reader: Reader, position: Position, phase: Phase) -> None:
        """Put the reader at `position`, and have it read for from now on: it may have missed a doorbell while it was
        away."""
        if reader not in reader.feed.readers:
            return  # its socket closed meanwhile
        if reader.sink.full:
            reader.stalled = Stalled(position, partial(self.place, reader, position, phase))
            return
        cohort = reader.feed.cohorts.get((position, phase))
        if cohort is None:
            cohort = reader.feed.cohorts[position, phase] = Cohort(reader.feed, position, phase)
        cohort.readers.add(reader)
        reader.cohort = cohort
        self._read_from_now_on(cohort)

    def prove(self, reader: Reader) -> None:
        """Something is committed that perhaps has not reached the reader. It is live no more until a read that begins
        from now on has found everything."""
        cohort = reader.cohort
        if cohort is None:
            return  # it is read for when it goes on
        if cohort.phase is Phase.LIVE:
            self._leave(reader)
            self.place(reader, cohort.position, Phase.PROVING)
        else:
            self._read_from_now_on(cohort)

    def stall(self, reader: Reader) -> None:
        """The reader's socket is full: nothing is read for it until it resumes."""
        cohort = self._leave(reader)
        if cohort is not None:
            phase = min(cohort.phase, Phase.CATCHING_UP)
            reader.stalled = Stalled(cohort.position, partial(self.place, reader, cohort.position, phase))

    def stall_snapshot(self, reader: Reader, go_on: Callable[[], None]) -> None:
        """The reader's socket is full in the middle of a snapshot, which `go_on` continues."""
        reader.stalled = Stalled(None, go_on)
        self.stalled_snapshots += 1

    def resume(self, reader: Reader) -> None:
        """The reader's socket takes data again: go on where it stalled."""
        if (stalled := self._take_stalled(reader)) is not None:
            stalled.go_on()

    def _take_stalled(self, reader: Reader) -> Stalled | None:
        stalled, reader.stalled = reader.stalled, None
        if stalled is not None and stalled.position is None:
            self.stalled_snapshots -= 1
        return stalled

    def _leave(self, reader: Reader) -> Cohort | None:
        cohort = reader.cohort
        if cohort is not None:
            reader.cohort = None
            cohort.readers.discard(reader)
            if not cohort.readers and cohort.state is not State.READING:
                self._forget(cohort)
        return cohort

    # --- what changed lately

    def note(self, cohort: Cohort, to: Position, entries: Sequence[Entry], declaration: Declaration) -> None:
        """These entries lead the cohort from its position to `to`."""
        if entries:
            feed = cohort.feed
            feed.trail = feed.trail or Trail()
            feed.trail.step(cohort.position, to, touched(declaration, entries))

    def untouched(self, user: str, lists: Iterable[List], after: Position, to: Position) -> bool:
        """Whether it is certain that nothing in these lists changed behind `after`, up to `to`."""
        feed = self._feeds.get(user)
        return feed is not None and feed.trail is not None and feed.trail.untouched(lists, after, to)

    # --- which cohorts are behind

    def ring(self, user: str, seq: int) -> bool:
        """The user's feed reached `seq`. Returns whether a reader here is behind it."""
        feed = self._feeds.get(user)
        if feed is None:
            return False
        behind = False
        for cohort in feed.cohorts.values():
            if cohort.position.seq < seq:
                self._behind(cohort, seq)
                behind = True
        return behind

    def live_at(self, user: str, seq: int) -> Cohort | None:
        """The cohort of live readers that stands right after the transaction `seq` and lacks nothing."""
        feed = self._feeds.get(user)
        for cohort in () if feed is None else feed.cohorts.values():
            position = cohort.position
            if position.seq == seq and not position.n and cohort.phase is Phase.LIVE and cohort.state is State.IDLE:
                return cohort
        return None

    def compare(self, user: str, head: Position) -> bool:
        """Postgres says that the user's feed is at `head`. Queues idle cohorts that are elsewhere, and returns whether
        there were any."""
        feed = self._feeds.get(user)
        found = False
        self.expected.seen(user, head.seq)
        for cohort in list(feed.cohorts.values()) if feed is not None else ():
            here = cohort.position
            if cohort.state is State.READING:
                cohort.rung = max(cohort.rung, head.seq)  # its read may be of an earlier moment
            elif cohort.state is State.IDLE and (here.seq != head.seq or not same(here.mark, head.mark)):
                self._enqueue(cohort)
                found |= here.seq > self.expected.of(user) or here.seq < head.seq
        return found

    def waiting(self, lane: Lane) -> int:
        """The number of queued cohorts. One that was merged into another while it was queued still counts."""
        return len(self._queues[lane])

    def take(self, lane: Lane, most: int) -> list[Cohort]:
        """Take up to `most` cohorts that are behind, the longest waiting first. Give each back through `advance`,
        `lose` or `fail`."""
        queue = self._queues[lane]
        taken: list[Cohort] = []
        while queue and len(taken) < most:
            cohort = queue.popleft()
            if cohort.state is State.QUEUED:  # otherwise it was emptied, or merged into another, while it waited
                cohort.state = State.READING
                cohort.rung = 0
                cohort.again = False
                taken.append(cohort)
        return taken

    def advance(self, cohort: Cohort, to: Position, *, more: bool, confirmed: bool = True) -> list[Reader]:
        """The cohort was read for up to `to`; unless `confirmed`, by a replica. `more`: also if it has to be read for
        `again`. Returns the readers to write to.

        They already count as being at `to`, so a reader whose buffer fills during the write resumes from there."""
        readers = list(cohort.readers)
        self._forget(cohort)
        if not readers:
            return readers
        cohort.by_primary = cohort.by_primary and more
        phase = Phase.CATCHING_UP if more else Phase.LIVE if confirmed else Phase.CONFIRMING
        there = cohort.feed.cohorts.get((to, phase))
        if there is None:
            cohort.position, cohort.phase = to, phase
            cohort.feed.cohorts[to, phase] = there = cohort
            if phase is Phase.CONFIRMING:
                self._confirming.append(cohort)
        else:
            for reader in readers:
                reader.cohort = there
            there.readers.update(readers)
            cohort.readers = set()
            if phase is not Phase.LIVE and there.state is not State.QUEUED:
                there.again = True
        if more or cohort.rung > to.seq:
            self._behind(there, cohort.rung)
        elif (seq := self.expected.of(cohort.feed.user)) > to.seq:
            self._not_yet(cohort.feed.user, seq)
        return readers

    def lose(self, cohort: Cohort) -> list[Reader]:
        """Dissolve a cohort whose position the log no longer continues. Returns its readers, now without a cohort."""
        readers = list(cohort.readers)
        self._forget(cohort)
        for reader in readers:
            reader.cohort = None
        cohort.readers = set()
        return readers

    def take_confirming(self, most: int) -> list[Cohort]:
        """Take up to `most` cohorts that the primary has to confirm, the longest waiting first. Give each back through
        `confirm`."""
        taken: list[Cohort] = []
        while self._confirming and len(taken) < most:
            cohort = self._confirming.popleft()
            if cohort.state is State.IDLE and cohort.readers and cohort.phase is Phase.CONFIRMING:
                cohort.again = False
                taken.append(cohort)
        return taken

    def confirm(self, cohort: Cohort, head: Position | None) -> list[Reader]:
        """The primary's feed is at `head`; None: the primary is away. Returns the readers that have everything, to be
        told so. The others are read for by the primary."""
        if cohort.state is not State.IDLE or not cohort.readers:
            return []  # a doorbell rang meanwhile, or all have left
        if head is None or cohort.again:
            self._confirming.append(cohort)
        elif cohort.position.seq == head.seq and same(cohort.position.mark, head.mark):
            cohort.rung = 0
            return self.advance(cohort, cohort.position, more=False)
        else:
            self._enqueue(cohort)
        return []

    def leave_to_primary(self, cohort: Cohort) -> None:
        """A replica cannot carry the cohort on. Queue it again, for the primary."""
        cohort.by_primary = True
        self.fail([cohort])

    def fail(self, cohorts: Iterable[Cohort]) -> None:
        """These cohorts could not be read for; queue them again."""
        for cohort in cohorts:
            cohort.state = State.IDLE
            if cohort.readers:
                self._enqueue(cohort)
            else:
                self._forget(cohort)

    def _read_from_now_on(self, cohort: Cohort) -> None:
        if cohort.state is State.READING:
            cohort.again = True
        else:
            self._enqueue(cohort)

    def _behind(self, cohort: Cohort, seq: int) -> None:
        if cohort.state is State.READING:
            cohort.rung = max(cohort.rung, seq)
        else:
            self._enqueue(cohort)

    def _enqueue(self, cohort: Cohort) -> None:
        if cohort.state is State.IDLE:
            cohort.state = State.QUEUED
            lane = Lane.LIVE if cohort.phase >= Phase.PROVING else Lane.CATCH_UP
            self._queues[lane].append(cohort)
            self._wake(lane)

    def _forget(self, cohort: Cohort) -> None:
        cohort.state = State.IDLE
        if cohort.feed.cohorts.get((cohort.position, cohort.phase)) is cohort:
            del cohort.feed.cohorts[cohort.position, cohort.phase]
