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
from server.postgres.adopt import ORIGINAL, PATIENCE, SILENT, Listener, adopt, look, remember, turn
from server.postgres.errors import A_POOLER, POOLER, translated
from server.postgres.patience import BUSY, LOCK, LOCK_TIMEOUT, patiently
from server.postgres.pool import connect

log = structlog.get_logger()

MIGRATIONS: Final = Path(__file__).parent / "migrations"
SCRIPTS: Final = MIGRATIONS / "sql"
SCHEMA: Final = "CREATE SCHEMA IF NOT EXISTS sync"
NEWER: Final = "A newer version of Atlas Sync has migrated this database, to {}. Run that one."
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


async def migrate(url: str, listener: Listener = SILENT) -> None:
    """Adopt the app's tables, if they are as the app made them; apply what is missing; make the partitions of the
    coming months. Safe to repeat, to run twice at once, and to interrupt: the next one goes on from there.

    `listener` hears of what may take long. Raises UnavailableError if Postgres cannot be reached, UnfitError with
    Postgres' own sentence if a statement fails; what had been applied of that migration is rolled back.
    """
    connection = await connect(url)
    try:
        await turn(connection, LOCK, listener)
        missing = await _missing(connection)
        # What cannot be adopted is left without a trace.
        await look(connection)
        await connection.execute(f"{SCHEMA}; {ORIGINAL}")
        await remember(connection)
        await adopt(connection, url, listener)
        if missing:
            step = _upgrading(missing)
            listener.begins(step)
            await patiently(lambda: _upgrade(url), PATIENCE, lambda why: listener.waits(step, why))
            listener.ends(step)
        await patiently(lambda: connection.execute(PARTITIONS_AHEAD), PATIENCE, _waits)
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
    connection = await connect(url)
    try:
        with translated():
            missing = await _missing(connection)
            return [*await look(connection), *([_upgrading(missing)] if missing else [])]
    finally:
        connection.terminate()


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
    connection = await connect(admin_url)
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
    return f"{SCHEMA};\n{ORIGINAL};\n{script.getvalue()}\n{PARTITIONS_AHEAD};\n"


async def run_online(url: str, configure: Callable[[Connection], None]) -> None:
    """Run `configure(connection)` in SQLAlchemy's synchronous world, in one transaction of a connection to `url`."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: asyncpg.connect(url, server_settings={"lock_timeout": LOCK_TIMEOUT}),
        poolclass=NullPool,
    )
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
