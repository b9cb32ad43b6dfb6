"""Carries out maintenance_plan.py beside a busy server: makes, archives and drops partitions. One process at a time."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import asyncpg
import structlog

from server.exceptions import AtlasError, UnavailableError, UnfitError
from server.operations import maintenance_plan
from server.operations.maintenance_plan import (
    KEY_DAYS,
    WEEKLY,
    Archive,
    Bound,
    CountUsage,
    DeleteExpired,
    DropLog,
    DropUsage,
    Forget,
    Make,
    MoveToArchive,
    Partition,
    Policy,
    Seen,
    Step,
    Strays,
    Table,
    TurnDefault,
    Validate,
)
from server.postgres import costs
from server.postgres.connection import connect_as_owner, statement
from server.postgres.errors import UNMIGRATED, translated, unavailable
from server.postgres.lock_retry import BUSY, LOCK, LOCK_TIMEOUT, past_autovacuum, retry_locks
from server.postgres.timestamps import use_datetimes

log = structlog.get_logger()

PERMANENT: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError)
"""Errors that retrying cannot fix; the remaining steps are still attempted."""
EVERY: Final = 300.0
"""Seconds between two rounds."""
AGAIN: Final = 10.0
"""Seconds until the next try while Postgres cannot be reached, or another process maintains."""
PATIENCE: Final = 60.0
"""Seconds for which a step's locks are requested again and again. Then the step is put off until the next round."""
LONG: Final = 6 * 3600.0
"""Seconds that one statement may take: a validation reads a whole partition."""
FORGOTTEN_AT_ONCE: Final = 1_000
"""Rows deleted by one transaction, so that another session does not wait long for one of them."""


class StepError(AtlasError):
    """A maintenance step failed permanently."""


class Outcome(StrEnum):
    DONE = "done"
    PUT_OFF = "put off"
    """A step could not be carried out; the next round tries again."""
    LEFT = "left"
    """Strays stay in a default partition."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in a round, as a sentence or a step."""

    outcome: Outcome
    says: str

    def __str__(self) -> str:
        return self.says if self.outcome is Outcome.DONE else f"{self.outcome}: {self.says}"


Reporter = Callable[[Report], object]


