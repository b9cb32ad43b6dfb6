"""Runs the assistant as a child process, and starts it again when it dies."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

AGAIN_AFTER: Final = 0.5
"""Seconds until the next one starts."""
PATIENCE: Final = 3.0
"""Seconds for one to end by itself."""
PROGRAM: Final = (sys.executable, "-m", "server.demo.assistant")
ROOT: Final = Path(__file__).parents[3]


class AssistantProcess:
    def __init__(self, settings: Mapping[str, str], started: Callable[[int], None]) -> None:
        """`settings`: environment variables of the assistant. `started` is called with the id of each process."""
        self._settings = settings
        self._started = started

    async def run(self) -> None:
        """Keep one running, until this is cancelled."""
        while True:
            # Its standard input ends when this process does, however it dies. A Ctrl-C of the terminal is meant for us.
            process = await asyncio.create_subprocess_exec(
                *PROGRAM,
                stdin=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": _path(), **self._settings},
                start_new_session=True,
            )
            self._started(process.pid)
            try:
                status = await process.wait()
            finally:
                await asyncio.shield(_ended(process))
            log.warning("the assistant died, and the next one continues", status=status)
            await asyncio.sleep(AGAIN_AFTER)


async def _ended(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _path() -> str:
    """So that it finds the same packages as this process, wherever that was started."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
