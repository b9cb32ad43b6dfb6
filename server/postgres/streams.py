"""Streams in Postgres: one function call each, and LISTEN for what other processes did."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg

from server.exceptions import UnavailableError, UnfitError
from server.postgres.errors import StatementError
from server.postgres.listener import HEARTBEAT_SECONDS, Listening
from server.postgres.pool import Pool
from server.postgres.route import Route
from server.retry import Retry
from server.streams.ports import (
    Found,
    NoRowError,
    Opened,
    Part,
    Place,
    Settled,
    State,
    TooManyError,
)

CHANNEL: Final = "_streams"
"""What follows the database's name for its channel."""
SILENCE: Final = timedelta(seconds=30)
"""A writer that was silent for so long is gone: its stream has failed."""
NEVER: Final = timedelta(days=3650)
PATIENCE: Final = timedelta(seconds=10)
"""After its end the app has so long to write the row itself."""
LOCKED: Final = "The row, or its table, is locked at this moment."
HIDDEN: Final = "Row level security hides rows from Atlas Sync. Run `atlas-sync doctor`, which says of which table."


class PostgresStreams:
    """`StreamStore` on a pool of connections. `server`: the name of this process."""

    def __init__(self, pool: Pool, server: str) -> None:
        self._pool = pool
        self._server = server
        self._one = asyncio.Lock()
        """Held while the app's tables are read, which others may have locked: appends have a connection meanwhile."""

    async def open(self, id_: UUID, user: UUID, place: Place, most: int, *, restart: bool) -> Opened:
        key = list(place.key)
        try:
            async with self._one:
                (row,) = await self._fetch(
                    "open_stream", id_, user, place.tag, key, place.column, restart, most, self._server
                )
        except StatementError as error:
            if isinstance(error.__cause__, asyncpg.LockNotAvailableError):
                raise UnavailableError(LOCKED) from error
            raise
        match row["problem"]:
            case "unknown_row":
                raise NoRowError
            case "hidden":
                raise UnavailableError(HIDDEN)
            case "too_many":
                raise TooManyError
        return Opened(row["stream"], row["fresh"], State(row["state"]), row["since"], row["text"])

    async def append(self, parts: Sequence[Part]) -> set[UUID]:
        ids, ats, texts = zip(*parts, strict=True)
        return {row["stream"] for row in await self._fetch("append_streams", self._server, ids, ats, texts)}

    async def read(self, wants: Sequence[tuple[UUID, int]]) -> list[Found]:
        if not wants:
            return []
        ids, ats = zip(*wants, strict=True)
        return [_found(row) for row in await self._fetch("read_streams", ids, ats)]

    async def unsettled(self) -> list[Found]:
        return [_found(row) for row in await self._fetch("read_streams", None, None)]

    async def end(self, id_: UUID, state: State, expected: int | None, *, write: bool) -> tuple[State, int] | None:
        rows = await self._fetch("end_stream", self._server, id_, state, expected, write)
        return (State(rows[0]["state"]), rows[0]["at"]) if rows else None

    async def stop(self, ids: Sequence[UUID]) -> set[UUID]:
        return {row["stream"] for row in await self._fetch("stop_streams", ids)}

    async def touch(self, ids: Sequence[UUID]) -> None:
        await self._fetch("touch_streams", self._server, ids)

    async def lost(self, ids: Sequence[UUID]) -> set[UUID]:
        async with self._one:
            return {row["stream"] for row in await self._fetch("lost_streams", ids)}

    async def settle(self, *, silent: bool) -> list[Settled]:
        async with self._one:
            rows = await self._fetch("settle_streams", self._server, SILENCE if silent else NEVER, PATIENCE)
        return [
            Settled(row["stream"], State(row["ended"]), row["settled"], row["written"], row["trouble"]) for row in rows
        ]

    async def rotate(self) -> None:
        await self._fetch("rotate_streams")

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        return await self._pool.fetch(name, *arguments, although_blind=True)


def _found(row: Any) -> Found:
    id_, user, tag, key, column, since, state, settled, stopping, at, text = row
    return Found(id_, user, Place(tag, tuple(key), column), since, State(state), settled, stopping, at, text)


class StreamNotices:
    """`Notices` by LISTEN, on a connection of its own. `server`: the name of this process, whose notices it ignores."""

    def __init__(self, route: Route, server: str) -> None:
        self._route = route
        self._server = server
        self._listening: Listening | None = None
        route.history.on_change.append(self._leave)

    def _leave(self) -> None:
        """Stop listening to an earlier history."""
        if self._listening is not None:
            self._listening.end()

    async def run(
        self, heard: Callable[[float, list[UUID]], object], up: Callable[[], None], down: Callable[[], None]
    ) -> None:
        retry = Retry("word of streams does not arrive", longest=5.0, alarm=self._route.history.alarm)
        while True:
            self._listening = Listening(self._connect, partial(self._hear, heard), self._route.spare, CHANNEL)
            try:
                async with self._listening as listening:
                    up()
                    retry.reset()
                    while True:
                        await listening.listen(HEARTBEAT_SECONDS)
                        await listening.prove()
            except (UnavailableError, UnfitError) as error:
                down()
                await retry.pause(error)

    async def _connect(self) -> Any:
        return (await self._route.connect(required=True)).raw

    def _hear(self, heard: Callable[[float, list[UUID]], object], payload: str) -> None:
        # Any role may NOTIFY. A payload that is no notice is ignored.
        sender, _, rest = payload.rpartition(" ")[0].rpartition(" ")
        ids = payload.rpartition(" ")[2]
        if sender == self._server:
            return
        try:
            at = int(rest) / 1_000_000
            found = [UUID(ids[i : i + 32]) for i in range(0, len(ids), 32)]
        except (ValueError, OverflowError):
            return
        heard(at, found)
