"""What scenarios are made of: rows of the chat schema, frames, and how most of them begin."""

from typing import Any, Final
from uuid import UUID

from protocol.frames import Ack, Changes, Error, Live, Page, Result, Row, Snapshot
from server.conformance import steps as do
from server.conformance.steps import Step

A, B, D = (UUID(int=0x7000_8000_0000_0000_00C0 + n) for n in (1, 2, 3))
"""Conversations."""
M, N, O, P = (UUID(int=0x7000_8000_0000_0000_00E0 + n) for n in (1, 2, 3, 4))  # noqa: E741 (a message)
"""Messages."""
K: Final = tuple(f"cursor {n}".encode() for n in range(12))
"""Cursors."""


def c(seq: int, key: UUID, at: int, title: str = "t", updated: int | None = None) -> Row:
    return ("c", seq, key, title, at, at if updated is None else updated)


def m(seq: int, key: UUID, home: UUID, at: int, content: str = "x") -> Row:
    return ("m", seq, key, home, "user", content, at, at)


def snapshot(as_of: int, rows: list[Row], cursor: bytes | None = None) -> do.Send:
    return do.Send(Snapshot(as_of=as_of, rows=rows, cursor=cursor))


def changes(start: int, to: int, *rows: Row, seq: int | None = -1, partial: bool = False) -> do.Send:
    at = to if seq == -1 else seq
    return do.Send(Changes(from_=K[start], to=K[to], rows=list(rows), seq=None if partial else at, partial=partial))


def live(cursor: int, seq: int | None = None) -> do.Send:
    return do.Send(Live(cursor=K[cursor], seq=cursor if seq is None else seq))


def page(number: int, as_of: int, rows: list[Row], *, more: bool) -> do.Send:
    return do.Send(Page(id=number, as_of=as_of, rows=rows, more=more))


def error(code: str, **fields: Any) -> do.Send:
    return do.Send(Error(code=code, message=f"about {code}", retryable=True, **fields))


def push_error(code: str, n: int, **fields: Any) -> do.Send:
    return error(code, answers="push", id=n, **fields)


def ack(*results: Result) -> do.Send:
    return do.Send(Ack(results=list(results)))


def write(key: UUID, content: str = "hello", home: UUID = A) -> do.Write:
    return do.Write("+", "message", key, (("conversation_id", str(home)), ("role", "user"), ("content", content)))


def new(key: UUID) -> tuple[str, UUID]:
    return ("+", key)


OURS: Final = c(10, A, 1000)
BEGUN: Final[tuple[Step, ...]] = (do.Start(), do.Hello(), snapshot(10, [OURS], K[1]), live(1), do.Is("live"))
"""How most scenarios begin: a snapshot of one conversation, and then the device is live at the cursor K[1]."""
AGAIN: Final = do.Hello((K[1],))
"""The device comes back with that cursor."""
