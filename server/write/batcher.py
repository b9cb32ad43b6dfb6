"""Collects the pushes of all connections while one transaction is in progress, then commits them in the next.

There is no timer. An idle server applies a push at once; a busy one finds more pushes waiting for the next group. A
commit costs the same (the flush, the lock that NOTIFY holds over it) for one mutation as for hundreds.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct

from protocol.frames import Ack, Error, Milliseconds
from server import metrics
from server.exceptions import UnavailableError
from server.rate_limit import TokenBuckets
from server.write import rules
from server.write.isolation import Isolation, again
from server.write.outage import Outage
from server.write.ports import Cause, WriteError, Writer
from server.write.push import Outcome, OwnedPush
from server.write.suspects import Suspects

log = structlog.get_logger()

WAITING_BYTES: Final = 64 * 1024 * 1024
"""Size of all waiting pushes. Devices keep mutations until they are acknowledged, so a server need not."""
BUSY_MILLISECONDS: Final = (1_000, 5_000)
"""Range of the delay after which a push that found the queue full may be sent again."""
GROUP_SECONDS: Final = 1.0
"""Longest duration of a group, and so the longest time that one push can delay others. A group takes some 20 ms."""
LONGEST_GROUP_SECONDS: Final = 15.0
"""If a group is too slow and none of its pushes is, the next groups get twice the time, up to this."""
DECAY: Final = 0.9
"""Factor by which the time above GROUP_SECONDS shrinks after a group that needed less than a quarter of its time."""


class _Waiting(Struct, frozen=True):
    push: OwnedPush
    size: int
    answer: Callable[[Ack | Error], None]
    gone: Callable[[], bool]


class Batcher:
    """`batch`: the most mutations of one transaction."""

    def __init__(self, writer: Writer, buckets: TokenBuckets, batch: int) -> None:
        self._writer = writer
        self._buckets = buckets
        self._batch = batch
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._seconds = GROUP_SECONDS
        self._outage = Outage()
        self._suspects = Suspects()
        self._isolation = Isolation(writer, self._suspects, self._outage)
        self._isolated: set[asyncio.Task[None]] = set()

    def put(
        self,
        push: OwnedPush,
        size: int,
        answer: Callable[[Ack | Error], None],
        gone: Callable[[], bool] = lambda: False,
    ) -> None:
        """Apply a push of `size` bytes, then call `answer` once; within this call if it is refused.

        A push whose connection is `gone` before is dropped: it must not be applied after a push of the next connection.
        """
        now = asyncio.get_running_loop().time()
        until = max(self._outage.until, self._suspects.held_until(push.user, push.client_id))
        if now < until:
            answer(rules.unavailable(push, again(until - now)))
        elif self._bytes + size > WAITING_BYTES:
            answer(rules.unavailable(push, Milliseconds(random.randrange(*BUSY_MILLISECONDS))))
        elif (wait := self._buckets.take(push.user, max(1, len(push.mutations)), now)) > 0:
            answer(rules.slow_down(push, Milliseconds(int(wait * 1000) + 1)))
        elif push.user in self._suspects:
            self._isolate([_Waiting(push, size, answer, gone)], None)
        else:
            self._waiting.append(_Waiting(push, size, answer, gone))
            self._bytes += size
            self._wake.set()

    def postgres_is_back(self) -> None:
        """Postgres answered somebody else. Try it with the next push, and not after the pause."""
        self._outage.may_be_over()

    async def run(self) -> None:
        """Apply pushes until cancelled."""
        try:
            while True:
                await self._wake.wait()
                if group := self._take():
                    await self._write(group)
        finally:
            for task in self._isolated:
                task.cancel()

    async def _write(self, group: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        metrics.PUSH_GROUP_MUTATIONS.observe(sum(len(each.push.mutations) for each in group))
        try:
            outcomes = await self._writer.write([each.push for each in group], self._seconds)
        except UnavailableError as error:
            pause = self._outage.met(error, loop.time())
            # All waiting pushes, not only this group: the devices keep them anyway.
            for each in (*group, *self._waiting):
                each.answer(rules.unavailable(each.push, again(pause)))
            self._bytes -= sum(each.size for each in self._waiting)
            self._waiting.clear()
            self._wake.clear()
        except WriteError as error:
            log.info(
                "a group failed, its pushes are applied one by one",
                cause=error.cause.name.lower(),
                trouble=str(error),
                pushes=len(group),
            )
            for each in group:
                self._suspects.add(each.push.user, loop.time())
            self._isolate(group, error.cause)
        else:
            self._outage.over()
            if loop.time() - begun < self._seconds / 4:
                self._seconds = GROUP_SECONDS + DECAY * (self._seconds - GROUP_SECONDS)
            # Answer after the next group has been sent, so that Postgres works meanwhile.
            loop.call_soon(self._answer, group, outcomes)

    def _take(self) -> list[_Waiting]:
        """The next group: first come first served, one push of each client_id (a second connection may have it too).

        It is sorted by ids: all processes take their locks in the same order, so they cannot deadlock."""
        group: list[_Waiting] = []
        clients: set[tuple[UUID, UUID]] = set()
        mutations = 0
        while self._waiting:
            each = self._waiting[0]
            client, size = (each.push.user, each.push.client_id), len(each.push.mutations)
            if group and (mutations + size > self._batch or client in clients):
                break
            self._waiting.popleft()
            self._bytes -= each.size
            if each.gone():
                continue
            mutations += size
            clients.add(client)
            group.append(each)
        if not self._waiting:
            self._wake.clear()
        group.sort(key=lambda each: (each.push.user.bytes, each.push.client_id.bytes))
        return group

    def _answer(self, group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        unfinished = []
        for each, outcome in zip(group, outcomes, strict=True):
            if outcome.unfinished(each.push):
                unfinished.append(each)
            else:
                each.answer(rules.answer(each.push, outcome))
        if unfinished:
            self._isolate(unfinished, None)

    def _isolate(self, group: list[_Waiting], cause: Cause | None) -> None:
        """Apply each push of the group alone. `cause`: why the group failed."""
        self._bytes += sum(each.size for each in group)
        task = asyncio.get_running_loop().create_task(self._apply_alone(group, cause))
        self._isolated.add(task)
        task.add_done_callback(self._isolated.discard)

    async def _apply_alone(self, group: list[_Waiting], cause: Cause | None) -> None:
        await asyncio.gather(*(self._apply_one(each) for each in group))
        if cause is Cause.TIME and not any(each.push.user in self._suspects for each in group):
            self._seconds = min(2 * self._seconds, LONGEST_GROUP_SECONDS)

    async def _apply_one(self, each: _Waiting) -> None:
        try:
            answer = await self._isolation.apply(each.push, each.gone)
        finally:
            self._bytes -= each.size
        if answer is not None:
            each.answer(answer)
