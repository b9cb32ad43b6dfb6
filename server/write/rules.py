"""Which mutations are acceptable, and how a push is answered. Pure."""

from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import orjson
from msgspec import Raw

from protocol import errors
from protocol.codec import Codec, FrameError, Value
from protocol.errors import ERRORS
from protocol.frames import (
    FIRST_INSTANT,
    LAST_INSTANT,
    Ack,
    Applied,
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
from server.declaration.model import Declaration, Devices, Field, Kind
from server.declaration.values import KEY_BYTES, BadValue, as_text, reader, written_out
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


Text = TypeVar("Text", str, str | None)
Reads = Callable[[Codec, Raw], Text]
"""Makes of a device's value what Postgres gets. Raises BadValue and FrameError."""
USUAL: Final = {Type.TEXT: Codec.text_of, Type.UUID: Codec.uuid_of}
"""Most values are of these types, and come in a form that is decoded and checked at once, in a third of the time."""


class _RejectionError(Exception):
    """Why a mutation is rejected: a code, and perhaps a column, as in `Rejection`."""


def forms(declaration: Declaration) -> dict[str, "Form"]:
    """How devices write each kind that they write, by tag."""
    return {kind.tag: Form(kind, kind.devices) for kind in declaration.kinds if kind.devices is not None}


def check(mutation: Mutation | None, forms: Mapping[str, "Form"], codec: Codec, now: Instant) -> Change | Rejection:
    """Return the mutation as Postgres gets it, or its rejection if no device may send it. None stands for an
    undecodable mutation."""
    if mutation is None:
        return Rejection("malformed")
    form = forms.get(mutation.kind)
    if form is None:
        return Rejection("not_allowed")
    try:
        change = form.change(mutation, codec)
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


class Form:
    """The form of a kind's mutations. Whatever follows from the declaration is found out here once, and not for each
    mutation: checking an insert took 15 µs that way, and takes 5."""

    __slots__ = (
        "_columns",
        "_deletes",
        "_has_texts",
        "_inserted",
        "_key",
        "_parent",
        "_same",
        "_tag",
        "_target",
        "_updated",
    )

    def __init__(self, kind: Kind, devices: Devices) -> None:
        self._tag = kind.tag
        self._columns = kind.column.keys()
        dated = [] if kind.dated is None else [kind.dated]
        self._key = [(i, _reads(field.of, reader(field))) for i, field in enumerate(kind.key)]
        """Of a new row."""
        self._target = [(i, _reads(field.of, reader(field))) for i, field in enumerate([*kind.key, *dated])]
        """Of an existing row."""
        self._has_texts = any(field.of is Type.TEXT for field in kind.key)
        parent = [] if kind.parent is None else [kind.columns[0].name]
        self._parent = next(iter(parent), None)
        """The column that names the parent."""
        self._same = [i for i, field in enumerate(kind.key) if kind.parent and field.name == kind.parent.field.name]
        """Which parts of the key name the parent, too."""
        self._inserted = None if devices.insert is None else _columns(kind, [*devices.insert, *parent])
        self._updated = _columns(kind, devices.update)
        self._deletes = devices.delete

    def change(self, mutation: Mutation, codec: Codec) -> Change:
        """Raises FrameError, BadValue and _RejectionError."""
        halves = codec.values(mutation.id)
        fields = self._key if isinstance(mutation, Insert) else self._target
        if len(halves) != len(fields):
            raise _RejectionError("malformed")
        try:
            key = tuple([read(codec, halves[i]) for i, read in fields])
        except BadValue:
            for half in halves:
                codec.value(half)  # one that is no value at all counts first
            raise
        if isinstance(mutation, Insert):
            if self._inserted is None:
                raise _RejectionError("not_allowed")
            if self._has_texts and any(len(half.encode()) > KEY_BYTES for half in key):
                raise _RejectionError("bad_id")
            patch = self._patch(mutation.columns, self._inserted, codec)
            if self._parent is not None:
                self._check_parent(self._parent, key, patch)
            return Change(self._tag, "+", key, _json(patch), mutation.at)
        if isinstance(mutation, Update):
            if not self._updated:
                raise _RejectionError("not_allowed")
            if not mutation.columns:
                raise _RejectionError("malformed")
            return Change(self._tag, "~", key, _json(self._patch(mutation.columns, self._updated, codec)), mutation.at)
        if not self._deletes:
            raise _RejectionError("not_allowed")
        return Change(self._tag, "-", key)

    def _patch(
        self, columns: Mapping[str, Raw], permitted: Mapping[str, Reads[str | None]], codec: Codec
    ) -> dict[str, str | None]:
        patch: dict[str, str | None] = {}
        for name, raw in columns.items():
            read = permitted.get(name)
            if read is None:
                # Only the name of a column that devices know: another one may be anything.
                raise _RejectionError(f"not_allowed:{name}" if name in self._columns else "not_allowed")
            try:
                patch[name] = read(codec, raw)
            except BadValue as error:
                raise _RejectionError(f"{error.code}:{name}") from None
        return patch

    def _check_parent(self, name: str, key: tuple[str, ...], patch: Mapping[str, str | None]) -> None:
        """An insert names its parent; where that is a part of the key, the same one."""
        parent = patch.get(name)
        if parent is None or (self._same and any(key[i] != parent for i in self._same)):
            raise _RejectionError(f"malformed:{name}")


def _columns(kind: Kind, names: Iterable[str]) -> dict[str, Reads[str | None]]:
    return {name: _limited(kind.column[name].field, kind.limits.get(name, DEFAULT_BYTES)) for name in names}


def _reads(of: Type, read: Callable[[Value], Text]) -> Reads[Text]:
    usual = USUAL.get(of)
    if usual is None:
        return lambda codec, raw: read(codec.value(raw))

    def reads(codec: Codec, raw: Raw) -> Text:
        found = usual(codec, raw)
        return read(codec.value(raw)) if found is None else found

    return reads


def _limited(field: Field, limit: Limit) -> Reads[str | None]:
    read = _reads(field.of, as_text(field))
    if isinstance(limit, tuple):

        def one_of(codec: Codec, raw: Raw) -> str | None:
            text = read(codec, raw)
            # A NULL is none of them either: devices could never update the row again.
            if text not in limit:
                raise BadValue("bad_value")
            return text

        return one_of

    is_longer = IS_LONGER.get(field.of, _is_longer)

    def limited(codec: Codec, raw: Raw) -> str | None:
        text = read(codec, raw)
        if text is not None and is_longer(text, limit):
            raise BadValue("too_long")
        return text

    return limited


def _is_longer(text: str, limit: int) -> bool:
    """Than so many bytes of UTF-8."""
    # A character has at most four bytes; most texts need not be encoded to be known as short enough.
    return len(text) * 4 > limit and len(text.encode()) > limit


def _is_longer_json(text: str, limit: int) -> bool:
    return len(text) + written_out(text) > limit or _is_longer(text, limit)


def _is_longer_base64(text: str, limit: int) -> bool:
    """What it stands for."""
    return len(text) * 4 > limit and len(b64decode(text)) > limit


IS_LONGER: Final = {Type.JSON: _is_longer_json, Type.ARRAY: _is_longer_json, Type.BYTES: _is_longer_base64}


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
