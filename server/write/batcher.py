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
LONGEST_HOLD: Final = 60.0
"""Seconds between two tries of a user whose rows somebody has locked: each try holds up everybody, for two seconds."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    push: Push
    size: int
    answer: Callable[[Ack | Error], None]


@dataclass(frozen=True, slots=True)
class _Held:
    """A user who must wait, because the last so many tries in a row could not be carried through."""

    failures: int
    until: float


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
        self._held: dict[UUID, _Held] = {}

    def put(self, push: Push, size: int, answer: Callable[[Ack | Error], None]) -> None:
        """Have a push of `size` bytes written, and then `answer` called, once; within this call if it is refused."""
        now = asyncio.get_running_loop().time()
        held = self._held.get(push.user)
        until = self._away_until if held is None else max(self._away_until, held.until)
        if now < until:
            answer(rules.unavailable(push, _again(until - now)))
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
            metrics.PUSH_GROUP_MUTATIONS.observe(sum(len(each.push.mutations) for each in group))
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
            loop.call_soon(self._tell, group, outcomes)

    def _take(self) -> list[_Waiting]:
        """The next group, first come first served, one push of a client_id (a second connection may have it), in the
        order of their users: groups of other processes take their locks in the same order, and cannot deadlock."""
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
            mutations += size
            clients.add(client)
            group.append(each)
        if not self._waiting:
            self._wake.clear()
        group.sort(key=lambda each: each.push.user.bytes)
        return group

    def _tell(self, group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        for each, outcome in zip(group, outcomes, strict=True):
            push = each.push
            if outcome.trouble is not None:
                log.warning("the database refused a mutation", user=str(push.user), trouble=outcome.trouble)
            if outcome.unfinished(push):
                each.answer(rules.unavailable(push, _again(self._hold(push.user))))
            else:
                self._held.pop(push.user, None)
                each.answer(rules.answer(push, outcome))

    def _hold(self, user: UUID) -> float:
        held = self._held.get(user)
        failures = 1 if held is None else held.failures + 1
        pause = min(2.0**failures, LONGEST_HOLD)
        self._held[user] = _Held(failures, asyncio.get_running_loop().time() + pause)
        return pause


def _again(seconds: float) -> int:
    """Milliseconds after which to push again, for each device another: they all hear it in the same moment."""
    return int(seconds * 1000) + random.randrange(200, 2_000)
