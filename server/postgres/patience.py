"""Locks that a busy database does not feel: asked for briefly, given up, and asked for again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import asyncpg

from server.backoff import backoff

T = TypeVar("T")

LOCK_TIMEOUT: Final = "200ms"
"""Whoever wants a lock makes everybody behind him wait for it too, so nobody should want one for longer."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries."""
BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


async def patiently(work: Callable[[], Awaitable[T]], seconds: float, busy: Callable[[str], object]) -> T:
    """`work`, which takes locks under a `lock_timeout`, again and again until it gets them.

    `busy` hears each time why it did not. Raises what Postgres raised when that has gone on for `seconds`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    failures = 0
    while True:
        try:
            return await work()
        except BUSY as error:
            if loop.time() >= end:
                raise
            failures += 1
            busy(str(error.args[0]))
            await asyncio.sleep(backoff(failures, LONGEST_PAUSE))
