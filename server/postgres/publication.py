"""Brings the publication to what is declared, if changes are read from the WAL."""

from enum import StrEnum
from typing import Any, Final

import asyncpg
import orjson
import structlog

from server.declaration.model import Declaration
from server.declaration.sql import publication
from server.declaration.sql.publication import NAME, Member
from server.exceptions import UnfitError
from server.operations.catalog import Step
from server.postgres.connection import statement
from server.postgres.lock_retry import past_autovacuum, retry_locks
from server.postgres.steps import PATIENCE, Progress

log = structlog.get_logger()

CHOICE: Final = "SELECT to_jsonb(m) ->> 'doorbells' FROM sync.meta m"
"""As JSON, because the column is there since 0012."""
CHOOSE: Final = "UPDATE sync.meta SET doorbells = '{}', quiet_until = '-infinity'"
PUBLICATION: Final = """
    SELECT pg_has_role(pubowner, 'USAGE') AS mine, pubowner::regrole::text AS owner,
           pubinsert AND pubupdate AND NOT pubdelete AND NOT pubtruncate AND pubviaroot AS set
    FROM pg_publication WHERE pubname = 'atlas_sync'
"""
MAY_CREATE: Final = """
    SELECT CASE WHEN NOT has_database_privilege(current_database(), 'CREATE')
                THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user) END
"""
NEEDS: Final = """
    SELECT 'wal_level is ' || current_setting('wal_level') || '. Set it to logical, and restart Postgres.' AS says
    WHERE current_setting('wal_level') <> 'logical'
    UNION ALL
    SELECT format('%1$I, the login of a server, may not stream. Have an administrator run ALTER ROLE %1$I REPLICATION.',
                  r.rolname)
    FROM pg_roles r JOIN pg_roles ours ON ours.rolname = 'atlas_sync'
    WHERE r.rolcanlogin AND NOT r.rolsuper AND NOT r.rolreplication AND pg_has_role(r.oid, ours.oid, 'MEMBER')
      AND NOT EXISTS (SELECT FROM pg_roles a
                      WHERE a.rolname = 'rds_replication' AND pg_has_role(r.oid, a.oid, 'MEMBER'))
"""
"""What servers need to stream, in sentences."""
TRIGGER: Final = "SELECT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'atlas_sync_withdraw')"
STOPPING: Final = Step(f"drop the publication {NAME}", "none", publication.DROP)
FORBIDDEN: Final = (
    f"To make the publication {NAME}, this login needs a right. Have an administrator run {{}}, then migrate again."
)
FOREIGN: Final = f"There is a publication {NAME} already, which Atlas Sync did not make. Rename it, then migrate again."
OWNED: Final = (
    f"The publication {NAME} belongs to {{0}}. Migrate as a member of that role, or let it drop the publication."
)
EARLIER: Final = (
    "A server of an earlier version hears nothing while another one reads the WAL, and finds changes by its sweep "
    "only. Restart all servers with this version before any has ATLAS_DOORBELLS=wal or auto."
)
UNGUARDED: Final = (
    "Only a superuser may make event triggers. So when somebody changes a published table's primary key or REPLICA "
    "IDENTITY, its UPDATEs fail until a server has taken it out of the publication, within some 5 seconds; and in the "
    "transaction that changes it they fail in any case. Run `atlas-sync migrate --doorbells listen` before such a "
    "change."
)


class Doorbells(StrEnum):
    """Where servers learn that feeds moved."""

    LISTEN = "listen"
    WAL = "wal"


async def chosen(connection: Any) -> Doorbells:
    """What was chosen for this database."""
    if not await connection.fetchval("SELECT to_regclass('sync.meta') IS NOT NULL"):
        return Doorbells.LISTEN
    return Doorbells(await connection.fetchval(CHOICE) or Doorbells.LISTEN)


async def members(connection: Any, declaration: Declaration) -> list[Member]:
    wanted = orjson.dumps(publication.wanted(declaration)).decode()
    return [
        Member(
            row["tab"],
            None if row["columns"] is None else tuple(row["columns"]),
            row["why"],
            None if row["published"] is None else tuple(row["published"]),
        )
        for row in await connection.fetch(statement("publication"), wanted)
    ]


