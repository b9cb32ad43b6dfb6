"""What the write path needs from outside: a database to write to."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Protocol

from server.exceptions import AtlasError
from server.write.push import Outcome, OwnedPush


class Cause(Enum):
    """Why a transaction failed, by whether retrying may help."""

    RULE = auto()
    """Postgres, or a constraint or trigger of the app, rejects the rows. It will reject them again."""
    STATE = auto()
    """The state of the database: locks, resources, a table that is missing. It may change."""
    TIME = auto()
    """The transaction took too long, or was cancelled."""
    END = auto()
    """The connection ended, or something unexpected happened."""


class WriteError(AtlasError):
    """A transaction failed. Its pushes may have been applied or not; pushing them again is right in both cases."""

    def __init__(self, cause: Cause, trouble: str, where: str = "") -> None:
        """`trouble` describes the failure for the log, without the contents of any row. `where`: the column and the
        constraint that Postgres names, as they follow the code of a `Rejection`."""
        super().__init__(trouble)
        self.cause = cause
        self.where = where


class Writer(Protocol):
    async def write(self, pushes: Sequence[OwnedPush], seconds: float) -> list[Outcome]:
        """Apply a group in one transaction: one push of each client_id, sorted by both ids. Returns an outcome for
        each, in order.

        Raises UnavailableError if Postgres cannot be reached, WriteError if the transaction failed or was not finished
        after `seconds`.
        """
