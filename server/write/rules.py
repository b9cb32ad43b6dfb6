"""Which mutations are acceptable, and what is said of a push's outcome. Pure."""

from dataclasses import dataclass
from typing import Final

from protocol.close import REASONS, CloseCode
from protocol.frames import (
    Ack,
    Applied,
    CreateConversation,
    CreateMessage,
    EditMessage,
    Error,
    Instant,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
    Result,
)
from server.write.mutation import Outcome, Push, Refusal

EARLIEST: Final[Instant] = 1_420_070_400_000_000
"""2015-01-01: before it there was no app, so such a clock is wrong."""
AHEAD: Final = 5 * 60 * 1_000_000
"""Microseconds that a device's clock may be ahead of ours. Further, and its messages would stay the newest for long."""
SENTENCES: Final = {
    "malformed": "The app sent this change in a form that the server does not understand. Update the app.",
    "unknown_conversation": "This conversation does not exist any more.",
    "unknown_message": "This message does not exist any more.",
    "bad_id": "This could not be saved under its id. Try again.",
    "bad_role": "Devices do not write messages of this role here.",
    "bad_time": "This was written at an impossible time. Check the date and time of this device.",
    "bad_text": "This text contains a character that cannot be saved (U+0000, or half of a surrogate pair).",
    "too_long": "This text is too long.",
    "too_slow": "The database takes too long with this change.",
    "refused": "The database does not accept this change.",
}
"""What each code of a rejection means, fit to show to whoever wrote."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What devices may write."""

    title: int
    """Bytes of UTF-8."""
    content: int
    """Bytes of UTF-8."""
    roles: frozenset[str]
    """Of messages."""


def check(mutation: Mutation | None, limits: Limits, now: Instant) -> Mutation | Refusal:
    """The mutation, or why it cannot be accepted from anyone. None stands for one that could not be decoded."""
    if mutation is None:
        return Refusal("malformed")
    code = None
    match mutation:
        case CreateMessage(role=role, content=text, at=at):
            code = _text(text, limits.content) or _time(at, now) or (None if role in limits.roles else "bad_role")
        case EditMessage(content=text, at=at):
            code = _text(text, limits.content) or _time(at, now)
        case CreateConversation(title=title, at=at) | RenameConversation(title=title, at=at):
            code = _text(title or "", limits.title) or _time(at, now)
    return mutation if code is None else Refusal(code, mutation)


def _text(text: str, limit: int) -> str | None:
    # A character has at most four bytes; most texts need not be encoded to be known as short enough.
    if len(text) * 4 > limit and len(text.encode()) > limit:
        return "too_long"
    return "bad_text" if "\0" in text else None


def _time(at: Instant, now: Instant) -> str | None:
    return None if EARLIEST <= at <= now + AHEAD else "bad_time"


def answer(push: Push, outcome: Outcome) -> Ack | Error:
    """What the device is told of a push that is not unfinished: a result for each mutation, or why there is none."""
    if outcome.refusal == "gap" or (outcome.refusal is None and push.first > outcome.before + 1):
        message = f"The next mutation of this device is number {outcome.before + 1}."
        return refusal(push, "gap", message, expected=outcome.before + 1)
    if outcome.refusal is not None:
        return refusal(push, outcome.refusal, REASONS[CloseCode[outcome.refusal.upper()]], retryable=False)
    return Ack(results=[_result(push.first + i, outcome) for i in range(len(push.mutations))])


def _result(n: int, outcome: Outcome) -> Result:
    code = outcome.rejected.get(n)
    if code is not None:
        return Rejected(n, code, SENTENCES.get(code, SENTENCES["refused"]))  # a newer server may have had more codes
    return Repeated(n, outcome.seq) if n <= outcome.before else Applied(n, outcome.seq)


def unavailable(push: Push, retry_after: int) -> Error:
    message = "The database cannot take this at the moment. Keep it, and send it again after the delay."
    return refusal(push, "unavailable", message, retry_after=retry_after)


def slow_down(push: Push, retry_after: int) -> Error:
    message = "This user writes more than is permitted at a time. Keep this, and send it again after the delay."
    return refusal(push, "slow_down", message, retry_after=retry_after)


def refusal(
    push: Push,
    code: str,
    message: str,
    *,
    retryable: bool = True,
    retry_after: int | None = None,
    expected: int | None = None,
) -> Error:
    return Error(
        code=code,
        message=message,
        retryable=retryable,
        answers="push",
        id=push.first,
        retry_after=retry_after,
        expected=expected,
    )
