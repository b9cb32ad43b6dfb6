"""Which users' pushes are applied alone, for how long, and what happens to a mutation that keeps failing. Sans-I/O: the
time is a parameter.

A user is suspect from the failure of a transaction with one of their pushes until one of their pushes succeeds alone.
The user stays suspect for WATCHED seconds if a mutation failed alone, if an attempt took long, or if several groups
with their pushes failed.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from server.write.ports import Cause

FIRST_ATTEMPT: Final = 1.0
"""Seconds that a push may take alone at first. Each failure doubles them, so that a slow but valid push succeeds."""
LONGEST_ATTEMPT: Final = 15.0
FIRST_PAUSE: Final = 0.5
"""Seconds between the first failure of a mutation and the next attempt. Each further failure doubles them."""
LONGEST_PAUSE: Final = 60.0
ATTEMPTS: Final = 5
"""Attempts at a mutation that takes too long (some 40 s in all) or ends its connection (a minute), before it is
rejected."""
ENDED: Final = 8.0
"""Factor on the pauses if the connection ended: an operator may end several in a row."""
WATCHED: Final = 60.0
"""Seconds that a user stays suspect: a user whose pushes always fail then fails one group a minute."""
INVOLVED: Final = 3
"""Failed groups within WATCHED from which on they are no coincidence."""
LONG: Final = 0.25
"""Seconds of one attempt from which on a user stays suspect: several such pushes would fail a group."""
PRUNE_FROM: Final = 10_000
"""Users from which on old ones are pruned."""
DEVICES: Final = 50
"""Failing devices remembered of one user; more than a user may have connections."""
PRUNE_AFTER: Final = 3_600.0
"""Seconds after which a user without pushes is pruned."""


@dataclass(slots=True)
class _Failing:
    """A device whose next mutation failed alone."""

    n: int
    failures: int
    """In a row."""
    held_until: float


@dataclass(slots=True)
class _Suspect:
    since: float
    involved: int
    """Failed groups since then."""
    alone: bool
    """Whether the user's pushes are applied alone."""
    watched_until: float
    failing: dict[UUID, _Failing]
    """By client_id."""


class Suspects:
    def __init__(self) -> None:
        self._users: dict[UUID, _Suspect] = {}

    def __contains__(self, user: UUID) -> bool:
        """Whether this user's pushes are applied alone. In a group they could wait for locks of a failing one."""
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
        """A push of this user was applied alone, in so many seconds."""
        if seconds > LONG:
            self._suspect(user, now).watched_until = now + WATCHED

    def _suspect(self, user: UUID, now: float) -> _Suspect:
        suspect = self._users.get(user)
        if suspect is None:
            if len(self._users) >= PRUNE_FROM:
                self._users = {who: each for who, each in self._users.items() if each.since > now - PRUNE_AFTER}
            suspect = self._users[user] = _Suspect(now, 0, alone=False, watched_until=now, failing={})
        elif now - suspect.since > WATCHED:
            suspect.since, suspect.involved = now, 0
        return suspect

    def slow(self, user: UUID) -> bool:
        """Whether an attempt may take long."""
        suspect = self._users.get(user)
        return suspect is not None and bool(suspect.failing)

    def held_until(self, user: UUID, client_id: UUID) -> float:
        """The time before which nothing of this device may be attempted."""
        failing = self._failing(user, client_id)
        return 0.0 if failing is None else failing.held_until

    def seconds(self, user: UUID, client_id: UUID) -> float:
        """How long the next attempt may take."""
        failing = self._failing(user, client_id)
        return min(FIRST_ATTEMPT * 2.0 ** (0 if failing is None else min(failing.failures, 16)), LONGEST_ATTEMPT)

    def failed(self, user: UUID, client_id: UUID, n: int, cause: Cause, now: float) -> str | None:
        """Mutation `n` failed alone. Returns the code to reject it with; None if the device is held back."""
        suspect = self._suspect(user, now)
        suspect.alone = True
        suspect.watched_until = now + WATCHED
        if cause is Cause.RULE:
            return "refused"
        before = suspect.failing.pop(client_id, None)
        failures = 1 if before is None or before.n != n else before.failures + 1
        if failures >= ATTEMPTS and cause is not Cause.STATE:
            return "too_slow" if cause is Cause.TIME else "refused"
        pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, 16) * (ENDED if cause is Cause.END else 1), LONGEST_PAUSE)
        suspect.failing[client_id] = _Failing(n, failures, now + pause)
        if len(suspect.failing) > DEVICES:
            del suspect.failing[next(iter(suspect.failing))]
        return None

    def passed(self, user: UUID, client_id: UUID, now: float) -> None:
        """A push of this device was applied."""
        suspect = self._users.get(user)
        if suspect is not None:
            suspect.failing.pop(client_id, None)
            suspect.alone = bool(suspect.failing) or suspect.watched_until > now

    def _failing(self, user: UUID, client_id: UUID) -> _Failing | None:
        suspect = self._users.get(user)
        return None if suspect is None else suspect.failing.get(client_id)
