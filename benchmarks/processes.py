"""What a benchmark starts and waits for: it ends with the benchmark, and nothing is waited for without end."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.machine import BenchmarkError

LIMIT: Final = 120.0
"""Seconds for whatever must happen at all; reached only by what never comes."""
POLL: Final = 0.02


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
    """A process that ends with us, but not by itself at Ctrl-C."""
    return await asyncio.create_subprocess_exec(
        *command, start_new_session=True, preexec_fn=machine.end_with_parent, **options
    )


async def end(process: asyncio.subprocess.Process) -> None:
    """End a process of `spawn`, and those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="atlas-benchmark-", dir="/tmp"))
    path.chmod(0o755)  # under root, Postgres is another account
    try:
        yield path
    finally:
        shutil.rmtree(path)
