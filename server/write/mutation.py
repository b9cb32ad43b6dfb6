"""What a push is on its way to the database, and what became of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from protocol.frames import Mutation


@dataclass(frozen=True, slots=True)
class Refusal:
    """In a mutation's place: our rules refuse it, and it only consumes its number."""

    code: str
    mutation: Mutation | None = field(default=None, compare=False)
    """None: nobody could decode it."""


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
    generation: int | None = None
    """Of that connection: of two of a client_id the one with the larger one has it. None: the device does not say."""
    held: int | None = None
    """The lowest number of which the device still holds the mutation. None: it does not say."""

    @property
    def last(self) -> int:
        return self.first + len(self.mutations) - 1

    def head(self, mutations: int) -> "Push":
        """Its first so many mutations."""
        return self if mutations >= len(self.mutations) else replace(self, mutations=self.mutations[:mutations])

    def refusing(self, index: int, code: str) -> "Push":
        """The same without the mutation at `index`, which consumes its number and is rejected with `code`."""
        mutations = list(self.mutations)
        refused = mutations[index]
        mutations[index] = Refusal(code, refused.mutation if isinstance(refused, Refusal) else refused)
        return replace(self, mutations=mutations)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a push."""

    before: int
    """The highest number consumed before it."""
    after: int
    """The highest number consumed after it. Below `Push.last`: the rest was not looked at."""
    seq: int
    """The feed's, with all of this in it."""
    rejected: Mapping[int, str]
    """Codes, by number; those of a repeat too."""
    refusal: Literal["replaced", "local_only", "gap"] | None
    """Why nothing of it was applied: another connection has the client_id, the user does not pay, or its numbers were
    consumed by other mutations."""

    def unfinished(self, push: Push) -> bool:
        """It ended before a mutation that takes several transactions. The push goes on where it ended."""
        return self.refusal is None and self.before + 1 >= push.first and self.after < push.last
