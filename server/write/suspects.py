"""Which users' pushes are tried by themselves, for how long, and what becomes of a mutation that keeps failing. Pure:
the time comes in as an argument.

A user is under suspicion from when a transaction with a push of theirs failed until a push of theirs is carried out, or
some time longer if a mutation of theirs failed by itself.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from server.write.ports import Cause

FIRST_TRY: Final = 1.0
"""Seconds that a push may take by itself at first. Each failure doubles it: what is slow and not wrong gets through."""
LONGEST_TRY: Final = 15.0
FIRST_PAUSE: Final = 0.5
"""Seconds between the first failure of a mutation and the next try. Each further failure doubles it."""
LONGEST_PAUSE: Final = 60.0
TRIES: Final = 5
"""Of a mutation that takes too long or ends its connection; then it is rejected, after some 40 s."""
WATCHED: Final = 60.0
"""Seconds for which a user stays under suspicion after a mutation failed by itself, so that somebody who does this all
the time fails one group a minute."""
PRUNE_FROM: Final = 10_000
"""Users from which on those that may be forgotten are looked for."""
INSTALLATIONS: Final = 50
"""Failing ones that are remembered of one user; more than a user may have connections."""
FORGOTTEN: Final = 3_600.0
"""Seconds after which a user who did not come back is forgotten."""


@dataclass(slots=True)
class _Failing:
    """An installation whose next mutation failed by itself."""

    n: int
    failures: int
    """In a row."""
    held_until: float


@dataclass(slots=True)
class _Suspect:
    since: float
    watched_until: float
    failing: dict[UUID, _Failing]
    """By client_id."""


class Suspects:
    def __init__(self) -> None:
        self._users: dict[UUID, _Suspect] = {}

    def __contains__(self, user: UUID) -> bool:
        """Pushes of this user are tried by themselves: another one may wait for locks that a failing one holds."""
        return user in self._users

    def add(self, user: UUID, now: float) -> None:
        """A transaction with a push of this user failed."""
        if user not in self._users:
            if len(self._users) >= PRUNE_FROM:
                self._users = {who: each for who, each in self._users.items() if each.since > now - FORGOTTEN}
            self._users[user] = _Suspect(now, now, {})

    def slow(self, user: UUID) -> bool:
        """A try may take long."""
        suspect = self._users.get(user)
        return suspect is not None and bool(suspect.failing)

    def held_until(self, user: UUID, client_id: UUID) -> float:
        """Before that time nothing of this installation is tried."""
        failing = self._failing(user, client_id)
        return 0.0 if failing is None else failing.held_until

    def seconds(self, user: UUID, client_id: UUID) -> float:
        """How long the next try may take."""
        failing = self._failing(user, client_id)
        return min(FIRST_TRY * 2.0 ** (0 if failing is None else min(failing.failures, 16)), LONGEST_TRY)

    def failed(self, user: UUID, client_id: UUID, n: int, cause: Cause, now: float) -> str | None:
        """Mutation `n` failed by itself. The code to reject it with, or None: the installation is held back."""
        self.add(user, now)
        suspect = self._users[user]
        suspect.since = now
        suspect.watched_until = now + WATCHED
        if cause is Cause.RULE:
            return "refused"
        before = suspect.failing.pop(client_id, None)
        failures = 1 if before is None or before.n != n else before.failures + 1
        if failures >= TRIES and cause is not Cause.STATE:
            return "too_slow" if cause is Cause.TIME else "refused"
        pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16), LONGEST_PAUSE)
        suspect.failing[client_id] = _Failing(n, failures, now + pause)
        if len(suspect.failing) > INSTALLATIONS:
            del suspect.failing[next(iter(suspect.failing))]
        return None

    def passed(self, user: UUID, client_id: UUID, now: float) -> None:
        """A push of this installation was carried out."""
        suspect = self._users.get(user)
        if suspect is not None:
            suspect.failing.pop(client_id, None)
            if not suspect.failing and suspect.watched_until <= now:
                del self._users[user]

    def _failing(self, user: UUID, client_id: UUID) -> _Failing | None:
        suspect = self._users.get(user)
        return None if suspect is None else suspect.failing.get(client_id)
