"""What the write path needs from outside: a place to write to."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

from server.errors import AtlasError
from server.write.mutation import Outcome, Push


class Cause(Enum):
    """Why a transaction failed, by what trying it again can bring."""

    RULE = auto()
    """Postgres, or a constraint or trigger of the app, refuses what was to be written. It will refuse it again."""
    STATE = auto()
    """The state of the database: locks, resources, a table that is missing. It may change."""
    TIME = auto()
    """It took too long, or was cancelled."""
    END = auto()
    """The connection ended, or something else that nobody expects."""


class WriteError(AtlasError):
    """A transaction failed. Its pushes may have been applied or not; to push them again is right in both cases."""

    def __init__(self, cause: Cause, trouble: str) -> None:
        """`trouble` is what may be logged of it: nothing of any row."""
        super().__init__(trouble)
        self.cause = cause


class Writer(Protocol):
    async def write(self, pushes: Sequence[Push], seconds: float) -> list[Outcome]:
        """Apply a group, one push of a client_id and sorted by both ids, in one transaction. An outcome for each, in
        order.

        Raises UnavailableError if Postgres cannot be reached, WriteError if it failed at this group or had not carried
        it out after `seconds`.
        """
