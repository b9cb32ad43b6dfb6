"""A story: mutations of one conversation whose effects are known; and its delivery to a server that may go away."""

import asyncio
import random
from collections import Counter
from typing import Any
from uuid import UUID, uuid4

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from protocol.frames import Ack, Rejected, Result, Welcome
from tests.support.audit import Audit, audit
from tests.support.device import NOBODYS, PushingDevice, greeting_device, now
from tests.support.rows import (
    CreateConversation,
    CreateMessage,
    DeleteMessage,
    EditMessage,
    Mutation,
    RenameConversation,
)

CUT_OFF = (ConnectionClosed, InvalidHandshake, OSError, EOFError, TimeoutError)
"""How a connection ends that a test breaks."""


class Story:
    """Mutations of one conversation, some of them bad, each with its own text; and the audit that the database must
    hold when each was applied exactly once, in order."""

    def __init__(self, rng: random.Random, length: int) -> None:
        self.conversation = uuid4()
        self.mutations: list[Mutation] = []
        self.audit: Audit = []
        self.rejected: dict[int, str] = {}
        self.ids = [self.conversation]
        self._rng = rng
        self._messages: list[tuple[UUID, int, str]] = []
        self._add(CreateConversation(self.conversation, "0", now()), ("INSERT", self.conversation, "0"))
        while len(self.mutations) < length:
            self._go_on(str(len(self.mutations)))

    def _add(self, mutation: Mutation, audited: tuple[str, UUID, str] | None) -> None:
        self.mutations.append(mutation)
        if audited is not None:
            self.audit.append(audited)

    def _go_on(self, text: str) -> None:
        choice = self._rng.random()
        if choice < 0.3:
            self._add(RenameConversation(self.conversation, text, now()), ("UPDATE", self.conversation, text))
        elif choice < 0.6 or not self._messages:
            message, at = uuid4(), now()
            self.ids.append(message)
            self._messages.append((message, at, text))
            self._add(CreateMessage(message, self.conversation, "user", text, at), ("INSERT", message, text))
        elif choice < 0.8:
            which = self._rng.randrange(len(self._messages))
            message, at, _ = self._messages[which]
            self._messages[which] = message, at, text
            self._add(EditMessage(message, at, text, now()), ("UPDATE", message, text))
        elif choice < 0.9:
            message, at, last = self._messages.pop(self._rng.randrange(len(self._messages)))
            self._add(DeleteMessage(message, at), ("DELETE", message, last))
        else:
            self.rejected[len(self.mutations) + 1] = "unknown_row"
            self._add(RenameConversation(NOBODYS, text, now()), None)

    async def told(self, sql: Any) -> Audit:
        return await audit(sql, *self.ids)


class Delivery:
    """Pushes a story to a server that may go away at any moment: a mutation without a result is sent again."""

    def __init__(self, user: UUID, story: Story, rng: random.Random) -> None:
        self.user = user
        self.story = story
        self.client_id = uuid4()
        self.results: list[Result] = []
        self.connections = 0
        self.errors: Counter[str] = Counter()
        self._rng = rng

    @property
    def done(self) -> bool:
        return len(self.results) == len(self.story.mutations)

    def kinds(self) -> Counter[str]:
        return Counter(type(result).__name__ for result in self.results)

    async def deliver(self, url: str) -> None:
        """Push until everything has a result. The caller bounds the time."""
        while True:
            try:
                self.connections += 1
                async with greeting_device(url, self.user, self.client_id, generation=self.connections) as device:
                    await device.hear_a(Welcome)
                    await self._deliver_on(device)
                return
            except CUT_OFF:
                await asyncio.sleep(self._rng.random() * 0.02)

    async def _deliver_on(self, device: PushingDevice) -> None:
        while not self.done:
            rest = self.story.mutations[len(self.results) :][: self._rng.randint(1, 6)]
            first = len(self.results) + 1
            await device.say_push(*rest, n=first, held=first)
            answer = await device.answer()
            if isinstance(answer, Ack):
                assert [result.n - len(self.results) for result in answer.results] == list(range(1, len(rest) + 1))
                self.results += answer.results
            else:
                self.errors[answer.code] += 1
                assert answer.code in ("unavailable", "slow_down"), answer
                await asyncio.sleep((answer.retry_after or 0) / 1_000)

    async def check(self, sql: Any) -> None:
        """Every mutation has its result, and was applied once and in order."""
        story = self.story
        assert self.done
        assert {result.n: result.code for result in self.results if isinstance(result, Rejected)} == story.rejected
        assert await story.told(sql) == story.audit
