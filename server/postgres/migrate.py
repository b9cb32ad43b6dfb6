"""Brings a database up to date: Alembic runs the plain SQL files in migrations/sql, each once, in order."""

import asyncio
import io
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import asyncpg
import structlog
from alembic import command, context, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from server.errors import UnfitError
from server.operations.catalog import Step
from server.operations.inventory import Wrong, mending
from server.postgres.adopt import ORIGINAL, adopt, remaining_steps, remember
from server.postgres.connection import SAFE_PATH, connect_as_owner, statement
from server.postgres.errors import A_POOLER, POOLER, translated
from server.postgres.inventory import mend, take_inventory
from server.postgres.link import link
from server.postgres.lock_retry import BUSY, LOCK, LOCK_TIMEOUT, retry_locks
from server.postgres.scripts import SCRIPTS
from server.postgres.steps import PATIENCE, SILENT, Progress, take_turn

log = structlog.get_logger()

MIGRATIONS: Final = Path(__file__).parent / "migrations"
SCHEMA: Final = "CREATE SCHEMA IF NOT EXISTS sync"
NEWER: Final = "A newer version of Atlas Sync has migrated this database, to {}. Run that one."
ENCODING: Final = (
    "This database's encoding is {}, and must be UTF8: one character that it does not hold fails the writes of other "
    "devices too. Run CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, move the data there by pg_dump and "
    "pg_restore, and use that."
)
CREATORS: Final = (
    "{0} may create functions in schema public, and by them do anything with the rights of the tables' owner. Run "
    "REVOKE CREATE ON SCHEMA public FROM {0}."
)
POLICIES: Final = (
    "Devices read and write past these row policies: {}. Atlas Sync reads as atlas_sync and applies writes as the "
    "owner of the tables, so they do not hold for devices. What they forbid to write, forbid by a trigger or a "
    "constraint; what they hide, delete, or keep in another table."
)
PARTITIONS_AHEAD: Final = "SELECT sync.ensure_partitions(now(), now() + interval '3 months')"


def configuration(**attributes: Any) -> Config:
    """Alembic's, with what env.py is to know."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


def revisions() -> list[str]:
    """The names of all migrations, newest first."""
    return [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()]


async def migrate(url: str, progress: Progress = SILENT) -> list[Wrong]:
    """Adopt the app's tables, if they are as the app made them; apply what is missing; mend what was dropped, altered
    or revoked since; make the partitions of the coming months. Safe to repeat, to run twice at once, and to interrupt:
    the next one goes on from there. What it returns is for an operator to mend.

    `progress` hears of what may take long. Raises UnavailableError if Postgres cannot be reached, UnfitError with
    Postgres' own sentence if a statement fails; what had been applied of that migration is rolled back.
    """
    connection = await connect_as_owner(url)
    try:
        await _check(connection)
        await take_turn(connection, LOCK, progress)
        missing = await _missing(connection)
        # What cannot be adopted is left without a trace.
        await remaining_steps(connection)
        await connection.execute(f"{SCHEMA}; {ORIGINAL}")
        await remember(connection)
        await adopt(connection, url, progress)
        if missing:
            step = _upgrading(missing)
            progress.begins(step)
            await retry_locks(lambda: _upgrade(url), PATIENCE, lambda why: progress.waits(step, why))
            progress.ends(step)
        left = await mend(connection, progress)
        await retry_locks(lambda: connection.execute(PARTITIONS_AHEAD), PATIENCE, _waits)
        return left
    except A_POOLER as error:
        raise UnfitError(POOLER) from error
    except (asyncpg.PostgresError, DBAPIError) as error:
        # Without its DETAIL, which may quote a row.
        raise UnfitError(f"The migration stopped: {getattr(error, 'orig', error).args[0]}") from error
    finally:
        await connection.close(timeout=5)


async def steps(url: str) -> list[Step]:
    """What `migrate` would do, but for partitions of the coming months. Changes nothing. Raises UnavailableError,
    UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            await _check(connection)
            adopting = await remaining_steps(connection)
            if missing := await _missing(connection):
                return [*adopting, _upgrading(missing)]
            return [*adopting, *(mending(wrong) for wrong in await take_inventory(connection) if wrong.mend)]
    finally:
        connection.terminate()


async def cautions(url: str) -> list[str]:
    """What an operator should know before he migrates, and what to do about it. Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            policies = await connection.fetchval(statement("policies"))
            left = [] if await _missing(connection) else await take_inventory(connection)
            return [
                *([] if policies is None else [POLICIES.format(policies)]),
                *(f"{wrong}." for wrong in left if wrong.mend is None),
            ]
    finally:
        connection.terminate()


async def _check(connection: Any) -> None:
    """Raises UnfitError for a database that is not fit to be migrated."""
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise UnfitError(ENCODING.format(encoding))
    creators = await connection.fetchrow(statement("creators"))
    if creators["strangers"] is not None:
        raise UnfitError(CREATORS.format(creators["strangers"]))


async def _missing(connection: Any) -> list[str]:
    """The migrations that were not applied yet, in order. Raises UnfitError if a newer version applied its own."""
    applied = None
    if await connection.fetchval("SELECT to_regclass('sync.migrations') IS NOT NULL"):
        applied = await connection.fetchval("SELECT version_num FROM sync.migrations")
    known = revisions()
    if applied is not None and applied not in known:
        raise UnfitError(NEWER.format(applied))
    return list(takewhile(lambda revision: revision != applied, known))[::-1]


def _upgrading(missing: list[str]) -> Step:
    return Step(f"run the migrations {', '.join(missing)}", "ACCESS EXCLUSIVE on the three tables", ())


async def _upgrade(url: str) -> None:
    try:
        await asyncio.to_thread(command.upgrade, configuration(url=url), "head")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in {busy.sqlstate for busy in BUSY}:
            raise asyncpg.LockNotAvailableError(str(error.orig)) from error
        raise


def _waits(why: str) -> None:
    log.info("the migration waits for its locks", why=why)


async def create_database(admin_url: str, name: str) -> None:
    """Create the database unless it is there. `name` is ours, not a stranger's."""
    connection = await connect_as_owner(admin_url)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close(timeout=5)


def as_sql() -> str:
    """Everything that `migrate` would do to an empty database, for review."""
    script = io.StringIO()
    config = configuration()
    config.output_buffer = script
    command.upgrade(config, "head", sql=True)
    return f"{SAFE_PATH};\n{SCHEMA};\n{ORIGINAL};\n{script.getvalue()}\n{PARTITIONS_AHEAD};\n"


async def run_online(url: str, configure: Callable[[Connection], None]) -> None:
    """Run `configure(connection)` in SQLAlchemy's synchronous world, in one transaction of a connection to `url`."""

    async def connect() -> Any:
        # Without a limit to its statements: a migration may read whole tables.
        connection = await link(url)
        await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'; {SAFE_PATH}")
        return connection

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            await connection.execute(text(SCHEMA))
            await connection.run_sync(configure)
            # Before anybody writes to the log.
            await connection.execute(text(PARTITIONS_AHEAD))
    finally:
        await engine.dispose()


def run_script(name: str) -> None:
    """For a migration: run migrations/sql/NAME.sql as it stands."""
    script = (SCRIPTS / f"{name}.sql").read_text()
    if context.is_offline_mode():
        op.get_context().impl.static_output(script)
        return
    # As a script and not as a statement: SQLAlchemy would take what follows a colon in it for a parameter.
    raw = op.get_bind().connection.dbapi_connection
    raw.run_async(lambda connection: connection.execute(script))  # type: ignore[union-attr]  # asyncpg's own connection
