"""Adopts the app's own tables: reads what adoption_plan.py needs, and has its steps carried out."""

from datetime import datetime
from typing import Any, Final

import msgspec

from server.operations import adoptable, adoption_plan, beside
from server.operations.beside import Beside
from server.operations.catalog import INSTANTS, Facts, Step, constraint
from server.postgres.connection import statement
from server.postgres.steps import LONG, Progress, Remaining, carry_out

ORIGINAL: Final = """
    CREATE TABLE IF NOT EXISTS sync.original (
        facts    jsonb NOT NULL,
        taken_at timestamptz NOT NULL DEFAULT now()
    )
"""
"""Holds the answer of sql/catalog.sql from before the first migration. Undo restores the tables by it."""


async def remember(connection: Any) -> None:
    """Record what the app's tables are like, unless a migration has partitioned them or that is recorded already.
    Raises UnfitError if they cannot be adopted: their owner changes them first, and the result of that is recorded."""
    if await connection.fetchval(
        "SELECT NOT EXISTS (SELECT FROM sync.original) AND (to_regclass('sync.migrations') IS NULL "
        "OR (SELECT relkind FROM pg_class WHERE oid = to_regclass('public.messages')) = 'r')"
    ):
        await remaining_steps(connection)
        await connection.execute("INSERT INTO sync.original (facts) VALUES ($1)", await _catalog(connection))


async def facts_of(connection: Any) -> Facts:
    """What the catalog says of the app's tables."""
    return msgspec.json.decode(await _catalog(connection), type=Facts)


async def _catalog(connection: Any) -> str:
    async with connection.transaction(readonly=True):
        # adoption_plan.py parses dates in constraints, which depend on the database's settings.
        await connection.execute("SET LOCAL datestyle = 'ISO'; SET LOCAL timezone = 'UTC'")
        return str(await connection.fetchval(statement("catalog")))


async def remaining_steps(connection: Any) -> list[Step]:
    """The steps of adoption that are left. Raises UnfitError if the tables cannot be adopted."""
    facts = await facts_of(connection)
    await _beside(connection)
    if not adoption_plan.is_needed(facts):
        return []
    adoptable.check(facts)
    newest: datetime | None = None
    if not _is_validated(facts, "messages", "atlas_bounds"):
        newest = await connection.fetchval("SELECT max(created_at) FROM public.messages", timeout=LONG)
    nulls = [column for column in INSTANTS if await _has_nulls(connection, facts, column)]
    return adoption_plan.plan(facts, newest, nulls)


async def obstacles(connection: Any) -> list[str]:
    """All that prevents adoption, and moving partitions: a sentence each."""
    facts = await facts_of(connection)
    found = msgspec.json.decode(await connection.fetchval(statement("beside")), type=Beside)
    adoption = adoptable.obstacles(facts) if adoption_plan.is_needed(facts) else ()
    return [*beside.obstacles(found), *adoption]


async def remaining_moves(connection: Any) -> list[Step]:
    """The steps that move partitions of earlier versions beside their table, once it is partitioned. Raises UnfitError
    if others have their names."""
    return beside.plan(await _beside(connection), await facts_of(connection))


async def _beside(connection: Any) -> Beside:
    found = msgspec.json.decode(await connection.fetchval(statement("beside")), type=Beside)
    beside.check(found)
    return found


async def adopt(connection: Any, url: str, progress: Progress, remaining: Remaining = remaining_steps) -> None:
    """Carry out the steps that are left, and plan again after each. `connection` must not be in a transaction. A
    second connection to `url` reads the progress of long steps.

    Raises UnfitError; completed steps are not repeated.
    """
    # If this process dies, Postgres notices and ends its statement, so the next run need not wait for that.
    await connection.execute("SET client_connection_check_interval = '5s'")
    while steps := await remaining(connection):
        await carry_out(connection, url, steps[0], progress, remaining)


async def _has_nulls(connection: Any, facts: Facts, column: str) -> bool:
    table, name = column.split(".")
    proof = "atlas_bounds" if table == "messages" else f"atlas_{name}"
    if facts.columns[column].required or _is_validated(facts, table, proof):
        return False
    return bool(
        await connection.fetchval(f"SELECT EXISTS (SELECT FROM public.{table} WHERE {name} IS NULL)", timeout=LONG)
    )


def _is_validated(facts: Facts, table: str, name: str) -> bool:
    """Such a constraint of ours holds for all rows, so they need not be read again."""
    known = constraint(facts, table, name)
    return known is not None and known.validated
