"""What a device without a usable cursor gets: the newest rows, in pieces, and a cursor.

The first piece fixes the cursor and the list of conversations. The others bring the rest of the list, and the messages.
Each piece is one statement, so Postgres holds nothing open for a slow device, and the server holds one piece in memory.
Changes that happen in between arrive through the feed, because the cursor is as old as the first piece.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from protocol import errors
from protocol.cursor import Cursor, Position
from protocol.frames import Row, Snapshot
from server import metrics, tiers
from server.exceptions import UnavailableError
from server.feed import encode
from server.feed.history import History
from server.feed.hub import Hub, Phase, Reader
from server.feed.limited import AT_ONCE
from server.feed.ports import ANYWHERE, CONTENT_BYTES, Rows, Want
from server.feed.resume import Why
from server.retry import Retry
from server.turns import FairQueue

log = structlog.get_logger()

PIECE_ROWS: Final = 500
"""Messages asked for by one statement."""


@dataclass(slots=True)
class Job:
    """The progress of one reader's snapshot."""

    reader: Reader
    why: Why
    start: Position = ANYWHERE
    """The feed's position at the first piece."""
    titles: list[UUID] = field(default_factory=list)
    """Conversations still to be sent."""
    wants: list[Want] | None = None
    """Messages still to be sent; None before the first piece."""


class Snapshots:
    """Sends snapshots, one piece after the other, to users in turn."""

    def __init__(self, hub: Hub, history: History, rows: Rows, at_once: int = AT_ONCE) -> None:
        self._hub = hub
        self._history = history
        self._rows = rows
        self._at_once = at_once
        self._queue: FairQueue[Job] = FairQueue()
        self._some = asyncio.Semaphore(0)
        """One for each job in the queue."""

    def begin(self, reader: Reader, why: Why) -> None:
        """Start a snapshot for a reader that belongs to no cohort."""
        self._put(Job(reader, why))

    def _put(self, job: Job) -> None:
        self._queue.put(job.reader.feed.user, job)
        self._some.release()

    @property
    def waiting(self) -> int:
        """The number of snapshots that are begun or asked for, and not being read at this moment."""
        return len(self._queue) + self._hub.stalled_snapshots

    async def run(self) -> None:
        """Send snapshots until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._at_once):
                tasks.create_task(self._work(), name=f"snapshot-{number}")

    async def _work(self) -> None:
        retry = Retry("postgres is away, snapshots wait", alarm=self._history.alarm)
        while True:
            await self._some.acquire()
            job = self._queue.take()
            if job.reader.sink.gone:
                continue
            try:
                done = await self._piece(job)
            except UnavailableError as error:
                if job.wants is None:
                    job.reader.notify_unavailable()
                self._put(job)
                await retry.pause(error)
                continue
            retry.reset()
            if job.reader.sink.gone:
                continue
            if done:
                self._hub.place(job.reader, job.start, Phase.CATCHING_UP)
            elif job.reader.sink.full:
                self._hub.stall_snapshot(job.reader, partial(self._put, job))
            else:
                self._put(job)

    async def _piece(self, job: Job) -> bool:
        """Send the next piece. Returns whether it was the last one."""
        if job.wants is None:
            return await self._first_piece(job)
        return await (self._next_titles(job) if job.titles else self._next_messages(job, job.wants))

    async def _first_piece(self, job: Job) -> bool:
        reader = job.reader
        conversations = reader.window.conversations
        # A cursor that leads nowhere may come from a kept answer.
        since = ANYWHERE if job.why is Why.NEW else None
        overview = await self._rows.conversations(reader.feed.user, None, conversations, CONTENT_BYTES, since)
        sink = reader.sink
        if sink.gone:
            return False
        if overview.tier not in tiers.SYNCED:
            sink.close(errors.LOCAL_ONLY.frame())
            return False
        job.start = overview.position
        job.titles = overview.rest
        messages = reader.window.messages
        ids = [*(row.id for row in overview.conversations), *overview.rest]
        job.wants = [Want(id_, None, messages) for id_ in ids] if messages else []
        self._hub.welcome(reader, overview.tier, job.why)
        profile: list[Row] = [] if overview.profile is None else [overview.profile]
        return self._send(job, overview.position.seq, [*profile, *overview.conversations])

    async def _next_titles(self, job: Job) -> bool:
        titles = await self._rows.titles(job.reader.feed.user, job.titles, CONTENT_BYTES, job.start)
        if job.reader.sink.gone:
            return False
        job.titles = titles.rest
        return self._send(job, titles.position.seq, titles.conversations)

    async def _next_messages(self, job: Job, wants: list[Want]) -> bool:
        asked = wants[: max(1, PIECE_ROWS // max(1, job.reader.window.messages))]
        read = await self._rows.messages(job.reader.feed.user, asked, CONTENT_BYTES, job.start)
        if job.reader.sink.gone:
            return False
        job.wants = [*read.rest(asked), *wants[len(asked) :]]
        return self._send(job, read.position.seq, [message for _, message in read.messages])

    def _send(self, job: Job, as_of: int, rows: Sequence[Row]) -> bool:
        feed, last = job.reader.feed, not job.titles and not job.wants
        cursor = Cursor(self._history.epoch, feed.owner, job.start).encode() if last else None
        data = encode.message(Snapshot(as_of=as_of, rows=list(rows), cursor=cursor), job.reader.sink.codec)
        job.reader.sink.send(data)
        if job.reader.progress is not None:
            job.reader.progress.sent(rows, len(data))
        metrics.sent(rows, 1, len(data))
        return last