async def steps(url: str, policy: Policy) -> tuple[list[Step], Report | None]:
    """What a round would do now, and which strays it would leave, if they are many. Changes nothing. Raises
    UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            seen = await _seen(connection, policy)
            return maintenance_plan.plan(seen, policy), _left(seen, policy)
    finally:
        connection.terminate()


def _left(seen: Seen, policy: Policy) -> Report | None:
    staying = maintenance_plan.staying(seen, policy)
    return None if staying is None else Report(Outcome.LEFT, staying)


async def maintain_once(url: str, policy: Policy, report: Reporter) -> bool:
    """Run one round. Returns False if another process maintains this database.

    `report` is called for each step that is done or put off, and for strays that stay. Raises UnavailableError,
    UnfitError; StepError after the round, if a step failed permanently.
    """
    async with AsyncExitStack() as stack:
        connection = await connect_as_owner(url)
        stack.callback(connection.terminate)
        with translated():
            # If this process dies, Postgres notices and ends its statement, which frees the advisory lock.
            await connection.execute("SET client_connection_check_interval = '5s'")
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
                return False
            await _round(connection, policy, report)
    return True


async def maintain(url: str, policy: Policy) -> None:
    """Run rounds until cancelled. Raises UnfitError for a database that cannot be maintained."""
    while True:
        wait = EVERY
        try:
            if not await maintain_once(url, policy, _log):
                wait = AGAIN
        except StepError as error:
            log.error("a step of maintenance failed", error=str(error))
        except UnavailableError as error:
            log.warning("maintenance waits for postgres", error=str(error))
            wait = AGAIN
        await asyncio.sleep(wait)


def _log(report: Report) -> None:
    match report.outcome:
        case Outcome.DONE:
            log.info("maintained", did=report.says)
        case Outcome.PUT_OFF:
            log.warning("a step of maintenance was put off", step=report.says)
        case Outcome.LEFT:
            log.warning("rows strayed, and are not moved", rows=report.says)


async def _round(connection: Any, policy: Policy, report: Reporter) -> None:
    unprepared: set[str] = set()
    failed: StepError | None = None
    put_off = uncounted = False
    seen = await _seen(connection, policy)
    if (left := _left(seen, policy)) is not None:
        report(left)
    for step in maintenance_plan.plan(seen, policy):
        if isinstance(step, Validate | Archive) and step.partition in unprepared:
            continue
        if uncounted and (isinstance(step, DropUsage) or step == Forget("usage_events")):
            continue  # they are dropped once they are counted
        try:
            await retry_locks(
                lambda step=step: _do(connection, step, policy),  # type: ignore[misc]  # a lambda's default has no type
                PATIENCE,
                lambda why, step=step: log.debug("a step waits for its locks", step=str(step), why=why),  # type: ignore[misc]  # as above
            )
        except (*BUSY, *PERMANENT) as error:
            strayed = isinstance(step, TurnDefault) and isinstance(error, asyncpg.CheckViolationError)
            if strayed or isinstance(error, BUSY):
                why = "it contains rows of other times too" if strayed else "its tables are locked"
                report(Report(Outcome.PUT_OFF, f"{step}: {why}; the next round tries again"))
                put_off = True
            else:
                failed = failed or StepError(f"Fix what prevents this step: {step}. {unavailable(error)}")
            uncounted = uncounted or isinstance(step, CountUsage)
            if isinstance(step, Bound | Validate):
                unprepared.add(step.partition)
        else:
            report(Report(Outcome.DONE, str(step)))
    await costs.judge(connection, policy.cost_floor)
    if failed is not None:
        raise failed
    if not put_off:
        await connection.execute("UPDATE sync.meta SET maintained_at = now()")


async def _do(connection: Any, step: Step, policy: Policy) -> None:
    match step:
        case Make(of, since):
            async with past_autovacuum(connection, *_around(of)):
                await connection.execute("SELECT sync.make_partition($1, $2)", of, since, timeout=LONG)
        case MoveToArchive(partition, since, until):
            await connection.execute(
                "SELECT sync.move_strays('public.messages_default', $1::text::regclass, 'created_at', "
                "quote_literal($2::timestamptz), quote_literal($3::timestamptz))",
                *(partition, since, until),
                timeout=LONG,
            )
        case TurnDefault(of, since, until):
            async with past_autovacuum(connection, *_around(of)):
                await connection.execute("SELECT sync.turn_default($1, $2, $3)", of, since, until, timeout=LONG)
        case Bound(partition):
            async with past_autovacuum(connection, partition):
                await connection.execute("SELECT sync.bound_partition($1::text::regclass)", partition, timeout=LONG)
        case Validate(partition):
            await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            await connection.execute(f"ALTER TABLE {partition} VALIDATE CONSTRAINT atlas_bounds", timeout=LONG)
        case Archive(partition):
            async with past_autovacuum(connection, partition, *_around("messages")):
                await connection.execute("SELECT sync.archive_partition($1::text::regclass)", partition, timeout=LONG)
        case DropLog(partition):
            async with past_autovacuum(connection, partition, *_around("log")):
                await connection.execute(f"ALTER TABLE sync.log DETACH PARTITION {partition}")
                await connection.execute(f"DROP TABLE {partition}")
        case CountUsage():
            await costs.count(connection)
        case DropUsage(partition):
            await costs.count(connection)
            async with past_autovacuum(connection, partition, *_around("usage_logs")):
                await connection.execute(f"ALTER TABLE sync.usage_logs DETACH PARTITION {partition}")
                if await connection.fetchval(
                    f"SELECT EXISTS (SELECT FROM sync.usage_batches JOIN {partition} USING (batch))"
                ):
                    raise asyncpg.LockNotAvailableError("events were added at this moment")
                await connection.execute(f"DROP TABLE {partition}")
        case Forget(what) | DeleteExpired(what):
            days = step.days(policy) if isinstance(step, Forget) else policy.forget_days
            forgotten = FORGOTTEN_AT_ONCE
            while forgotten == FORGOTTEN_AT_ONCE:
                done = await connection.execute(statement(f"forget_{what}"), days, FORGOTTEN_AT_ONCE, timeout=LONG)
                forgotten = int(done.rpartition(" ")[2])


def _around(of: Table) -> tuple[str, ...]:
    """What a change of its partitions locks too: the default partition, and tables that foreign keys refer to."""
    if of in WEEKLY:
        return (f"sync.{of}_default",)
    return ("public.conversations", "public.messages_default")


async def _seen(connection: Any, policy: Policy) -> Seen:
    await use_datetimes(connection)
    try:
        row = await connection.fetchrow(
            statement("maintain"), policy.forget_days, policy.usage_days, KEY_DAYS, timeout=LONG
        )
    except UNMIGRATED:
        raise UnfitError("This database lacks a migration that `maintain` needs. Run `atlas-sync migrate`.") from None
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not maintain the database. Use the one that owns the tables (ATLAS_ADMIN_URL)."
        ) from None
    return Seen(
        now=row["now"],
        partitions=[Partition(*partition) for partition in row["partitions"]],
        strays=[Strays(*strays) for strays in row["strays"]],
        forgotten_clients=row["old_clients"],
        forgotten_devices=row["old_devices"],
        silent_servers=row["silent_servers"],
        uncounted_usage=row["uncounted_usage"],
        old_usage_keys=row["old_keys"],
        old_usage_conversations=row["old_conversations"],
        expired_responses=row["expired_responses"],
        archive_months=row["archive_months"],
        partitioned=row["partitioned"],
    )
