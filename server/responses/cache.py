"""The door to cached responses: in this process, then Redis, then Postgres, and one caller computes what is missing.

Postgres decides what the response for a key is, and who holds the lease to compute it. Redis and the process's memory
hold copies for a bounded time, and never beyond the response's end. Where Postgres is away, the copies go on, and one
caller of each process computes.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple, Self

import structlog

from server import metrics
from server.exceptions import AtlasError, CacheError, UnavailableError
from server.responses.hits import Hits
from server.responses.memory import Memory
from server.responses.ports import Busy, Lease, Response, Shared, Store
from server.responses.question import InputError, Key, check_lease, check_response

log = structlog.get_logger()

MEMORY_SECONDS: Final = 5.0
"""Most seconds for which this process returns a response that another one has replaced or deleted."""
LOOK_SECONDS: Final = 2.0
"""Limit on a look into Postgres. Then it counts as away: computing a response takes hardly longer."""
WRITE_SECONDS: Final = 10.0
"""Limit on storing or deleting a response."""
AWAY_SECONDS: Final = 1.0
"""Seconds for which nobody looks into a Postgres that was away."""
LAST_SECONDS: Final = 2.0
"""Limit on what is left to do when the process ends."""
LEASES: Final = 100_000
"""Leases that are remembered before those that ended are forgotten."""
PAUSES: Final = (0.02, 0.25)
"""Seconds between two looks for what another process computes: doubled from the first to the second."""
STORE_PAUSE: Final = 1.0
"""Seconds between two such looks into Postgres while Redis answers."""


class Layer(StrEnum):
    """Where a response was found."""

    PROCESS = "process"
    REDIS = "redis"
    POSTGRES = "postgres"
    WAITED = "waited"
    """Nowhere at first; another caller computed it meanwhile."""


class Hit(NamedTuple):
    response: Response
    layer: Layer


class Computed(NamedTuple):
    """A response, and what computing it took."""

    text: str
    tokens: int = 0
    cost: Decimal = Decimal(0)


class BusyError(AtlasError):
    """Another caller computes the response, and takes longer than this one waits."""


@dataclass(slots=True, eq=False)
class _Waiter:
    lease: float
    patient: bool
    future: asyncio.Future[Hit | Lease | Busy]
    waited: bool = False
    """Somebody computes while this caller waits."""


@dataclass(slots=True, eq=False)
class _Flight:
    """The callers of this process that want one response. One look at a time is made for all of them."""

    waiters: list[_Waiter] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    busy: Busy = field(default_factory=lambda: Busy(LOOK_SECONDS))
    task: asyncio.Task[None] | None = None

    def waiting(self) -> list[_Waiter]:
        self.waiters = [waiter for waiter in self.waiters if not waiter.future.done()]
        return self.waiters


class ResponseCache:
    """Gives out cached responses, and one lease at a time to compute one. Hits are counted while it is entered as a
    context manager."""

    def __init__(
        self, store: Store, shared: Shared | None, memory: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`memory`: bytes for responses of this process. Construct one with `server.library.open_cache`."""
        self._store = store
        self._shared = shared
        self._memory = Memory(memory)
        self._clock = clock
        self._flights: dict[Key, _Flight] = {}
        self._granted: dict[Key, tuple[float, int]] = {}
        """Leases of callers of this process: their ends, and fences. They count while Postgres is away; those with the
        fence 0 also when it is back."""
        self._ahead: int | None = None
        """Microseconds by which Postgres' clock is ahead of `clock`, at most; None: it has not answered yet."""
        self._away_until = 0.0
        self._away = False
        self._closing = False
        self._background: set[asyncio.Task[None]] = set()
        self._hits = Hits(store)
        self._counting: asyncio.Task[None] | None = None

    # ---- Looking ---------------------------------------------------------------------------------------------------

    async def get(self, key: Key) -> Hit | None:
        """The response for a key; None if there is none, or Postgres is away. No lease is given."""
        found: Hit | Lease | Busy | None = self._remembered(key)
        if found is None:
            found = await self._look(key, None)
        if isinstance(found, Hit):
            self._hits.count(key, found.response, found.layer)
            return found
        metrics.RESPONSES.labels("missed").inc()
        return None

    async def take(self, key: Key, *, lease: float, wait: float = 0.0) -> Hit | Lease | Busy:
        """The response for a key, or a lease of `lease` seconds to compute it.

        Busy: another caller has the lease, and after `wait` seconds the response was not there. The holder of a lease
        calls `put` or `release`. Raises InputError.
        """
        check_lease(lease, wait)
        taken: Hit | Lease | Busy
        taken = self._remembered(key) or await self._join(key, lease, wait)
        if isinstance(taken, Hit):
            self._hits.count(key, taken.response, taken.layer)
        else:
            metrics.RESPONSES.labels("computes" if isinstance(taken, Lease) else "busy").inc()
        return taken

    async def get_or_compute(
        self,
        key: Key,
        compute: Callable[[], Awaitable[str | Computed]],
        *,
        ttl: float,
        lease: float = 60.0,
        wait: float = 60.0,
    ) -> str:
        """The response for a key. If there is none, one caller of all processes computes it, and the others wait.

        `ttl`: seconds for which the response is kept. `lease`: seconds that computing may take; then another caller
        computes. Raises InputError; BusyError after `wait` seconds of waiting; and what `compute` raises: then the next
        caller that waits computes. A response that could not be stored, because Postgres is away, is returned.
        """
        check_response("", ttl, 0, Decimal(0))
        taken = await self.take(key, lease=lease, wait=wait)
        if isinstance(taken, Hit):
            return taken.response.text
        if isinstance(taken, Busy):
            raise BusyError("Another caller computes this response, and takes longer than `wait`. Wait for longer.")
        try:
            made = await compute()
            text, tokens, cost = made if isinstance(made, Computed) else Computed(made)
            try:
                await self.put(key, text, ttl=ttl, tokens=tokens, cost=cost, lease=taken.fence)
            except InputError as error:
                log.warning("a response is not cached", why=str(error))
                self._release_soon(key, taken)
            except UnavailableError:
                pass
        except BaseException:
            self._release_soon(key, taken)
            raise
        return text

    def _remembered(self, key: Key) -> Hit | None:
        response = self._memory.get(key, self._clock())
        return None if response is None else Hit(response, Layer.PROCESS)

    async def _join(self, key: Key, lease: float, wait: float) -> Hit | Lease | Busy:
        """Wait for a look of this process, or begin one."""
        if self._closing:
            return Busy(LOOK_SECONDS)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(self._fly(key, flight), name="response")
        waiter = _Waiter(lease, wait > 0, asyncio.get_running_loop().create_future())
        flight.waiters.append(waiter)
        if not waiter.patient:
            flight.wake.set()
        try:
            await asyncio.wait([waiter.future], timeout=wait if waiter.patient else None)
        except asyncio.CancelledError:
            if not waiter.future.cancel() and not waiter.future.cancelled() and waiter.future.exception() is None:
                self._release_soon(key, waiter.future.result())
            raise
        if waiter.future.done():
            return waiter.future.result()
        waiter.future.cancel()
        return flight.busy

    async def _fly(self, key: Key, flight: _Flight) -> None:
        """Look until nobody waits."""
        pause = PAUSES[0]
        store_at = ends = 0.0
        try:
            while waiting := flight.waiting():
                flight.wake.clear()
                now = self._clock()
                found: Hit | Lease | Busy | None = self._remembered(key)
                if found is None:
                    if self._shared is None or now >= store_at:
                        store_at = now + STORE_PAUSE
                        found = await self._look(key, waiting[0].lease)
                    else:
                        found = await self._look_into_redis(key)
                match found:
                    case Hit():
                        self._tell(flight, found)
                        return
                    case Lease():
                        if not self._give(flight, found):
                            self._release_soon(key, found)
                            return
                        flight.busy = Busy(found.seconds)
                    case Busy():
                        flight.busy = found
                    case None:
                        flight.busy = Busy(max(0.0, ends - now))
                ends = self._clock() + flight.busy.seconds
                for waiter in flight.waiting():
                    waiter.waited = True
                    if not waiter.patient:
                        waiter.future.set_result(flight.busy)
                if flight.waiting():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(pause, max(flight.busy.seconds, 0.001))):
                            await flight.wake.wait()
                    pause = min(2 * pause, PAUSES[1])
                    if flight.wake.is_set() or self._clock() >= ends:
                        store_at = 0.0  # a lease ended
        except Exception as error:
            log.error("a look for a response failed", exc_info=error)
            for waiter in flight.waiting():
                waiter.future.set_exception(error)
        finally:
            for waiter in flight.waiting():
                waiter.future.cancel()
            if self._flights.get(key) is flight:
                del self._flights[key]

    @staticmethod
    def _tell(flight: _Flight, hit: Hit) -> None:
        for waiter in flight.waiting():
            waiter.future.set_result(hit._replace(layer=Layer.WAITED) if waiter.waited else hit)

    @staticmethod
    def _give(flight: _Flight, lease: Lease) -> bool:
        """Give the lease to the one that waits for longest. False if nobody waits any more."""
        for waiter in flight.waiting():
            waiter.future.set_result(lease)
            return True
        return False

    async def _look(self, key: Key, lease: float | None) -> Hit | Lease | Busy | None:
        """Look into Redis, then into Postgres."""
        if (hit := await self._look_into_redis(key)) is not None:
            return hit
        begun = self._clock()
        until, fence = self._granted.get(key, (begun, 0))
        computed_alone = not fence and until > begun
        try:
            if begun < self._away_until:
                raise UnavailableError("Postgres was away a moment ago.")
            async with asyncio.timeout(LOOK_SECONDS):
                found, answered_at = await self._store.take(key, None if computed_alone else lease)
        except (UnavailableError, TimeoutError) as error:
            if begun >= self._away_until:
                self._away_until = self._clock() + AWAY_SECONDS
            if not self._away:
                self._away = True
                log.warning("responses are not looked up in postgres", error=str(error) or "no answer in time")
            return None if lease is None else self._take_alone(key, lease)
        if self._away:
            self._away = False
            log.info("responses are looked up in postgres again")
        self._ahead = answered_at - int(begun * 1e6)
        if isinstance(found, Response):
            await self._copy(key, found, begun)
            return Hit(found, Layer.POSTGRES)
        if isinstance(found, Lease):
            self._grant(key, found)
        if found is None and lease is not None:
            return Busy(until - begun)
        return found

    async def _look_into_redis(self, key: Key) -> Hit | None:
        if self._shared is None or self._ahead is None:
            return None
        begun = self._clock()
        try:
            response = await self._shared.get(key)
        except CacheError:
            return None
        if response is None or self._left(response) <= 0:
            return None
        self._remember(key, response, begun)
        return Hit(response, Layer.REDIS)

    def _take_alone(self, key: Key, seconds: float) -> Lease | Busy:
        """A lease of which only this process knows, because Postgres is away."""
        now = self._clock()
        until, _ = self._granted.get(key, (now, 0))
        if until > now:
            return Busy(until - now)
        self._grant(key, lease := Lease(0, seconds))
        return lease

    def _grant(self, key: Key, lease: Lease) -> None:
        now = self._clock()
        if len(self._granted) >= LEASES:
            self._granted = {other: granted for other, granted in self._granted.items() if granted[0] > now}
        self._granted[key] = now + lease.seconds, lease.fence

    async def _copy(self, key: Key, response: Response, begun: float) -> None:
        """Copy what Postgres answered to a question of the time `begun`."""
        left = self._left(response)
        if left > 0 and self._shared is not None:
            with contextlib.suppress(CacheError):
                await self._shared.set(key, response, left)
        self._remember(key, response, begun)

    def _remember(self, key: Key, response: Response, begun: float) -> None:
        now = self._clock()
        self._memory.keep(key, response, min(begun + MEMORY_SECONDS, now + self._left(response)), now)
        metrics.RESPONSES_BYTES.set(self._memory.size)

    def _left(self, response: Response) -> float:
        """Seconds until it expires, at least."""
        assert self._ahead is not None
        return (response.expires_at - self._ahead) / 1e6 - self._clock()

    # ---- Writing ---------------------------------------------------------------------------------------------------

    async def put(
        self,
        key: Key,
        text: str,
        *,
        ttl: float,
        tokens: int = 0,
        cost: Decimal = Decimal(0),
        lease: int | None = None,
    ) -> Response | None:
        """Store a response for `ttl` seconds, and give it to all that wait for it.

        None: the `lease` was taken over by another caller, or the response was deleted meanwhile; nothing was stored.
        Without a lease the response replaces any other. Raises InputError; UnavailableError if Postgres is away: those
        that wait in this process have got the response nevertheless.
        """
        cost = check_response(text, ttl, tokens, cost)
        begun = self._clock()
        try:
            async with _limited():
                stored = await self._store.put(key, text, ttl, tokens, cost, lease or None)
        except UnavailableError:
            if (flight := self._flights.get(key)) is not None:
                at = time.time_ns() // 1_000
                self._tell(flight, Hit(Response(text, tokens, cost, at, at, 0), Layer.WAITED))
            raise
        if stored is None:
            metrics.RESPONSES_STORED.labels("refused").inc()
            return None
        metrics.RESPONSES_STORED.labels("stored").inc()
        response, answered_at = stored
        self._ahead = answered_at - int(begun * 1e6)
        await self._copy(key, response, begun)
        self._ended(key)
        return response

    async def release(self, key: Key, lease: int) -> None:
        """Give a lease back: the response will not be computed. Raises UnavailableError."""
        if lease:
            async with _limited():
                await self._store.release(key, lease)
        self._ended(key)

    async def delete(self, key: Key) -> None:
        """Delete a response, and refuse the one that is being computed. Other processes return it for at most
        MEMORY_SECONDS.

        Raises UnavailableError; CacheError if Redis may still have it: delete it again.
        """
        async with _limited():
            version = await self._store.drop(key)
        now = self._clock()
        self._memory.drop(key, version, now + MEMORY_SECONDS, now)
        self._ended(key)
        if self._shared is not None:
            try:
                await self._shared.drop(key, version)
            except CacheError:
                raise CacheError(
                    "The response is deleted in Postgres, but Redis does not answer, and may still have it for some "
                    "minutes. Delete it again."
                ) from None

    def _ended(self, key: Key) -> None:
        """A lease ended."""
        self._granted.pop(key, None)
        if (flight := self._flights.get(key)) is not None:
            flight.wake.set()

    def _release_soon(self, key: Key, lease: Hit | Lease | Busy) -> None:
        """Release a lease, if it is one, for a caller that is being cancelled."""
        if not isinstance(lease, Lease):
            return

        async def release() -> None:
            with contextlib.suppress(UnavailableError):
                await self.release(key, lease.fence)

        task = asyncio.create_task(release(), name="release")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # ---- Its end ---------------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Count all hits so far. Raises UnavailableError: a later call counts them. A call may be cancelled."""
        await self._hits.flush()

    def close(self) -> None:
        """Make nobody wait any more."""
        self._closing = True
        for flight in self._flights.values():
            for waiter in flight.waiting():
                waiter.future.set_result(flight.busy)
            flight.wake.set()

    async def __aenter__(self) -> Self:
        await self._look(Key("", ""), None)  # says at once if Postgres lacks the cache, and what time it is there
        self._counting = asyncio.create_task(self._hits.run(), name="responses")
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is under way, and count the last hits, if Postgres answers in time."""
        self.close()
        assert self._counting is not None
        self._counting.cancel()
        tasks = [self._counting, *self._background]
        tasks += [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in (await asyncio.wait(tasks, timeout=LAST_SECONDS))[1]:
            task.cancel()
        await self._hits.close(LAST_SECONDS)


@contextlib.asynccontextmanager
async def _limited() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            yield
    except TimeoutError:
        raise UnavailableError("Postgres does not answer.") from None
