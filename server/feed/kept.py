"""Answers as a cache keeps them: their keys and their bytes. Pure.

An answer is kept with the position of the feed that it is right for. A row changes only in a transaction that moves the
feed. So the answer stays right for that position, and nothing has to be removed when a row changes.
"""

from dataclasses import replace
from hashlib import blake2b
from typing import Final

import msgspec

from server.declaration.values import Rows
from server.feed.ports import Answer

MEANING: Final = 2
"""Increase it when a request has to be answered with other rows than before, at the same position."""


def _format() -> str:
    """A name of the form that answers have in this version."""
    shape = msgspec.json.schema(Answer)
    return blake2b(msgspec.json.encode((MEANING, shape), order="deterministic"), digest_size=6).hexdigest()


FORMAT: Final = _format()


class _Kept(msgspec.Struct, array_like=True):
    key: str
    answer: Answer


_ENCODER: Final = msgspec.msgpack.Encoder(uuid_format="bytes")
_DECODER: Final = msgspec.msgpack.Decoder(_Kept)


def key(since_start: str, digest: str, user: str, *request: object) -> str:
    """The key of the newest answer to `request`. `since_start` names the history (`History.since_start`), `digest` the
    declaration."""
    asked = blake2b(_ENCODER.encode((digest, *request)), digest_size=12).hexdigest()
    return f"atlas:{FORMAT}:{since_start}:{user}:{asked}"


def pack(key: str, answer: Answer) -> bytes:
    return _ENCODER.encode((key, answer))


def unpack(rows: Rows, key: str, data: bytes) -> Answer | None:
    """The answer in `data`, with rows of the kind of `rows`; None unless it was kept under this key, by a version with
    the same form of answers."""
    try:
        kept = _DECODER.decode(data)
        if kept.key != key or not _possible(kept.answer):
            return None
        return replace(kept.answer, rows=[(i, rows.restored(row)) for i, row in kept.answer.rows])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError, IndexError):
        return None


def _possible(answer: Answer) -> bool:
    """Whether Postgres can have answered so."""
    at = answer.position
    if at.n or not (0 <= at.seq < 1 << 63 and 0 <= at.mark < 1 << 63):
        return False
    return bool(answer.rows) or not answer.cut
