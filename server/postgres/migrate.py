"""Brings a database up to date: runs the numbered migrations, each once, and the functions and views that changed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson
import structlog

from server.declaration.chat import CHAT, CHAT_SQL, CHAT_TOML
from server.declaration.check import PARTITIONABLE, load
from server.declaration.file.parse import parse
from server.declaration.file.problems import DeclarationError
from server.declaration.model import Declaration, Table
from server.declaration.sql import pieces as sql
from server.declaration.usage import with_usage
from server.exceptions import UnfitError
from server.operations import publications
from server.operations.catalog import Step
from server.operations.inventory import Wrong, mending
from server.postgres import publication, scripts
from server.postgres.adopt import ORIGINAL, adopt, facts_of, remaining_moves, remaining_steps, remember
from server.postgres.connection import SAFE_PATH, connect_as_owner, statement
from server.postgres.declared import DECLARING, as_script, declare, declared, is_declared
from server.postgres.errors import A_POOLER, POOLER, told, translated
from server.postgres.inventory import mend, take_inventory
from server.postgres.lock_retry import LOCK, LOCK_TIMEOUT, retry_locks
from server.postgres.publication import Doorbells
from server.postgres.steps import LONG, PATIENCE, SILENT, Progress, take_turn
from server.postgres.tables import facts

log = structlog.get_logger()

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
ROLES: Final = (
    "This login may not create roles, and some are missing. Have an administrator run {}, then migrate again."
)
TABLES: Final = "This login may not create triggers on {}. Migrate as the owner of these tables (ATLAS_ADMIN_URL)."
NO_SCHEMA: Final = (
    "This login may not create the schema sync. Migrate as the owner of this database, or have an administrator run "
    "GRANT CREATE ON DATABASE {} TO {}."
)
POLICIES: Final = (
    "Devices read and write past these row policies: {}. Atlas Sync reads as atlas_sync and applies writes as the "
    "owner of the tables, so they do not hold for devices. What they forbid to write, forbid by a trigger or a "
    "constraint; what they hide, delete, or keep in another table."
)
OF_AN_APP: Final = """
    SELECT to_regclass('sync.migrations') IS NULL AND EXISTS (
        SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
"""
UNDECLARED: Final = (
    "This database has tables, and nothing is declared to be synced. Run `atlas-sync init --out sync.toml`, edit the "
    "file, then run `atlas-sync migrate --declaration sync.toml`."
)
PARTITIONS_AHEAD: Final = "SELECT sync.ensure_partitions(now(), now() + interval '3 months')"


@dataclass(frozen=True, slots=True)
class Pending:
    """What has to be applied to a database."""

    migrations: list[str]
    """The names of the numbered migrations, in order."""
    definitions: list[str]
    """The names of the files of functions and views that changed since they were applied."""
    chat: bool = False
    """Whether the chat schema is to be made, or partitioned."""

    def __bool__(self) -> bool:
        return bool(self.migrations or self.definitions or self.chat)

    def step(self) -> Step:
        if self.chat and not self.migrations:
            return Step("partition public.messages", "ACCESS EXCLUSIVE on the tables", ())
        if self.migrations:
            return Step(f"run the migrations {', '.join(self.migrations)}", "ACCESS EXCLUSIVE on the tables", ())
        locks = "ACCESS EXCLUSIVE on the views" if any(name in scripts.views() for name in self.definitions) else "none"
        return Step(f"apply again {', '.join(self.definitions)}, which changed", locks, ())

    def texts(self) -> Iterator[str]:
        """SQL, in the order in which it has to run, within one transaction.

        Functions come before the migrations, which create triggers that call them. Their bodies are not checked,
        because they name tables that the migrations create. Views come last.
        """
        yield scripts.migration(scripts.PREREQUISITES)
        yield "SET LOCAL check_function_bodies = off;\n"
        functions, views = scripts.functions(), scripts.views()
        yield from (text for name, text in functions.items() if name in self.definitions)
        yield from map(scripts.migration, self.migrations)
        if self.chat:
            yield CHAT_SQL
        yield from (text for name, text in views.items() if name in self.definitions)
        applied = orjson.dumps(scripts.schema()).decode()
        yield (
            "DELETE FROM sync.migrations;\n"
            "INSERT INTO sync.migrations (version_num, definitions)\n"
            "SELECT version_num, definitions\n"
            f"FROM jsonb_to_record('{applied}') AS s (version_num text, definitions jsonb);\n"
        )
        # Within this transaction, before any change is written to the log.
        yield f"{PARTITIONS_AHEAD};\n"


def revisions() -> list[str]:
    """The names of all migrations, newest first."""
    return scripts.migrations()[::-1]


async def migrate(
    url: str,
    progress: Progress = SILENT,
    *,
    text: str | None = None,
    name: str = "the declaration",
    doorbells: Doorbells | None = None,
) -> list[Wrong]:
    """Make the database follow the declaration, TOML in `text` (its file is called `name`). Without one, the
    declaration that the database has stays in force; an empty database gets the chat schema. `doorbells`: where
    servers learn that feeds moved; None keeps what was chosen before.

    Adopt the app's tables, if they are as the app made them; apply the missing migrations and the changed functions
    and views; mend what was dropped, altered or revoked since; make the partitions of the coming months.

    It may be repeated, run twice at the same time, and interrupted: the next run continues. Returns the faults that an
    operator has to mend. `progress` receives the steps that may take long.

    Raises UnavailableError if Postgres cannot be reached, and UnfitError with Postgres' own message if a statement
    fails. All migrations are applied in one transaction, which is then rolled back.
    """
    connection = await connect_as_owner(url)
    try:
        wanted = await wanted_declaration(connection, text, name)
        await _check(connection, wanted)
        await take_turn(connection, LOCK, progress)
        pending = await find_pending(connection, wanted.partitioned)
        # Raises for tables that cannot be adopted, or are not what is declared, before anything is created.
        if wanted.partitioned:
            await remaining_steps(connection)
        if not (wanted.partitioned and pending.chat):
            await wanted.resolved(connection)
        if problems := await publication.obstacles(connection, doorbells):
            raise UnfitError(" ".join(problems))
        await connection.execute(f"{SCHEMA}; {ORIGINAL}")
        if wanted.partitioned:
            await remember(connection)
            if await remaining_steps(connection):
                await publication.withdraw_before_adoption(connection)
            await adopt(connection, url, progress)
        if pending:
            step = pending.step()
            progress.begins(step)
            await retry_locks(lambda: _apply(connection, pending), PATIENCE, lambda why: progress.waits(step, why))
            progress.ends(step)
        declaration = await wanted.resolved(connection)
        await declare(connection, declaration, progress)
        if wanted.partitioned:
            await adopt(connection, url, progress, remaining_moves)
        await publication.publish(connection, declaration, doorbells, progress)
        left = await mend(connection, progress)
        await retry_locks(lambda: connection.execute(PARTITIONS_AHEAD), PATIENCE, _waits)
        return left
    except A_POOLER as error:
        raise UnfitError(POOLER) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UnfitError(f"The migration stopped: {told(error)}") from error
    finally:
        await connection.close(timeout=5)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The declaration that a database is to have."""

    text: str | None
    """TOML; None: the one that is in force."""
    name: str
    partitioned: bool
    """Whether public.messages is partitioned. Then the tables may have to be made, or adopted, first."""
    tables: tuple[str, ...]
    """As SQL has them."""

    async def resolved(self, connection: Any) -> Declaration:
        """Raises UnfitError if the tables are not what it says."""
        if self.text is None:
            found = await declared(connection)
            assert found is not None
            return found
        try:
            return load(self.text, with_usage(await facts(connection)), self.name)
        except DeclarationError as error:
            raise UnfitError(str(error)) from None


async def require_declaration(url: str) -> None:
    """Raises UnfitError if the database has tables of an app, and nothing says which of them are synced: they are not
    taken for those of the chat schema, which would be partitioned. Raises UnavailableError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            if await connection.fetchval(OF_AN_APP):
                raise UnfitError(UNDECLARED)
    finally:
        connection.terminate()


async def wanted_declaration(connection: Any, text: str | None, name: str) -> Wanted:
    """Raises UnfitError if the text is no declaration."""
    found = None
    if text is None:
        if await connection.fetchval("SELECT to_regclass('sync.declaration') IS NOT NULL"):
            found = await declared(connection)
        if found is None:
            text, name = CHAT_TOML, "chat.toml"
    if found is not None:
        partitioned = any(kind.partition and kind.table == PARTITIONABLE for kind in found.kinds)
        tables = [each for kind in found.kinds for each in sql.tables(kind)]
    else:
        assert text is not None
        file, problems = parse(text)
        if problems:
            raise UnfitError(str(DeclarationError(name, problems)))
        kinds = file.kinds
        # Another table cannot be partitioned, which `resolved` says before anything is made.
        partitioned = any(kind.partition and kind.table == PARTITIONABLE for kind in kinds)
        archives = [
            Table(kind.table.schema, f"{kind.table.name}_archive") for kind in kinds if kind.archive is not None
        ]
        tables = [*(kind.table for kind in kinds), *archives]
    return Wanted(text, name, partitioned, tuple(map(sql.table, tables)))


async def steps(
    url: str, *, text: str | None = None, name: str = "the declaration", doorbells: Doorbells | None = None
) -> list[Step]:
    """The steps that `migrate` would take, except for the partitions of the coming months. Changes nothing. Raises
    UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            wanted = await wanted_declaration(connection, text, name)
            await _check(connection, wanted)
            return await steps_to(connection, wanted, doorbells)
    finally:
        connection.terminate()


async def steps_to(connection: Any, wanted: Wanted, doorbells: Doorbells | None = None) -> list[Step]:
    """The same. Raises UnfitError."""
    pending = await find_pending(connection, wanted.partitioned)
    adopting = await remaining_steps(connection) if wanted.partitioned else []
    moving = await remaining_moves(connection) if wanted.partitioned else []
    applying = [pending.step()] if pending else []
    declares = pending.chat or not await connection.fetchval("SELECT to_regclass('sync.declaration') IS NOT NULL")
    if not declares:
        declares = not await is_declared(connection, await wanted.resolved(connection))
    declaring = [DECLARING] if declares else []
    declaration = None if pending.chat else await wanted.resolved(connection)
    publishing = await publication.steps(connection, declaration, doorbells)
    # An inventory of what another version made would name what this one makes anew.
    mends = [] if pending or declares else await take_inventory(connection)
    return [*adopting, *applying, *declaring, *moving, *publishing, *(mending(wrong) for wrong in mends if wrong.mend)]


async def cautions(url: str) -> list[str]:
    """What an operator should know before migrating, and what to do about it. Raises UnavailableError, UnfitError."""
    connection = await connect_as_owner(url)
    try:
        with translated():
            return await cautions_of(connection, await wanted_declaration(connection, None, ""))
    finally:
        connection.terminate()


async def cautions_of(connection: Any, wanted: Wanted) -> list[str]:
    """The same."""
    policies = await connection.fetchval(statement("policies"), wanted.tables)
    left = [] if await find_pending(connection, False) else await take_inventory(connection)
    return [
        *([] if policies is None else [POLICIES.format(policies)]),
        *(publications.cautions(await facts_of(connection)) if wanted.partitioned else []),
        # Whether the tables fit a new declaration is said of that, and not of the former one.
        *(f"{wrong}." for wrong in left if wrong.mend is None and not (wrong.declared and wanted.text is not None)),
    ]


async def _check(connection: Any, wanted: Wanted) -> None:
    """Raises UnfitError for a database that cannot be migrated."""
    if found := await unfit(connection, wanted):
        raise UnfitError("\n".join(found))


async def unfit(connection: Any, wanted: Wanted) -> list[str]:
    """Why the database cannot be migrated, whatever its tables are: a sentence each."""
    found = []
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        found.append(ENCODING.format(encoding))
    creators = await connection.fetchrow(statement("creators"), wanted.tables)
    if creators["strangers"] is not None:
        found.append(CREATORS.format(creators["strangers"]))
    lacks = await connection.fetchrow(statement("lacks"), wanted.tables)
    if lacks["roles"] is not None:
        # The same statement as in prerequisites.sql.
        found.append(ROLES.format("; ".join(f"CREATE ROLE {role} NOLOGIN NOINHERIT" for role in lacks["roles"])))
    if lacks["tables"] is not None:
        found.append(TABLES.format(", ".join(lacks["tables"])))
    if lacks["schema"]:
        names = await connection.fetchrow("SELECT quote_ident(current_database()), quote_ident(current_user)")
        found.append(NO_SCHEMA.format(*names))
    return found


async def find_pending(connection: Any, partitioned: bool) -> Pending:
    """Find what has not been applied yet. Raises UnfitError if a newer version migrated this database."""
    applied: dict[str, Any] = {}
    if await connection.fetchval("SELECT to_regclass('sync.migrations') IS NOT NULL"):
        # As JSON, because the table has one column more since 0008.
        row = await connection.fetchval("SELECT to_jsonb(m) FROM sync.migrations m")
        applied = orjson.loads(row) if row is not None else {}
    version = applied.get("version_num")
    known = scripts.migrations()
    if version is not None and version not in known:
        raise UnfitError(NEWER.format(version))
    before = applied.get("definitions", {})
    now = scripts.checksums(scripts.functions() | scripts.views())
    return Pending(
        known if version is None else known[known.index(version) + 1 :],
        [name for name, checksum in now.items() if before.get(name) != checksum],
        partitioned and not await connection.fetchval("SELECT to_regclass('public.messages_archive') IS NOT NULL"),
    )


async def _apply(connection: Any, pending: Pending) -> None:
    """Apply it in one transaction, without a limit to the time of its statements: a migration may read whole tables."""
    await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
    try:
        for text in pending.texts():
            await connection.execute(text, timeout=LONG)
        await connection.execute("COMMIT", timeout=LONG)
    except BaseException:
        with contextlib.suppress(Exception):  # a connection that is closed has rolled it back
            await connection.execute("ROLLBACK")
        raise


def _waits(why: str) -> None:
    log.info("the migration waits for its locks", why=why)


async def create_database(admin_url: str, name: str) -> None:
    """Create the database unless it exists. `name` must be trusted: it becomes part of the statement."""
    connection = await connect_as_owner(admin_url)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close(timeout=5)


def as_sql() -> str:
    """The SQL that `migrate` would run in an empty database, for review."""
    texts = "\n".join(Pending(scripts.migrations(), [*scripts.functions(), *scripts.views()], chat=True).texts())
    return f"{SAFE_PATH};\n{SCHEMA};\n{ORIGINAL};\n\nBEGIN;\n\n{texts}\n{as_script(CHAT)}\nCOMMIT;\n"
