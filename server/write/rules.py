"""Which mutations are acceptable, and how a push is answered. Pure."""

from base64 import b64decode
from collections.abc import Mapping
from typing import Final

import orjson
from msgspec import Raw

from protocol import errors
from protocol.codec import Codec, FrameError
from protocol.errors import ERRORS
from protocol.frames import (
    FIRST_INSTANT,
    LAST_INSTANT,
    Ack,
    Applied,
    Delete,
    Error,
    Insert,
    Instant,
    Milliseconds,
    Mutation,
    Rejected,
    Repeated,
    Result,
    Update,
)
from protocol.schema import Limit, Type
from server.declaration.model import Column, Declaration, Kind
from server.declaration.values import KEY_BYTES, BadValue, as_text, read, written_out
from server.write.push import Change, Outcome, OwnedPush, Rejection

EARLIEST: Final[Instant] = 1_420_070_400_000_000
"""2015-01-01. No such app existed before, so an earlier clock is wrong."""
AHEAD: Final = 5 * 60 * 1_000_000
"""Microseconds that a device's clock may be ahead of ours. Rows from further ahead would stay the newest too long."""
DEFAULT_BYTES: Final = 100_000
"""Bytes of a value whose column has no limit of its own."""
SENTENCES: Final = {
    "malformed": "The app sent this change in a form that the server does not understand. Update the app.",
    "not_allowed": "Devices do not make this change here.",
    "unknown_row": "This does not exist any more.",
    "unknown_parent": "What this belongs to does not exist any more.",
    "bad_id": (
        "This could not be saved under its id. Try again under one that no row has: a random UUID, a text of at most "
        f"{KEY_BYTES:,} bytes, or an integer; where the user is a part of it, the user's own."
    ),
    "bad_value": "A value is not one that can be saved here.",
    "bad_time": "This was written at an impossible time. Check the date and time of this device.",
    "bad_text": "This text contains a character that cannot be saved (U+0000, or half of a surrogate pair).",
    "too_long": "This text is too long.",
    "too_slow": "The database takes too long with this change.",
    "refused": "The database does not accept this change.",
}
"""What each code of a rejection means, in words for the author of the text."""


class _RejectionError(Exception):
    """Why a mutation is rejected: a code, and perhaps a column, as in `Rejection`."""


def check(mutation: Mutation | None, declaration: Declaration, codec: Codec, now: Instant) -> Change | Rejection:
    """Return the mutation as Postgres gets it, or its rejection if no device may send it. None stands for an
    undecodable mutation."""
    if mutation is None:
        return Rejection("malformed")
    try:
        change = _change(mutation, declaration, codec)
    except FrameError:
        return Rejection("malformed")
    except BadValue as error:
        return Rejection(error.code)
    except _RejectionError as error:
        return Rejection(str(error))
    if change.at is not None and not EARLIEST <= change.at <= now + AHEAD:
        # A number beyond an instant is no part of a digest.
        return Rejection("bad_time", change if FIRST_INSTANT <= change.at <= LAST_INSTANT else None)
    return change


def _change(mutation: Mutation, declaration: Declaration, codec: Codec) -> Change:
    """Raises FrameError, BadValue and _RejectionError."""
    kind = declaration.tagged.get(mutation.kind)
    if kind is None or kind.devices is None:
        raise _RejectionError("not_allowed")
    devices = kind.devices
    key = _key(kind, mutation, codec)
    match mutation:
        case Insert(columns=columns, at=at):
            if devices.insert is None:
                raise _RejectionError("not_allowed")
            if any(len(half.encode()) > KEY_BYTES for half in key):
                raise _RejectionError("bad_id")
            patch = _patch(kind, columns, devices.insert, codec)
            if kind.parent is not None:
                _check_parent(kind, key, patch)
            return Change(kind.tag, "+", key, _json(patch), at)
        case Update(columns=columns, at=at):
            if not devices.update:
                raise _RejectionError("not_allowed")
            if not columns:
                raise _RejectionError("malformed")
            return Change(kind.tag, "~", key, _json(_patch(kind, columns, devices.update, codec, parent=False)), at)
        case Delete():
            if not devices.delete:
                raise _RejectionError("not_allowed")
            return Change(kind.tag, "-", key)