async def obstacles(connection: Any, doorbells: Doorbells | None) -> list[str]:
    """Why the publication cannot be made: a sentence each."""
    before = await chosen(connection)
    if (doorbells or before) is Doorbells.LISTEN:
        return []
    there = await connection.fetchrow(PUBLICATION)
    if there is None:
        grant = await connection.fetchval(MAY_CREATE)
        return [] if grant is None else [FORBIDDEN.format(grant)]
    if before is Doorbells.LISTEN:
        return [FOREIGN]
    return [] if there["mine"] else [OWNED.format(there["owner"])]


async def steps(connection: Any, declaration: Declaration | None, doorbells: Doorbells | None) -> list[Step]:
    """The steps that `publish` would take. `declaration`: None, if its tables have to be made first."""
    before = await chosen(connection)
    if (doorbells or before) is Doorbells.LISTEN:
        return [STOPPING] if before is Doorbells.WAL else []
    if declaration is None:
        return [_publishing(())]
    found = await members(connection, declaration)
    todo = await _statements(connection, found)
    return [_publishing(todo)] if todo or before is Doorbells.LISTEN else []


def _publishing(statements: tuple[str, ...]) -> Step:
    return Step(f"publish what servers read as {NAME}", "SHARE UPDATE EXCLUSIVE on the tables", statements)


async def cautions(connection: Any, declaration: Declaration, doorbells: Doorbells | None) -> list[str]:
    """What an operator should know about it."""
    before = await chosen(connection)
    if (doorbells or before) is Doorbells.LISTEN:
        return []
    superuser = await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    guarded = superuser or await connection.fetchval(TRIGGER)
    needs = [row["says"] for row in await connection.fetch(NEEDS)]
    earlier = [] if before is Doorbells.WAL else [EARLIER]
    return [*earlier, *needs, *await left_out(connection, declaration), *([] if guarded else [UNGUARDED])]


async def faults(connection: Any, declaration: Declaration) -> list[str]:
    """Sentences about what is not published as it should be, with the rights of a server."""
    if await connection.fetchrow(PUBLICATION) is None:
        return [f"There is no publication {NAME}. Run `atlas-sync migrate`."]
    wrong = [member.table for member in await members(connection, declaration) if not member.is_right]
    return [f"The publication {NAME} lacks or alters {', '.join(wrong)}. Run `atlas-sync migrate`."] if wrong else []


async def left_out(connection: Any, declaration: Declaration) -> list[str]:
    """Sentences about the tables that cannot be published."""
    return publication.left_out(await members(connection, declaration))


async def publish(connection: Any, declaration: Declaration, doorbells: Doorbells | None, progress: Progress) -> None:
    """Bring the publication to what is declared, or drop it. `doorbells`: None keeps what was chosen before.

    Raises UnfitError if this login lacks a right.
    """
    found = await steps(connection, declaration, doorbells)
    if not found:
        return
    if problems := await obstacles(connection, doorbells):
        raise UnfitError(" ".join(problems))
    (step,) = found
    progress.begins(step)

    async def at_once() -> None:
        if step is STOPPING:
            async with past_autovacuum(connection):
                await connection.execute(";".join([*publication.DROP, CHOOSE.format(Doorbells.LISTEN)]))
            return
        tables = [member.table for member in await members(connection, declaration) if member.fits]
        # Nobody changes the key of a table between the moment when it is judged and its publication.
        async with past_autovacuum(connection, *tables):
            now = await members(connection, declaration)
            for each in await _statements(connection, now):
                await connection.execute(each)
            if not await connection.fetchval(TRIGGER):
                await _guard(connection)
            await connection.execute(f"{CHOOSE.format(Doorbells.WAL)} WHERE doorbells <> 'wal'")

    await retry_locks(at_once, PATIENCE, lambda why: progress.waits(step, why))
    progress.ends(step)


async def withdraw_before_adoption(connection: Any) -> None:
    """Drop the publication of tables that are about to be swapped. `publish` makes it anew."""
    if await chosen(connection) is Doorbells.WAL:
        await connection.execute(f"DROP PUBLICATION IF EXISTS {NAME}")


async def _statements(connection: Any, found: list[Member]) -> tuple[str, ...]:
    """The statements that are still needed."""
    there = await connection.fetchrow(PUBLICATION)
    if there is None:
        return (publication.create(found),)
    if there["set"] and all(member.is_right for member in found):
        return ()
    return tuple(publication.alter(found))


async def _guard(connection: Any) -> None:
    try:
        async with connection.transaction():
            await connection.execute(publication.CREATE_TRIGGER)
    except asyncpg.InsufficientPrivilegeError:
        log.info("no event trigger could be made", why="only a superuser may")
