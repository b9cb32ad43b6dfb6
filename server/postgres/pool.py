"""Connections to Postgres, set up the way our statements want them."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import asyncpg

from protocol.frames import FIRST_INSTANT, LAST_INSTANT, Instant
from server import metrics
from server.errors import UnfitError
from server.postgres.errors import MAYBE_LATER, UNMIGRATED, StatementError, translated, unavailable
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


LIMIT: Final = """
    SELECT pg_catalog.set_config('statement_timeout', least({milliseconds}, nullif(reset_val::int, 0))::text, {local})
    FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'
"""
"""How long Postgres lets a statement run. A shorter limit that an operator gave our login stays."""

SAFE_PATH: Final = "SET search_path = pg_catalog, pg_temp"
"""pg_temp is named because tables and types are searched there first where it is not. A statement, because poolers in
session mode refuse a startup packet with settings that they do not know."""

EVERYWHERE: Final = "_everywhere"
"""Behind a statement's name: in the archive, too. A live feed need not open it, nor lock its many partitions."""


@cache
def statement(name: str) -> str:
    """The text of sql/NAME.sql."""
    text = (files("server.postgres") / "sql" / f"{name.removesuffix(EVERYWHERE)}.sql").read_text()
    return text.replace("public.messages", "sync.all_messages") if name.endswith(EVERYWHERE) else text


@cache
def _seconds(name: str) -> metrics.Spread:
    return metrics.STATEMENT_SECONDS.labels(name)


async def connect(url: str, **options: Any) -> Any:
    """One connection of its own. Raises UnavailableError and UnfitError."""
    patience = STATEMENT_SECONDS + GRACE_SECONDS
    connection = await link(url, timeout=CONNECT_SECONDS, command_timeout=patience, **options)
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


