"""Takes locks on a busy database: each request is given up after a short time, and repeated."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from server.retry import Retry

T = TypeVar("T")

LOCK_TIMEOUT: Final = "200ms"
"""A queued lock request blocks every later request, so we give up after this time and retry."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries at most."""
BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
"""How Postgres refuses a lock that another try may get."""
AUTOVACUUM_TIMEOUT: Final = "3s"
"""autovacuum is cancelled by a request that has waited for deadlock_timeout (1 s), and not earlier."""
LOCK: Final = 0x61746C73  # «atls»
"""The advisory lock of migrate, undo and maintain: one process at a time changes a database's structure."""


@asynccontextmanager
async def past_autovacuum(connection: Any, *tables: str) -> AsyncIterator[None]:
    """A transaction with the lock timeout, in which autovacuum holds no lock on the tables. It begins with a lock that
    blocks no reader and no writer, so waiting for autovacuum to be cancelled blocks nobody."""
    # Explicit: what was committed while a lock was waited for must be seen.
    async with connection.transaction(isolation="read_committed"):
        locking = f"LOCK TABLE {', '.join(tables)} IN SHARE UPDATE EXCLUSIVE MODE; " if tables else ""
        await connection.execute(
            f"SET LOCAL lock_timeout = '{AUTOVACUUM_TIMEOUT}'; {locking}SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
        )
        yield


async def retry_locks(work: Callable[[], Awaitable[T]], seconds: float, busy: Callable[[str], object]) -> T:
    """Repeat `work`, which takes locks under a `lock_timeout`, until it gets them. Returns what it returns.

    `busy` is called after each failed try with Postgres' sentence. After so many seconds of failures the last error is
    raised, one of BUSY.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    retry = Retry(None, longest=LONGEST_PAUSE)
    while True:
        try:
            return await work()
        except BUSY as error:
            if loop.time() >= end:
                raise
            busy(str(error.args[0]))
            await retry.pause(error)
