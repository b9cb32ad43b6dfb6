"""One connection to Postgres: opens it, limits its statements, and asks for the history of the database."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import asyncpg

from protocol.frames import Instant
from server.exceptions import UnavailableError, UnfitError
from server.feed.history import HistoryReport
from server.postgres.errors import UNMIGRATED, NotPrimaryError, StandbyError, translated
from server.postgres.link import link
from server.url import hosts

STATEMENT_SECONDS: Final = 15.0
"""After this time Postgres cancels a statement. None of ours takes one second."""
GRACE_SECONDS: Final = 0.5
"""How much longer we wait for that. Then the network connection is considered dead."""
CONNECT_SECONDS: Final = 10.0
DEAD_LINK_MILLISECONDS: Final = 10_000
"""After this time the kernel gives up on data that is not acknowledged. asyncpg itself sets no keep-alive."""

LIMIT: Final = """
    SELECT pg_catalog.set_config('statement_timeout', least({milliseconds}, nullif(reset_val::int, 0))::text, {local})
    FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'
"""
"""Sets statement_timeout, unless an operator has given our login a shorter one."""
SAFE_PATH: Final = "SET search_path = pg_catalog, pg_temp"
"""pg_temp is named because Postgres otherwise searches it first for tables and types. This is a statement and not a
parameter of the connection, because poolers in session mode refuse a startup packet with settings that they do not
know."""
LOCAL_PATH: Final = "SET LOCAL search_path = pg_catalog, pg_temp"
"""For one transaction: behind a pooler, another client would inherit a setting that outlives it."""
STANDBY: Final = "DATABASE_URL leads to a standby, which cannot LISTEN and may lag. Point it at the primary."
NO_PRIMARY: Final = "All hosts of DATABASE_URL that answer are standbys. Promote one, or start the primary."
NO_SYNC: Final = (
    "Atlas Sync is not in this database: there is no schema `sync`. Run `atlas-sync migrate`, or, if it was removed by "
    "`migrate --undo`, stop this server."
)
STANDING: Final = "SELECT epoch, lineage, schemas, system, timeline, began_at, started, now FROM sync.standing()"


@cache
def statement(name: str) -> str:
    """The text of sql/NAME.sql."""
    return (files("server.postgres") / "sql" / f"{name}.sql").read_text()


async def connect(url: str, **options: Any) -> Any:
    """Open a connection; `options` are asyncpg's. Raises UnavailableError, UnfitError."""
    options = {"timeout": CONNECT_SECONDS, "command_timeout": STATEMENT_SECONDS + GRACE_SECONDS, **options}
    connection = await link(url, **options)
    _notice_dead_links(connection)
    return connection


async def connect_to_primary(url: str, **options: Any) -> Any:
    """The same; of several hosts, to the first that is up and no standby. asyncpg would take a standby, and spend all
    of the time on a silent host."""
    places = hosts(url)
    problems: list[BaseException] = []
    for place in places:
        try:
            connection = await connect(place, **options)
            if len(places) == 1 or not await _is_standby(connection):
                return connection
            problems.append(StandbyError(STANDBY))
        except (UnavailableError, UnfitError) as error:
            if len(places) == 1:
                raise
            problems.append(error)
    raise to_report(problems)


async def _is_standby(connection: Any) -> bool:
    """Closes it if so."""
    standby = True
    try:
        with translated():
            standby = bool(await connection.fetchval("SELECT pg_is_in_recovery()"))
    finally:
        if standby:
            connection.terminate()
    return standby


def to_report(problems: Sequence[BaseException]) -> BaseException:
    """What to report of those of several hosts: rather not that of a standby, and rather one that may pass."""
    others = [each for each in problems if not isinstance(each, StandbyError | NotPrimaryError)]
    if not others:
        return UnavailableError(NO_PRIMARY)
    return next((each for each in others if not isinstance(each, UnfitError)), others[0])


async def connect_as_owner(url: str) -> Any:
    """Open a connection for statements with the rights of the tables' owner. Its search path is safe: an unqualified
    name means an object of pg_catalog, never one that another role has put into schema public or a temporary schema.
    Raises UnavailableError, UnfitError."""
    connection = await connect_to_primary(url)
    try:
        with translated():
            await connection.execute(SAFE_PATH)
    except BaseException:
        connection.terminate()
        raise
    return connection


@contextlib.asynccontextmanager
async def limited(connection: Any, seconds: float) -> AsyncIterator[None]:
    """A transaction in which Postgres cancels a statement after so many seconds. The limit ends with the transaction:
    behind a pooler, another client would inherit one that stays.

    After an error the connection must be closed: a rollback could wait for ever on a dead network connection.
    """
    # Explicit, because the database may have another default.
    await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {limit(seconds, local=True)}")
    yield
    await connection.execute("COMMIT")


def limit(seconds: float, *, local: bool = False) -> str:
    return LIMIT.format(milliseconds=int(seconds * 1000), local=local)


async def report(connection: Any) -> tuple[HistoryReport, Instant]:
    """The history of this connection's database, and the time there. Raises UnfitError."""
    try:
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            raise StandbyError(STANDBY)
        async with limited(connection, STATEMENT_SECONDS):
            row = await connection.fetchrow(STANDING)
    except asyncpg.InvalidSchemaNameError:
        raise UnfitError(NO_SYNC) from None
    except UNMIGRATED:
        raise UnfitError("This database lacks a migration. Run `atlas-sync migrate`.") from None
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not read the schema `sync`. Run `GRANT atlas_sync TO <login>` as an administrator, and "
            "`atlas-sync migrate` if it is a member already."
        ) from None
    return (
        HistoryReport(
            epoch=row["epoch"],
            lineage=tuple(row["lineage"] or ()),
            schemas=frozenset(row["schemas"] or ()),
            system=row["system"],
            timeline=row["timeline"],
            began_at=row["began_at"],
            started=row["started"],
        ),
        row["now"],
    )


async def give_up(connection: Any) -> None:
    """Close a connection and cancel the statement that we gave up on it.

    Without that the statement would go on and keep its locks: COMMIT, which runs deferred triggers, obeys no
    statement_timeout. asyncpg requests the cancellation, and close() waits for it; on a dead network connection it
    would wait for ever, whatever its own timeout is.
    """
    try:
        with contextlib.suppress(Exception):  # the connection may be in any state
            async with asyncio.timeout(GRACE_SECONDS):
                await connection.close()
    finally:
        connection.terminate()


def _notice_dead_links(connection: Any) -> None:
    sock = connection._transport.get_extra_info("socket")  # asyncpg offers no public way to its socket
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, struct.pack("i", DEAD_LINK_MILLISECONDS))
