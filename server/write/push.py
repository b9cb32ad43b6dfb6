"""A push on its way to the database, and its outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal
from uuid import UUID

import orjson
from msgspec import Struct
from msgspec.structs import replace

from protocol.frames import Instant


class Change(Struct, frozen=True):
    """A mutation that was checked, as Postgres gets it."""

    tag: str
    """The kind of the row."""
    op: Literal["+", "~", "-"]
    key: tuple[str, ...]
    """The key as texts. In a table that is partitioned by an instant, the second half of an existing row's key is that
    instant, in microseconds."""
    patch: str | None = None
    """The columns as a JSON object of texts; None for a deletion."""
    at: Instant | None = None

    @property
    def digest(self) -> int:
        """A digest of 63 bits, as an integer above 0, that is the same in both encodings.

        Databases keep digests, so the digest of a mutation of this version must never change.
        """
        data = orjson.dumps((self.op, self.tag, self.key, self.patch, self.at))
        found = blake2b(data, digest_size=8, person=b"atlas-mutation").digest()
        return int.from_bytes(found, "big") >> 1 or 1


@dataclass(frozen=True, slots=True)
class Rejection:
    """Stands in the place of a mutation that our rules reject. It only consumes its number."""

    code: str
    """Behind it, as far as they are known, the column and the constraint of Postgres, each after a colon."""
    change: Change | None = field(default=None, compare=False)
    """None if it could not be read."""


class OwnedPush(Struct, frozen=True, kw_only=True):
    """Mutations of one device (`client_id`), with the numbers `first`, `first` + 1, …, and their owner."""

    user: UUID
    client_id: UUID
    session: str
    """The name of the connection on which it arrived."""
    claims_client_id: bool
    """Whether its connection claims the client_id from any other: true until a push of it is acknowledged."""
    first: int
    mutations: Sequence[Change | Rejection]
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
        mutations[index] = Rejection(code, mutation.change if isinstance(mutation, Rejection) else mutation)
        return replace(self, mutations=mutations)


class Outcome(Struct, frozen=True):
    """The result of applying a push."""

    before: int
    """Highest number consumed before this push."""
    after: int
    """Highest number consumed after it; below `OwnedPush.last` if processing stopped early."""
    seq: int
    """The feed's position once all of this is in it."""
    rejected: Mapping[int, str]
    """Codes by number, as in `Rejection`, including those of repeated mutations."""
    error: Literal["replaced", "local_only", "gap"] | None
    """Why nothing was applied: another connection has the client_id, the user does not sync, or other mutations
    consumed the numbers."""

    def unfinished(self, push: OwnedPush) -> bool:
        """Whether processing stopped before a mutation that takes several transactions, and has to continue there."""
        return self.error is None and self.before + 1 >= push.first and self.after < push.last
