"""Locks that a busy database does not feel: asked for briefly, given up, and asked for again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import asyncpg

from server.retry import backoff

T = TypeVar("T")

LOCK_TIMEOUT: Final = "200ms"
"""Whoever wants a lock makes everybody behind him wait for it too, so nobody should want one for longer."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between two tries."""
BUSY: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)


AUTOVACUUM_TIMEOUT: Final = "3s"
"""autovacuum gives way to whoever has waited for it for deadlock_timeout, 1 s, and not before."""
LOCK: Final = 0x61746C73  # «atls»
"""Advisory lock: of those that change a database's structure (migrate, undo, maintain), one does."""


@asynccontextmanager
async def past_autovacuum(connection: Any, *tables: str) -> AsyncIterator[None]:
    """A transaction with the lock timeout, which autovacuum makes room for: first a lock that stops no reader and no
    writer, and so may be waited for."""
    async with connection.transaction():
        await connection.execute(
            f"SET LOCAL lock_timeout = '{AUTOVACUUM_TIMEOUT}'; "
            f"LOCK TABLE {', '.join(tables)} IN SHARE UPDATE EXCLUSIVE MODE; "
            f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"
        )
        yield


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
