"""What a device without a usable cursor gets: the newest part, in pieces, and a cursor.

The first piece fixes the cursor and the list of conversations; the others bring their messages. Each piece is a
statement of its own, so nothing is held open in Postgres for a slow device, and no more than a piece is in memory. What
changes in between comes again through the feed, because the cursor is as old as the first piece.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from protocol.cursor import Cursor, Position
from protocol.frames import Row, Snapshot
from server import metrics
from server.backoff import backoff
from server.errors import UnavailableError
from server.feed import notices
from server.feed.change import Why
from server.feed.encode import Outgoing, in_frames
from server.feed.history import History
from server.feed.hub import Hub, Phase, Reader
from server.feed.ports import Store, Want

log = structlog.get_logger()

PIECE_ROWS: Final = 500
"""Messages asked for by one statement."""
PIECE_CONTENT: Final = 256 * 1024
"""Bytes of content in one piece."""
AT_ONCE: Final = 2
"""Statements under way. More would not be faster on the same database, and delay the live readers' ones."""


@dataclass(slots=True)
class Job:
    """How far one reader's snapshot is."""

    reader: Reader
    why: Why
    as_of: int = 0
    wants: list[Want] | None = None
    """Messages still to be sent; None before the first piece."""


class Snapshots:
    def __init__(self, hub: Hub, history: History, store: Store) -> None:
        self._hub = hub
        self._history = history
        self._store = store
        self._queue: asyncio.Queue[Job] = asyncio.Queue()
        self._parked: dict[Reader, Job] = {}

    def begin(self, reader: Reader, why: Why) -> None:
        """Start a snapshot for a reader that belongs to no cohort."""
        self._queue.put_nowait(Job(reader, why))

    def resume(self, reader: Reader) -> bool:
        """The reader's socket takes data again. False if it is not in the middle of a snapshot."""
        job = self._parked.pop(reader, None)
        if job is not None:
            self._queue.put_nowait(job)
        return job is not None

    def forget(self, reader: Reader) -> None:
        """The reader's socket is closed."""
        self._parked.pop(reader, None)

    @property
    def waiting(self) -> int:
        """Snapshots that are begun or asked for, and not being read at this moment."""
        return self._queue.qsize() + len(self._parked)

    async def run(self) -> None:
        """Send snapshots until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(AT_ONCE):
                tasks.create_task(self._work(), name=f"snapshot-{number}")

    async def _work(self) -> None:
        failures = 0
        while True:
            job = await self._queue.get()
            if job.reader.sink.gone:
                continue
            try:
                done = await (self._first_piece(job) if job.wants is None else self._next_piece(job))
            except UnavailableError as error:
                if job.wants is None and not job.reader.told_to_wait:
                    job.reader.told_to_wait = True
                    job.reader.sink.say(notices.unavailable("hello"))
                failures += 1
                delay = backoff(failures)
                log.warning("postgres is away, snapshots wait", error=str(error), again_in=delay)
                self._queue.put_nowait(job)
                await asyncio.sleep(delay)
                continue
            failures = 0
            if job.reader.sink.gone:
                continue
            if done:
                self._hub.place(job.reader, Position(job.as_of), Phase.CATCHING_UP)
            elif job.reader.sink.full:
                self._parked[job.reader] = job
            else:
                self._queue.put_nowait(job)

    async def _first_piece(self, job: Job) -> bool:
        reader = job.reader
        overview = await self._store.conversations(reader.feed.user, None, reader.window.conversations)
        sink = reader.sink
        if sink.gone:
            return False
        if overview.tier not in notices.PAID:
            notices.local_only(sink)
            return False
        job.as_of = overview.as_of
        messages = reader.window.messages
        job.wants = [Want(row.id, None, messages) for row in overview.conversations] if messages else []
        sink.welcome(overview.tier, job.why)
        rows: list[Row] = [] if overview.profile is None else [overview.profile]
        for some in in_frames([*rows, *overview.conversations], PIECE_CONTENT):
            self._send(job, overview.as_of, some, last=False)
        if not job.wants:
            self._send(job, overview.as_of, [], last=True)
        return not job.wants

    async def _next_piece(self, job: Job) -> bool:
        assert job.wants is not None
        asked = job.wants[: max(1, PIECE_ROWS // max(1, job.reader.window.messages))]
        history = await self._store.messages(job.reader.feed.user, asked, PIECE_CONTENT)
        if job.reader.sink.gone:
            return False
        job.wants = [*history.rest(asked), *job.wants[len(asked) :]]
        self._send(job, history.as_of, [message for _, message in history.messages], last=not job.wants)
        return not job.wants

    def _send(self, job: Job, as_of: int, rows: Sequence[Row], *, last: bool) -> None:
        feed = job.reader.feed
        cursor = Cursor(self._history.epoch, feed.owner, Position(job.as_of)).encode() if last else None
        frame = Outgoing(Snapshot(as_of=as_of, rows=list(rows), cursor=cursor))
        data = frame.wire(job.reader.sink.codec)
        job.reader.sink.write(data)
        metrics.sent(rows, 1, len(data))
