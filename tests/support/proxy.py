"""A TCP proxy that breaks the network on command."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(eq=False)
class _Line:
    """Both directions of one connection."""

    passing: asyncio.Event = field(default_factory=asyncio.Event)
    asked: bool = False
    """The target received the data that `cut_at_answer` waits for."""


class Proxy:
    """Forwards to a Unix or TCP address. `cut` resets every connection; while `refusing`, new ones are reset too; while
    `silent`, connections stay open and nothing passes: a black hole."""

    def __init__(self, target: str | tuple[str, int]) -> None:
        self.target = target
        """Where new connections lead. Open ones keep their target."""
        self.late = 0
        """How many pieces of data were held back so far."""
        self._asking: re.Pattern[bytes] | None = None
        self._lines: set[_Line] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallowed: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refusing = False
        self.connections = 0
        self.port = 0

    @property
    def silent(self) -> bool:
        return not self._passing.is_set()

    @silent.setter
    def silent(self, value: bool) -> None:
        if value:
            self._passing.clear()
        else:
            self._passing.set()

    def swallow(self) -> None:
        """Lose all data of the open connections from now on. They stay open; new ones work."""
        self._swallowed |= self._writers

    def stall(self) -> None:
        """Hold the data of the open connections until `release`, in order. New connections work."""
        for line in self._lines:
            line.passing.clear()

    def release(self) -> None:
        for line in self._lines:
            line.passing.set()

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def cut_at_answer(self, asking: re.Pattern[bytes]) -> None:
        """Cut all connections once, when the target answers data that contains `asking`: the request was carried out,
        and its answer is lost."""
        self._asking = asking

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        try:
            if isinstance(self.target, str):
                far_reader, far_writer = await asyncio.open_unix_connection(self.target)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        line = _Line()
        line.passing.set()
        self._lines.add(line)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pass(reader, far_writer, line, answers=False))
                tasks.create_task(self._pass(far_reader, writer, line, answers=True))
        except* (OSError, _EndedError):
            pass
        finally:
            self._lines.discard(line)
            self._writers -= {writer, far_writer}
            for each in (writer, far_writer):
                each.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line, *, answers: bool
    ) -> None:
        while data := await reader.read(65_536):
            if answers and line.asked:
                self.cut()
            elif not answers and self._asking is not None and self._asking.search(data):
                self._asking, line.asked = None, True
            late = not line.passing.is_set()
            self.late += late
            await line.passing.wait()
            await self._passing.wait()
            if writer.is_closing():
                break
            if writer not in self._swallowed:
                writer.write(data)
                await writer.drain()
                if late:
                    # The sender may be gone, and data that is not sent yet is lost when the connection ends.
                    await asyncio.sleep(0.01)
        raise _EndedError

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._spawn, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _spawn(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._accept(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.silent = False
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()


class _EndedError(Exception):
    """One direction ended, so the other one ends too."""


def socket_of(url: str) -> str:
    """The Unix socket that a Postgres URL leads to."""
    given = parse_qs(urlsplit(url).query)
    return f"{given['host'][0]}/.s.PGSQL.{given.get('port', ['5432'])[0]}"


@contextlib.asynccontextmanager
async def postgres_behind_proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the Unix socket of `url`, and the URL that leads through it."""
    parts = urlsplit(url)
    async with Proxy(socket_of(url)) as proxy:
        yield proxy, f"postgresql://{parts.username}@127.0.0.1:{proxy.port}{parts.path}"
