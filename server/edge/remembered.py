"""Tokens that were verified, until they end: a device that comes back presents the one that it had. Sans-I/O."""

import secrets
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from server.session import Claims

MOST: Final = 20_000
"""Tokens of one process: more than the sockets that it serves (15,000). Each takes 0.4 KB."""


class Verified(NamedTuple):
    """What was found in a token."""

    claims: Claims
    begins: int
    """When it begins to be valid, in seconds since 1970."""
    kid: str = ""
    key: Any = None
    """The key of a key set that it was verified with, and the key's id. None: it was verified with a secret."""


class Remembered:
    """The tokens that were presented last. It keeps digests of them, with a key of its own, and no token."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._key = secrets.token_bytes(32)
        self._found: dict[bytes, Verified] = {}
        """By digest, the one that was presented last at the end."""

    def __len__(self) -> int:
        return len(self._found)

    def put(self, token: str, verified: Verified) -> None:
        """Remember a token. Forgets the one that was not presented for the longest time, if there are too many."""
        digest = self._digest(token)
        self._found.pop(digest, None)
        self._found[digest] = verified
        if len(self._found) > self._most:
            del self._found[next(iter(self._found))]

    def take(self, token: str) -> Verified | None:
        """Return what was found in this token, and forget it; None if it is not remembered."""
        return self._found.pop(self._digest(token), None)

    def _digest(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._key, digest_size=32).digest()
