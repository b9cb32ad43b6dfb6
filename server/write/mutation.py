"""What a push is on its way to the database, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from protocol.frames import Mutation


@dataclass(frozen=True, slots=True)
class Refusal:
    """In a mutation's place: our rules refuse it, and it only consumes its number."""

    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Mutations of one installation (`client_id`) with the numbers `first`, `first` + 1, …"""

    user: UUID
    client_id: UUID
    session: str
    """The connection that it came on."""
    takes: bool
    """That connection has not pushed before, so it takes the client_id from whichever has it."""
    first: int
    mutations: Sequence[Mutation | Refusal]

    @property
    def last(self) -> int:
        return self.first + len(self.mutations) - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a push."""

    before: int
    """The number consumed last before it,"""
    after: int
    """and after it. Below `Push.last`: the rest was not looked at."""
    seq: int
    """The feed's, with all of this in it."""
    rejected: Mapping[int, str]
    """Codes, by number; those of a repeat too."""
    refusal: Literal["replaced", "local_only"] | None
    """Why nothing of it was applied: another connection has the client_id, or the user does not pay."""
    trouble: str | None
    """Why a mutation was rejected by the database itself, or could not be tried to its end: SQLSTATE and constraint."""

    def unfinished(self, push: Push) -> bool:
        """It ended before a mutation that the database could not take now."""
        return self.refusal is None and self.before + 1 >= push.first and self.after < push.last
