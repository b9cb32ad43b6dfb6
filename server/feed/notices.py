"""What the read path tells a device that it cannot serve, or not now."""

import random
from typing import Final

from protocol.close import REASONS, CloseCode
from protocol.frames import Error
from server.feed.ports import Sink

PAID: Final = frozenset({"core", "studio"})
"""Tiers that sync. Everybody else, and a user without a profile, works on the device alone."""


def local_only(sink: Sink) -> None:
    _end(sink, CloseCode.LOCAL_ONLY)


def replaced(sink: Sink) -> None:
    _end(sink, CloseCode.REPLACED)


def _end(sink: Sink, code: CloseCode) -> None:
    sink.close(code, Error(code=code.name.lower(), message=REASONS[code], retryable=False))


def start_over(sink: Sink) -> None:
    message = "The database no longer knows the position of this device. Come back without a cursor."
    # All devices of a failed-over database hear this in the same moment.
    delay = random.randrange(100, 5_000)
    sink.close(CloseCode.POSITION_LOST, Error(code="position_lost", message=message, retryable=True, retry_after=delay))


def come_back(sink: Sink) -> None:
    message = "Postgres was started anew. Come back after the delay: what was acknowledged has to be asked for again."
    delay = random.randrange(100, 5_000)
    sink.close(CloseCode.GOING_AWAY, Error(code="going_away", message=message, retryable=True, retry_after=delay))


def unavailable(answers: str, page: int | None = None) -> Error:
    message = "The database cannot be reached at this moment. Stay connected: the answer comes when it is back."
    return Error(code="unavailable", message=message, retryable=True, answers=answers, id=page)
