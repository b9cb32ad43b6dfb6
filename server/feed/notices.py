"""What the read path tells a device that it cannot serve, or not now."""

import random
from typing import Final

from protocol.close import REASONS, CloseCode
from protocol.frames import Error
from server.feed.ports import Sink

PAID: Final = frozenset({"core", "studio"})
"""Tiers that sync. Everybody else, and a user without a profile, works on the device alone."""
TOGETHER: Final = (100, 5_000)
"""Milliseconds between which they come back: all devices of a database that failed over hear it in the same moment."""


def local_only(sink: Sink) -> None:
    _end(sink, CloseCode.LOCAL_ONLY, REASONS[CloseCode.LOCAL_ONLY])


def replaced(sink: Sink) -> None:
    _end(sink, CloseCode.REPLACED, REASONS[CloseCode.REPLACED])


def start_over(sink: Sink) -> None:
    message = "The database no longer knows the position of this device. Come back without a cursor."
    _end(sink, CloseCode.POSITION_LOST, message, random.randrange(*TOGETHER))


def come_back(sink: Sink) -> None:
    message = "Postgres was started anew. Come back after the delay: what was acknowledged has to be asked for again."
    _end(sink, CloseCode.GOING_AWAY, message, random.randrange(*TOGETHER))


def _end(sink: Sink, code: CloseCode, message: str, retry_after: int | None = None) -> None:
    """`retry_after`: it may come back then. Without, it may not."""
    again = retry_after is not None
    sink.close(code, Error(code=code.name.lower(), message=message, retryable=again, retry_after=retry_after))


def unavailable(answers: str, page: int | None = None) -> Error:
    message = "The database cannot be reached at this moment. Stay connected: the answer comes when it is back."
    return Error(code="unavailable", message=message, retryable=True, answers=answers, id=page)
