"""The C programs of the benchmarks, and Postgres on an emulated slow disk."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from benchmarks.machine import BenchmarkError
from benchmarks.processes import LIMIT, end, launch

HERE: Final = Path(__file__).parent
FLUSHES: Final = {"wal_sync_method": "fdatasync"}
"""Settings of a Postgres whose flushes can be slowed."""


async def compiled(source: str, place: Path, *options: str) -> Path:
    """Compile a C file of this folder into the folder `place`. Return the program's path. Raises BenchmarkError if
    there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise BenchmarkError(f"There is no C compiler, which {source} needs: apt-get install gcc libc6-dev.")
    program = place / Path(source).stem
    process = await launch(compiler, "-O2", *options, "-o", program, HERE / source)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(LIMIT):
                await process.wait()
        if process.returncode != 0:
            raise BenchmarkError(f"{source} did not compile; what the compiler wrote above says why.")
    finally:
        await end(process)
    return program


@asynccontextmanager
async def slow_flushes(place: Path, flush_ms: float) -> AsyncIterator[None]:
    """A Postgres that is started within, with the settings FLUSHES, flushes its WAL in `flush_ms` at least: as on a
    slow disk, where commits that flush together share the time. commit_delay is not that: it makes only the leader of a
    group wait, before the flush and without the lock that others wait for. 0 changes nothing."""
    if not flush_ms:
        yield
        return
    library = await compiled("slow.c", place, "-shared", "-fPIC")
    added = {"LD_PRELOAD": str(library), "FLUSH_US": str(round(1000 * flush_ms))}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
