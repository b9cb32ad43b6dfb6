"""Carries out the steps of adoption and undo on the app's own tables while they are in use, and reports progress."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from server.exceptions import UnfitError
from server.operations.catalog import Step
from server.postgres.connection import connect_as_owner
from server.postgres.lock_retry import BUSY, past_autovacuum, retry_locks

PATIENCE: Final = 600.0
"""Seconds for which a step's locks are requested again and again, between the transactions of the app."""
LONG: Final = 7 * 86_400.0
"""Seconds that one statement may take: an index over hundreds of millions of rows is built in hours."""
POLL: Final = 0.5
"""Seconds between two queries of a long step's progress, or of the advisory lock."""

SHARE_DONE: Final = {
    "index": """SELECT CASE WHEN blocks_total > 0 THEN blocks_done::float / blocks_total
                            WHEN tuples_total > 0 THEN tuples_done::float / tuples_total END
                FROM pg_stat_progress_create_index WHERE pid = $1""",
}
"""By kind of step: how much of it is done, 0 to 1. $1 is the backend that runs it."""
WAITING: Final = Step("wait for another process that migrates or maintains this database", "none", ())
TABLES: Final = ("public.profiles", "public.conversations", "public.messages", "public.messages_archive")

Remaining = Callable[[Any], Awaitable[list[Step]]]
"""Computes the steps that are left from what a connection finds."""


class Progress(Protocol):
    """Is told how the steps proceed."""

    def begins(self, step: Step) -> None: ...

    def advances(self, step: Step, share: float | None) -> None:
        """`share` of a long step is done, 0 to 1; None: not known."""

    def waits(self, step: Step, why: str) -> None: ...

    def ends(self, step: Step) -> None: ...


class Silent:
    """Progress that nobody sees."""

    def begins(self, step: Step) -> None: ...

    def advances(self, step: Step, share: float | None) -> None: ...

    def waits(self, step: Step, why: str) -> None: ...

    def ends(self, step: Step) -> None: ...


SILENT: Final = Silent()


class _ChangedError(Exception):
    """Another session changed the tables after the step was planned and before its lock was granted."""


async def take_turn(connection: Any, lock: int, progress: Progress) -> None:
    """Acquire this advisory lock. `progress` is told if another process has it.

    It is polled: a statement that waits for it would hold a snapshot, and a concurrent index build of the process that
    has the lock would wait for that snapshot.
    """
    waits = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock):
        if not waits:
            progress.begins(WAITING)
            waits = True
        await asyncio.sleep(POLL)


async def carry_out(connection: Any, url: str, step: Step, progress: Progress, remaining: Remaining) -> None:
    """Carry out a step, the first of `remaining`; nothing is done if another step has become the first. Raises
    UnfitError if its locks cannot be acquired."""
    progress.begins(step)
    try:
        await _carry_out(connection, url, step, progress, remaining)
    except _ChangedError:
        pass
    except BUSY as error:
        raise UnfitError(
            f"To {step.says}, this needs {step.locks}, and could not get it within {PATIENCE / 60:.0f} minutes. End "
            "long transactions, then try again: it continues from here."
        ) from error
    progress.ends(step)


async def _carry_out(connection: Any, url: str, step: Step, progress: Progress, remaining: Remaining) -> None:
    def busy(why: str) -> None:
        progress.waits(step, why)

    match step.kind:
        case "brief":
            await retry_locks(lambda: _at_once(connection, step, remaining), PATIENCE, busy)
        case "rows":
            (each,) = step.statements
            place = begin = (0, 0)
            while (row := await _as_the_app(connection, each, place))[0] is not None:
                place, blocks, in_vain = row
                if in_vain:
                    raise UnfitError(f"To {step.says} is in vain: a trigger undoes it. Disable that, then try again.")
                progress.advances(step, place[0] / blocks)
            if place == begin:
                busy("other sessions have locked all the rows that are left")
                await asyncio.sleep(POLL)
        case _:
            (one,) = step.statements
            async with _watched(connection, url, step, progress):
                # Without a lock timeout: it waits for older transactions, and nobody waits behind it.
                await connection.execute("SET lock_timeout = 0")
                await connection.execute(one, timeout=LONG)


async def _as_the_app(connection: Any, each: str, *arguments: object) -> Any:
    """Run a statement with the app's search path, because it fires the app's triggers. Returns its row."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = DEFAULT")
        return await connection.fetchrow(each, *arguments, timeout=LONG)


async def _at_once(connection: Any, step: Step, remaining: Remaining) -> None:
    """Run all statements in one transaction, with the lock timeout."""
    names = list(TABLES)
    if await connection.fetchval("SELECT to_regclass('sync.kinds') IS NOT NULL"):
        names += await connection.fetchval("SELECT array_agg(tab) FROM sync.kinds") or ()
    tables = await connection.fetchval(
        "SELECT array_agg(DISTINCT to_regclass(name)::text) FROM unnest($1::text[]) name "
        "WHERE to_regclass(name) IS NOT NULL",
        names,
    )
    async with past_autovacuum(connection, *(tables or ())):
        for each in step.statements:
            # One of undo's statements copies the rows of months.
            await connection.execute(each, timeout=LONG)
            # A policy, a right or a partition that was created since planning would be lost.
            if each.startswith("LOCK TABLE"):
                again = await remaining(connection)
                if not again or again[0].statements != step.statements:
                    raise _ChangedError


@asynccontextmanager
async def _watched(connection: Any, url: str, step: Step, progress: Progress) -> AsyncIterator[None]:
    """Report how much of the step is done while the block runs it."""

    async def watch() -> None:
        observer = await connect_as_owner(url)
        try:
            while True:
                share = None
                if step.kind in SHARE_DONE:
                    share = await observer.fetchval(SHARE_DONE[step.kind], connection.get_server_pid())
                progress.advances(step, share)
                await asyncio.sleep(POLL)
        finally:
            observer.terminate()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
