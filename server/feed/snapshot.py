"""What a device without a usable cursor gets: the newest rows, in pieces, and a cursor.

The first piece fixes the cursor. The pieces bring one kind after the other, parents first: the lists of a kind with a
parent are those of the rows that were sent. Each piece is one statement, so Postgres holds nothing open for a slow
device, and the server holds one piece in memory. Changes that happen in between arrive through the feed, because the
cursor is as old as the first piece.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from protocol import errors
from protocol.cursor import Cursor, Position
from protocol.frames import ID, MAX_WINDOW, Key, Row, Snapshot
from server import metrics
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.apart import FIRST_PAUSE, LONGEST_PAUSE
from server.feed.history import History
from server.feed.hub import Hub, Phase, Reader
from server.feed.limited import AT_ONCE
from server.feed.ports import ANYWHERE, CONTENT_BYTES, ReadingError, Rows, Want, Window
from server.feed.resume import Why
from server.outgoing import message
from server.retry import Retry
from server.turns import FairQueue

log = structlog.get_logger()

PIECE_ROWS: Final = 500
"""Rows asked for by one statement."""
MAX_OF_PARENT: Final = 200
"""Rows of each parent that a device may ask for beyond the declaration's window."""
ALL: Final = (1 << 31) - 1
LISTS: Final = 50
"""Lists that one statement reads where a snapshot has all rows of each: most are short."""


@dataclass(slots=True)
class Job:
    """The progress of one reader's snapshot."""

    reader: Reader
    why: Why
    start: Position = ANYWHERE
    """The feed's position at the first piece."""
    begun: bool = False
    """Whether the first piece was sent."""
    kinds: deque[Kind] = field(default_factory=deque)
    """Kinds of which nothing was sent yet, each after its parent."""
    kind: Kind | None = None
    """The kind that is being sent."""
    wants: list[Want] = field(default_factory=list)
    """Lists of this kind that are still to be sent."""
    ids: dict[str, list[Key]] = field(default_factory=dict)
    """By kind: the rows that were sent, if there are kinds below."""
    failures: int = 0
    """Statements that failed in a row, in a Postgres that is there."""


class Snapshots:
    """Sends snapshots, one piece after the other, to users in turn."""

    def __init__(self, hub: Hub, history: History, rows: Rows, synced: Synced, at_once: int = AT_ONCE) -> None:
        self._hub = hub
        self._synced = synced
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
                tasks.create_task(self._work(number), name=f"snapshot-{number}")

    async def _work(self, number: int) -> None:
        # A few of them log it: all fail at once.
        event = "postgres is away, snapshots wait" if number < AT_ONCE else None
        retry = Retry(event, alarm=self._history.alarm)
        while True:
            await self._some.acquire()
            job = self._queue.take()
            if job.reader.sink.gone:
                continue
            try:
                done = await self._piece(job)
            except ReadingError as error:
                # A row of this user may be why: others need not wait.
                self._put_off(job, error)
                continue
            except UnavailableError as error:
                if not job.begun:
                    job.reader.notify_unavailable()
                self._put(job)
                await retry.pause(error)
                continue
            retry.reset()
            job.failures = 0
            if job.reader.sink.gone:
                continue
            if done:
                self._hub.place(job.reader, job.start, Phase.CATCHING_UP)
            elif job.reader.sink.full:
                self._hub.stall_snapshot(job.reader, partial(self._put, job))
            else:
                self._put(job)

    def _put_off(self, job: Job, error: ReadingError) -> None:
        if not job.failures:
            log.warning("a snapshot waits, because the statement fails", user=job.reader.feed.user, trouble=str(error))
        if not job.begun:
            job.reader.notify_unavailable()
        pause = min(FIRST_PAUSE * 2**job.failures, LONGEST_PAUSE)
        job.failures += 1
        asyncio.get_running_loop().call_later(pause, self._put, job)

    async def _piece(self, job: Job) -> bool:
        """Send the next piece. Returns whether it was the last one."""
        reader = job.reader
        if not job.begun:
            job.kinds = deque(self._synced.declaration.kinds)
            job.ids.clear()
            self._next_kind(job)
        kind = job.kind
        if kind is None:  # no kind is declared
            raise UnavailableError("Nothing is declared to be synced.")
        if job.begun:
            since: Position | None = job.start
        else:
            # A cursor that leads nowhere may come from a kept answer.
            since = ANYWHERE if job.why is Why.NEW else None
        rows = max(1, job.wants[-1].rows)  # the first one may be the rest of a list
        lists = PIECE_ROWS // rows or LISTS
        asked = [want._replace(rows=min(want.rows, PIECE_ROWS)) for want in job.wants[:lists]]
        answer = await self._rows.rows(kind, reader.feed.user, asked, CONTENT_BYTES, since)
        sink = reader.sink
        if sink.gone:
            return False
        if not job.begun:
            if not self._synced.admits(answer.tier):
                sink.close(errors.LOCAL_ONLY.frame())
                return False
            job.start = answer.position
        found = [row for _, row in answer.rows]
        job.wants = answer.rest(kind, job.wants, asked)
        if self._synced.declaration.children_of(kind):
            job.ids.setdefault(kind.name, []).extend(row[ID] for row in found)
        first, job.begun = not job.begun, True
        if not job.wants:
            self._next_kind(job)
        piece = self._encoded(job, answer.position.seq, found) if found or job.kind is None else b""
        if first:
            self._hub.welcome(reader, answer.tier, job.why, piece)
        elif piece:
            sink.send(piece)
        if piece:
            if reader.progress is not None:
                reader.progress.sent(found, len(piece))
            metrics.sent(found, 1, len(piece))
        return job.kind is None

    def _next_kind(self, job: Job) -> None:
        """Go on to the next kind of which there is something to be sent."""
        job.kind = None
        while job.kinds:
            kind = job.kinds.popleft()
            rows = _window(kind, job.reader.window)
            parents: Sequence[Key | None] = [None]
            if kind.parent is not None:
                parents = job.ids.get(kind.parent.kind, [])
            # The first piece is read in any case: it says whether the user syncs, and at which position.
            if parents and (rows or not job.begun):
                job.kind, job.wants = kind, [Want(parent, None, rows) for parent in parents]
                return

    def _encoded(self, job: Job, as_of: int, rows: list[Row]) -> bytes:
        feed = job.reader.feed
        cursor = Cursor(self._history.epoch, feed.owner, job.start).encode() if job.kind is None else None
        return message(Snapshot(as_of=as_of, rows=rows, cursor=cursor), job.reader.sink.codec)


def _window(kind: Kind, asked: Window) -> int:
    """The rows of a list in a snapshot."""
    declared = ALL if kind.window is None else kind.window
    if (wanted := asked.get(kind.name)) is None:
        return declared
    return min(wanted, max(declared, MAX_WINDOW if kind.parent is None else MAX_OF_PARENT))
