"""`atlas-sync` as a person runs it: to its end, or until it has printed what they wait for."""

import asyncio
import os
import signal
import sys
from typing import NamedTuple

from tests.support.waiting import LIMIT


class Ended(NamedTuple):
    status: int | None
    out: str
    err: str


async def run_command(
    *arguments: str, typed: str = "", until: str | None = None, times: int = 1, **environment: str
) -> Ended:
    """Run a command to its end, or until it has printed `until` so many times, and Ctrl-C.

    typed: On its standard input, which stays open: chat ends with it. environment: Beside that of the tests.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *arguments),
        env={**os.environ, "COLUMNS": "4000", **environment},  # no line is broken
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(typed.encode())
    printed = ""
    try:
        async with asyncio.timeout(LIMIT):
            while until is not None and printed.count(until) < times:
                line = await process.stdout.readline()
                assert line, (printed, await process.stderr.read())
                printed += line.decode()
            if until is not None:
                process.send_signal(signal.SIGINT)
            rest, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode, printed + rest.decode(), err.decode())
