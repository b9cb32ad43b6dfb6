"""One stream for all server processes of a machine. One of them reads it and passes its messages on over a Unix socket.

Postgres decodes all WAL of the database once for each stream. The socket is in a folder that only our account can
enter. Whoever has the lock there leads. The lock ends with its process, and another one takes it.
"""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from server.exceptions import UnavailableError
from server.postgres import wire
from server.postgres.wal.pgoutput import BEGIN, COMMIT, RELATION, TYPE, Committed
from server.postgres.wal.receiving import Receiving

FOLDER: Final = "ATLAS_RELAY_FOLDER"
"""The environment variable with the folder, which the supervisor makes."""
LOCK: Final = "lock"
SOCKET: Final = "stream"
MOST_WAITING: Final = 16 * 1024 * 1024
"""Bytes that wait for one follower. One that is further behind is cut off: it comes back, and its sweep finds the
rest."""
CONNECT_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 15.0
"""After this time without a message the leader is considered gone. It sends one every 5 seconds."""
GONE: Final = "The process that reads the stream of changes for this one is gone."

HELLO: Final = b"h"
PASSED: Final = b"p"
ALIVE: Final = b"a"
SKIPPED: Final = b"s"


class Hello(msgspec.Struct, frozen=True):
    """What a follower is told first."""

    epoch: str
    declared: str
    """The digest of the declaration by which what follows was recorded."""


class Leading:
    """The process that has the lock: it passes the messages of its stream on."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._server: asyncio.Server | None = None
        self._hello: Callable[[], Hello] | None = None
        self._described: dict[bytes, bytes] = {}
        """The latest description of each type and relation, by its kind and number: Postgres sends it once, and a type
        before the relations that have it."""
        self._within = False
        """Whether a transaction has begun and not ended."""
        self._joining: list[asyncio.StreamWriter] = []
        self._followers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        """Let followers come. They wait until `start`."""
        path = self._folder / SOCKET
        path.unlink(missing_ok=True)  # the former leader's
        self._server = await asyncio.start_unix_server(self._accept, path)

    def start(self, hello: Callable[[], Hello]) -> None:
        """The stream has started. `hello` makes what a follower is told that joins now."""
        self._hello = hello
        self._join()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._joining.append(writer)
        self._join()
        with contextlib.suppress(OSError):
            await reader.read()  # a follower sends nothing: this is its end
        self._leave(writer)

    def _join(self) -> None:
        """Between two transactions, let those join that wait: they get all that follow."""
        if self._hello is None or self._within:
            return
        for writer in [writer for writer in self._joining if not writer.is_closing()]:
            writer.write(wire.message(HELLO, msgspec.json.encode(self._hello())))
            for description in self._described.values():
                writer.write(wire.message(PASSED, description))
            self._followers.append(writer)
        self._joining.clear()

    def pass_on(self, data: bytes) -> None:
        """A message of the stream."""
        kind = data[0]
        if kind == BEGIN:
            self._within = True
        elif kind in (TYPE, RELATION):
            self._described.pop(data[:5], None)
            self._described[data[:5]] = data
        self._send(wire.message(PASSED, data))
        if kind == COMMIT:
            self._within = False
            self._join()

    def skip(self, size: int) -> None:
        """A change of so many bytes in the stream is too large to be passed on."""
        self._send(wire.message(SKIPPED, wire.LENGTH.pack(size)))

    def alive(self) -> None:
        """The stream was proved to be alive."""
        self._send(wire.message(ALIVE))

    def _send(self, data: bytes) -> None:
        for writer in list(self._followers):
            # uvloop raises RuntimeError for a transport that was closed, before its reader has noticed.
            if writer.is_closing() or writer.transport.get_write_buffer_size() + len(data) > MOST_WAITING:
                self._leave(writer)
            else:
                writer.write(data)

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        for some in (self._joining, self._followers):
            if writer in some:
                some.remove(writer)
        writer.transport.abort()

    def end(self) -> None:
        """Give the lock up."""
        if self._server is not None:
            self._server.close()
        for writer in [*self._joining, *self._followers]:
            self._leave(writer)
        os.close(self._lock)


def lead(folder: Path) -> Leading | None:
    """Take the lock; None if another process has it. Raises OSError."""
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return Leading(folder, lock)


async def take_lead(folder: Path) -> Leading | None:
    """Take the lock, and let followers come; None if another process has it. Raises OSError."""
    leading = lead(folder)
    if leading is not None:
        try:
            await leading.open()
        except BaseException:
            leading.end()
            raise
    return leading


class Followed(Receiving):
    """The stream of the leading process. `deliver` gets each transaction; an error that it raises ends it."""

    def __init__(self, deliver: Callable[[Committed], object]) -> None:
        super().__init__(deliver, GONE)
        self._hello: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self._heard = time.monotonic()

    async def open(self, folder: Path, epoch: str) -> str:
        """Receive what is committed from some moment on, and return at that moment, with the digest of the declaration.
        Raises UnavailableError."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                loop = asyncio.get_running_loop()
                self._transport, _ = await loop.create_unix_connection(lambda: self, str(folder / SOCKET))
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"{GONE} ({type(error).__name__})") from None
        hello = await self._hello
        if hello.epoch != epoch:
            self.end()
            raise UnavailableError("The process that reads the stream of changes has another history.")
        return hello.declared

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        super().data_received(data)

    def _received(self, kind: int, body: bytes, at: int, end: int) -> None:
        if kind == PASSED[0]:
            self._take(body, at, end)
        elif kind == SKIPPED[0]:
            self._transactions.skip(*wire.LENGTH.unpack_from(body, at))
        elif kind == HELLO[0]:
            self._hello.set_result(msgspec.json.decode(body[at:end], type=Hello))

    async def prove(self) -> None:
        """Raises UnavailableError if nothing was heard of the leader for too long."""
        if time.monotonic() - self._heard > SILENT_SECONDS:
            raise UnavailableError(GONE)

    def end(self) -> None:
        super().end()
        if not self._hello.done():
            self._hello.set_exception(self._failure or UnavailableError(GONE))
            self._hello.exception()  # perhaps nobody waits for it
