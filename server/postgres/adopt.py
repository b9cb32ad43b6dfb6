"""Carries out adoption.py's steps on the app's own tables, which are in use."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, Protocol

import orjson

from server.errors import UnfitError
from server.operations import adoption
from server.operations.adoptable import NotAdoptableError, check
from server.operations.catalog import INSTANTS, Facts, Step, constraint
from server.postgres.connection import connect_as_owner, statement
from server.postgres.patience import BUSY, past_autovacuum, patiently

PATIENCE: Final = 600.0
"""Seconds of tries to get the locks of a step, between the transactions of the app."""
LONG: Final = 7 * 86_400.0
"""Seconds: an index over hundreds of millions of rows is built in hours."""
LOOK: Final = 0.5
"""Seconds between two looks at how far a long step is."""

PROGRESS: Final = {
    "index": """SELECT CASE WHEN blocks_total > 0 THEN blocks_done::float / blocks_total
                            WHEN tuples_total > 0 THEN tuples_done::float / tuples_total END
                FROM pg_stat_progress_create_index WHERE pid = $1""",
}


class Listener(Protocol):
    """Hears how it goes on; the terminal, or nobody."""

    def begins(self, step: Step) -> None: ...

    def advances(self, step: Step, share: float | None) -> None:
        """How much of a long step is done, 0 to 1; None: that cannot be told."""

    def waits(self, step: Step, why: str) -> None: ...

    def ends(self, step: Step) -> None: ...


ORIGINAL: Final = """
    CREATE TABLE IF NOT EXISTS sync.original (
        facts    jsonb NOT NULL,
        taken_at timestamptz NOT NULL DEFAULT now()
    )
"""
"""What the app's tables were like before us, for whoever wants them back."""


WAITING: Final = Step("wait for somebody else who migrates or maintains this database", "none", ())
TABLES: Final = ("public.profiles", "public.conversations", "public.messages", "public.messages_archive")


class Silent:
    """Nobody listens."""

    def begins(self, step: Step) -> None: ...

    def advances(self, step: Step, share: float | None) -> None: ...

    def waits(self, step: Step, why: str) -> None: ...

    def ends(self, step: Step) -> None: ...


SILENT: Final = Silent()


async def remember(connection: Any) -> None:
    """Keep what the tables are like, unless something of ours is there already."""
    if await connection.fetchval(
        "SELECT to_regclass('sync.migrations') IS NULL AND NOT EXISTS (SELECT FROM sync.original)"
    ):
        # What cannot be adopted is going to be mended first, and remembered as it is then.
        await look(connection)
        await connection.execute(
            "INSERT INTO sync.original (facts) VALUES ($1)", orjson.dumps(await facts_of(connection)).decode()
        )


async def facts_of(connection: Any) -> Facts:
    """What the catalog says."""
    async with connection.transaction(readonly=True):
        # However this database writes dates: adoption.py reads those in constraints.
        await connection.execute("SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'")
        facts: Facts = orjson.loads(await connection.fetchval(statement("adopt")))
    return facts


async def turn(connection: Any, lock: int, listener: Listener) -> None:
    """Wait until nobody else has this advisory lock, and take it. `listener` hears that it waits.

    By asking again and again: whoever waits within a statement has a snapshot, which a concurrent index build of the
    one that is waited for would wait for.
    """
    waits = False
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock):
        if not waits:
            listener.begins(WAITING)
            waits = True
        await asyncio.sleep(LOOK)


async def look(connection: Any) -> list[Step]:
    """The steps that are left. Raises UnfitError if the tables cannot be adopted."""
    facts = await facts_of(connection)
    if not adoption.is_needed(facts):
        return []
    try:
        check(facts)
        newest: datetime | None = None
        if not _is_proven(facts, "messages", "atlas_bounds"):
            newest = await connection.fetchval("SELECT max(created_at) FROM public.messages", timeout=LONG)
        nulls = [column for column in INSTANTS if await _has_nulls(connection, facts, column)]
        return adoption.plan(facts, newest, nulls)
    except NotAdoptableError as error:
        raise UnfitError(str(error)) from None


