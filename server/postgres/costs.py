"""Counts usage, and queries what it costs, with the rights of the tables' owner."""

from datetime import date, timedelta
from typing import Any, Final

import asyncpg
import orjson

from server.exceptions import UnfitError
from server.postgres.connection import connect_as_owner, statement
from server.postgres.errors import UNMIGRATED, translated
from server.usage import costs
from server.usage.costs import Costs, Day, Sum, Unusual

BATCHES: Final = 1_000
"""Batches counted by one transaction: of 100 events each it takes some 2 s."""
SECONDS: Final = 600.0
"""Limit on one statement, which may read the usage of all users in many days."""
BY: Final = ("tier", "day", "model", "user")


async def count(connection: Any) -> None:
    """Count all events that are not counted yet. It may be stopped anywhere, repeated, and run twice at a time."""
    counted = BATCHES
    while counted == BATCHES:
        # Explicit: a statement that waited for its turn must see what the other process has counted.
        async with connection.transaction(isolation="read_committed"):
            counted = await connection.fetchval("SELECT sync.count_usage($1)", BATCHES, timeout=6 * SECONDS)


async def judge(connection: Any, floor: float) -> tuple[list[Unusual], list[Unusual]]:
    """Find the users and tiers whose costs of today or yesterday are not usual, and record that for the figures."""
    today = await _today(connection)
    tiers = await _of_tiers(connection, today)
    unusual_tiers = costs.unusual(costs.by_day(tiers, today), today, floor)
    users = await _of_users(connection, today, floor, min((day for _, day, _ in tiers), default=today))
    unusual_users = costs.unusual(users, today, floor)
    without_price = await connection.fetch(statement("costs_without_price"), today - timedelta(days=1))
    await connection.execute(
        statement("costs_judged"),
        orjson.dumps({tier: cost for tier, day, cost in tiers if day == today}).decode(),
        len({user.whose for user in unusual_users}),
        len({tier.whose for tier in unusual_tiers}),
        len(without_price),
    )
    return unusual_users, unusual_tiers


async def ask(url: str, days: int, top: int, floor: float) -> Costs:
    """Usage and costs of the last `days` days, today included, with the `top` users. Raises UnavailableError,
    UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return await _ask(connection, days, top, floor)
    except UNMIGRATED:
        raise UnfitError("This database lacks the tables of usage. Run `atlas-sync migrate`.") from None
    finally:
        connection.terminate()


async def _ask(connection: Any, days: int, top: int, floor: float) -> Costs:
    try:
        today = await _today(connection)
        since = today - timedelta(days=days - 1)
        sums = {
            by: [
                Sum(*row)
                for row in await connection.fetch(
                    statement("costs_by"), by, since, days if by == "day" else top, timeout=SECONDS
                )
            ]
            for by in BY
        }
        tiers = await _of_tiers(connection, today)
        users = await _of_users(connection, today, floor, min((day for _, day, _ in tiers), default=today))
        without = await connection.fetch(statement("costs_without_price"), since, timeout=SECONDS)
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not read costs. Use the one that owns the tables (ATLAS_ADMIN_URL), or grant it SELECT on "
            "sync.daily_costs, with a row policy."
        ) from None
    return Costs(
        since=since,
        until=today,
        sums=sums,
        unusual_users=costs.unusual(users, today, floor),
        unusual_tiers=costs.unusual(costs.by_day(tiers, today), today, floor),
        without_price=[row["model"] for row in without],
    )


async def _today(connection: Any) -> date:
    today: date = await connection.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return today


async def _of_tiers(connection: Any, today: date) -> list[tuple[str, date, float]]:
    rows = await connection.fetch(statement("costs_of_tiers"), today - timedelta(days=costs.DAYS + 1), timeout=SECONDS)
    return [(row["tier"], row["date"], row["cost"]) for row in rows]


async def _of_users(connection: Any, today: date, floor: float, first: date) -> list[Day]:
    rows = await connection.fetch(
        statement("costs_of_users"), today - timedelta(days=1), costs.DAYS, floor, first, timeout=SECONDS
    )
    return [Day(str(row["user_id"]), row["date"], row["cost"], row["before"]) for row in rows]
