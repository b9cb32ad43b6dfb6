"""Carries out what maintenance_plan.py plans, beside a busy server: makes, archives and drops partitions. One process does."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import structlog

from server.errors import AtlasError, UnavailableError, UnfitError
from server.operations import maintenance_plan
from server.operations.maintenance_plan import (
    Archive,
    Bound,
    DropLog,
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
from server.postgres.connection import connect_as_owner, statement
from server.postgres.errors import UNMIGRATED, translated, unavailable
from server.postgres.lock_retry import BUSY, LOCK, LOCK_TIMEOUT, past_autovacuum, retry_locks

log = structlog.get_logger()

START: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""From which Postgres counts, in microseconds."""
OF_ITSELF: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError)
"""How a step fails that would fail again, and says nothing of the others."""
EVERY: Final = 300.0
"""Seconds between two looks."""
AGAIN: Final = 10.0
"""Seconds until the next try while Postgres is away, or another process maintains."""
PATIENCE: Final = 60.0
"""Seconds of tries to get a step's locks; then it is the other steps' turn, and its own at the next look."""
LONG: Final = 6 * 3600.0
"""Seconds: a validation reads a whole partition."""
FORGOTTEN_AT_ONCE: Final = 1_000
"""Rows of one transaction: nobody waits long for one of them."""

PUT_OFF: Final = "put off: "
STAYS: Final = "left: "

FORGET: Final = {
    "clients": """DELETE FROM sync.clients c WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sync.clients o WHERE o.pushed_at < now() - make_interval(days => $1)
        AND NOT EXISTS (SELECT FROM sync.devices d WHERE (d.user_id, d.client_id) = (o.user_id, o.client_id)
                        AND d.noted_at >= now() - make_interval(days => $1)) LIMIT $2 FOR UPDATE SKIP LOCKED))""",
    "devices": """DELETE FROM sync.devices WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sync.devices WHERE noted_at < now() - make_interval(days => $1)
        LIMIT $2 FOR UPDATE SKIP LOCKED))""",
    "servers": """DELETE FROM sync.servers WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM sync.servers WHERE seen_at < now() - interval '1 day' AND $1 > 0
        LIMIT $2 FOR UPDATE SKIP LOCKED))""",
}


class StepError(AtlasError):
    """A step fails of itself, whenever it is tried."""


async def look(url: str, policy: Policy) -> tuple[list[Step], str | None]:
    """What would be done now, and which strays are not few and stay. Changes nothing. Raises UnavailableError,
    UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            seen = await _seen(connection, policy)
            return maintenance_plan.plan(seen, policy), maintenance_plan.staying(seen, policy)
    finally:
        connection.terminate()


async def maintain_once(url: str, policy: Policy, said: Callable[[str], object]) -> bool:
    """Do what there is to do, once; False if another process is at it.

    `said` hears which strays are not few and stay, and each step when it is done, or why it was put off. Raises
    UnavailableError, UnfitError; and for a step that fails of itself StepError, when the others are done.
    """
    async with AsyncExitStack() as stack:
        connection = await connect_as_owner(url)
        stack.callback(connection.terminate)
        with translated():
            # Killed, it ends its statement, and whoever waits for the advisory lock need not wait for that.
            await connection.execute("SET client_connection_check_interval = '5s'")
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", LOCK):
                return False
            await _round(connection, policy, said)
    return True


async def maintain(url: str, policy: Policy) -> None:
    """Do it until cancelled. Raises UnfitError for a database that cannot be maintained."""
    while True:
        wait = EVERY
        try:
            if not await maintain_once(url, policy, _log):
                wait = AGAIN
        except StepError as error:
            log.error("maintenance is kept from a step", error=str(error))
        except UnavailableError as error:
            log.warning("maintenance waits for postgres", error=str(error))
            wait = AGAIN
        await asyncio.sleep(wait)


def _log(what: str) -> None:
    if what.startswith(PUT_OFF):
        log.warning("a step of maintenance was put off", step=what.removeprefix(PUT_OFF))
    elif what.startswith(STAYS):
        log.warning("rows strayed, and are not moved", rows=what.removeprefix(STAYS))
    else:
        log.info("maintained", did=what)


async def _round(connection: Any, policy: Policy, said: Callable[[str], object]) -> None:
    unprepared: set[str] = set()
    failed: StepError | None = None
    put_off = False
    seen = await _seen(connection, policy)
    if (staying := maintenance_plan.staying(seen, policy)) is not None:
        said(f"{STAYS}{staying}")
    for step in maintenance_plan.plan(seen, policy):
        if isinstance(step, Validate | Archive) and step.partition in unprepared:
            continue
        try:
            await retry_locks(
                lambda step=step: _do(connection, step, policy),  # type: ignore[misc]  # a lambda's default has no type
                PATIENCE,
                lambda why, step=step: log.debug("a step waits for its locks", step=str(step), why=why),  # type: ignore[misc]  # as above
            )
        except (*BUSY, *OF_ITSELF) as error:
            strayed = isinstance(step, TurnDefault) and isinstance(error, asyncpg.CheckViolationError)
            if strayed or isinstance(error, BUSY):
                why = "rows of other times strayed there too" if strayed else "its tables are locked"
                said(f"{PUT_OFF}{step}: {why}; it is tried again at the next look")
                put_off = True
            else:
                failed = failed or StepError(f"Mend what keeps Postgres from this: {step}. {unavailable(error)}")
            if isinstance(step, Bound | Validate):
                unprepared.add(step.partition)
        else:
            said(str(step))
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
                "SELECT sync.move_strays('sync.messages_default', $1::text::regclass, 'created_at', "
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
        case Forget(what):
            forgotten = FORGOTTEN_AT_ONCE
            while forgotten == FORGOTTEN_AT_ONCE:
                done = await connection.execute(FORGET[what], policy.forget_days, FORGOTTEN_AT_ONCE, timeout=LONG)
                forgotten = int(done.rpartition(" ")[2])


def _around(of: Table) -> tuple[str, ...]:
    """What a change of its partitions locks too: the default partition, and what foreign keys lead to."""
    return ("sync.log_default",) if of == "log" else ("public.conversations", "sync.messages_default")


async def _seen(connection: Any, policy: Policy) -> Seen:
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", encoder=_counted, decoder=_as_far_as_python_counts, format="tuple"
    )
    try:
        row = await connection.fetchrow(statement("maintain"), policy.forget_days, timeout=LONG)
    except UNMIGRATED:
        raise UnfitError("This database lacks what `maintain` looks at. Run `atlas-sync migrate`.") from None
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
    )


def _counted(moment: datetime) -> tuple[int]:
    return ((moment - START) // timedelta(microseconds=1),)


def _as_far_as_python_counts(parts: tuple[int]) -> datetime:
    try:
        return START + timedelta(microseconds=parts[0])
    except OverflowError:
        return (datetime.min if parts[0] < 0 else datetime.max).replace(tzinfo=UTC)
