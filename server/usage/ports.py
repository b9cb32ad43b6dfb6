"""What usage needs from outside: a database that keeps events."""

from collections.abc import Sequence
from typing import Protocol

from server.exceptions import AtlasError
from server.usage.events import Group, Written


class RefusedError(AtlasError):
    """Postgres refuses what a group says. Writing it again does not help."""


class UsageStore(Protocol):
    async def write(self, groups: Sequence[Group], seconds: float) -> list[Written]:
        """Write groups in one transaction; no two have one key. Returns what became of each, in order, as soon as they
        are durable.

        Raises RefusedError if Postgres refuses a row, and UnavailableError for every other failure. After that it may
        have been committed nevertheless.
        """
