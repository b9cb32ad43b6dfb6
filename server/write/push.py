"""A push on its way to the database, and its outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from protocol.frames import Mutation


@dataclass(frozen=True, slots=True)
class Rejection:
    """Stands in the place of a mutation that our rules reject. It only consumes its number."""

    code: str
    mutation: Mutation | None = field(default=None, compare=False)
    """None if it could not be decoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnedPush:
    """Mutations of one device (`client_id`), with the numbers `first`, `first` + 1, …, and their owner."""

    user: UUID
    client_id: UUID
    session: str
    """The name of the connection on which it arrived."""
    claims_client_id: bool
    """Whether its connection claims the client_id from any other: true until a push of it is acknowledged."""
    first: int
    mutations: Sequence[Mutation | Rejection]
    generation: int | None = None
    """Of two connections of one client_id the one with the larger generation keeps it. None: the device does not number
    its connections."""
    held: int | None = None
    """The lowest number whose mutation the device still holds. None: the device does not say."""

    @property
    def last(self) -> int:
        return self.first + len(self.mutations) - 1

    def head(self, mutations: int) -> "OwnedPush":
        """This push with its first `mutations` mutations only."""
        return self if mutations >= len(self.mutations) else replace(self, mutations=self.mutations[:mutations])

    def rejecting(self, index: int, code: str) -> "OwnedPush":
        """This push with the mutation at `index` rejected: it consumes its number and is reported with `code`."""
        mutations = list(self.mutations)
        mutation = mutations[index]
        mutations[index] = Rejection(code, mutation.mutation if isinstance(mutation, Rejection) else mutation)
        return replace(self, mutations=mutations)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of applying a push."""

    before: int
    """Highest number consumed before this push."""
    after: int
    """Highest number consumed after it; below `OwnedPush.last` if processing stopped early."""
    seq: int
    """The feed's position once all of this is in it."""
    rejected: Mapping[int, str]
    """Codes by number, including those of repeated mutations."""
    error: Literal["replaced", "local_only", "gap"] | None
    """Why nothing was applied: another connection has the client_id, the user's tier does not sync, or other mutations
    consumed the numbers."""

    def unfinished(self, push: OwnedPush) -> bool:
        """Whether processing stopped before a mutation that takes several transactions, and has to continue there."""
        return self.error is None and self.before + 1 >= push.first and self.after < push.last