async def adopt(connection: Any, url: str, listener: Listener) -> None:
    """Take the steps that are left, one after the other, each after a new look. `connection` takes no part in a
    transaction; another one to `url` looks at the progress.

    Raises UnfitError; what had been done by then is not done again.
    """
    # A client that is gone ends its statement: the next one need not wait for it.
    await connection.execute("SET client_connection_check_interval = '5s'")
    while steps := await look(connection):
        await take(connection, url, steps[0], listener, look)


Look = Callable[[Any], Awaitable[list[Step]]]
"""The steps that are left, as `connection` sees it."""


class _ChangedError(Exception):
    """Somebody changed the tables between the look and the lock."""


async def take(connection: Any, url: str, step: Step, listener: Listener, look: Look) -> None:
    """Take one step, the first of `look`, or none if it has become another. Raises UnfitError if its locks cannot be
    had."""
    listener.begins(step)
    try:
        await _carry_out(connection, url, step, listener, look)
    except _ChangedError:
        pass
    except BUSY as error:
        raise UnfitError(
            f"To {step.says}, this needs {step.locks}, and got it in none of many tries within "
            f"{PATIENCE / 60:.0f} minutes. End long transactions, then try again: it goes on from here."
        ) from error
    listener.ends(step)


async def _carry_out(connection: Any, url: str, step: Step, listener: Listener, look: Look) -> None:
    def busy(why: str) -> None:
        listener.waits(step, why)

    match step.kind:
        case "brief":
            await patiently(lambda: _at_once(connection, step, look), PATIENCE, busy)
        case "rows":
            (each,) = step.statements
            found = begin = (0, 0)
            while (told := await _as_the_app(connection, each, found))[0] is not None:
                found, blocks, in_vain = told
                if in_vain:
                    raise UnfitError(f"To {step.says} is in vain: a trigger undoes it. Disable that, then try again.")
                listener.advances(step, found[0] / blocks)
            if found == begin:
                busy("somebody else has locked all the rows that are left")
                await asyncio.sleep(LOOK)
        case _:
            (one,) = step.statements
            async with _watched(connection, url, step, listener):
                # Without a lock timeout: it waits for transactions that are older, and nobody waits behind it.
                await connection.execute("SET lock_timeout = 0")
                await connection.execute(one, timeout=LONG)


async def _as_the_app(connection: Any, each: str, *arguments: object) -> Any:
    """The row of a statement that fires the app's triggers: they find what they find when the app writes."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = DEFAULT")
        return await connection.fetchrow(each, *arguments, timeout=LONG)


async def _at_once(connection: Any, step: Step, look: Look) -> None:
    """All or none, with the lock timeout."""
    tables = await connection.fetchval(
        "SELECT array_agg(name) FROM unnest($1::text[]) name WHERE to_regclass(name) IS NOT NULL", TABLES
    )
    async with past_autovacuum(connection, *tables):
        for each in step.statements:
            # An undo copies the rows of months in one of them.
            await connection.execute(each, timeout=LONG)
            # A policy, a right, a partition that came meanwhile would be lost.
            if each.startswith("LOCK TABLE"):
                again = await look(connection)
                if not again or again[0].statements != step.statements:
                    raise _ChangedError


@asynccontextmanager
async def _watched(connection: Any, url: str, step: Step, listener: Listener) -> AsyncIterator[None]:
    async def watch() -> None:
        observer = await connect_as_owner(url)
        try:
            while True:
                share = None
                if step.kind in PROGRESS:
                    share = await observer.fetchval(PROGRESS[step.kind], connection.get_server_pid())
                listener.advances(step, share)
                await asyncio.sleep(LOOK)
        finally:
            observer.terminate()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _has_nulls(connection: Any, facts: Facts, column: str) -> bool:
    table, name = column.split(".")
    proof = "atlas_bounds" if table == "messages" else f"atlas_{name}"
    if facts["columns"][column]["required"] or _is_proven(facts, table, proof):
        return False
    return bool(
        await connection.fetchval(f"SELECT EXISTS (SELECT FROM public.{table} WHERE {name} IS NULL)", timeout=LONG)
    )


def _is_proven(facts: Facts, table: str, name: str) -> bool:
    """A constraint of ours was validated, so nothing has to be read again."""
    known = constraint(facts, table, name)
    return known is not None and bool(known["validated"])
