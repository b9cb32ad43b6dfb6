"""Applies pushes one by one after a transaction with them failed, so that other users do not wait for the failing one.

A push that fails alone is applied mutation by mutation. The failing mutation is rejected, or its device is held back.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog
from msgspec.structs import replace

from protocol.frames import Ack, Error, Milliseconds
from server.exceptions import UnavailableError
from server.turns import Turns
from server.write import rules
from server.write.outage import Outage
from server.write.ports import Cause, WriteError, Writer
from server.write.push import Outcome, OwnedPush
from server.write.suspects import Suspects

log = structlog.get_logger()

QUICK: Final = 2
"""Pushes in progress of users without a known problem; mostly milliseconds each."""
SLOW: Final = 2
"""Pushes in progress of users whose attempts may take long."""
CONNECTIONS: Final = QUICK + SLOW
BUDGET: Final = 5.0
"""Seconds after which a push that makes progress is interrupted: the device sends the rest again."""
JITTER_MILLISECONDS: Final = (200, 2_000)


class Isolation:
    """Applies pushes alone, one of a user at a time."""

    def __init__(self, writer: Writer, suspects: Suspects, outage: Outage) -> None:
        self._writer = writer
        self._suspects = suspects
        self._outage = outage
        self._users = Turns(None)
        self._lanes = {False: asyncio.Semaphore(QUICK), True: asyncio.Semaphore(SLOW)}

    async def apply(self, push: OwnedPush, gone: Callable[[], bool]) -> Ack | Error | None:
        """Apply the push alone. Returns the answer; None if its connection is `gone` before."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + BUDGET
        slow = ended = False
        before: int | None = None
        done = 0
        at_once = len(push.mutations)
        while True:
            part = push.head(done + at_once)
            found = await self._try(part, gone, slow=slow)
            if found is None:
                return None
            if isinstance(found, float):
                return rules.unavailable(push, again(found))
            if isinstance(found, WriteError):
                slow = slow or found.cause is not Cause.RULE
                if at_once > 1:
                    at_once = 1
                    continue
                if found.cause is Cause.END and not ended:
                    ended = True  # the connection may have been dead already: the next one is new
                    continue
                code = self._judge(part, found, loop.time())
                if code is None or not push.mutations:
                    wait = max(0.0, self._suspects.held_until(push.user, push.client_id) - loop.time())
                    return rules.unavailable(push, again(wait))
                push = push.rejecting(done, code)
                continue
            if before is None:
                before = found.before
                # If another connection claims the client_id from now on, it keeps it.
                push = replace(push, claims_client_id=False)
            lost = found.error is not None or push.first > found.before + 1
            if lost or found.after >= push.last:
                self._suspects.passed(push.user, push.client_id, loop.time())
                return rules.answer(push, found if lost else replace(found, before=before))
            done = found.after - push.first + 1
            at_once = min(2 * at_once, len(push.mutations) - done)
            slow = slow or found.unfinished(part)
            if loop.time() > deadline:
                return rules.unavailable(push, again(0))

    async def _try(
        self, push: OwnedPush, gone: Callable[[], bool], *, slow: bool
    ) -> Outcome | WriteError | float | None:
        """Run one transaction. Returns its outcome or error, or the seconds to wait first if it must not run now."""
        loop = asyncio.get_running_loop()
        user, client_id = push.user, push.client_id
        # One attempt of a user at a time. A user whose attempts take long is then known to be slow.
        async with self._users.of(user), self._lanes[slow or self._suspects.slow(user)]:
            if gone():
                return None
            begun = loop.time()
            if (wait := max(self._outage.until, self._suspects.held_until(user, client_id)) - begun) > 0:
                return wait
            try:
                (outcome,) = await self._writer.write([push], self._suspects.seconds(user, client_id))
            except UnavailableError as error:
                return self._outage.met(error, loop.time())
            except WriteError as error:
                return error
        self._suspects.took(user, loop.time() - begun, loop.time())
        self._outage.over()
        return outcome

    def _judge(self, push: OwnedPush, error: WriteError, now: float) -> str | None:
        """The last mutation of `push` failed alone. Returns the code to reject it with; None if its device is held
        back."""
        code = self._suspects.failed(push.user, push.client_id, push.last, error.cause, now)
        log.warning(
            "a mutation cannot be applied now" if code is None else "the database rejected a mutation",
            user=str(push.user),
            cause=error.cause.name.lower(),
            trouble=str(error),
        )
        return f"{code}{error.where}" if code == "refused" else code


def again(seconds: float) -> Milliseconds:
    """The delay after which to push again. Random, because all devices are told at the same moment."""
    return Milliseconds(int(seconds * 1000) + random.randrange(*JITTER_MILLISECONDS))
