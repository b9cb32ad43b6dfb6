"""Answers as a cache keeps them: their keys and their bytes. Pure.

An answer is kept with the position of the feed that it is right for. A row changes only in a transaction that moves the
feed. So the answer stays right for that position, and nothing has to be removed when a row changes.
"""

from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

import msgspec

from server.feed.ports import Answer, MessagesRead, Overview, Titles

A = TypeVar("A", Overview, Titles, MessagesRead)

MEANING: Final = 1
"""Increase it when a request has to be answered with other rows than before, at the same position."""


def _format() -> str:
    """A name of the form that answers have in this version."""
    shapes = [msgspec.json.schema(kind) for kind in (Overview, Titles, MessagesRead)]
    return blake2b(msgspec.json.encode((MEANING, shapes), order="deterministic"), digest_size=6).hexdigest()


FORMAT: Final = _format()


class _Kept(msgspec.Struct, Generic[A], array_like=True):
    key: str
    answer: A


_ENCODER: Final = msgspec.msgpack.Encoder(uuid_format="bytes")
_DECODERS: Final[dict[type[Any], msgspec.msgpack.Decoder[Any]]] = {
    kind: msgspec.msgpack.Decoder(_Kept[kind])  # type: ignore[valid-type]  # a type that is a value here
    for kind in (Overview, Titles, MessagesRead)
}


def key(since_start: str, user: str, *request: object) -> str:
    """The key of the newest answer to `request`. `since_start` names the history (`History.since_start`)."""
    return f"atlas:{FORMAT}:{since_start}:{user}:{blake2b(_ENCODER.encode(request), digest_size=12).hexdigest()}"


def pack(key: str, answer: Answer) -> bytes:
    return _ENCODER.encode((key, answer))


def unpack(kind: type[A], key: str, data: bytes) -> A | None:
    """The answer in `data`; None unless it was kept under this key, by a version with the same form of answers."""
    try:
        kept = _DECODERS[kind].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    answer: A = kept.answer
    return answer if kept.key == key and _possible(answer) else None


def _possible(answer: Answer) -> bool:
    """Whether Postgres can have answered so."""
    at = answer.position
    if at.n or not (0 <= at.seq < 1 << 63 and 0 <= at.mark < 1 << 63):
        return False
    return not isinstance(answer, MessagesRead) or bool(answer.messages) or not answer.cut
