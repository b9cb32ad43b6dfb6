"""The loop that reads the log for readers that are behind, and writes to them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from protocol.cursor import Position
from server import metrics
from server.backoff import backoff
from server.errors import UnavailableError
from server.feed import change, encode, notices
from server.feed.change import Batch, Page, Why
from server.feed.history import History
from server.feed.hub import Cohort, Hub, Lane, Phase
from server.feed.ports import ReadKey, Store
from server.feed.snapshot import Snapshots

log = structlog.get_logger()

GROUP: Final = 256
"""Cohorts read for by one statement. Measured: 5–30 µs each at this size, and no less beyond it."""
ROWS: Final = 500
"""Entries that one cohort gets at a time; then it is the others' turn."""
CROWD: Final = 0.02
"""Seconds from one statement for several that have just come back to the next: a crowd comes one by one, as quickly as
the loop lets it in, and should share statements. Who comes back alone waits for nothing."""
GROUP_ROWS: Final = 8_192
"""Entries that one statement reads at most, all cohorts together."""
CONTENT: Final = 256 * 1024
"""Bytes of content that one cohort gets at a time: what a slow socket may have in its buffer."""
GROUP_CONTENT: Final = 16 * 1024 * 1024
WRITES_IN_A_ROW: Final = 512
"""Sockets written to before others get the loop; some 5 ms."""


class Pump:
    def __init__(
        self, hub: Hub, history: History, store: Store, snapshots: Snapshots, wakes: Mapping[Lane, asyncio.Event]
    ) -> None:
        self._hub = hub
        self._history = history
        self._store = store
        self._snapshots = snapshots
        self._wakes = wakes
        self._written = 0
        self._reading = dict.fromkeys(Lane, 0)

    def behind(self, lane: Lane) -> int:
        """Cohorts that wait to be read for, or are being read for."""
        return self._reading[lane] + self._hub.waiting(lane)

    async def run(self) -> None:
        """Pump until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for lane in Lane:
                tasks.create_task(self._run_lane(lane), name=f"pump-{lane.name.lower()}")

    async def _run_lane(self, lane: Lane) -> None:
        wake = self._wakes[lane]
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            await wake.wait()
            wake.clear()
            while cohorts := self._hub.take(lane, GROUP):
                self._reading[lane] = len(cohorts)
                metrics.READERS_PER_STATEMENT.observe(len(cohorts))
                next_of_crowd = loop.time() + CROWD
                crowd = sum(cohort.phase is Phase.HELLO for cohort in cohorts) > 1
                try:
                    pages = await self._read(cohorts)
                except UnavailableError as error:
                    self._tell_waiting(cohorts)
                    self._hub.fail(cohorts)
                    self._reading[lane] = 0
                    failures += 1
                    delay = backoff(failures)
                    log.warning("postgres is away, readers wait", lane=lane.name, error=str(error), again_in=delay)
                    await asyncio.sleep(delay)
                    continue
                except BaseException:
                    self._hub.fail(cohorts)
                    raise
                failures = 0
                for cohort, page in zip(cohorts, pages, strict=True):
                    self._deliver(cohort, page)
                    if self._written >= WRITES_IN_A_ROW:
                        self._written = 0
                        await asyncio.sleep(0)
                if crowd:
                    await asyncio.sleep(next_of_crowd - loop.time())
            self._reading[lane] = 0

    async def _read(self, cohorts: Sequence[Cohort]) -> list[Page]:
        return await self._store.read_feed(
            [ReadKey(cohort.feed.user, cohort.position) for cohort in cohorts],
            max(32, min(ROWS, GROUP_ROWS // len(cohorts))),
            max(64 * 1024, min(CONTENT, GROUP_CONTENT // len(cohorts))),
        )

    def _deliver(self, cohort: Cohort, page: Page) -> None:
        phase, after = cohort.phase, cohort.position
        paid = page.tier in notices.PAID
        if phase is Phase.HELLO and not paid:
            for reader in self._hub.lose(cohort):
                notices.local_only(reader.sink)
            return
        batch = change.follow(after, page)
        if isinstance(batch, Why):
            for reader in self._hub.lose(cohort):
                if phase is Phase.HELLO:
                    self._snapshots.begin(reader, batch)
                else:
                    notices.start_over(reader.sink)
            return
        wire = self._frames(cohort, after, batch, phase)
        size = 0
        readers = self._hub.advance(cohort, batch.to, more=batch.more)
        for reader in readers:
            sink = reader.sink
            if phase is Phase.HELLO:
                sink.welcome(page.tier or "free", None)
            for frame in wire:
                data = frame.wire(sink.codec)
                sink.write(data)
                size += len(data)
            if not paid and not batch.more:
                # Not before the change of the profile itself has been told.
                notices.local_only(sink)
            self._written += 1
        if page.entries and readers:
            metrics.sent(batch.rows, len(readers), size)
            if phase is Phase.LIVE:
                metrics.DELIVERY.observe(max(0.0, time.time() - page.entries[0].seq / 1_000_000))

    def _frames(self, cohort: Cohort, after: Position, batch: Batch, phase: Phase) -> list[encode.Outgoing]:
        frames = []
        owner = cohort.feed.owner
        if batch.to != after:
            frames.append(encode.changes(self._history.epoch, owner, after, batch))
        if phase is not Phase.LIVE and not batch.more:
            frames.append(encode.live(self._history.epoch, owner, batch.to))
        return frames

    def _tell_waiting(self, cohorts: Sequence[Cohort]) -> None:
        for cohort in cohorts:
            if cohort.phase is Phase.HELLO:
                for reader in list(cohort.readers):  # one that is full leaves
                    if not reader.told_to_wait:
                        reader.told_to_wait = True
                        reader.sink.say(notices.unavailable("hello"))
