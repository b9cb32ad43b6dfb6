"""Connections to Postgres, set up the way our statements want them."""

import socket
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import asyncpg

from protocol.frames import Instant
from server.errors import UnfitError
from server.postgres.errors import translated

POSTGRES_EPOCH: Final = int(datetime(2000, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""Where Postgres counts its microseconds from."""
STATEMENT_SECONDS: Final = 15.0
"""No statement of ours takes a second; one that takes this long will not come back."""
CONNECT_SECONDS: Final = 10.0
DEAD_LINK_MILLISECONDS: Final = 10_000
"""Until the kernel gives up on data that is not acknowledged. asyncpg sets no keep-alive at all."""

PLANNING: Final = """
    SET plan_cache_mode = force_generic_plan;
    SET jit = off;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_sort = off;
    SET enable_material = off
"""
"""Every statement of ours looks rows up by index, in the index's order, and planning it for 60 partitions takes longer
than running it. Left alone, the planner chooses a scan for a partition that was empty when it last looked."""


@cache
def statement(name: str) -> str:
    """The text of sql/NAME.sql."""
    return (files("server.postgres") / "sql" / f"{name}.sql").read_text()


async def connect(url: str) -> Any:
    """One connection of its own. Raises UnavailableError."""
    with translated():
        connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=STATEMENT_SECONDS)
    notice_dead_links(connection)
    return connection


async def open_pool(url: str, *, size: int, pooled: bool, on_epoch: Callable[[str], None]) -> Any:
    """A pool whose every new connection first says which history it sees.

    `pooled`: the URL leads through a transaction-mode pooler, where neither prepared statements nor settings stay.
    Raises UnavailableError; UnfitError if this database cannot serve.
    """

    async def prepare(connection: Any) -> None:
        notice_dead_links(connection)
        await decode_plainly(connection)
        on_epoch(await check(connection))
        if not pooled:
            await connection.execute(PLANNING)

    async def keep(_: Any) -> None:
        """Nothing to reset, and the default reset would double the statements."""

    with translated():
        return await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=size,
            init=prepare,
            reset=keep,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            max_inactive_connection_lifetime=300,
            statement_cache_size=0 if pooled else 100,
        )


async def check(connection: Any) -> str:
    """The epoch of the history that this connection sees. Raises UnfitError."""
    try:
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            raise UnfitError(
                "DATABASE_URL leads to a standby, which cannot LISTEN and may lag. Point it at the primary."
            )
        return str(await connection.fetchval("SELECT sync.epoch()"))
    except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedFunctionError, asyncpg.UndefinedTableError):
        raise UnfitError("This database has no schema `sync` yet. Run `atlas-sync migrate`.") from None
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not read the schema `sync`. Run `GRANT atlas_sync TO <login>` as an administrator."
        ) from None


async def decode_plainly(connection: Any) -> None:
    """Instants as integers (microseconds since 1970), as they travel: no datetime is built and taken apart."""

    def encode(instant: Instant) -> tuple[int]:
        return (instant - POSTGRES_EPOCH,)

    def decode(parts: tuple[int]) -> Instant:
        return parts[0] + POSTGRES_EPOCH

    await connection.set_type_codec("timestamptz", schema="pg_catalog", encoder=encode, decoder=decode, format="tuple")


def notice_dead_links(connection: Any) -> None:
    sock = connection._transport.get_extra_info("socket")  # asyncpg offers no public way to its socket
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, struct.pack("i", DEAD_LINK_MILLISECONDS))
