"""Doorbells from the WAL: each committed transaction that moved feeds, with the rows that it left."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from server import metrics
from server.declaration.sql.pieces import quoted
from server.declaration.synced import Synced
from server.exceptions import UnavailableError, UnfitError
from server.feed.ports import Moved
from server.postgres.listener import ListenDoorbells
from server.postgres.pool import Pool
from server.postgres.route import Route
from server.postgres.wal.decoding import Decoding
from server.postgres.wal.pgoutput import Committed
from server.postgres.wal.relay import Followed, Hello, lead
from server.postgres.wal.stream import Stream
from server.retry import Retry

log = structlog.get_logger()

HEARTBEAT_SECONDS: Final = 5.0
"""Seconds between two proofs that the stream is alive; each time NOTIFY is kept silent, too."""
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
        wrong.append(
            "synchronous_standby_names has *, so that each commit would wait for this server. Name the standbys there."
        )
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
        retry = Retry("changes cannot be streamed, listening instead", longest=30.0, alarm=self._route.history.alarm)
        async with asyncio.TaskGroup() as tasks:
            while True:
                listening = tasks.create_task(self._listen.run(ring, up, down), name="listen")
                stream = await self._begin(retry)
                retry.reset()
                up()  # what was committed before the stream began is for the sweep to find
                listening.cancel()
                await asyncio.wait([listening])
                metrics.LISTENING.set(1)
                metrics.STREAMING.set(1)
                try:
                    await self._watch(stream)
                except UnavailableError as error:
                    log.warning("the stream of changes ended, listening instead", error=str(error))
                finally:
                    self._stream = None
                    stream.end()
                    metrics.STREAMING.set(0)
                    metrics.STREAM_BEHIND.set(0)
                down()

    async def _begin(self, retry: Retry) -> Stream | Followed:
        while True:
            try:
                return await self._open()
            except (UnavailableError, UnfitError) as error:
                await retry.pause(error)

    async def _open(self) -> Stream | Followed:
        """Raises UnavailableError, UnfitError."""
        decoding = self._decoding = Decoding(self._synced)
        deliver, epoch = partial(self._deliver, decoding), self._route.history.epoch
        leading = None if self._folder is None else lead(self._folder)
        if self._folder is not None and leading is None:
            followed = self._stream = Followed(deliver)
            with ending(followed):
                decoding.declared = await followed.open(self._folder, epoch)
            return followed
        stream = self._stream = Stream(deliver, leading)
        with ending(stream):
            if leading is not None:
                await leading.open()
            decoding.declared = await stream.open(self._route.first, epoch)
            await stream.start()
            if leading is not None:
                leading.start(lambda: Hello(epoch, decoding.declared))
        return stream

    def _deliver(self, decoding: Decoding, committed: Committed) -> None:
        for moved in decoding.moves(committed):
            self._offer(moved)

    async def _watch(self, stream: Stream | Followed) -> None:
        """Raises UnavailableError when the stream has ended."""
        while True:
            await stream.prove()
            if isinstance(stream, Stream):
                # If it fails, nothing is lost: after two minutes NOTIFY rings again.
                with contextlib.suppress(UnavailableError):
                    await self._look(stream)
            await stream.wait(HEARTBEAT_SECONDS)

    async def _look(self, stream: Stream) -> None:
        """Keep NOTIFY silent, and end a stream that is too far behind. Raises UnavailableError."""
        (record,) = await self._pool.fetch("streaming")
        behind = max(0, record["written"] - stream.received)
        metrics.STREAM_BEHIND.set(behind)
        if behind > MOST_BEHIND:
            stream.end()


@contextlib.contextmanager
def ending(stream: Stream | Followed) -> Iterator[None]:
    """End the stream if it cannot begin."""
    try:
        yield
    except BaseException:
        stream.end()
        raise