def _key(kind: Kind, mutation: Mutation, codec: Codec) -> tuple[str, ...]:
    values = [codec.value(half) for half in codec.values(mutation.id)]
    fields = list(kind.key)
    if kind.dated is not None and not isinstance(mutation, Insert):
        fields.append(kind.dated)
    if len(values) != len(fields):
        raise _RejectionError("malformed")
    return tuple(read(field, value) for field, value in zip(fields, values, strict=True))


def _patch(
    kind: Kind, columns: Mapping[str, Raw], permitted: tuple[str, ...], codec: Codec, *, parent: bool = True
) -> dict[str, str | None]:
    patch: dict[str, str | None] = {}
    for name, raw in columns.items():
        column = kind.column.get(name)
        belongs = parent and kind.parent is not None and column is kind.columns[0]
        if column is None or (name not in permitted and not belongs):
            # Only the name of a column that devices know: another one may be anything.
            raise _RejectionError("not_allowed" if column is None else f"not_allowed:{name}")
        patch[name] = _value(column, kind.limits.get(name, DEFAULT_BYTES), codec, raw)
    return patch


def _value(column: Column, limit: Limit, codec: Codec, raw: Raw) -> str | None:
    try:
        value = as_text(column.field, codec.value(raw))
    except BadValue as error:
        raise _RejectionError(f"{error.code}:{column.name}") from None
    if isinstance(limit, tuple):
        # A NULL is none of them either: devices could never update the row again.
        if value not in limit:
            raise _RejectionError(f"bad_value:{column.name}")
    elif value is not None and _is_longer(column, value, limit):
        raise _RejectionError(f"too_long:{column.name}")
    return value


def _is_longer(column: Column, value: str, limit: int) -> bool:
    """Than so many bytes: of a text in UTF-8, of a value that is base64 without that."""
    if column.field.of in (Type.JSON, Type.ARRAY) and len(value) + written_out(value) > limit:
        return True
    if len(value) * 4 <= limit:
        return False  # a character has at most four bytes; most texts need not be encoded to be known as short enough
    return len(b64decode(value) if column.field.of is Type.BYTES else value.encode()) > limit


def _check_parent(kind: Kind, key: tuple[str, ...], patch: Mapping[str, str | None]) -> None:
    """An insert names its parent; where that is a part of the key, the same one."""
    assert kind.parent is not None
    name = kind.columns[0].name
    if patch.get(name) is None:
        raise _RejectionError(f"malformed:{name}")
    for field, half in zip(kind.key, key, strict=False):
        if field.name == kind.parent.field.name and half != patch[name]:
            raise _RejectionError(f"malformed:{name}")


def _json(patch: Mapping[str, str | None]) -> str:
    return orjson.dumps(patch, option=orjson.OPT_SORT_KEYS).decode()


def answer(push: OwnedPush, outcome: Outcome) -> Ack | Error:
    """The answer to a push that is not unfinished: a result for each mutation, or an error."""
    if outcome.error == "gap" or (outcome.error is None and push.first > outcome.before + 1):
        message = f"The next mutation of this device is number {outcome.before + 1}."
        return errors.GAP.frame(message, answers="push", id=push.first, expected=outcome.before + 1)
    if outcome.error is not None:
        return ERRORS[outcome.error].frame(answers="push", id=push.first)
    return Ack(results=[_result(push.first + i, outcome) for i in range(len(push.mutations))])


def _result(n: int, outcome: Outcome) -> Result:
    said = outcome.rejected.get(n)
    if said is not None:
        code, column, constraint = (*said.split(":", 2), "", "")[:3]
        sentence = SENTENCES.get(code, SENTENCES["refused"])  # a newer server may have added codes
        return Rejected(n, code, f"{sentence} ({constraint})" if constraint else sentence, column or None)
    return Repeated(n, outcome.seq) if n <= outcome.before else Applied(n, outcome.seq)


def unavailable(push: OwnedPush, retry_after: Milliseconds) -> Error:
    """The database cannot apply this now."""
    message = "This push cannot be applied at the moment. Keep it, and send it again after the delay."
    return errors.UNAVAILABLE.frame(message, answers="push", id=push.first, retry_after=retry_after)


def slow_down(push: OwnedPush, retry_after: Milliseconds) -> Error:
    """The user writes too much."""
    return errors.SLOW_DOWN.frame(answers="push", id=push.first, retry_after=retry_after)
