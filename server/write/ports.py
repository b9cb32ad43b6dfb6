"""What the write path needs from outside: a place to write to."""

from collections.abc import Sequence
from typing import Protocol

from server.write.mutation import Outcome, Push


class Writer(Protocol):
    async def write(self, pushes: Sequence[Push]) -> list[Outcome]:
        """Apply a group, one push of a client_id and sorted by user, in one transaction; an outcome for each, in order.

        A mutation that cannot be applied is rejected alone and fails nobody else's. Raises UnavailableError, after
        which the group may have been applied or not: to push it again is right in both cases.
        """
