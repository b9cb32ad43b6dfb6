"""What a device without a usable cursor gets: the newest part, in pieces, and a cursor.

The first piece fixes the cursor and the list of conversations; the others bring the rest of it, and the messages. Each
piece is a statement of its own, so nothing is held open in Postgres for a slow device, and no more than a piece is in
memory. What changes in between comes again through the feed, because the cursor is as old as the first piece.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import structlog

from protocol.cursor import Cursor, Position
from protocol.frames import Row, Snapshot
from server import metrics
from server.backoff import backoff
from server.errors import UnavailableError
from server.feed import encode, notices
from server.feed.change import Why
from server.feed.history import History
from server.feed.hub import Hub, Phase, Reader
from server.feed.ports import Store, Want
from server.turns import FairQueue

log = structlog.get_logger()

PIECE_ROWS: Final = 500
"""Messages asked for by one statement."""
PIECE_CONTENT: Final = 256 * 1024
"""Bytes of content in one piece."""
AT_ONCE: Final = 2
"""Statements under way. More would not be faster on the same database, and delay the live readers' ones."""


BEGINNING: Final = Position(0)


@dataclass(slots=True)
class Job:
    """How far one reader's snapshot is."""

    reader: Reader
    why: Why
    start: Position = BEGINNING
    """Where the feed was at the first piece."""
    titles: list[UUID] = field(default_factory=list)
    """Conversations still to be sent."""
    wants: list[Want] | None = None
    """Messages still to be sent; None before the first piece."""


class Snapshots:
    def __init__(self, hub: Hub, history: History, store: Store) -> None:
        self._hub = hub
        self._history = history
        self._store = store
        self._queue: FairQueue[Job] = FairQueue()
        self._some = asyncio.Semaphore(0)
        """One for each job in the queue."""
        self._parked: dict[Reader, Job] = {}

    def begin(self, reader: Reader, why: Why) -> None:
        """Start a snapshot for a reader that belongs to no cohort."""
        self._put(Job(reader, why))

    def _put(self, job: Job) -> None:
        self._queue.put(job.reader.feed.user, job)
        self._some.release()

    def resume(self, reader: Reader) -> bool:
        """The reader's socket takes data again. False if it is not in the middle of a snapshot."""
        job = self._parked.pop(reader, None)
        if job is not None:
            self._put(job)
        return job is not None

    def forget(self, reader: Reader) -> None:
        """The reader's socket is closed."""
        self._parked.pop(reader, None)

    @property
    def waiting(self) -> int:
        """Snapshots that are begun or asked for, and not being read at this moment."""
        return len(self._queue) + len(self._parked)

    async def run(self) -> None:
        """Send snapshots until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(AT_ONCE):
                tasks.create_task(self._work(), name=f"snapshot-{number}")

    async def _work(self) -> None:
        failures = 0
        while True:
            await self._some.acquire()
            job = self._queue.take()
            if job.reader.sink.gone:
                continue
            try:
                done = await self._piece(job)
            except UnavailableError as error:
                if job.wants is None and not job.reader.told_to_wait:
                    job.reader.told_to_wait = True
                    job.reader.sink.say(notices.unavailable("hello"))
                failures += 1
                delay = backoff(failures)
                log.warning("postgres is away, snapshots wait", error=str(error), again_in=delay)
                self._put(job)
                await asyncio.sleep(delay)
                continue
            failures = 0
            if job.reader.sink.gone:
                continue
            if done:
                self._hub.place(job.reader, job.start, Phase.CATCHING_UP)
            elif job.reader.sink.full:
                self._parked[job.reader] = job
            else:
                self._put(job)

    async def _piece(self, job: Job) -> bool:
        """Send the next piece. True if it was the last one."""
        if job.wants is None:
            return await self._first_piece(job)
        return await (self._next_titles(job) if job.titles else self._next_messages(job, job.wants))

    async def _first_piece(self, job: Job) -> bool:
        reader = job.reader
        overview = await self._store.conversations(reader.feed.user, None, reader.window.conversations, PIECE_CONTENT)
        sink = reader.sink
        if sink.gone:
            return False
        if overview.tier not in notices.PAID:
            notices.local_only(sink)
            return False
        job.start = Position(overview.as_of, 0, overview.mark)
        job.titles = overview.rest
        messages = reader.window.messages
        ids = [*(row.id for row in overview.conversations), *overview.rest]
        job.wants = [Want(id_, None, messages) for id_ in ids] if messages else []
        sink.welcome(overview.tier, job.why)
        profile: list[Row] = [] if overview.profile is None else [overview.profile]
        return self._send(job, overview.as_of, [*profile, *overview.conversations])

    async def _next_titles(self, job: Job) -> bool:
        titles = await self._store.titles(job.reader.feed.user, job.titles, PIECE_CONTENT)
        if job.reader.sink.gone:
            return False
        job.titles = titles.rest
        return self._send(job, titles.as_of, titles.conversations)

    async def _next_messages(self, job: Job, wants: list[Want]) -> bool:
        asked = wants[: max(1, PIECE_ROWS // max(1, job.reader.window.messages))]
        history = await self._store.messages(job.reader.feed.user, asked, PIECE_CONTENT)
        if job.reader.sink.gone:
            return False
        job.wants = [*history.rest(asked), *wants[len(asked) :]]
        return self._send(job, history.as_of, [message for _, message in history.messages])

    def _send(self, job: Job, as_of: int, rows: Sequence[Row]) -> bool:
        feed, last = job.reader.feed, not job.titles and not job.wants
        cursor = Cursor(self._history.epoch, feed.owner, job.start).encode() if last else None
        data = encode.message(Snapshot(as_of=as_of, rows=list(rows), cursor=cursor), job.reader.sink.codec)
        job.reader.sink.write(data)
        metrics.sent(rows, 1, len(data))
        return last
