"""Checks every object and right that Atlas Sync made in a database, and mends those that are missing or altered."""

from typing import Any

import asyncpg
import structlog

from server.declaration.sql.generated import generate
from server.exceptions import UnfitError
from server.operations.inventory import Definition, Wrong, complete, definitions, mending
from server.postgres.connection import statement
from server.postgres.declared import declared
from server.postgres.errors import UNMIGRATED
from server.postgres.lock_retry import past_autovacuum, retry_locks
from server.postgres.scripts import functions, views
from server.postgres.steps import PATIENCE, Progress

log = structlog.get_logger()


async def _definitions(connection: Any) -> dict[str, Definition]:
    """Those of every database, and those of its declaration."""
    declaration = await declared(connection)
    made = "" if declaration is None else generate(declaration).definitions
    return definitions([*functions().values(), *views().values(), made])


async def take_inventory(connection: Any) -> list[Wrong]:
    """The faults, in the order in which they have to be mended. The connection's search path must be safe."""
    if rows := await connection.fetch(statement("inventory_access")):
        return [Wrong(*row) for row in rows]
    defined = await _definitions(connection)
    known = {what: each for what, each in defined.items() if what.startswith("function ")}
    rows = await connection.fetch(statement("inventory"))
    rows += await connection.fetch(
        statement("inventory_rest"),
        [what.removeprefix("function sync.") for what in known],
        [each.md5 for each in known.values()],
    )
    return complete((Wrong(*row) for row in rows), defined)


async def mend(connection: Any, progress: Progress) -> list[Wrong]:
    """Mend the faults that can be mended, in one transaction. Returns the others.

    If changes may have been missed, a new history begins and every device starts over. Raises UnfitError if the login
    of `connection`, which should own the tables, lacks a right.
    """
    found = await take_inventory(connection)
    tables = await connection.fetchval("SELECT array_agg(tab) FROM sync.kinds WHERE to_regclass(tab) IS NOT NULL")
    todo = [wrong for wrong in found if wrong.mend is not None]
    if not todo or tables is None:
        return found
    begun: list[Wrong] = []

    async def at_once() -> tuple[list[Wrong], list[Wrong]]:
        async with past_autovacuum(connection, *tables):
            # A function may be created before the objects that it uses.
            await connection.execute("SET LOCAL check_function_bodies = off")
            return await _mend(connection, begun, progress)

    def busy(why: str) -> None:
        progress.waits(mending((begun or todo)[-1]), why)

    mended, left = await retry_locks(at_once, PATIENCE, busy)
    for wrong in mended:
        progress.ends(mending(wrong))
        log.info("mended", what=wrong.what, problem=wrong.problem)
    return left


async def _mend(connection: Any, begun: list[Wrong], progress: Progress) -> tuple[list[Wrong], list[Wrong]]:
    """The faults that were mended, and those that are left."""
    tried: list[Wrong] = []
    mended: list[Wrong] = []
    while True:
        left = await take_inventory(connection)
        # An object that is created anew may lack a right, which only the next inventory shows.
        todo = [wrong for wrong in left if wrong.mend is not None and wrong not in tried]
        if not todo:
            break
        for wrong in todo:
            tried.append(wrong)
            if wrong not in begun:
                begun.append(wrong)
                progress.begins(mending(wrong))
            try:
                async with connection.transaction():
                    await connection.execute(wrong.mend)
            except UNMIGRATED:
                continue  # it depends on an object that an operator has to mend
            except asyncpg.InsufficientPrivilegeError as error:
                raise UnfitError(
                    f"To {mending(wrong).says}, this login lacks a right ({error}). Have an administrator run "
                    f"{wrong.mend}, then migrate again."
                ) from None
            mended.append(wrong)
    if any(wrong.serving for wrong in mended):
        await connection.execute("SELECT sync.begin_history(sync.epoch())")
    return mended, left
