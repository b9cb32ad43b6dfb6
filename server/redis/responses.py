"""Cached responses in Redis: the `Shared` of the response cache.

A value is written by this version for one key of one history of the database, and says so itself. Anything else that is
found under its name counts as nothing.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from server.redis.link import Link
from server.responses.ports import Response
from server.responses.question import Key

FORM: Final = b"atlas-response-1 "
"""Changes whenever the form of a value does."""
KEPT_SECONDS: Final = 300.0
"""Most seconds that a response is kept. A Redis that was away while a response was deleted or replaced may return the
former one for so long."""
DROPPED_SECONDS: Final = 60.0
"""Seconds for which a deletion is remembered: longer than any answer of Postgres is under way."""
SET: Final = """
local form, version = ARGV[1], ARGV[2]
local old = redis.pcall('GET', KEYS[1])
if type(old) == 'string' and string.sub(old, 1, #form) == form
   and string.sub(old, #form + 1, #form + #version) > version then
    return 0
end
local done = redis.pcall('SET', KEYS[1], form .. version .. ARGV[3], 'PX', ARGV[4])
if type(done) == 'table' and done.err then
    redis.call('DEL', KEYS[1])
    return ARGV[3] == '' or done
end
return 1
"""
"""Unless there is a later version. Where memory is full, the earlier one must go nevertheless: it is deleted."""
VERSION_DIGITS: Final = 20
"""Versions are compared as texts."""


class _Value(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A response under its key."""

    name: str
    response: Response


class RedisResponses:
    """`Shared` on a link. `epoch` names the history of the database, "" while it is not known."""

    def __init__(self, link: Link, epoch: Callable[[], str]) -> None:
        self._link = link
        self._epoch = epoch
        self._decode = msgspec.msgpack.Decoder(_Value).decode
        self._encode = msgspec.msgpack.Encoder().encode

    async def get(self, key: Key) -> Response | None:
        name = self._name(key)
        value = await self._link.command("GET", name)
        if not isinstance(value, bytes) or not value.startswith(FORM):
            return None
        try:
            found = self._decode(value[len(FORM) + VERSION_DIGITS :])
        except msgspec.DecodeError:
            return None  # also: it was deleted
        return found.response if found.name == name else None

    async def set(self, key: Key, response: Response, seconds: float) -> None:
        name = self._name(key)
        await self._store(name, response.version, self._encode(_Value(name, response)), min(seconds, KEPT_SECONDS))

    async def drop(self, key: Key, version: int) -> None:
        await self._store(self._name(key), version, b"", DROPPED_SECONDS)

    async def _store(self, name: str, version: int, body: bytes, seconds: float) -> None:
        milliseconds = max(1, int(seconds * 1000))
        digits = f"{version:0{VERSION_DIGITS}}"
        await self._link.command("EVAL", SET, 1, name, FORM, digits, body, milliseconds)

    def _name(self, key: Key) -> str:
        return f"atlas:response:{self._epoch()}:{key.hash}:{key.tier}"
