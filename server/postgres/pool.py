"""A pool of connections for the server's statements, with the planner settings that these need."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import asyncpg

from server import metrics
from server.declaration.synced import Synced
from server.exceptions import UnavailableError, UnfitError
from server.feed.history import EARLIER, History
from server.postgres.connection import GRACE_SECONDS, STATEMENT_SECONDS, give_up, limit, limited, statement
from server.postgres.errors import MAYBE_LATER, UNMIGRATED, StatementError, none_left, translated, unavailable
from server.postgres.route import SHORT_SECONDS, OpenConnection, Route
from server.postgres.shortage import PAUSE_SECONDS

PLANNING: Final = """
    SET plan_cache_mode = force_generic_plan;
    SET jit = off;
    SET enable_seqscan = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_sort = off;
    SET enable_material = off;
    SET enable_memoize = off
"""
"""All our statements look rows up by an index, in its order, and planning one for 60 partitions takes longer than
running it. With its default settings the planner chooses a scan for a partition that was empty when it was last
analyzed."""
ISOLATION: Final = "SET default_transaction_isolation = 'read committed'"
"""Explicit, because the database may have another default. A statement that waited for a lock must see the rows that
were committed meanwhile."""
SHORTEST: Final = "SET extra_float_digits = 1"
"""Explicit, because the database may have another default: a number of 4 bytes, and numbers in an array, travel as the
shortest decimal that gives them."""
NO_MORE_SECONDS: Final = 10.0
"""Seconds until the next attempt to connect after Postgres had no connection left."""


@cache
def _seconds(name: str) -> metrics.BufferedHistogram:
    return metrics.STATEMENT_SECONDS.labels(name)


UNDECLARED: Final = (*UNMIGRATED, asyncpg.InsufficientPrivilegeError)
"""How a statement fails that names what is no longer there, or may no longer be read."""


def array(items: Iterable[str]) -> str:
    """An array as a literal, which takes a tenth of the time of an array of texts. The items must need no quotes."""
    return "{" + ",".join(items) + "}"


class Pool:
    """Runs the named statements of sql/ on at most `size` connections.

    asyncpg's own pool does more work between two statements: a reset, timers, and a task that shields the release. Here
    that is 0.1 of 0.3 ms per statement. Our statements are single, and leave nothing to reset.

    All connections lead to the current history. The answer of a connection to an earlier one is discarded.
    """

    def __init__(self, route: Route, synced: Synced, *, size: int) -> None:
        """`synced` has the statements that follow from the declaration."""
        self._route = route
        self._synced = synced
        self._history = route.history
        self._history.on_change.append(self._drop_earlier)
        self._route.shortage.lenders.append(self)
        self._slots = asyncio.Semaphore(size)
        self._owed = 0
        """Connections to close as soon as their statement ends."""
        self._giving_until = 0.0
        """Until this time another connection of this process may use the one that was given back."""
        self._waiters: list[asyncio.Future[None]] = []
        self._no_more_until = 0.0
        """Postgres has no connection left for this login; do not try before this time. 0: it has some."""
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()

    @property
    def owes(self) -> bool:
        return self._owed > 0

    @property
    def history(self) -> History:
        return self._history

    @property
    def open(self) -> int:
        return len(self._open) - self._owed

    @property
    def in_use(self) -> int:
        """How many connections run a statement at this moment."""
        return len(self._open) - len(self._idle)

    async def start(self) -> None:
        """Open the first connection, once. Raises UnavailableError; UnfitError if this database cannot serve."""
        if not self._open:
            self._idle.append(await self._connect())

    async def fetch(
        self, name: str, *arguments: object, seconds: float | None = None, although_blind: bool = False
    ) -> list[Any]:
        """Run a statement of the declaration, or sql/NAME.sql, and return its rows. Postgres cancels it after
        `seconds`.

        Raises UnavailableError for every error of Postgres, because a running server also waits for its operator; it is
        a StatementError if the statement was sent. `although_blind`: run it even while the server may not see every
        change, because devices do not receive its rows.
        """
        # Before anything is awaited: another declaration may be in force afterwards.
        text = self._synced.statements.get(name) or statement(name)
        if not although_blind and (blind := self._history.blind) is not None:
            raise UnavailableError(blind)
        # Now: the caller knows by which declaration it asks.
        text = self._synced.statements.get(name) or statement(name)
        if self._slots.locked():
            with metrics.POOL_WAITING.track_inprogress():
                await self._slots.acquire()
        else:
            await self._slots.acquire()
        begun = time.perf_counter()
        try:
            connection = await self._acquire()
            try:
                rows = await connection.fetch(text, arguments, seconds)
            except BaseException as error:
                # Close it after any error: it may be in any state, and a new one is soon opened.
                self._open.discard(connection)
                if connection.closed or isinstance(error, asyncpg.OperatorInterventionError):
                    # The idle connections may have been closed for the same reason.
                    self._drop(self._idle)
                # Close it before the next one is opened, so that there are never more than `size`.
                await connection.give_up()
                if name in self._synced.statements and isinstance(error, UNDECLARED):
                    self._synced.on_mismatch()  # what it names may be declared no more
                if isinstance(error, MAYBE_LATER):
                    raise StatementError(str(unavailable(error))) from error
                raise
            if connection not in self._open:
                raise StatementError(EARLIER)  # another connection found a newer history meanwhile
            if self._owed:
                self._owed -= 1
                self._give(connection)
            else:
                self._idle.append(connection)
        except (*MAYBE_LATER, UnfitError) as error:
            raise unavailable(error) from error
        finally:
            _seconds(name).observe(time.perf_counter() - begun)
            self._slots.release()
            self._released()
        return rows

    async def _acquire(self) -> "_Connection":
        """An idle connection that is still open (after a restart of Postgres none is), or a new one. If Postgres has no
        connection left for this login, wait for one that becomes idle."""
        clock = asyncio.get_running_loop().time
        surely_until = clock() + SHORT_SECONDS
        while True:
            while self._idle:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
                self._open.discard(connection)
            if not self._open and (giving := self._giving_until - clock()) > 0:
                await asyncio.sleep(giving)
                continue
            if not self._open or clock() >= self._no_more_until:
                if self._no_more_until:
                    self._no_more_until = clock() + NO_MORE_SECONDS  # so that one of the waiting callers tries
                try:
                    connection = await self._connect()
                except UnavailableError as error:
                    if not none_left(error):
                        raise
                    self._no_more_until = clock() + NO_MORE_SECONDS
                    if not self._open:
                        if clock() >= surely_until:
                            raise
                        await self._route.shortage.ease()
                        continue
                    self._route.shortage.report()
                else:
                    self._no_more_until = 0.0
                    return connection
                if self._idle:
                    continue
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                # All connections may be busy for long, waiting for a lock, while Postgres has one left again.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self._no_more_until):
                        await waiter
            finally:
                self._waiters.remove(waiter)

    def _released(self) -> None:
        """Wake the waiting callers: a connection became idle or was closed."""
        self._owed = min(self._owed, self.in_use)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _drop_earlier(self) -> None:
        """Close the connections to any other history than the current one."""
        self._drop([each for each in self._open if each.epoch != self._history.epoch])

    def _drop(self, connections: Iterable["_Connection"]) -> None:
        for connection in list(connections):
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            connection.terminate()
        self._released()

    def give_back(self) -> None:
        self._no_more_until = asyncio.get_running_loop().time() + NO_MORE_SECONDS
        if self._idle:
            self._give(self._idle[0])
        else:
            self._owed += 1

    def _give(self, connection: "_Connection") -> None:
        self._giving_until = asyncio.get_running_loop().time() + 2 * PAUSE_SECONDS
        self._drop([connection])

    def terminate(self) -> None:
        """Close all connections without a handshake, which could hang."""
        self._drop(self._open)

    async def _connect(self) -> "_Connection":
        opened = await self._route.connect(command_timeout=STATEMENT_SECONDS + GRACE_SECONDS)
        try:
            with translated():
                if not self._route.pooled:
                    await opened.raw.execute(f"{PLANNING};{ISOLATION};{SHORTEST};{limit(STATEMENT_SECONDS)}")
        except BaseException:
            await give_up(opened.raw)
            raise
        connection = _Connection(opened, self._route.pooled)
        if connection.epoch != self._history.epoch:
            connection.terminate()
            raise UnavailableError(EARLIER)
        self._open.add(connection)
        return connection


class _Connection:
    """A connection and the statements prepared on it."""

    def __init__(self, opened: OpenConnection, pooled: bool) -> None:
        self.epoch = opened.report.epoch
        self._raw = opened.raw
        self._pooled = pooled
        self._prepared: dict[str, Any] = {}
        self._seconds = STATEMENT_SECONDS
        """The statement_timeout that is set, in seconds."""

    async def fetch(self, text: str, arguments: tuple[object, ...], seconds: float | None) -> list[Any]:
        try:
            if self._pooled:
                return await self._fetch_pooled(text, arguments, seconds)
            return await self._fetch_prepared(text, arguments, seconds)
        except AttributeError:
            # asyncpg's: it has no protocol any more once another task has closed the connection between two steps.
            if not self.closed:
                raise
            raise asyncpg.InterfaceError("the connection was closed meanwhile") from None

    async def _fetch_prepared(self, text: str, arguments: tuple[object, ...], seconds: float | None) -> list[Any]:
        if seconds is not None and seconds != self._seconds:
            await self._raw.execute(limit(seconds))
            self._seconds = seconds
        prepared = self._prepared.get(text)
        if prepared is None:
            prepared = self._prepared[text] = await self._raw.prepare(text)
        timeout = None if seconds is None else seconds + GRACE_SECONDS
        return await prepared.fetch(*arguments, timeout=timeout)  # type: ignore[no-any-return]  # asyncpg's list

    async def _fetch_pooled(self, text: str, arguments: tuple[object, ...], seconds: float | None) -> list[Any]:
        if seconds is None:
            return await self._raw.fetch(text, *arguments)  # type: ignore[no-any-return]  # as above
        async with asyncio.timeout(seconds + GRACE_SECONDS), limited(self._raw, seconds):
            return await self._raw.fetch(text, *arguments)  # type: ignore[no-any-return]  # as above

    @property
    def closed(self) -> bool:
        return bool(self._raw.is_closed())

    async def give_up(self) -> None:
        await give_up(self._raw)

    def terminate(self) -> None:
        self._raw.terminate()
