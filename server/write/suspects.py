"""Which users' pushes are tried by themselves, for how long, and what becomes of a mutation that keeps failing. Pure:
the time comes in as an argument.

A user is under suspicion from when a transaction with a push of theirs failed until a push of theirs is carried out by
itself; or for a while longer, if a mutation failed by itself, if a try took long, or if groups with them fail again and
again.
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
"""Of a mutation that takes too long (some 40 s in all) or ends its connection (a minute); then it is rejected."""
ENDED: Final = 8.0
"""How much longer the pauses are where the connection ended: an operator may end several in a row."""
WATCHED: Final = 60.0
"""Seconds of a while: somebody who fails groups all the time then fails one a minute."""
INVOLVED: Final = 3
"""Groups with a user that failed within WATCHED, from which on it is no chance."""
LONG: Final = 0.25
"""Seconds of one try from which on a user is watched: several such together would fail a group."""
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
    involved: int
    """Groups that failed since then."""
    alone: bool
    """Pushes are tried by themselves."""
    watched_until: float
    failing: dict[UUID, _Failing]
    """By client_id."""


class Suspects:
    def __init__(self) -> None:
        self._users: dict[UUID, _Suspect] = {}

    def __contains__(self, user: UUID) -> bool:
        """Pushes of this user are tried by themselves: another one may wait for locks that a failing one holds."""
        suspect = self._users.get(user)
        return suspect is not None and suspect.alone

    def add(self, user: UUID, now: float) -> None:
        """A transaction with a push of this user failed."""
        suspect = self._suspect(user, now)
        suspect.alone = True
        suspect.involved += 1
        if suspect.involved >= INVOLVED:
            suspect.watched_until = now + WATCHED

    def took(self, user: UUID, seconds: float, now: float) -> None:
        """A push of this user was carried out by itself."""
        if seconds > LONG:
            self._suspect(user, now).watched_until = now + WATCHED

    def _suspect(self, user: UUID, now: float) -> _Suspect:
        suspect = self._users.get(user)
        if suspect is None:
            if len(self._users) >= PRUNE_FROM:
                self._users = {who: each for who, each in self._users.items() if each.since > now - FORGOTTEN}
            suspect = self._users[user] = _Suspect(now, 0, alone=False, watched_until=now, failing={})
        elif now - suspect.since > WATCHED:
            suspect.since, suspect.involved = now, 0
        return suspect

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
        suspect = self._suspect(user, now)
        suspect.alone = True
        suspect.watched_until = now + WATCHED
        if cause is Cause.RULE:
            return "refused"
        before = suspect.failing.pop(client_id, None)
        failures = 1 if before is None or before.n != n else before.failures + 1
        if failures >= TRIES and cause is not Cause.STATE:
            return "too_slow" if cause is Cause.TIME else "refused"
        pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16) * (ENDED if cause is Cause.END else 1), LONGEST_PAUSE)
        suspect.failing[client_id] = _Failing(n, failures, now + pause)
        if len(suspect.failing) > INSTALLATIONS:
            del suspect.failing[next(iter(suspect.failing))]
        return None

    def passed(self, user: UUID, client_id: UUID, now: float) -> None:
        """A push of this installation was carried out."""
        suspect = self._users.get(user)
        if suspect is not None:
            suspect.failing.pop(client_id, None)
            suspect.alone = bool(suspect.failing) or suspect.watched_until > now

    def _failing(self, user: UUID, client_id: UUID) -> _Failing | None:
        suspect = self._users.get(user)
        return None if suspect is None else suspect.failing.get(client_id)
