"""Collects the pushes of all sockets while one transaction is under way, then commits them in one.

There is no timer: an idle server writes a push at once, a busy one finds more of them waiting for the next group. What
a commit costs (the flush, the lock that NOTIFY holds over it) is the same for one mutation as for hundreds.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from protocol.frames import Ack, Error
from server import metrics
from server.errors import UnavailableError
from server.write import rules
from server.write.allowance import Allowance
from server.write.isolation import Isolation, again
from server.write.mutation import Outcome, Push
from server.write.outage import Outage
from server.write.ports import Cause, WriteError, Writer
from server.write.suspects import Suspects

log = structlog.get_logger()

WAITING_BYTES: Final = 64 * 1024 * 1024
"""Of all pushes that wait. Devices keep what they push until it is acknowledged, so a server need not."""
BUSY_MILLISECONDS: Final = (1_000, 5_000)
"""After which a push that found the queue full may come again."""
GROUP_SECONDS: Final = 1.0
"""How long a group may take, and so how long one push can hold up others. A group takes some 20 ms."""
LONGEST_GROUP_SECONDS: Final = 15.0
"""Where a group is slow and no push of it is, the next ones get twice the time, up to this."""
DECAY: Final = 0.9
"""What a group that took less than a quarter of its time leaves of the time above GROUP_SECONDS."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    push: Push
    size: int
    answer: Callable[[Ack | Error], None]
    gone: Callable[[], bool]


class Batcher:
    """`batch`: mutations of one transaction at most."""

    def __init__(self, writer: Writer, allowance: Allowance, batch: int) -> None:
        self._writer = writer
        self._allowance = allowance
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
        self, push: Push, size: int, answer: Callable[[Ack | Error], None], gone: Callable[[], bool] = lambda: False
    ) -> None:
        """Have a push of `size` bytes written, and then `answer` called, once; within this call if it is refused.

        Not if its connection is `gone` before: what the next one pushes must not meet a push that waited here.
        """
        now = asyncio.get_running_loop().time()
        until = max(self._outage.until, self._suspects.held_until(push.user, push.client_id))
        if now < until:
            answer(rules.unavailable(push, again(until - now)))
        elif self._bytes + size > WAITING_BYTES:
            answer(rules.unavailable(push, random.randrange(*BUSY_MILLISECONDS)))
        elif (wait := self._allowance.take(push.user, max(1, len(push.mutations)), now)) > 0:
            answer(rules.slow_down(push, int(wait * 1000) + 1))
        elif push.user in self._suspects:
            self._isolate([_Waiting(push, size, answer, gone)], None)
        else:
            self._waiting.append(_Waiting(push, size, answer, gone))
            self._bytes += size
            self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
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
            # Everybody, not only this group: nothing is kept that a device keeps anyway.
            for each in (*group, *self._waiting):
                each.answer(rules.unavailable(each.push, again(pause)))
            self._bytes -= sum(each.size for each in self._waiting)
            self._waiting.clear()
            self._wake.clear()
        except WriteError as error:
            log.info(
                "a group failed, each push is tried by itself",
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
            # After the next group is on its way: Postgres works while we tell.
            loop.call_soon(self._tell, group, outcomes)

    def _take(self) -> list[_Waiting]:
        """The next group, first come first served, one push of a client_id (a second connection may have it), in the
        order of their ids: groups of other processes take their locks in the same order, and cannot deadlock."""
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

    def _tell(self, group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        unfinished = []
        for each, outcome in zip(group, outcomes, strict=True):
            if outcome.unfinished(each.push):
                unfinished.append(each)
            else:
                each.answer(rules.answer(each.push, outcome))
        if unfinished:
            self._isolate(unfinished, None)

    def _isolate(self, group: list[_Waiting], cause: Cause | None) -> None:
        """Have each push of the group carried out by itself. `cause`: of the group's failure."""
        self._bytes += sum(each.size for each in group)
        task = asyncio.get_running_loop().create_task(self._carry_out(group, cause))
        self._isolated.add(task)
        task.add_done_callback(self._isolated.discard)

    async def _carry_out(self, group: list[_Waiting], cause: Cause | None) -> None:
        await asyncio.gather(*(self._carry_out_one(each) for each in group))
        if cause is Cause.TIME and not any(each.push.user in self._suspects for each in group):
            self._seconds = min(2 * self._seconds, LONGEST_GROUP_SECONDS)

    async def _carry_out_one(self, each: _Waiting) -> None:
        try:
            answer = await self._isolation.carry_out(each.push, each.gone)
        finally:
            self._bytes -= each.size
        if answer is not None:
            each.answer(answer)
