"""A real Redis in a process of its own: started, killed, stopped in the middle, filled up."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from server.redis.link import Link
from tests.support.cluster import temporary_folder
from tests.support.prometheus import free_port
from tests.support.waiting import eventually

REDIS: Final = shutil.which("redis-server") or shutil.which("valkey-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="there is neither redis-server nor valkey-server")


class RedisProcess:
    """`redis-server` on a port of its own; it keeps nothing on disk. `options` as on its command line."""

    def __init__(self, folder: str, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns once it answers."""
        assert REDIS is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self._options]
        self._process = subprocess.Popen(  # noqa: ASYNC220  # takes a millisecond
            [REDIS, *options], cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await eventually(self._answers)

    async def _answers(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def kill(self) -> None:
        """SIGKILL; what it kept is lost. `start` starts it empty on the same port."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stall(self) -> None:
        """It accepts connections and answers nothing until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def command(self, name: str, *arguments: str | bytes | int) -> Any:
        """One command on a connection of its own."""
        async with Link(self.url) as link:
            return await link.command(name, *arguments, patience=20.0)


@contextlib.asynccontextmanager
async def running_redis(*options: str) -> AsyncIterator[RedisProcess]:
    with temporary_folder() as folder:
        process = RedisProcess(str(folder), *options)
        try:
            await process.start()
            yield process
        finally:
            process.kill()
