"""How far feeds are known to move though no read shows it yet. Sans-I/O.

Postgres writes a commit to the WAL before it lets others see it. A read may not find it yet, for a moment or, with a
synchronous standby, for longer.
"""

from collections.abc import Collection


class Expected:
    """By user, the seq that the WAL has."""

    def __init__(self) -> None:
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}
        """From before the last call of `settle`."""

    def note(self, user: str, seq: int) -> None:
        """The WAL has a commit that moves the user's feed to `seq`."""
        self._now[user] = max(seq, self.of(user))

    def of(self, user: str) -> int:
        """The seq to which the user's feed is known to move or to have moved lately; 0: none is known."""
        return self._now.get(user) or self._before.get(user, 0)

    def seen(self, user: str, seq: int) -> None:
        """A read found the user's feed at `seq`."""
        if seq >= self.of(user):
            self._now.pop(user, None)
            self._before.pop(user, None)

    def settle(self, connected: Collection[str]) -> None:
        """All feeds were compared with Postgres. Of users who are not connected, forget what was noted before the last
        time."""
        left = {user: seq for user, seq in self._before.items() if user in connected}
        self._before, self._now = {**left, **self._now}, {}

    def forget(self) -> None:
        """The database has another history now, or an older image of it: what the WAL had may be lost."""
        self._before, self._now = {}, {}
