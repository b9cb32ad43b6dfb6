"""Receives doorbells by LISTEN, on a connection of its own that is proved again and again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid4

from server import metrics
from server.exceptions import UnavailableError, UnfitError
from server.postgres.connection import STATEMENT_SECONDS, give_up, limited
from server.postgres.errors import POOLER, UNMIGRATED, translated
from server.postgres.route import Route
from server.retry import Retry

CHANNEL: Final = "SELECT channel FROM sync.meta"
HEARTBEAT_SECONDS: Final = 5.0
"""Seconds between two notifications that we send to ourselves. asyncpg never raises an error on a dead network
connection, however long one waits."""
ANSWER_SECONDS: Final = 3.0
"""Seconds within which such a notification must come back."""
FIRST_LOOK_SECONDS: Final = 0.05
"""Seconds until the first look whether transactions that began in silence have ended. Each pause is twice as long as
the one before."""
LAST_LOOK_SECONDS: Final = 15.0
"""The longest of these pauses. Whatever such a transaction commits later is found by the sweep that runs anyway."""
HORIZON: Final = """
    SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint FROM pg_current_snapshot() AS s
"""
UNMIGRATED_YET: Final = "This database lacks a migration. Run `atlas-sync migrate`."
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
        self._listening = Listening(self._connect, doorbell(ring), self._route.spare)
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
                    silence = await listening.end_silence()
                    up()
                    metrics.LISTENING.set(1)
                    retry.reset()
                    while True:
                        wait = HEARTBEAT_SECONDS if silence.over else min(silence.pause, HEARTBEAT_SECONDS)
                        await listening.listen(wait)
                        begun = time.perf_counter()
                        await listening.prove()
                        metrics.LISTEN_SECONDS.set(time.perf_counter() - begun)
                        if not silence.over:
                            # Before `up`, so that the sweep sees all that these transactions have committed.
                            silence = await listening.look(silence)
                            up()
            except (UnavailableError, UnfitError) as error:
                down()
                metrics.LISTENING.set(0)
                await retry.pause(error)


def doorbell(ring: Callable[[str, int], object]) -> Callable[[str], None]:
    """Calls `ring` for the payload of a doorbell."""

    def heard(payload: str) -> None:
        # Any role may NOTIFY. A payload that is no doorbell is ignored.
        user, _, seq = payload.partition(" ")
        if seq.isascii() and seq.isdigit() and len(seq) <= 19:
            ring(user, int(seq))

    return heard


@dataclass(frozen=True, slots=True)
class Silence:
    """Transactions that may have begun while NOTIFY was silent (`sync.keep_quiet`)."""

    marked: bool
    """Whether this session keeps others from beginning another silence."""
    horizon: int
    """Each of them has a smaller xid."""
    oldest: int
    """No transaction that is under way has a smaller xid."""
    pause: float = FIRST_LOOK_SECONDS
    """Seconds until the next look."""

    @property
    def over(self) -> bool:
        """Whether looking again is of no use."""
        return self.marked and (self.oldest >= self.horizon or self.pause > LAST_LOOK_SECONDS)


class Listening:
    """A connection that listens. Entering the context proves that notifications arrive: raises UnavailableError, and
    UnfitError behind a pooler."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], heard: Callable[[str], object], spare: asyncio.Lock, of: str = ""
    ) -> None:
        """`heard` gets the payload of each notification. `spare` is held while a second connection is open, for a
        moment. `of`: which channel, by what follows the database's name for it."""
        self._connect = connect
        self._heard = heard
        self._spare = spare
        self._of = of
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
                await self._connection.add_listener(await self._channel(), self._on_notification)
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
            return f"{await self._connection.fetchval(CHANNEL)}{self._of}"
        except UNMIGRATED:
            raise UnfitError(UNMIGRATED_YET) from None

    async def end_silence(self) -> Silence:
        """Have NOTIFY ring for every transaction that is not under way yet. Raises UnavailableError, UnfitError."""
        with translated():
            try:
                async with limited(self._connection, STATEMENT_SECONDS):
                    marked = await self._connection.fetchval("SELECT sync.listening()")
            except UNMIGRATED:
                raise UnfitError(UNMIGRATED_YET) from None
        oldest, horizon = await self._horizon()
        return Silence(marked, horizon, oldest)

    async def look(self, silence: Silence) -> Silence:
        """Look whether they have ended. Raises UnavailableError, UnfitError."""
        if not silence.marked:
            return await self.end_silence()
        oldest, _ = await self._horizon()
        return replace(silence, oldest=oldest, pause=2 * silence.pause)

    async def _horizon(self) -> tuple[int, int]:
        """The oldest xid of a transaction that is under way, and the next one that none has had yet."""
        with translated():
            oldest, horizon = await self._connection.fetchrow(HORIZON, timeout=ANSWER_SECONDS)
        return oldest, horizon

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

    def _on_notification(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        self._heard(payload)

    def _on_answer(self, *_: object) -> None:
        self._answer.set()
