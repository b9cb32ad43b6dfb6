"""Checks whether a database is fit to serve. Each check has one finding, which says what to do if it is bad."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Final, TypeVar

import asyncpg

from server.clock import ahead_of_machine, machine_now
from server.declaration.chat import CHAT
from server.declaration.sql.pieces import table
from server.exceptions import UnavailableError, UnfitError
from server.metrics import DEFAULT_ROWS_COUNTED
from server.operations.inventory import NAMED, TOPICS, by_topic, queue, says
from server.postgres import audit, publication
from server.postgres.connection import LOCAL_PATH, connect, connect_to_primary, statement
from server.postgres.declared import declared
from server.postgres.errors import UNMIGRATED
from server.postgres.inventory import take_inventory
from server.postgres.listener import Listening
from server.postgres.migrate import CREATORS, ENCODING, NEWER, POLICIES, revisions
from server.postgres.replicas import require
from server.postgres.wal.doorbells import obstacles

T = TypeVar("T")

OLDEST: Final = 15
LISTEN_FIXED: Final = {15: 15, 16: 11, 17: 7, 18: 1}
"""The first minor versions in which LISTEN survives truncation of the commit log (PostgreSQL commit 8eeb4a0f)."""
SECURE: Final = {15: 20, 16: 16, 17: 12, 18: 7}
"""The minor versions of 2026-11-12, with the newest security fixes known when this was written."""
CLOCK_SECONDS: Final = 5.0
"""Seconds that Postgres' clock may differ from this machine's. Devices show «seconds ago» by the former; tokens are
checked by the latter."""
AHEAD_DAYS: Final = 14
"""Partitions must reach this many days ahead, so that missing maintenance is noticed before rows stray."""
FILLING: Final = 0.1
"""Share of the notification queue that may be in use. It empties as soon as all listening sessions have read."""
ANOTHER_DATABASE: Final = "Its database has no schema `sync`. Check the database in its URL."
UNBOUNDED: Final = (
    "Servers may read changes from the WAL. One that hangs keeps WAL on the disk until its connection ends, without a "
    "bound. Run ALTER SYSTEM SET max_slot_wal_keep_size = '10GB', and reload Postgres."
)
CHAT_TABLES: Final = ("public.profiles", "public.conversations", "public.messages")
EPOCH: Final = "SELECT epoch FROM sync.histories ORDER BY n DESC LIMIT 1"
UNREADABLE: Final = "This login may not read which migrations were applied."


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    good: bool
    says: str
    """What was found; if it is bad, also what to do."""
    grave: bool = True
    """If it is bad, changes or availability may be lost."""


Check = Callable[[Any], Awaitable[Finding | None]]
"""Takes a connection. None: there is nothing to check."""


async def examine(
    url: str, listen_url: str | None = None, replica_urls: Sequence[str] = (), *, backend: bool | None = None
) -> AsyncIterator[Finding]:
    """Run all checks, with the rights of `url`. Stops after a finding without which the others make no sense.

    `backend`: whether the server has a token for the app's backend; None: this is not the server's environment.
    """
    try:
        # No prepared statements, so that this works through a pooler too.
        connection = await connect_to_primary(url, statement_cache_size=0)
    except (UnavailableError, UnfitError) as error:
        said = str(error)
        yield Finding(
            "connection", False, said if said.endswith(".") else f"{said}. Check DATABASE_URL, and that Postgres runs."
        )
        return

    async def listen(_: Any) -> Finding:
        return await _listen(listen_url or url)

    async def streams(connection: Any) -> Finding | None:
        return await _streams(connection, backend)

    try:
        async for finding in _findings(FIRST, connection):
            yield finding
        # The last one is the finding about migrations.
        if not finding.good and finding.says != UNREADABLE:
            return
        try:
            found = await _in_transaction(take_inventory, connection)
        except asyncpg.PostgresError as error:
            yield _failed("objects", error)
            return
        # Missing objects and rights are named once, by the inventory.
        named = (*UNMIGRATED, asyncpg.InsufficientPrivilegeError) if found else ()
        for topic, wrong in by_topic(found).items():
            if wrong:
                yield Finding(topic, False, says(wrong))
            elif topic == "privileges":
                async for finding in _findings((_privileges,), connection, named):
                    yield finding
            else:
                yield Finding(topic, True, TOPICS[topic].good)
        replicas = [partial(_replica, number, replica) for number, replica in enumerate(replica_urls, 1)]
        async for finding in _findings((listen, *LATER, streams, *replicas), connection, named):
            yield finding
    finally:
        connection.terminate()


async def _findings(
    checks: Iterable[Check], connection: Any, named: tuple[type[Exception], ...] = ()
) -> AsyncIterator[Finding]:
    for check in checks:
        try:
            if (finding := await _in_transaction(check, connection)) is not None:
                yield finding
        except named:
            pass
        except asyncpg.PostgresError as error:
            yield _failed(getattr(check, "__name__", "replica").strip("_"), error)


async def _in_transaction(check: Callable[[Any], Awaitable[T]], connection: Any) -> T:
    async with connection.transaction(readonly=True):
        await connection.execute(LOCAL_PATH)
        return await check(connection)


def _failed(what: str, error: asyncpg.PostgresError) -> Finding:
    return Finding(what, False, f"This could not be checked: {error}.")


async def _connection(connection: Any) -> Finding:
    return Finding("connection", True, await connection.fetchval("SELECT current_user || ' at ' || current_database()"))


async def _version(connection: Any) -> Finding:
    major, minor = divmod(int(await connection.fetchval("SHOW server_version_num")), 10_000)
    found = f"PostgreSQL {major}.{minor}"
    if major < OLDEST:
        return Finding("version", False, f"{found} is too old. Upgrade to {OLDEST} or later.")
    fixed = LISTEN_FIXED.get(major, 0)
    if minor < fixed:
        return Finding(
            "version",
            False,
            f"{found} has a bug by which LISTEN can fail for ever. Upgrade to {major}.{fixed} or later.",
        )
    secure = SECURE.get(major, 0)
    if minor < secure:
        says = f"{found} lacks security fixes (CVE-2026-6460 and others). Upgrade to {major}.{secure} or later."
        return Finding("version", False, says, grave=False)
    return Finding("version", True, found)


async def _encoding(connection: Any) -> Finding:
    encoding = await connection.fetchval("SHOW server_encoding")
    return Finding("encoding", encoding == "UTF8", encoding if encoding == "UTF8" else ENCODING.format(encoding))


async def _tables(connection: Any) -> list[str]:
    """Those that are declared, as SQL has them."""
    if not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'sync' "
        "AND c.relname = 'kinds' AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))"
    ):
        return list(CHAT_TABLES)
    return await connection.fetchval("SELECT array_agg(tab) FROM sync.kinds") or list(CHAT_TABLES)


async def _schema(connection: Any) -> Finding:
    creators = await connection.fetchrow(statement("creators"), await _tables(connection))
    if creators["strangers"] is not None:
        return Finding("schema", False, CREATORS.format(creators["strangers"]))
    if creators["others"] is not None:
        says = f"{CREATORS.format(creators['others'])} Keep it only for roles that you trust like the owner."
        return Finding("schema", False, says, grave=False)
    return Finding("schema", True, "only owners create functions in schema public")


async def _primary(connection: Any) -> Finding:
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        return Finding("primary", False, "This is a standby, which cannot LISTEN. Point DATABASE_URL at the primary.")
    return Finding("primary", True, "this is the primary")


async def _migrated(connection: Any) -> Finding:
    known = revisions()
    try:
        applied = await connection.fetchval("SELECT version_num FROM sync.migrations")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return Finding("migrations", False, "There is no schema `sync` yet. Run `atlas-sync migrate`.")
    except asyncpg.InsufficientPrivilegeError:
        return Finding("migrations", False, UNREADABLE)
    if applied is None:
        return Finding("migrations", False, UNREADABLE)
    if applied not in known:
        return Finding("migrations", False, NEWER.format(applied))
    if applied != known[0]:
        return Finding("migrations", False, f"{applied} is not the newest ({known[0]}). Run `atlas-sync migrate`.")
    return Finding("migrations", True, f"{applied}, the newest")


async def _listen(url: str) -> Finding:
    try:
        async with Listening(partial(connect_to_primary, url), lambda payload: None, asyncio.Lock()):
            pass
    except UnfitError as error:
        return Finding("listen", False, str(error))
    except UnavailableError as error:
        if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
            raise error.__cause__ from None
        return Finding("listen", False, f"{error} Check ATLAS_LISTEN_URL.")
    return Finding("listen", True, "a notification came back")


async def _replica(number: int, url: str, primary: Any) -> Finding:
    what = f"replica {number}"
    try:
        replica = await connect(url, statement_cache_size=0)
        try:
            row = await replica.fetchrow(statement("replica"))
        except UNMIGRATED:
            raise UnfitError(ANOTHER_DATABASE) from None
        finally:
            replica.terminate()
        require(row, await primary.fetchval(EPOCH))
    except (UnavailableError, UnfitError, asyncpg.PostgresError) as error:
        why = str(error).removesuffix(".")
        return Finding(what, False, f"{why}. Servers do not use it; the primary does its work.", grave=False)
    behind = max(0, await primary.fetchval(statement("wal")) - row["replayed"])
    return Finding(what, True, f"it follows the primary, and has to replay {behind:,} bytes")


async def _partitions(connection: Any) -> Finding:
    vitals = await connection.fetchrow(statement("vitals"))
    reach = {name: vitals[f"{name}_ahead"] for name in ("messages", "log") if isfinite(vitals[f"{name}_ahead"])}
    short = [name for name, days in reach.items() if days < AHEAD_DAYS]
    if short:
        return Finding(
            "partitions",
            False,
            f"Partitions of {' and '.join(short)} end soon. Run `atlas-sync maintain`, and keep it running.",
        )
    days = ", ".join(f"{'the log' if name == 'log' else name} for {days:.0f} days" for name, days in reach.items())
    return Finding("partitions", True, f"made ahead: {days}")


async def _strays(connection: Any) -> Finding:
    vitals = await connection.fetchrow(statement("vitals"))
    most = {"messages": DEFAULT_ROWS_COUNTED - 1, "log": 0}
    found = [name for name, rows in most.items() if vitals[f"{name}_default"] > rows]
    if found:
        return Finding(
            "strays",
            False,
            f"Rows of {' and '.join(found)} lie in a default partition. Nothing is lost; `atlas-sync maintain --once` "
            "moves them to regular partitions, except those that stay (server/README.md, Maintenance).",
            grave=False,
        )
    return Finding("strays", True, f"{vitals['messages_default']} messages in the default partition")


async def _archive(connection: Any) -> Finding | None:
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM sync.kinds WHERE tab = 'public.messages_archive')"):
        return None
    differing = await connection.fetchval(statement("doctor_archive"))
    if differing is not None:
        return Finding(
            "archive",
            False,
            f"Partitions of messages cannot move there. Run ALTER TABLE messages_archive {differing}, and give it the "
            "constraints of messages.",
            grave=False,
        )
    return Finding("archive", True, "it has the columns of messages")


async def _kinds(connection: Any) -> Finding | None:
    if (declaration := await declared(connection)) is None:
        return Finding("kinds", False, "Nothing is declared to be synced. Run `atlas-sync migrate`.")
    return Finding("kinds", True, ", ".join(f"{kind.name} ({table(kind.table)})" for kind in declaration.kinds))


async def _gate(connection: Any) -> Finding | None:
    declaration = await declared(connection)
    if declaration is None:
        return None
    if declaration.gate is None:
        return Finding("gate", True, "there is none: every user with a token syncs")
    found = await audit.audience(connection, declaration)
    if found is None:
        return Finding("gate", True, f"users are too many to be counted within {audit.PATIENCE}")
    if found.others and not found.admitted:
        says = f"T{str(found)[1:]}. If that is not meant, change [gate] in the declaration, and migrate."
        return Finding("gate", False, says, grave=False)
    return Finding("gate", True, str(found))


async def _owners(connection: Any) -> Finding | None:
    declaration = await declared(connection)
    if declaration is None:
        return None
    if found := await audit.ownerless(connection, declaration):
        return Finding("owners", False, f"No device gets these rows: {'; '.join(found)}.", grave=False)
    return Finding("owners", True, "every row that was counted belongs to a user")


async def _indexes(connection: Any) -> Finding | None:
    declaration = await declared(connection)
    if declaration is None:
        return None
    if found := await audit.without_index(connection, declaration):
        run = "; ".join(found.values())
        says = f"Reading lists of {', '.join(found)} takes longer the more rows there are. Run {run}."
        return Finding("indexes", False, says, grave=False)
    return Finding("indexes", True, "each list has one")


async def _privileges(connection: Any) -> Finding:
    too_many = await connection.fetchval(statement("doctor_privileges"))
    if too_many is not None:
        return Finding(
            "privileges",
            False,
            f"This login has more rights than the server needs ({too_many}). Serve with a login that is only a member "
            "of atlas_sync; migrate with this one.",
            grave=False,
        )
    return Finding("privileges", True, TOPICS["privileges"].good)


async def _temporary(connection: Any) -> Finding:
    row = await connection.fetchrow(statement("doctor_temporary"))
    if row["who"] is not None:
        return Finding(
            "temporary",
            False,
            f"{row['who']} may create temporary objects here, which can hijack functions that run with their owner's "
            f"rights. Run REVOKE TEMP ON DATABASE {row['database']} FROM {row['who']}; then grant it to those who "
            "need it.",
            grave=False,
        )
    return Finding("temporary", True, "only roles that were granted it create temporary objects")


async def _policies(connection: Any) -> Finding:
    policies = await connection.fetchval(statement("policies"), await _tables(connection))
    if policies is not None:
        return Finding("policies", False, POLICIES.format(policies), grave=False)
    return Finding("policies", True, "none that does not apply to devices")


async def _idle(connection: Any) -> Finding:
    roles = [row["role"] for row in await connection.fetch(statement("doctor_idle"))]
    if roles:
        more = f" and {len(roles) - NAMED} more" if len(roles) > NAMED else ""
        return Finding(
            "idle",
            False,
            f"Sessions of {', '.join(roles[:NAMED])}{more} may stay in a transaction for ever. If such a session "
            "listens, the notification queue fills, and then every commit that notifies fails. For each, run ALTER "
            f"ROLE {roles[0]} SET idle_in_transaction_session_timeout = '60s'.",
            grave=False,
        )
    return Finding("idle", True, "no session stays in a transaction for ever")


async def _queue(connection: Any) -> Finding:
    sessions = await connection.fetch(statement("doctor_queue"))
    usage = sessions[0]["usage"]
    if usage > FILLING:
        return Finding("queue", False, queue(usage, [tuple(row)[1:] for row in sessions if row["pid"] is not None]))
    return Finding("queue", True, f"{usage:.0%} of the notification queue is in use")


async def _doorbells(connection: Any) -> Finding | None:
    found = await connection.fetchrow(statement("streamable"))
    if found["doorbells"] != "wal":
        return None
    wrong = obstacles(found)
    declaration = await declared(connection)
    if declaration is not None:
        wrong += await publication.faults(connection, declaration)
    if wrong:
        # Nothing is lost: servers listen instead, or do not start, which they say.
        return Finding("doorbells", False, " ".join(wrong), grave=False)
    if found["kept"] == -1:
        return Finding("doorbells", False, UNBOUNDED, grave=False)
    left = [] if declaration is None else await publication.left_out(connection, declaration)
    says = f"Servers may read changes from the WAL; one that hangs keeps at most {found['kept']:,} MB of it."
    return Finding("doorbells", True, " ".join([says, *left]))


async def _streams(connection: Any, backend: bool | None) -> Finding | None:
    declaration = await declared(connection)
    if declaration is None or not declaration.streams:
        return None
    columns = ", ".join(f"{kind.name}.{name}" for kind in declaration.kinds for name in kind.streams)
    if backend is False:
        says = f"ATLAS_SERVICE_TOKEN is not set here: the backend cannot stream {columns}. Set it where the servers run"
        if declaration.digest == CHAT.digest:
            return Finding("streams", True, f"{says}, if it is to.")  # nobody has chosen these columns
        return Finding("streams", False, f"{says}, or take `streams` out of the declaration.", grave=False)
    return Finding("streams", True, f"the app's backend may stream {columns}")


async def _clock(connection: Any) -> Finding:
    asked = machine_now()
    theirs = int(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000000"))
    off = ahead_of_machine(theirs, asked) / 1_000_000
    if abs(off) > CLOCK_SECONDS:
        return Finding("clock", False, f"Postgres' clock is {off:+.1f} s off this machine's. Run NTP on both.")
    return Finding("clock", True, f"{off * 1000:+.0f} ms from this machine's")


async def _durability(connection: Any) -> Finding:
    off = [
        name
        for name in ("fsync", "synchronous_commit", "full_page_writes")
        if await connection.fetchval(f"SHOW {name}") == "off"
    ]
    if off:
        return Finding(
            "durability",
            False,
            f"{', '.join(off)} = off: a crash loses commits that devices have already seen. Set it on.",
        )
    return Finding("durability", True, "a commit that devices see survives a crash")


FIRST: Final[tuple[Check, ...]] = (_connection, _version, _encoding, _primary, _schema, _migrated)
LATER: Final[tuple[Check, ...]] = (
    _kinds,
    _gate,
    _owners,
    _indexes,
    _partitions,
    _strays,
    _archive,
    _temporary,
    _policies,
    _idle,
    _queue,
    _doorbells,
    _clock,
    _durability,
)
