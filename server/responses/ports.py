"""What the response cache needs from outside: a store that decides, and one that all processes read quickly."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from protocol.frames import Instant
from server.responses.question import Key


class Response(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A cached response."""

    text: str
    tokens: int
    """What computing it took, as the caller said."""
    cost: Decimal
    """What that cost, in a currency of the caller's choice."""
    created_at: Instant
    """By Postgres' clock, in microseconds since 1970."""
    expires_at: Instant
    version: int
    """Later responses for a key have greater ones."""


class Lease(NamedTuple):
    """The caller computes the response. Nobody else is asked to until it ends."""

    fence: int
    """Names the lease; 0: Postgres is away, and only this process knows of it."""
    seconds: float
    """Until it ends."""


class Busy(NamedTuple):
    """Another caller computes the response."""

    seconds: float
    """Until its lease ends."""


class Store(Protocol):
    """Decides what the response for a key is, and who computes it. Every method raises UnavailableError. Two of them
    say the time by the clock that `Response.expires_at` refers to, when they were answered."""

    async def take(self, key: Key, seconds: float | None) -> tuple[Response | Lease | Busy | None, Instant]:
        """The response; or a lease for so many seconds; or another caller has one. None: there is no response, and no
        lease was asked for."""

    async def put(
        self, key: Key, text: str, ttl: float, tokens: int, cost: Decimal, fence: int | None
    ) -> tuple[Response, Instant] | None:
        """Store a response for `ttl` seconds. None: the lease `fence` is over, and nothing was stored."""

    async def drop(self, key: Key) -> int:
        """Delete the response, and end the lease for it. Returns a version above that of the response."""

    async def release(self, key: Key, fence: int) -> None:
        """End a lease without a response."""

    async def count(self, process: UUID, number: int, hits: Sequence[tuple[Key, int]]) -> None:
        """Add hits. The same number of the same process counts once."""


class Shared(Protocol):
    """A copy that all processes read. It may lose what it has at any time, and keep it for longer than it was told.
    Every method raises CacheError."""

    async def get(self, key: Key) -> Response | None: ...

    async def set(self, key: Key, response: Response, seconds: float) -> None:
        """Keep a response for at most so many seconds, unless there is a later one."""

    async def drop(self, key: Key, version: int) -> None:
        """Keep no response that is earlier than `version`, and for a while take none."""
