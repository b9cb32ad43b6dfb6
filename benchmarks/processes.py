"""Child processes that end with the benchmark, and waiting with a limit."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.machine import BenchmarkError

LIMIT: Final = 120.0
"""Seconds after which something that must happen will not happen any more."""
POLL: Final = 0.02
PLACE: Final = "/tmp"
"""Where folders are made: on the disk that commits wait for."""


async def eventually(what: str, condition: Callable[[], Awaitable[bool]], limit: float = LIMIT) -> None:
    """Return when `condition` is true. Raises BenchmarkError after `limit` seconds."""
    end = time.monotonic() + limit
    while not await condition():
        if time.monotonic() > end:
            raise BenchmarkError(f"Not within {limit:.0f} s: {what}.")
        await asyncio.sleep(POLL)


async def spawn(module: str, *arguments: str, **options: Any) -> asyncio.subprocess.Process:
    return await launch(sys.executable, "-m", module, *arguments, **options)


async def launch(*command: str | Path, **options: Any) -> asyncio.subprocess.Process:
    """Start a process that ends with us, but not at Ctrl-C."""
    return await asyncio.create_subprocess_exec(
        *command, start_new_session=True, preexec_fn=machine.end_with_parent, **options
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process of `spawn`, and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@asynccontextmanager
async def redis_server(place: Path) -> AsyncIterator[str]:
    """A Redis that keeps nothing on disk. Gives its URL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise BenchmarkError("There is neither redis-server nor valkey-server: install one.")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(place))
    process = await launch(program, *options, stdout=subprocess.DEVNULL)

    async def answers() -> bool:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    try:
        await eventually("Redis answers", answers)
        yield f"redis://127.0.0.1:{port}"
    finally:
        await end(process)


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="atlas-benchmark-", dir=PLACE))
    path.chmod(0o755)  # started by root, Postgres runs under another account
    try:
        yield path
    finally:
        shutil.rmtree(path)
