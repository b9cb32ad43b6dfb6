"""Receives doorbells by LISTEN, on a connection of its own that is proved again and again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

from server import metrics
from server.exceptions import UnavailableError, UnfitError
from server.postgres.connection import give_up
from server.postgres.errors import POOLER, UNMIGRATED, translated
from server.postgres.route import Route
from server.retry import Retry

CHANNEL: Final = "SELECT channel FROM sync.meta"
HEARTBEAT_SECONDS: Final = 5.0
"""Seconds between two notifications that we send to ourselves. asyncpg never raises an error on a dead network
connection, however long one waits."""
ANSWER_SECONDS: Final = 3.0
"""Seconds within which such a notification must come back."""
ENDED: Final = "The connection that listens was closed, or led to an earlier history."


class ListenDoorbells:
    """`Doorbells` by LISTEN/NOTIFY. It uses no connection of the pool, whose release would UNLISTEN."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._listening: Listening | None = None
        route.history.on_change.append(self._leave)

    def _leave(self) -> None:
        """Stop listening to an earlier history: no doorbell of the current one arrives there."""
        if self._listening is not None:
            self._listening.end()

    def _listen(self, ring: Callable[[str, int], object]) -> "Listening":
        self._listening = Listening(self._connect, ring, self._route.spare)
        return self._listening

    async def _connect(self) -> Any:
        return (await self._route.connect(required=True)).raw

    async def check(self) -> None:
        """Raises UnfitError if LISTEN cannot work with this URL, UnavailableError if that cannot be determined now."""
        async with self._listen(lambda user, seq: None):
            pass

    async def run(self, ring: Callable[[str, int], object], up: Callable[[], None], down: Callable[[], None]) -> None:
        retry = Retry("doorbells are silent", longest=5.0, alarm=self._route.history.alarm)
        while True:
            try:
                async with self._listen(ring) as listening:
                    up()
                    metrics.LISTENING.set(1)
                    retry.reset()
                    while True:
                        await listening.listen(HEARTBEAT_SECONDS)
                        begun = time.perf_counter()
                        await listening.prove()
                        metrics.LISTEN_SECONDS.set(time.perf_counter() - begun)
            except (UnavailableError, UnfitError) as error:
                down()
                metrics.LISTENING.set(0)
                await retry.pause(error)


class Listening:
    """A connection that listens. Entering the context proves that notifications arrive: raises UnavailableError, and
    UnfitError behind a pooler."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], ring: Callable[[str, int], object], spare: asyncio.Lock
    ) -> None:
        """`spare` is held while a second connection is open, for a moment."""
        self._connect = connect
        self._ring = ring
        self._spare = spare
        self._private = f"atlas_sync_{uuid4().hex[:16]}"
        self._connection: Any = None
        self._answer = asyncio.Event()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> "Listening":
        self._connection = await self._connect()
        self._connection.add_termination_listener(lambda _: self.end())
        try:
            with translated():
                # Plain functions: asyncpg keeps no reference to the task that would run a coroutine.
                await self._connection.add_listener(await self._channel(), self._on_ring)
                await self._connection.add_listener(self._private, self._on_answer)
            # The first proof uses another connection: a pooler may by chance return our own notification to us, but
            # never that of another connection.
            async with self._spare:
                other = await self._connect()
                try:
                    await self.prove(other)
                finally:
                    await give_up(other)
        except BaseException:
            await give_up(self._connection)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await give_up(self._connection)

    async def _channel(self) -> str:
        try:
            return str(await self._connection.fetchval(CHANNEL))
        except UNMIGRATED:
            raise UnfitError("This database lacks a migration. Run `atlas-sync migrate`.") from None

    def end(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._answer.set()

    async def listen(self, seconds: float) -> None:
        """Wait for so many seconds. Raises UnavailableError as soon as the connection has ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return
        raise UnavailableError(ENDED)

    async def prove(self, sender: Any = None) -> None:
        """Send ourselves a notification, on `sender` or this connection, and wait for it.

        Raises UnavailableError for a dead network connection, UnfitError for a pooler.
        """
        self._answer.clear()
        with translated():
            await (sender or self._connection).execute(f"NOTIFY {self._private}", timeout=ANSWER_SECONDS)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if not self._ended.is_set():
                    await self._answer.wait()
        except TimeoutError:
            raise UnfitError(POOLER) from None
        if self._ended.is_set():
            raise UnavailableError(ENDED)

    def _on_ring(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        # Any role may NOTIFY. A payload that is no doorbell is ignored.
        user, _, seq = payload.partition(" ")
        if seq.isascii() and seq.isdigit() and len(seq) <= 19:
            self._ring(user, int(seq))

    def _on_answer(self, *_: object) -> None:
        self._answer.set()
