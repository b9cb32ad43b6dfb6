"""Reads for one live reader as soon as its doorbell rings, on a connection of its own whose transport is read here.

That is the common case, and it needs little: one prepared statement and parameters of fixed size. The answer is
delivered from within the callback that receives it. With the store it costs twice the CPU and the time.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from protocol.frames import Key, Row
from server import metrics
from server.clock import machine_now
from server.declaration.sql.reading import LIVE_COLUMNS, LIVE_ENTRIES
from server.declaration.synced import Synced
from server.exceptions import UnavailableError, UnfitError
from server.feed.change import Entry, in_log_order
from server.feed.ports import CONTENT_BYTES
from server.postgres import binary, wire
from server.postgres.connection import limit
from server.postgres.errors import translated
from server.postgres.pool import ISOLATION, PLANNING
from server.postgres.route import Route
from server.postgres.store import BEHIND_A_TRANSACTION, RECENT, SOON
from server.postgres.timestamps import EPOCH
from server.retry import Retry

log = structlog.get_logger()

AT_ONCE: Final = 4
"""Reads under way at once. Beyond that many, the store reads for all that wait by one statement, which costs less."""
PATIENCE: Final = 1.0
"""Seconds until the store reads instead, because the answer is late."""
ANSWER_SECONDS: Final = 3.0
"""After this time Postgres cancels the statement."""
DEAD_SECONDS: Final = ANSWER_SECONDS + 0.5
"""After this time without an answer the network connection is considered dead."""
LOOK_SECONDS: Final = 0.5
"""Seconds between two looks for a late answer."""
ALONE_SECONDS: Final = 10.0
"""Seconds without this connection, after it was given back because Postgres had none left for this login."""

NAME: Final = "live"
TYPES: Final = (2950, 20, 1184, 1184, 20)
"""The OIDs of uuid, bigint and timestamptz."""
PARAMETERS: Final = struct.Struct(">HI16sIqIqIqIq")
BIND: Final = b"\0" + NAME.encode() + b"\0" + wire.BINARY
HEAD: Final = b"B" + wire.LENGTH.pack(4 + len(BIND) + PARAMETERS.size + len(wire.BINARY)) + BIND
TAIL: Final = wire.BINARY + wire.execute() + wire.SYNC

FIRST: Final = len(LIVE_COLUMNS)
"""Where in a record the columns of the row begin."""
TRUE: Final = b"\1"
DELETION: Final = b"d"

Done = Callable[[Sequence[Entry] | None], None]


class Waiting(NamedTuple):
    """A read that has no answer yet."""

    begun: float
    done: Done


class PostgresExpress:
    """`Express`. It leaves to the store what is unusual: more than a few entries or much content, rows in an archive,
    rows of the gate, an error of Postgres, another declaration."""

    def __init__(self, route: Route, synced: Synced) -> None:
        self._route = route
        self._synced = synced
        self._connection: _Connection | None = None
        self._seconds = metrics.STATEMENT_SECONDS.labels("read_live")
        self._not_before = 0.0
        route.shortage.lenders.append(self)
        route.history.on_change.append(self._leave)
        synced.on_use.append(self._leave)

    @property
    def free(self) -> bool:
        connection = self._connection
        return connection is not None and connection.takes_reads and len(connection.waiting) < AT_ONCE

    def read(self, user: str, after: int, done: Done) -> None:
        if self._connection is None:
            raise RuntimeError("It is not free.")
        self._connection.read(UUID(user).bytes, after, done)

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        retry = Retry(None, longest=5.0, alarm=self._route.history.alarm)
        loop = asyncio.get_running_loop()
        while True:
            try:
                if (pause := self._not_before - loop.time()) > 0:
                    await asyncio.sleep(pause)
                await self._serve()
            except (UnavailableError, UnfitError) as error:
                await retry.pause(error)
            else:
                retry.reset()

    async def _serve(self) -> None:
        """Raises UnavailableError and UnfitError if there is no connection. Returns when it has ended."""
        declaration = self._synced.declaration
        opened = await self._route.connect()
        connection = None
        try:
            with translated():
                await opened.raw.execute(f"{PLANNING};{ISOLATION};{limit(ANSWER_SECONDS)}")
            if opened.report.epoch != self._route.history.epoch or declaration is not self._synced.declaration:
                return
            connection = self._connection = _Connection(self._synced, self._seconds.observe)
            connection.begin(wire.take_over(opened.raw, connection))
            await connection.watch()
            if not connection.was_prepared:
                raise UnavailableError("The statement cannot be prepared.")
        finally:
            self._connection = None
            if connection is None:
                opened.raw.terminate()
            else:
                connection.end()

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.end()

    # --- Lender: the general reads matter more

    @property
    def open(self) -> int:
        return int(self._connection is not None)

    @property
    def owes(self) -> bool:
        return False

    def give_back(self) -> None:
        self._not_before = asyncio.get_running_loop().time() + ALONE_SECONDS
        self._leave()


class _Connection(asyncio.Protocol):
    """A connection with the statement. `observe` gets the seconds of each answer."""

    def __init__(self, synced: Synced, observe: Callable[[float], None]) -> None:
        self._rows = synced.rows
        self._columns = {
            tag: [(place, binary.SLOTS[letter]) for place, letter in columns]
            for tag, columns in synced.live_columns.items()
        }
        gate = synced.declaration.gate
        self._gate = None if gate is None else synced.declaration.kind[gate.kind].tag
        """Rows of this kind decide whether their user syncs, which the store knows."""
        self._statement = synced.statements["read_live"]
        self._mismatch = synced.on_mismatch
        self._observe = observe
        self._messages = wire.Messages()
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.get_running_loop().create_future()
        self._entries: list[Entry] = []
        self._bytes = 0
        self._unusual = False
        self.prepared = False
        self.was_prepared = False
        self.waiting: deque[Waiting] = deque()

    @property
    def takes_reads(self) -> bool:
        # uvloop raises RuntimeError for a transport that was closed, before connection_lost is called.
        return self.prepared and self._transport is not None and not self._transport.is_closing()

    def begin(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.write(wire.parse(NAME, self._statement, *TYPES) + wire.SYNC)

    def end(self) -> None:
        """Close it, and leave to the store what waits."""
        self.prepared = False
        if self._transport is not None:
            self._transport.abort()
        while self.waiting:
            self._answer(None)
        if not self._ended.done():
            self._ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    async def watch(self) -> None:
        """Return when it has ended. Leaves reads that wait for too long to the store."""
        while not self._ended.done():
            await asyncio.wait([self._ended], timeout=LOOK_SECONDS)
            now = time.monotonic()
            if self.waiting and now - self.waiting[0].begun > DEAD_SECONDS:
                self.end()
            elif self.waiting and now - self.waiting[0].begun > PATIENCE:
                self._leave_waiting()

    def _leave_waiting(self) -> None:
        """Nothing more is asked here until all answers to these have come."""
        self.prepared = False
        waiting = list(self.waiting)
        for i, each in enumerate(waiting):
            self.waiting[i] = each._replace(done=_ignore)
        for each in waiting:
            each.done(None)

    def read(self, user: bytes, after: int, done: Done) -> None:
        assert self._transport is not None
        now = machine_now()
        since, until = now - RECENT - EPOCH, now + SOON - EPOCH
        values = PARAMETERS.pack(5, 16, user, 8, after, 8, since, 8, until, 8, min(now + SOON, BEHIND_A_TRANSACTION))
        self.waiting.append(Waiting(time.monotonic(), done))
        self._transport.write(HEAD + values + TAIL)

    def data_received(self, data: bytes) -> None:
        for kind, body, at, end in self._messages.split(data):
            if kind == wire.DATA_ROW:
                self._bytes += end - at
                self._row(body, at)
            elif kind == wire.READY:
                if self.waiting:
                    self._complete()
                # Prepared, or all late answers have come.
                self.prepared = not self.waiting or self.prepared
                self.was_prepared = True
            elif kind == wire.ERROR:
                state, said = wire.error(body, at, end)
                self._unusual = True
                if not self.was_prepared:
                    log.debug("the read at once cannot be prepared", sqlstate=state, error=said)
                    self.end()
                    return

    def _complete(self) -> None:
        entries, self._entries = self._entries, []
        unusual, self._unusual = self._unusual, False
        size, self._bytes = self._bytes, 0
        self._observe(time.monotonic() - self.waiting[0].begun)
        usual = 0 < len(entries) < LIVE_ENTRIES and not unusual and (len(entries) == 1 or size <= CONTENT_BYTES)
        self._answer(in_log_order(entries) if usual else None)

    def _answer(self, entries: Sequence[Entry] | None) -> None:
        self.waiting.popleft().done(entries)

    def _row(self, data: bytes, at: int) -> None:
        values = wire.fields(data, at)
        declared, elsewhere, found, seq, n, prev, mark, prev_mark, kind, op, row_id, row_key = values[:FIRST]
        if declared != TRUE:
            self._mismatch()
        tag = _text(kind)
        made = self._rows.get(tag)
        if declared != TRUE or elsewhere == TRUE or made is None or tag == self._gate:
            self._unusual = True
            return
        key: Key = binary.uuid(row_id or b"") if row_key is None else made.key(binary.texts(row_key))
        at_seq = binary.integer_or_zero(seq)
        deletion = op == DELETION
        row: Row | None = None
        if deletion:
            row = made.deletion(at_seq, key)
        elif found == TRUE:
            columns = [
                None if (value := values[place]) is None else decode(value) for place, decode in self._columns[tag]
            ]
            row = made.upsert(at_seq, key, columns)
        integer = binary.integer_or_zero
        marks = integer(mark), integer(prev_mark)
        self._entries.append(Entry(at_seq, integer(n), integer(prev), None, tag, key, row, *marks, deletion))


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode()


def _ignore(_: object) -> None:
    """The store reads instead."""
