"""Reads that a replica can answer. What it answers is checked against what the device has, and never more than that: a
replica may lag, and only the primary knows whether a device has everything."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from protocol.cursor import Position
from server import metrics
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.change import Reading, same
from server.feed.ports import Answer, Asked, ReadKey, Replica, Store, Want

T = TypeVar("T")

LAG_SECONDS: Final = 5.0
"""A replica that lags by more is left: it can answer few devices, and each costs a second statement."""
LAG_SECONDS_BACK: Final = 1.0
"""It is used again when it lags by no more than this."""
PATIENCE: Final = 1.0
"""Seconds for a read. None of ours takes a tenth of it, and the primary waits to do it."""
SILENT: Final = "It does not answer in time."
REMEMBERED: Final = 60
"""Positions of the primary that `Lag` remembers."""


class Replicas:
    """`Rows` and `RowsOfMany`, from one of `replicas`, or from `primary` where none can answer; and the feed, from a
    replica.

    `reached_end` is called when readers have all that a replica has.
    """

    def __init__(
        self, primary: Store, replicas: Sequence[Replica], synced: Synced, reached_end: Callable[[], object]
    ) -> None:
        self._primary = primary
        self._synced = synced
        self._replicas = deque(replicas)
        self.reached_end = reached_end

    async def catch_up(self, keys: Sequence[ReadKey], rows: int, content_bytes: int) -> list[Reading] | None:
        """A replica's readings, which may lag behind the keys. None if no replica can be read."""
        readings = await self._ask(lambda store: store.read_feed(keys, rows, content_bytes))
        metrics.READS.labels("primary" if readings is None else "replica").inc()
        return readings

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        if since is not None:
            answer = await self._ask(lambda store: store.rows(kind, user, wants, content_bytes, since))
            if answer is not None and self._usable(answer, since):
                metrics.READS.labels("replica").inc()
                return answer
        metrics.READS.labels("primary").inc()
        return await self._primary.rows(kind, user, wants, content_bytes, since)

    async def rows_of(self, kind: Kind, asked: Sequence[Asked], content_bytes: int) -> list[Answer]:
        found: dict[int, Answer] = {}
        since = {i: each.since for i, each in enumerate(asked) if each.since is not None}
        if since:
            some = [asked[i] for i in since]
            answers = await self._ask(lambda store: store.rows_of(kind, some, content_bytes)) or []
            pairs = zip(since.items(), answers, strict=False)  # none if no replica answers
            found = {i: answer for (i, position), answer in pairs if self._usable(answer, position)}
        if found:
            metrics.READS.labels("replica").inc()
        left = [i for i in range(len(asked)) if i not in found]
        if left:
            metrics.READS.labels("primary").inc()
            answers = await self._primary.rows_of(kind, [asked[i] for i in left], content_bytes)
            found |= zip(left, answers, strict=True)
        return [found[i] for i in range(len(asked))]

    def _usable(self, answer: Answer, since: Position) -> bool:
        """Whether a device at `since` can apply a replica's answer. That a user does not sync, only the primary can
        say."""
        position = answer.position
        return self._synced.admits(answer.tier) and (
            position.seq > since.seq or (position.seq == since.seq and same(position.mark, since.mark))
        )

    async def _ask(self, read: Callable[[Store], Awaitable[T]]) -> T | None:
        """What a replica answers; None if none is usable, or the one that was asked fails."""
        for _ in range(len(self._replicas)):
            replica = self._replicas[0]
            self._replicas.rotate(-1)
            if replica.usable:
                break
        else:
            return None
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await read(replica.store)
                # After the read: a replica that was promoted meanwhile may have read what the primary never had.
                await replica.check()
        except (UnavailableError, TimeoutError) as error:
            replica.leave(str(error) or SILENT)
            return None
        return answer


class Lag:
    """How far a replica is behind, from positions in the primary's WAL at different times. Sans-I/O."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=REMEMBERED)

    def primary_at(self, wal: int, now: float) -> None:
        """The primary's WAL reached `wal` at the time `now`, in seconds."""
        self._seen.append((now, wal))

    def ahead(self, replayed: int) -> bool:
        """Whether a replica that has replayed so much has more than the primary had when it was last asked. If the
        primary was asked after the replica, it has lost what the replica holds."""
        return not self._seen or replayed > self._seen[-1][1]

    def of(self, replayed: int, now: float) -> float:
        """Seconds by which a replica lags that has replayed so much; infinite if it lags by more than is remembered."""
        if not self._seen or replayed >= self._seen[-1][1]:
            return 0.0
        return min((now - at for at, wal in self._seen if wal <= replayed), default=float("inf"))
