"""Carries out undo_plan.py: takes Atlas Sync out of a database and leaves the app's data."""

from typing import Any

import asyncpg
import msgspec

from server.exceptions import UnfitError
from server.operations import undo_plan
from server.operations.catalog import Step
from server.operations.undo_plan import Installed
from server.postgres.adopt import facts_of, remaining_moves
from server.postgres.connection import connect_as_owner, statement
from server.postgres.errors import told, translated
from server.postgres.lock_retry import LOCK
from server.postgres.steps import Progress, carry_out, take_turn


async def steps(url: str) -> list[Step]:
    """What `undo` would do. Changes nothing. Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            return await _remaining(connection)
    finally:
        connection.terminate()


async def undo(url: str, progress: Progress) -> None:
    """Carry out the steps. Interrupted anywhere, the next run continues there. Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        await take_turn(connection, LOCK, progress)
        while steps := await _remaining(connection):
            await carry_out(connection, url, steps[0], progress, _remaining)
    except asyncpg.UniqueViolationError as error:
        raise UnfitError(
            "Several messages have the same id at different instants, which the old primary key does not allow. Find "
            "them by SELECT id FROM sync.all_messages GROUP BY id HAVING count(*) > 1, delete all but one of each, "
            "then undo again."
        ) from error
    except asyncpg.PostgresError as error:
        raise UnfitError(f"The undo stopped: {told(error)}") from error
    finally:
        await connection.close(timeout=5)


async def _remaining(connection: Any) -> list[Step]:
    if not await connection.fetchval("SELECT to_regclass('sync.migrations') IS NOT NULL"):
        if await connection.fetchval("SELECT to_regclass('sync.original') IS NOT NULL") and await connection.fetchval(
            "SELECT EXISTS (SELECT FROM sync.original)"
        ):
            raise UnfitError(
                "A migration of this database was interrupted. Let `atlas-sync migrate` complete it, then undo."
            )
        if await connection.fetchval("SELECT to_regnamespace('sync') IS NOT NULL"):
            return [Step("drop schema sync", "none", ("DROP SCHEMA sync CASCADE",))]
        return []
    installed = msgspec.json.decode(await connection.fetchval(statement("undo")), type=Installed)
    return [*await remaining_moves(connection), *undo_plan.plan(installed, await facts_of(connection))]
