"""Reads one by one for readers with whom a statement for many failed, so that only those wait whose rows are the cause.

A row that Postgres cannot convert, or not in time, fails each statement that reads it.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from server.exceptions import UnavailableError
from server.feed.change import Reading
from server.feed.hub import Cohort, Hub
from server.feed.ports import ReadingError, ReadKey, Store

log = structlog.get_logger()

GROUP_SECONDS: Final = 4.0
"""A statement for several readers is given up after so long, and they are read for one by one. One that succeeds takes
less than a second."""
FIRST_SECONDS: Final = 1.0
"""How long a statement for one may take at first. Each failure doubles it, so that a slow one succeeds in the end."""
LONGEST_SECONDS: Final = 15.0
FIRST_PAUSE: Final = 0.5
"""Seconds between the first failure of a user's statement and the next attempt. Each further failure doubles them."""
LONGEST_PAUSE: Final = 60.0
MOST_FAILURES: Final = 3
"""After so many failures among the readers of a group, the rest is queued again. If no statement for one of them has
succeeded until then, Postgres is the cause, and nobody is set apart."""
AT_ONCE: Final = 1
"""Statements for one reader in progress, beside the lanes. Each may occupy one of the pool's few connections for long.
So users whose statements fail wait for each other, and the lanes wait for none of them."""
WATCHED: Final = 60.0
"""Seconds for which a user is read for alone after a failure, or after a statement that took longer than LONG."""
LONG: Final = 0.25
"""Seconds."""
PRUNE_FROM: Final = 10_000
"""Beyond so many users, those that are not read for alone any more are forgotten."""

Failing = list[tuple[Cohort, Exception]]


@dataclass(slots=True)
class _Suspect:
    until: float
    """Read for alone up to this time."""
    failures: int = 0
    """In a row."""
    held_until: float = 0.0


class Apart:
    """`request` makes the arguments of `Store.read_feed`. `deliver` gets each reading that was made alone, `notify` the
    cohorts that have to wait for longer."""

    def __init__(
        self,
        hub: Hub,
        store: Store,
        request: Callable[[Sequence[Cohort]], tuple[list[ReadKey], int, int]],
        deliver: Callable[[Cohort, Reading], None],
        notify: Callable[[Sequence[Cohort]], None],
    ) -> None:
        self._hub = hub
        self._store = store
        self._request = request
        self._deliver = deliver
        self._notify = notify
        self._suspects: dict[str, _Suspect] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self.spawn: Callable[[Coroutine[Any, Any, None]], object] = asyncio.ensure_future
        """Starts a task."""

    async def read(self, cohorts: Sequence[Cohort]) -> list[tuple[Cohort, Reading]]:
        """A reading for each cohort, except for those that are read for alone or queued again: they go back to the hub.
        Raises UnavailableError; then all are still the caller's."""
        alone: list[Cohort] = []
        together: list[Cohort] = []
        for cohort in cohorts:
            (alone if self.holds(cohort.feed.user) else together).append(cohort)
        found: list[tuple[Cohort, Reading]] = []
        failing: Failing = []
        if together:
            try:
                async with asyncio.timeout(GROUP_SECONDS):
                    readings = await self._store.read_feed(*self._request(together))
                found = list(zip(together, readings, strict=True))
            except (TimeoutError, ReadingError) as error:
                if len(together) == 1:
                    failing = [(together[0], error)]
                else:
                    found, failing = await self._one_by_one(together)
        for cohort, trouble in failing:
            self._failed(cohort.feed.user, trouble)
            alone.append(cohort)
        for cohort in alone:
            self.spawn(self._read_alone(cohort))
        return found

    async def _one_by_one(self, cohorts: Sequence[Cohort]) -> tuple[list[tuple[Cohort, Reading]], Failing]:
        """The readings, and whose statement failed. The others are queued again."""
        found: list[tuple[Cohort, Reading]] = []
        failing: Failing = []
        left = random.sample(cohorts, len(cohorts))  # so that those that fail are not always the first
        while left and len(failing) < MOST_FAILURES:
            cohort = left.pop()
            try:
                found.append((cohort, await self._read_one(cohort, FIRST_SECONDS)))
            except (TimeoutError, ReadingError) as error:
                failing.append((cohort, error))
        if not found:
            raise UnavailableError(f"Statements for one reader fail too: {_said(failing[-1][1])}")
        self._hub.fail(left)
        return found, failing

    async def _read_one(self, cohort: Cohort, seconds: float) -> Reading:
        async with asyncio.timeout(seconds):
            (reading,) = await self._store.read_feed(*self._request([cohort]))
        return reading

    async def _read_alone(self, cohort: Cohort) -> None:
        """Read for the cohort when its pause is over, and give it back to the hub."""
        user, clock = cohort.feed.user, asyncio.get_running_loop().time
        suspect = self._suspects.setdefault(user, _Suspect(clock() + WATCHED))
        try:
            await asyncio.sleep(suspect.held_until - clock())
            async with self._turns:
                begun = clock()
                seconds = min(FIRST_SECONDS * 2**suspect.failures, LONGEST_SECONDS)
                reading = await self._read_one(cohort, seconds)
        except (TimeoutError, UnavailableError) as error:
            if isinstance(error, TimeoutError | ReadingError):
                self._failed(user, error)
            else:
                suspect.held_until = clock() + FIRST_PAUSE  # Postgres is away
            self._notify([cohort])
            self._hub.fail([cohort])
            return
        except BaseException:
            self._hub.fail([cohort])
            raise
        suspect.failures = 0
        if clock() - begun > LONG:
            suspect.until = clock() + WATCHED
        self._deliver(cohort, reading)

    def holds(self, user: str) -> bool:
        suspect = self._suspects.get(user)
        if suspect is None:
            return False
        if suspect.failures or asyncio.get_running_loop().time() < suspect.until:
            return True
        del self._suspects[user]
        return False

    def _failed(self, user: str, error: Exception) -> None:
        now = asyncio.get_running_loop().time()
        if len(self._suspects) > PRUNE_FROM:
            self._suspects = {each: kept for each, kept in self._suspects.items() if kept.failures or kept.until > now}
        suspect = self._suspects.setdefault(user, _Suspect(now))
        if not suspect.failures:
            log.warning("a user is read for alone, because the statement fails", user=user, trouble=_said(error))
        suspect.held_until = now + min(FIRST_PAUSE * 2**suspect.failures, LONGEST_PAUSE)
        suspect.failures += 1
        suspect.until = now + WATCHED


def _said(error: Exception) -> str:
    return str(error) or "it takes too long"