class Pool:
    """At most `size` connections, on which the named statements of sql/ are run.

    asyncpg's own pool does more between two statements (a reset, timers, a task to shield the release) than the
    statement itself costs here: 0.1 of 0.3 ms. Ours are single reads, which leave nothing to reset.

    `pooled`: the URL leads through a transaction-mode pooler, where neither prepared statements nor settings stay.
    `on_epoch` is told, for every new connection, which history it sees.
    """

    def __init__(self, url: str, *, size: int, pooled: bool, on_epoch: Callable[[str], None]) -> None:
        self._url = url
        self._pooled = pooled
        self._on_epoch = on_epoch
        self._turn = asyncio.Semaphore(size)
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    @property
    def in_use(self) -> int:
        """Connections that run a statement at this moment."""
        return len(self._open) - len(self._idle)

    async def start(self) -> None:
        """Open the first connection, once. Raises UnavailableError; UnfitError if this database cannot serve."""
        if not self._open:
            self._idle.append(await self._connect())

    async def fetch(self, name: str, *arguments: object, seconds: float | None = None) -> list[Any]:
        """The rows of sql/NAME.sql, which Postgres ends after `seconds`. Raises UnavailableError for whatever Postgres
        may answer, because a server that runs waits for its operator too; StatementError if the statement was sent."""
        if self._turn.locked():
            with metrics.POOL_WAITING.track_inprogress():
                await self._turn.acquire()
        else:
            await self._turn.acquire()
        begun = time.perf_counter()
        try:
            connection = self._live() or await self._connect()
            try:
                rows = await connection.fetch(name, arguments, seconds)
            except BaseException as error:
                # Whatever happened: a new one is soon made, and an old one may be in any state.
                self._open.discard(connection)
                if isinstance(error, TimeoutError):
                    await connection.cancel()
                elif connection.closed or isinstance(error, asyncpg.OperatorInterventionError):
                    # Whatever ended it may have ended those that are idle, which do not know it yet.
                    self._drop_idle()
                connection.terminate()
                if isinstance(error, MAYBE_LATER):
                    raise StatementError(str(unavailable(error))) from error
                raise
        except (*MAYBE_LATER, UnfitError) as error:
            raise unavailable(error) from error
        finally:
            _seconds(name).observe(time.perf_counter() - begun)
            self._turn.release()
        self._idle.append(connection)
        return rows

    def _live(self) -> "_Connection | None":
        """An idle connection that has not been closed meanwhile: after a restart of Postgres all of them have been."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
            self._open.discard(connection)
        return None

    def _drop_idle(self) -> None:
        for connection in self._idle:
            self._open.discard(connection)
            connection.terminate()
        self._idle.clear()

    def terminate(self) -> None:
        """Close everything, without a goodbye that could hang."""
        for connection in self._open:
            connection.terminate()
        self._open.clear()
        self._idle.clear()

    async def _connect(self) -> "_Connection":
        raw = await connect(self._url, statement_cache_size=0 if self._pooled else 100)
        try:
            with translated():
                await _decode_plainly(raw)
                self._on_epoch(await check(raw))
                if not self._pooled:
                    await raw.execute(f"{PLANNING};{_limit(STATEMENT_SECONDS)}")
        except BaseException:
            raw.terminate()
            raise
        connection = _Connection(raw, self._pooled)
        self._open.add(connection)
        return connection


class _Connection:
    """A connection and the statements prepared on it."""

    def __init__(self, raw: Any, pooled: bool) -> None:
        self._raw = raw
        self._pooled = pooled
        self._prepared: dict[str, Any] = {}
        self._seconds = STATEMENT_SECONDS
        """The limit that is set."""

    async def fetch(self, name: str, arguments: tuple[object, ...], seconds: float | None) -> list[Any]:
        if self._pooled:
            return await self._fetch_pooled(name, arguments, seconds)
        if seconds is not None and seconds != self._seconds:
            await self._raw.execute(_limit(seconds))
            self._seconds = seconds
        prepared = self._prepared.get(name)
        if prepared is None:
            prepared = self._prepared[name] = await self._raw.prepare(statement(name))
        patience = None if seconds is None else seconds + GRACE_SECONDS
        return await prepared.fetch(*arguments, timeout=patience)  # type: ignore[no-any-return]  # asyncpg's list

    async def _fetch_pooled(self, name: str, arguments: tuple[object, ...], seconds: float | None) -> list[Any]:
        if seconds is None:
            return await self._raw.fetch(statement(name), *arguments)  # type: ignore[no-any-return]  # as above
        async with asyncio.timeout(seconds + GRACE_SECONDS), self._raw.transaction():
            await self._raw.execute(_limit(seconds, local=True))
            return await self._raw.fetch(statement(name), *arguments)  # type: ignore[no-any-return]  # as above

    @property
    def closed(self) -> bool:
        return bool(self._raw.is_closed())

    async def cancel(self) -> None:
        """Have Postgres end the statement that was given up, which would go on and keep its locks: COMMIT, with the
        deferred triggers that it runs, is under no statement_timeout. asyncpg asks for it, and close waits for that.
        """
        with contextlib.suppress(*MAYBE_LATER):
            await self._raw.close(timeout=GRACE_SECONDS)

    def terminate(self) -> None:
        self._raw.terminate()


def _limit(seconds: float, *, local: bool = False) -> str:
    return LIMIT.format(milliseconds=int(seconds * 1000), local=local)


async def check(connection: Any) -> str:
    """The epoch of the history that this connection sees. Raises UnfitError."""
    try:
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            raise UnfitError(
                "DATABASE_URL leads to a standby, which cannot LISTEN and may lag. Point it at the primary."
            )
        return str(await connection.fetchval("SELECT sync.epoch()"))
    except UNMIGRATED:
        raise UnfitError("This database has no schema `sync` yet. Run `atlas-sync migrate`.") from None
    except asyncpg.InsufficientPrivilegeError:
        raise UnfitError(
            "This login may not read the schema `sync`. Run `GRANT atlas_sync TO <login>` as an administrator."
        ) from None


async def _decode_plainly(connection: Any) -> None:
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
