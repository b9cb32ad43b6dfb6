"""Doorbells from the WAL: each committed transaction that moved feeds, with the rows that it left."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import structlog

from server import metrics
from server.declaration.sql.pieces import quoted
from server.declaration.sql.publication import ENTRY
from server.declaration.synced import Synced
from server.exceptions import UnavailableError, UnfitError
from server.feed.ports import Moved
from server.postgres.listener import ListenDoorbells
from server.postgres.pool import Pool
from server.postgres.route import Route
from server.postgres.wal.decoding import Decoding
from server.postgres.wal.pgoutput import Committed
from server.postgres.wal.relay import Followed, Hello, take_lead
from server.postgres.wal.stream import Stream
from server.retry import Retry

log = structlog.get_logger()

HEARTBEAT_SECONDS: Final = 5.0
"""Seconds between two proofs that the stream is alive; each time NOTIFY is kept silent, too."""
FIRST_LOOK_SECONDS: Final = 0.05
"""Seconds until the second look whether transactions have ended. Each pause is twice as long as the one before."""
LOOK_SECONDS: Final = 3.0
"""Seconds that a look may take."""
MOVES_IN_A_ROW: Final = 1_000
"""Feeds of one transaction that are told of before others get the loop; some 5 ms."""
AWAITED: Final = (
    "synchronous_standby_names has *, so that each commit would wait for this server. Name the standbys there."
)
MOST_BEHIND: Final = 1 << 30
"""Bytes of WAL by which the stream may be behind. One that is further behind is ended, because LISTEN is faster."""


def obstacles(found: Mapping[str, Any]) -> list[str]:
    """What keeps a server from streaming, a sentence each. `found`: the row of streamable.sql."""
    wrong = []
    if found["doorbells"] != "wal":
        wrong.append("This database has no publication for servers. Run `atlas-sync migrate --doorbells wal`.")
    if found["wal_level"] != "logical":
        wrong.append(f"wal_level is {found['wal_level']}. Set it to logical, and restart Postgres.")
    if not found["streams_allowed"]:
        wrong.append(f"This login may not stream. Run ALTER ROLE {quoted(found['login'])} REPLICATION.")
    if found["awaited"]:
        wrong.append(AWAITED)
    for name, free in (("max_replication_slots", found["free_slots"]), ("max_wal_senders", found["free_senders"])):
        if free <= 0 and not found["streams"]:
            wrong.append(f"No stream is left of {name}. Raise it by one for each server, and restart Postgres.")
    return wrong


class WalDoorbells:
    """`Doorbells` from a stream of the WAL. While there is none, LISTEN brings them."""

    def __init__(
        self,
        route: Route,
        pool: Pool,
        synced: Synced,
        listen: ListenDoorbells,
        offer: Callable[[Moved], object],
        folder: Path | None,
    ) -> None:
        """`folder`: where the processes of this machine find the one that streams for all."""
        self._route = route
        self._pool = pool
        self._synced = synced
        self._listen = listen
        self._offer = offer
        self._folder = folder
        self._stream: Stream | Followed | None = None
        self._decoding: Decoding | None = None
        synced.on_use.append(self._declared)
        route.history.on_change.append(self._leave)

    def _leave(self) -> None:
        """Stop streaming an earlier history."""
        if self._stream is not None:
            self._stream.end()

    def _declared(self) -> None:
        if self._decoding is not None:
            self._decoding.forget()

    async def obstacles(self) -> list[str]:
        """What keeps this server from streaming, a sentence each. Raises UnavailableError."""
        (found,) = await self._pool.fetch("streamable")
        return obstacles(found)

    async def run(self, ring: Callable[[str, int], object], up: Callable[[], None], down: Callable[[], None]) -> None:
        retry = Retry("changes are not streamed, listening instead", longest=30.0, alarm=self._route.history.alarm)
        async with asyncio.TaskGroup() as tasks:

            def listen() -> asyncio.Task[None]:
                return tasks.create_task(self._listen.run(ring, up, down), name="listen")

            listening = listen()
            while True:
                try:
                    async with self._streaming() as stream:
                        await self._settle(stream)
                        up()  # what was committed before the stream began is for the sweep to find
                        retry.reset()
                        listening.cancel()
                        await asyncio.wait([listening])
                        metrics.LISTENING.set(1)
                        metrics.STREAMING.set(1)
                        await self._watch(stream)
                except (UnavailableError, UnfitError) as error:
                    if listening.done():
                        down()
                        listening = listen()
                    await retry.pause(error)

    @contextlib.asynccontextmanager
    async def _streaming(self) -> AsyncIterator[Stream | Followed]:
        """Raises UnavailableError, UnfitError."""
        stream = await self._open()
        try:
            yield stream
        finally:
            self._stream = None
            stream.end()
            metrics.STREAMING.set(0)
            metrics.STREAM_BEHIND.set(0)

    async def _open(self) -> Stream | Followed:
        """Raises UnavailableError, UnfitError."""
        decoding = self._decoding = Decoding(self._synced)
        deliver, epoch = partial(self._deliver, decoding), self._route.history.epoch
        leading = None
        if self._folder is not None:
            try:
                leading = await take_lead(self._folder)
            except OSError as error:
                log.warning("changes are not shared with the other processes", error=str(error))
            else:
                if leading is None:
                    followed = self._stream = Followed(deliver)
                    with ending(followed):
                        decoding.declared = await followed.open(self._folder, epoch)
                    return followed
        stream = self._stream = Stream(deliver, leading)
        with ending(stream):
            decoding.declared = await stream.open(self._route.first, epoch)
            await stream.start()
            if leading is not None:
                leading.start(lambda: Hello(epoch, decoding.declared))
        return stream

    def _deliver(self, decoding: Decoding, committed: Committed) -> None:
        self._offer_some(decoding.moves(committed))

    def _offer_some(self, moves: Iterator[Moved]) -> None:
        """One transaction may move the feeds of a million users: others get the loop in between."""
        for moved in islice(moves, MOVES_IN_A_ROW):
            self._offer(moved)
        if (following := next(moves, None)) is not None:
            self._offer(following)
            asyncio.get_running_loop().call_soon(self._offer_some, moves)

    async def _settle(self, stream: Stream | Followed) -> None:
        """Return when every transaction has ended that was under way when the stream began. Its commit may be in the
        WAL before that moment, and be seen only after it. Raises UnavailableError."""
        horizon, pause = None, FIRST_LOOK_SECONDS
        while True:
            found = await self._look(stream, silence=False)
            if horizon is None:
                horizon = None if found is None else found["next"]
            elif found is not None and found["oldest"] >= horizon:
                return
            await stream.wait(pause)
            pause = min(2 * pause, HEARTBEAT_SECONDS)

    async def _watch(self, stream: Stream | Followed) -> None:
        """Raises UnavailableError when the stream has ended."""
        while True:
            await stream.prove()
            if isinstance(stream, Stream):
                await self._look(stream, silence=True)
            await stream.wait(HEARTBEAT_SECONDS)

    async def _look(self, stream: Stream | Followed, *, silence: bool) -> Any:
        """`silence`: keep NOTIFY silent. Returns the row of streaming.sql, or None if Postgres does not answer. Raises
        UnavailableError if the stream is of no use."""
        try:
            # A process that follows hears of its leader meanwhile, and that one of Postgres.
            async with asyncio.timeout(LOOK_SECONDS):
                (found,) = await self._pool.fetch("streaming", list(ENTRY), silence)
        except (UnavailableError, TimeoutError):
            return None  # nothing is lost: after two minutes NOTIFY rings again
        if not found["published"]:
            raise UnavailableError("The publication atlas_sync is gone, or lacks sync.log.")
        if found["awaited"]:
            raise UnavailableError(AWAITED)
        if isinstance(stream, Stream):
            behind = max(0, found["written"] - stream.received)
            metrics.STREAM_BEHIND.set(behind)
            if behind > MOST_BEHIND:
                raise UnavailableError("The stream is too far behind.")
        return found


@contextlib.contextmanager
def ending(stream: Stream | Followed) -> Iterator[None]:
    """End the stream if it cannot begin."""
    try:
        yield
    except BaseException:
        stream.end()
        raise
