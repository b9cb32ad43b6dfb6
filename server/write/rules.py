"""Which mutations are acceptable, and how a push is answered. Pure."""

from dataclasses import dataclass
from typing import Final

from protocol import errors
from protocol.errors import ERRORS
from protocol.frames import (
    Ack,
    Applied,
    CreateConversation,
    CreateMessage,
    EditMessage,
    Error,
    Instant,
    Milliseconds,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
    Result,
)
from server.write.push import Outcome, OwnedPush, Rejection

EARLIEST: Final[Instant] = 1_420_070_400_000_000
"""2015-01-01. No such app existed before, so an earlier clock is wrong."""
AHEAD: Final = 5 * 60 * 1_000_000
"""Microseconds that a device's clock may be ahead of ours. Messages from further ahead would stay the newest too
long."""
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
"""What each code of a rejection means, in words for the author of the text."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on what devices may write."""

    title: int
    """Bytes of UTF-8."""
    content: int
    """Bytes of UTF-8."""
    roles: frozenset[str]
    """The roles of messages that devices may write."""


def check(mutation: Mutation | None, limits: Limits, now: Instant) -> Mutation | Rejection:
    """Return the mutation, or its rejection if no device may send it. None stands for an undecodable mutation."""
    if mutation is None:
        return Rejection("malformed")
    code = None
    match mutation:
        case CreateMessage(role=role, content=text, at=at):
            code = _text(text, limits.content) or _time(at, now) or (None if role in limits.roles else "bad_role")
        case EditMessage(content=text, at=at):
            code = _text(text, limits.content) or _time(at, now)
        case CreateConversation(title=title, at=at) | RenameConversation(title=title, at=at):
            code = _text(title or "", limits.title) or _time(at, now)
    return mutation if code is None else Rejection(code, mutation)


def _text(text: str, limit: int) -> str | None:
    # A character has at most four bytes; most texts need not be encoded to be known as short enough.
    if len(text) * 4 > limit and len(text.encode()) > limit:
        return "too_long"
    return "bad_text" if "\0" in text else None


def _time(at: Instant, now: Instant) -> str | None:
    return None if EARLIEST <= at <= now + AHEAD else "bad_time"


def answer(push: OwnedPush, outcome: Outcome) -> Ack | Error:
    """The answer to a push that is not unfinished: a result for each mutation, or an error."""
    if outcome.error == "gap" or (outcome.error is None and push.first > outcome.before + 1):
        message = f"The next mutation of this device is number {outcome.before + 1}."
        return errors.GAP.frame(message, answers="push", id=push.first, expected=outcome.before + 1)
    if outcome.error is not None:
        return ERRORS[outcome.error].frame(answers="push", id=push.first)
    return Ack(results=[_result(push.first + i, outcome) for i in range(len(push.mutations))])


def _result(n: int, outcome: Outcome) -> Result:
    code = outcome.rejected.get(n)
    if code is not None:
        return Rejected(n, code, SENTENCES.get(code, SENTENCES["refused"]))  # a newer server may have added codes
    return Repeated(n, outcome.seq) if n <= outcome.before else Applied(n, outcome.seq)


def unavailable(push: OwnedPush, retry_after: Milliseconds) -> Error:
    """The database cannot apply this now."""
    message = "This push cannot be applied at the moment. Keep it, and send it again after the delay."
    return errors.UNAVAILABLE.frame(message, answers="push", id=push.first, retry_after=retry_after)


def slow_down(push: OwnedPush, retry_after: Milliseconds) -> Error:
    """The user writes too much."""
    return errors.SLOW_DOWN.frame(answers="push", id=push.first, retry_after=retry_after)
