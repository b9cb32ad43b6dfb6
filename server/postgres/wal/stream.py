"""The stream of committed transactions: a temporary slot of logical replication on a connection of its own.

asyncpg opens the connection; after that its transport is read here. The slot ends with the connection, so that Postgres
keeps no WAL for a server that is gone.
"""

import asyncio
import struct
from collections.abc import Callable
from typing import Final
from uuid import uuid4

from server.clock import machine_now
from server.declaration.sql.publication import NAME
from server.exceptions import UnavailableError, UnfitError
from server.postgres import wire
from server.postgres.connection import connect
from server.postgres.timestamps import EPOCH
from server.postgres.wal.pgoutput import MOST_BYTES, Committed
from server.postgres.wal.receiving import Receiving
from server.postgres.wal.relay import Leading

OPTIONS: Final = {"replication": "database", "application_name": "atlas_sync"}
STANDING: Final = (
    "SELECT CASE WHEN NOT pg_is_in_recovery() THEN (SELECT epoch FROM sync.standing()) END, "
    "(SELECT digest FROM sync.declaration)"
)
BEGIN_SECONDS: Final = 15.0
ANSWER_SECONDS: Final = 5.0
"""Seconds within which Postgres answers while it streams."""
ENDED: Final = "The stream of changes ended."

XLOG: Final = ord("w")
KEEPALIVE: Final = ord("k")
CHANGE: Final = 25
"""Where in the data of an XLogData message its change begins: after the type, two positions and the time."""
POSITION: Final = struct.Struct(">Q")
STATUS: Final = struct.Struct(">cQQQqB")
"""The type, the positions that were written, flushed and applied, the time, whether to answer."""
AHEAD: Final = (1 << 63) - 1
"""Sent as the position that was written. With the true one Postgres sends a keepalive after every transaction."""

NOT_BY_ITSELF: Final = {
    "42501": "This login may not stream changes. Run `ALTER ROLE <login> REPLICATION` as an administrator",
    "55000": "Postgres cannot stream changes. Set wal_level to logical, and restart it",
    "53400": "Postgres has no replication slot left. Raise max_replication_slots",
    "42704": "There is no publication atlas_sync. Run `atlas-sync migrate --doorbells wal`",
}
"""Errors that trying again does not help, by SQLSTATE: what an operator must do."""


class Stream(Receiving):
    """One connection that streams. `deliver` gets each transaction; an error that it raises ends the stream. `leading`
    passes the messages on to other processes."""

    def __init__(self, deliver: Callable[[Committed], object], leading: Leading | None = None) -> None:
        super().__init__(deliver, ENDED, MOST_BYTES)
        self._leading = leading
        self._slot = f"atlas_sync_{uuid4().hex[:12]}"
        self._rows: list[list[bytes | None]] = []
        self._answer: asyncio.Future[None] | None = None
        self.received = 0
        """The position up to which it has received everything."""

    async def open(self, url: str, epoch: str) -> str:
        """Have Postgres keep what is committed from now on. Waits for all transactions that are under way. Returns the
        digest of the declaration at a moment after that.

        `epoch`: the history that the URL must lead to. Raises UnavailableError, UnfitError."""
        connection = await connect(url, server_settings=OPTIONS)
        try:
            self._transport = wire.take_over(connection, self)
        except BaseException:
            connection.terminate()
            raise
        await self._ask(f"CREATE_REPLICATION_SLOT {self._slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')")
        ((found, digest),) = await self._ask(STANDING, BEGIN_SECONDS)
        if found is None or found.decode() != epoch:
            raise UnavailableError("The stream leads to another history.")
        return "" if digest is None else digest.decode()

    async def start(self) -> None:
        """Begin to receive what was committed since it was opened. Raises UnavailableError, UnfitError."""
        await self._ask(
            f"START_REPLICATION SLOT {self._slot} LOGICAL 0/0 (proto_version '1', publication_names '{NAME}', "
            "binary 'true')",
            BEGIN_SECONDS,
        )

    async def _ask(self, text: str, seconds: float | None = None) -> list[list[bytes | None]]:
        """The rows of the answer to a simple query. Raises UnavailableError, UnfitError."""
        self._rows = []
        self._write(wire.query(text))
        await self._answered(seconds)
        return self._rows

    async def _answered(self, seconds: float | None) -> None:
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait([self._answer, self.ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                raise self._failure
            if not self._answer.done():
                raise UnavailableError(ENDED if self.ended.done() else "The stream of changes is silent.")
        finally:
            self._answer = None

    async def prove(self) -> None:
        """Have Postgres answer. Raises UnavailableError."""
        self._confirm(answer=True)
        await self._answered(ANSWER_SECONDS)
        if self._leading is not None:
            self._leading.alive()

    def end(self) -> None:
        was_over = self.ended.done()
        super().end()
        if self._leading is not None and not was_over:
            self._leading.end()

    def _received(self, kind: int, body: bytes, at: int, end: int) -> None:
        if kind == wire.COPY_DATA:
            (self.received,) = POSITION.unpack_from(body, at + 1)
            if self._answer is not None:
                self._answers()
            if body[at] == XLOG:
                self._changed(body, at, end)
            elif body[at] == KEEPALIVE and body[end - 1]:
                self._confirm()
        elif kind == wire.DATA_ROW:
            self._rows.append(wire.fields(body, at))
        elif kind == wire.ERROR:
            self._failed(*wire.error(body, at, end))
        elif kind in (wire.READY, wire.COPY_BOTH):
            self._answers()

    def _changed(self, data: bytes, at: int, end: int) -> None:
        if end > len(data):
            self._skip(end - at)
            return
        self._take(data, at + CHANGE, end)
        if self._leading is not None:
            self._leading.pass_on(data[at + CHANGE : end])

    def _skip(self, size: int) -> None:
        """A change is too large to be kept."""
        self._transactions.skip(size)
        if self._leading is not None:
            self._leading.skip(size)

    def _confirm(self, *, answer: bool = False) -> None:
        """Tell Postgres how far everything was received: it may forget the WAL up to there."""
        status = STATUS.pack(b"r", AHEAD, self.received, self.received, machine_now() - EPOCH, answer)
        self._write(wire.message(b"d", status))

    def _write(self, data: bytes) -> None:
        # uvloop raises RuntimeError for a transport that was closed, before connection_lost is called.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _answers(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _failed(self, state: str, said: str) -> None:
        advice = NOT_BY_ITSELF.get(state)
        error = f"{said} (SQLSTATE {state})"
        self._failure = UnavailableError(error) if advice is None else UnfitError(f"{advice} ({error}).")
        if self._answer is None:
            self.end()
        self._answers()
