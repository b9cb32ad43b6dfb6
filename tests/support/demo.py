"""`atlas-sync demo` as a process: a server with a Postgres of its own and people in it."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson


class Demo:
    """Can be killed, and started again at the same address."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = options
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.line: dict[str, Any] = {}

    @property
    def page(self) -> str:
        return str(self.line["http"]) + "/"

    async def start(self) -> None:
        options = (
            *self._options,
            "--json",
            "--no-replay",
            "--users",
            "3",
            "--port",
            str(self._port),
            "--data",
            str(self.folder),
        )
        command = [sys.executable, "-m", "server", "demo", *options]
        self._process = await asyncio.to_thread(subprocess.Popen, command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            self.line = orjson.loads(await asyncio.to_thread(self._process.stdout.readline))
        self._port = int(self.line["http"].rpartition(":")[2])

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            await asyncio.to_thread(self._process.wait)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
