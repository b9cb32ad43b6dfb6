"""The loop that reads the log for readers that are behind, and writes to them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from protocol import errors
from protocol.cursor import Position
from server import metrics
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed import change, encode
from server.feed.apart import Apart
from server.feed.change import Batch, Entry, Reading
from server.feed.history import History, come_back_apart
from server.feed.hub import Cohort, Hub, Lane, Phase, Reader
from server.feed.ports import CONTENT_BYTES, Express, Moved, ReadKey, Store
from server.feed.replicas import Replicas
from server.feed.resume import Why
from server.feed.snapshot import Snapshots
from server.outgoing import Outgoing
from server.retry import Retry

log = structlog.get_logger()

GROUP: Final = 256
"""Cohorts read for by one statement. Measured: 5–30 µs each at this size, and no less with more."""
ROWS: Final = 500
"""Log entries that one cohort gets before it is the others' turn."""
CROWD: Final = 0.02
"""Minimum interval in seconds between two statements for reconnecting devices. In a reconnect storm devices arrive one
by one; the interval lets them share statements. A single device never waits."""
GROUP_ROWS: Final = 8_192
"""Log entries that one statement reads at most, for all its cohorts."""
GROUP_CONTENT: Final = 16 * 1024 * 1024
"""Bytes of content that one statement reads at most, for all its cohorts."""
LOOK_AGAIN: Final = (0.002, 1.0)
"""The shortest and the longest pause, in seconds, before the next look for a commit that the WAL has and no read shows.
Most are seen some 0.1 ms after they were written."""
WRITES_IN_A_ROW: Final = 512
"""Sockets written to before others get the loop; some 5 ms."""


