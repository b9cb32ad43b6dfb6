"""One connection to Postgres: opened, bounded, and asked which history it leads to."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import asyncpg

from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Instant
from server.errors import UnfitError
from server.feed.history import Standing
from server.postgres.errors import UNMIGRATED, translated
from server.postgres.link import link

POSTGRES_EPOCH: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""Where Postgres counts its microseconds from."""
FIRST_TIMESTAMP: Final = -211_813_488_000_000_000
LAST_TIMESTAMP: Final = 9_223_371_331_200_000_000
"""MIN_TIMESTAMP and END_TIMESTAMP of PostgreSQL (datatype/timestamp.h): beyond them it refuses a timestamptz."""
STATEMENT_SECONDS: Final = 15.0
"""No statement of ours takes a second; one that takes this long will not come back. Postgres ends it then."""
GRACE_SECONDS: Final = 0.5
"""How much later we give up a statement that Postgres should have ended: the link is silent."""
CONNECT_SECONDS: Final = 10.0
DEAD_LINK_MILLISECONDS: Final = 10_000
"""Until the kernel gives up on data that is not acknowledged. asyncpg sets no keep-alive at all."""

LIMIT: Final = """
    SELECT pg_catalog.set_config('statement_timeout', least({milliseconds}, nullif(reset_val::int, 0))::text, {local})
    FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'
"""
"""How long Postgres lets a statement run. A shorter limit that an operator gave our login stays."""
SAFE_PATH: Final = "SET search_path = pg_catalog, pg_temp"
"""pg_temp is named because tables and types are searched there first where it is not. A statement, because poolers in
session mode refuse a startup packet with settings that they do not know."""
LOCAL_PATH: Final = "SET LOCAL search_path = pg_catalog, pg_temp"
"""In a transaction: through a pooler, a setting that outlives it would be somebody else's too."""
STANDING: Final = "SELECT epoch, lineage, system, timeline, began_at, started, now FROM sync.standing()"
EVERYWHERE: Final = "_everywhere"
"""Behind a statement's name: in the archive, too. A live feed need not open it, nor lock its many partitions."""


@cache
def statement(name: str) -> str:
    """The text of sql/NAME.sql."""
    text = (files("server.postgres") / "sql" / f"{name.removesuffix(EVERYWHERE)}.sql").read_text()
    return text.replace("public.messages", "sync.all_messages") if name.endswith(EVERYWHERE) else text


async def connect(url: str, **options: Any) -> Any:
    """One connection of its own. Raises UnavailableError and UnfitError."""
    options = {"timeout": CONNECT_SECONDS, "command_timeout": STATEMENT_SECONDS + GRACE_SECONDS, **options}
    connection = await link(url, **options)
    _notice_dead_links(connection)
    return connection


async def connect_as_owner(url: str) -> Any:
    """As `connect`, for statements with the rights of the tables' owner: a name that is not qualified is one of
    pg_catalog, and never one that somebody has put into schema public or a temporary schema."""
    connection = await connect(url)
    try:
        with translated():
            await connection.execute(SAFE_PATH)
    except BaseException:
        connection.terminate()
        raise
    return connection


@contextlib.asynccontextmanager
async def limited(connection: Any, seconds: float) -> AsyncIterator[None]:
    """A transaction whose statements Postgres ends after so many seconds. Its limit goes with it: through a pooler one
    that stays would be somebody else's too.

    After an error the connection is of no more use: a rollback would wait for a link that is silent.
    """
    # Whatever the database's default is.
    await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {limit(seconds, local=True)}")
    yield
    await connection.execute("COMMIT")


def limit(seconds: float, *, local: bool = False) -> str:
    return LIMIT.format(milliseconds=int(seconds * 1000), local=local)


async def standing(connection: Any) -> tuple[Standing, Instant]:
    """Which history this connection leads to, and what time it is there. Raises UnfitError."""
    try:
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            raise UnfitError(
                "DATABASE_URL leads to a standby, which cannot LISTEN and may lag. Point it at the primary."
            )
        async with limited(connection, STATEMENT_SECONDS):
            row = await connection.fetchrow(STANDING)
    except UNMIGRATED:
        raise UnfitError("This database lacks a migration. Run `atlas-sync migrate`.") from None
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not read the schema `sync`. Run `GRANT atlas_sync TO <login>` as an administrator, and "
            "`atlas-sync migrate` if it is a member already."
        ) from None
    return (
        Standing(
            epoch=row["epoch"],
            lineage=tuple(row["lineage"] or ()),
            system=row["system"],
            timeline=row["timeline"],
            began_at=row["began_at"],
            started=row["started"],
        ),
        row["now"],
    )


async def give_up(connection: Any) -> None:
    """Close it, and have Postgres end what was given up on it, which would go on and keep its locks: COMMIT, with the
    deferred triggers that it runs, is under no statement_timeout. asyncpg asks for it, and close waits for that;
    on a silent link for ever, whatever its own timeout is.
    """
    try:
        with contextlib.suppress(Exception):  # whatever state it is in
            async with asyncio.timeout(GRACE_SECONDS):
                await connection.close()
    finally:
        connection.terminate()


async def decode_plainly(connection: Any) -> None:
    """Instants as integers (microseconds since 1970), as they travel: no datetime is built and taken apart."""

    def encode(instant: Instant) -> tuple[int]:
        since = instant - POSTGRES_EPOCH
        # What a client made up may lie beyond the ends of time, where there is only infinity.
        return (-(1 << 63) if since < FIRST_TIMESTAMP else (1 << 63) - 1 if since >= LAST_TIMESTAMP else since,)

    def decode(parts: tuple[int]) -> Instant:
        instant = parts[0] + POSTGRES_EPOCH
        # SPEC.md, 2.4
        return instant if FIRST_INSTANT <= instant <= LAST_INSTANT else FIRST_INSTANT if instant < 0 else LAST_INSTANT

    await connection.set_type_codec("timestamptz", schema="pg_catalog", encoder=encode, decoder=decode, format="tuple")


def _notice_dead_links(connection: Any) -> None:
    sock = connection._transport.get_extra_info("socket")  # asyncpg offers no public way to its socket
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, struct.pack("i", DEAD_LINK_MILLISECONDS))
