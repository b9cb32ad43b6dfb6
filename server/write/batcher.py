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

import structlog

from protocol.frames import Ack, Error
from server.backoff import backoff
from server.errors import UnavailableError
from server.write import rules
from server.write.allowance import Allowance
from server.write.mutation import Outcome, Push
from server.write.ports import Writer

log = structlog.get_logger()

WAITING_BYTES: Final = 64 * 1024 * 1024
"""Of all pushes that wait. Devices keep what they push until it is acknowledged, so a server need not."""
BUSY_MILLISECONDS: Final = (1_000, 5_000)
"""After which a push that found the queue full may come again."""
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries while Postgres is away."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    push: Push
    size: int
    answer: Callable[[Ack | Error], None]


class Batcher:
    """`batch`: mutations of one transaction at most."""

    def __init__(self, writer: Writer, allowance: Allowance, batch: int) -> None:
        self._writer = writer
        self._allowance = allowance
        self._batch = batch
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._away_until = 0.0
        """The loop's clock. Postgres is not tried before; whoever pushes meanwhile is told so at once."""

    def put(self, push: Push, size: int, answer: Callable[[Ack | Error], None]) -> None:
        """Have a push of `size` bytes written, and then `answer` called, once; within this call if it is refused."""
        now = asyncio.get_running_loop().time()
        if now < self._away_until:
            answer(rules.unavailable(push, _again(self._away_until - now)))
        elif self._bytes + size > WAITING_BYTES:
            answer(rules.unavailable(push, random.randrange(*BUSY_MILLISECONDS)))
        elif (wait := self._allowance.take(push.user, len(push.mutations), now)) > 0:
            answer(rules.slow_down(push, int(wait * 1000) + 1))
        else:
            self._waiting.append(_Waiting(push, size, answer))
            self._bytes += size
            self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            await self._wake.wait()
            group = self._take()
            try:
                outcomes = await self._writer.write([each.push for each in group])
            except UnavailableError as error:
                failures += 1
                pause = backoff(failures, LONGEST_PAUSE)
                log.warning("postgres takes no pushes", error=str(error), pushes=len(group), again_in=pause)
                self._away_until = loop.time() + pause
                # Everybody, not only this group: nothing is kept that a device keeps anyway.
                for each in (*group, *self._waiting):
                    each.answer(rules.unavailable(each.push, _again(pause)))
                self._waiting.clear()
                self._bytes = 0
                self._wake.clear()
                continue
            failures = 0
            # After the next group is on its way: Postgres works while we tell.
            loop.call_soon(_tell, group, outcomes)

    def _take(self) -> list[_Waiting]:
        """The next group, first come first served, in the order of their users: groups of other processes take their
        locks in the same order, and cannot deadlock with it."""
        group: list[_Waiting] = []
        mutations = 0
        while self._waiting and (not group or mutations + len(self._waiting[0].push.mutations) <= self._batch):
            each = self._waiting.popleft()
            mutations += len(each.push.mutations)
            self._bytes -= each.size
            group.append(each)
        if not self._waiting:
            self._wake.clear()
        group.sort(key=lambda each: each.push.user.bytes)
        return group


def _again(seconds: float) -> int:
    """Milliseconds after which to push again, for each device another: they all hear it in the same moment."""
    return int(seconds * 1000) + random.randrange(200, 2_000)


def _tell(group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
    for each, outcome in zip(group, outcomes, strict=True):
        push = each.push
        if outcome.trouble is not None:
            consumed = outcome.after >= push.last
            log.warning(
                "the database refused a mutation", user=str(push.user), trouble=outcome.trouble, consumed=consumed
            )
        each.answer(rules.answer(push, outcome))