class Pump:
    """Reads for cohorts that are behind, in two lanes, and writes to their readers."""

    def __init__(
        self,
        hub: Hub,
        history: History,
        store: Store,
        snapshots: Snapshots,
        synced: Synced,
        wakes: Mapping[Lane, asyncio.Event],
        replicas: Replicas | None = None,
        express: Express | None = None,
        *,
        keep_trail: bool = False,
    ) -> None:
        self._hub = hub
        self._history = history
        self._replicas = replicas
        self._express = express
        self._keep_trail = keep_trail
        """Whether the hub notes what changed, for a cache."""
        self._snapshots = snapshots
        self._synced = synced
        self._wakes = wakes
        self._apart = Apart(hub, store, _request, partial(self._deliver, confirmed=True), self._notify_unavailable)
        self._written = 0
        self._reading = dict.fromkeys(Lane, 0)
        self._on_express = 0
        """Cohorts that are being read for at once."""
        self._failure: asyncio.Future[None] | None = None

    def wake(self, lane: Lane) -> None:
        """A cohort was queued in this lane."""
        wake = self._wakes[lane]
        # Once the loop is awake, it takes all that wait.
        if lane is Lane.LIVE and self._express is not None and self._express.free and not wake.is_set():
            for cohort in self._hub.take(lane, 1):
                usual = cohort.phase is Phase.LIVE and not cohort.position.n
                if usual and self._history.blind is None and not self._apart.holds(cohort.feed.user):
                    self._read_at_once(self._express, cohort)
                else:
                    self._leave_to_loop(cohort)
        else:
            wake.set()

    def look_again(self, user: str, seq: int) -> None:
        """The user's feed moves to `seq`, and the last read did not show it yet."""
        asyncio.get_running_loop().call_later(pause(seq), self._hub.ring, user, seq)

    def carry(self, moved: Moved) -> bool:
        """Give the transaction's entries to live readers that stand right before it. Returns whether there were any."""
        cohort = self._hub.live_at(moved.user, moved.prev)
        if cohort is None or self._history.blind is not None:
            return False
        try:
            entries = moved.entries()
            return bool(entries) and self._send_if_next(cohort, entries or ())
        except Exception as error:
            self._fail(error)
            return False

    def behind(self, lane: Lane) -> int:
        """The number of cohorts that wait to be read for, or are being read for."""
        return self._reading[lane] + self._hub.waiting(lane) + (self._on_express if lane is Lane.LIVE else 0)

    async def run(self) -> None:
        """Pump until cancelled."""
        self._failure = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as tasks:
            self._apart.spawn = tasks.create_task
            for lane in Lane:
                tasks.create_task(self._run_lane(lane), name=f"pump-{lane.name.lower()}")
            await self._failure

    def _read_at_once(self, express: Express, cohort: Cohort) -> None:
        self._on_express += 1
        metrics.READERS_PER_STATEMENT.observe(1)
        express.read(cohort.feed.user, cohort.position.seq, partial(self._read_by_express, cohort))

    def _read_by_express(self, cohort: Cohort, entries: Sequence[Entry] | None) -> None:
        self._on_express -= 1
        try:
            blind = self._history.blind is not None
            if entries is None or blind or not self._send_if_next(cohort, entries):
                self._leave_to_loop(cohort)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End `run` with the error, which would be lost in the callback of a transport."""
        if self._failure is not None and not self._failure.done():
            self._failure.set_exception(error)

    def _leave_to_loop(self, cohort: Cohort) -> None:
        self._wakes[Lane.LIVE].set()
        self._hub.fail([cohort])

    def _send_if_next(self, cohort: Cohort, entries: Sequence[Entry]) -> bool:
        """Send to a cohort of live readers all entries that it lacks. Returns whether they follow its position."""
        last = entries[-1]
        batch = change.follow(cohort.position, Reading(last.seq, None, entries, last.mark))
        if isinstance(batch, Why):
            return False
        if self._keep_trail:
            self._hub.note(cohort, batch.to, entries, self._synced.declaration)
        frame = encode.changes(self._history.epoch, cohort.feed.owner, cohort.position, batch)
        readers = self._hub.advance(cohort, batch.to, more=batch.more)
        size = 0
        for reader in readers:
            data = frame.wire(reader.sink.codec)
            reader.sink.send(data)
            size += len(data)
        _count(batch, entries, len(readers), size, live=True)
        return True

    async def _run_lane(self, lane: Lane) -> None:
        wake = self._wakes[lane]
        loop = asyncio.get_running_loop()
        retry = Retry("postgres is away, readers wait", alarm=self._history.alarm, lane=lane.name)
        while True:
            await wake.wait()
            wake.clear()
            while cohorts := self._hub.take(lane, GROUP):
                self._reading[lane] = len(cohorts)
                metrics.READERS_PER_STATEMENT.observe(len(cohorts))
                next_of_crowd = loop.time() + CROWD
                crowd = sum(cohort.phase is Phase.HELLO for cohort in cohorts) > 1
                try:
                    readings = await self._read(cohorts)
                except UnavailableError as error:
                    self._notify_unavailable(cohorts)
                    self._hub.fail(cohorts)
                    self._reading[lane] = 0
                    await retry.pause(error)
                    continue
                except BaseException:
                    self._hub.fail(cohorts)
                    raise
                retry.reset()
                for cohort, reading, confirmed in readings:
                    self._deliver(cohort, reading, confirmed)
                    if self._written >= WRITES_IN_A_ROW:
                        self._written = 0
                        await asyncio.sleep(0)
                if crowd:
                    await asyncio.sleep(next_of_crowd - loop.time())
            self._reading[lane] = 0

    async def _read(self, cohorts: Sequence[Cohort]) -> list[tuple[Cohort, Reading, bool]]:
        """A reading for each cohort, and whether the primary made it. Those that are read for alone come later."""
        found: list[tuple[Cohort, Reading, bool]] = []
        left = cohorts
        if self._replicas is not None and (some := [cohort for cohort in cohorts if not cohort.needs_primary]):
            caught_up = await self._replicas.catch_up(*_request(some))
            if caught_up is not None:
                found = [(cohort, reading, False) for cohort, reading in zip(some, caught_up, strict=True)]
                left = [cohort for cohort in cohorts if cohort.needs_primary]
        if left:
            try:
                readings = await self._apart.read(left)
            except UnavailableError:
                if not found:
                    raise
                # What the replica has read is delivered first.
                self._hub.fail(left)
                return found
            found += [(cohort, reading, True) for cohort, reading in readings]
        return found

    def _deliver(self, cohort: Cohort, reading: Reading, confirmed: bool) -> None:
        phase, after = cohort.phase, cohort.position
        admitted = self._synced.admits(reading.tier)
        batch = change.follow(after, reading)
        if not confirmed and (isinstance(batch, Why) or not admitted):
            # It lags. Only the primary can say that a position is lost, or that a user does not sync.
            self._hub.leave_to_primary(cohort)
            return
        if phase is Phase.HELLO and not admitted:
            for reader in self._hub.lose(cohort):
                reader.sink.close(errors.LOCAL_ONLY.frame())
            return
        if isinstance(batch, Why):
            if batch is Why.AHEAD and reading.head < after.seq <= self._hub.expected.of(cohort.feed.user):
                # It has what the WAL carried, and no read shows that yet.
                asyncio.get_running_loop().call_later(pause(after.seq), self._hub.fail, [cohort])
                return
            for reader in self._hub.lose(cohort):
                if phase is Phase.HELLO:
                    self._snapshots.begin(reader, batch)
                else:
                    reader.sink.close(errors.POSITION_LOST.frame(retry_after=come_back_apart(self._hub.count)))
            return
        if cohort.again:
            batch = replace(batch, more=True)
        if self._keep_trail:
            self._hub.note(cohort, batch.to, reading.entries, self._synced.declaration)
        wire = self._frames(cohort, after, batch, phase, confirmed)
        size = 0
        readers = self._hub.advance(cohort, batch.to, more=batch.more, confirmed=confirmed)
        if not confirmed and not batch.more and self._replicas is not None:
            self._replicas.reached_end()
        for reader in readers:
            sink = reader.sink
            data = wire[0].wire(sink.codec) if len(wire) == 1 else b"".join([frame.wire(sink.codec) for frame in wire])
            size += len(data)
            if phase is Phase.HELLO:
                self._hub.welcome(reader, reading.tier, None, data)
            elif data:
                sink.send(data)
            if not admitted and not batch.more:
                # After the change of the row itself, which the device must still receive.
                sink.close(errors.LOCAL_ONLY.frame())
            self._written += 1
        if phase is not Phase.LIVE and admitted:
            self._progress(readers, batch, wire, live=confirmed and not batch.more)
        _count(batch, reading.entries, len(readers), size, live=phase >= Phase.PROVING)

    def _progress(self, readers: Sequence[Reader], batch: Batch, wire: Sequence[Outgoing], *, live: bool) -> None:
        for reader in readers:
            if reader.progress is not None and batch.rows:
                reader.progress.sent(batch.rows, len(wire[0].wire(reader.sink.codec)))
            if live:
                reader.caught_up()

    def _frames(self, cohort: Cohort, after: Position, batch: Batch, phase: Phase, confirmed: bool) -> list[Outgoing]:
        frames = []
        owner = cohort.feed.owner
        if batch.to != after:
            frames.append(encode.changes(self._history.epoch, owner, after, batch))
        if phase is not Phase.LIVE and not batch.more and confirmed:
            frames.append(encode.live(self._history.epoch, owner, batch.to))
        return frames

    def _notify_unavailable(self, cohorts: Sequence[Cohort]) -> None:
        for cohort in cohorts:
            if cohort.phase is Phase.HELLO:
                for reader in list(cohort.readers):  # a reader whose socket fills leaves the cohort
                    reader.notify_unavailable()


def _count(batch: Batch, entries: Sequence[Entry], readers: int, size: int, *, live: bool) -> None:
    """A batch of these entries was written to so many readers."""
    if entries and readers:
        metrics.sent(batch.rows, readers, size)
        if live:
            metrics.DELIVERY.observe(max(0.0, time.time() - entries[0].seq / 1_000_000))


def pause(seq: int) -> float:
    """Seconds until the next look for a commit that nobody sees yet. The longer ago it was written, the longer."""
    return min(max(LOOK_AGAIN[0], (time.time() - seq / 1_000_000) / 4), LOOK_AGAIN[1])


def _request(cohorts: Sequence[Cohort]) -> tuple[list[ReadKey], int, int]:
    """What one statement reads: for whom, and how many rows and bytes of content for each at most."""
    return (
        [ReadKey(cohort.feed.user, cohort.position) for cohort in cohorts],
        max(32, min(ROWS, GROUP_ROWS // len(cohorts))),
        max(64 * 1024, min(CONTENT_BYTES, GROUP_CONTENT // len(cohorts))),
    )
