"""Events of usage: what is accepted from the app's backend, and what the server itself records. Pure."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

MOST_EVENTS: Final = 1_000
"""Events of one request. Checking them takes some 4 ms of the event loop, in slices."""
SLICE: Final = 20
"""Events that are checked before others get the loop; some 0.1 ms."""
NAME_CHARACTERS: Final = 100
KEY_CHARACTERS: Final = 200
DATA_BYTES: Final = 8 * 1024
"""Limit on an event's data, as JSON. Events are numbers and names; texts belong elsewhere."""
MOST_TOKENS: Final = 1_000_000_000
"""Tokens of one event. No model takes as many; more is a wrong unit."""
AHEAD: Final = timedelta(minutes=5)
"""How far an event's time may be ahead of ours: clocks differ."""

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)]
Tokens = Annotated[int, Meta(ge=0, le=MOST_TOKENS)]


class EventError(ValueError):
    """A sentence for the developer of the app's backend. It names the event and the field."""


class Event(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One row of sync.usage_logs."""

    user_id: UUID
    event: Name
    data: dict[str, Any] = {}
    timestamp: Annotated[datetime, Meta(tz=True)] | None = None
    """None: the time at which it is written."""


class Counted(Struct, frozen=True):
    """The fields of an event's data that are counted. All others are kept as they are."""

    model: Name | None = None
    tier: Name | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    conversation_id: UUID | None = None


COUNTED: Final = frozenset(Counted.__struct_fields__)


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/usage."""

    events: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST_EVENTS)]
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=KEY_CHARACTERS)]


class Written(StrEnum):
    """What became of a group."""

    WRITTEN = "written"
    REPEATED = "repeated"
    """It was written before."""
    DIFFERS = "differs"
    """Other events were written under its key."""


@dataclass(frozen=True, slots=True)
class Group:
    """Events that are written together, or not at all."""

    document: str
    """A JSON array."""
    events: int
    key: UUID | None = None
    """A hash of the idempotency key. None: the server's own events."""
    digest: UUID | None = None
    """A hash of the events."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Between which times an event may lie."""

    oldest: datetime
    newest: datetime

    @classmethod
    def at(cls, now: datetime, days: int) -> "Limits":
        return cls(now - timedelta(days=days), now + AHEAD)


def request(body: Any) -> Request:
    """The request in a decoded JSON body. Its events are not checked yet. Raises EventError."""
    try:
        return msgspec.convert(body, Request)
    except msgspec.ValidationError as error:
        raise EventError(_sentence(str(error), "the body")) from None


def check(given: Sequence[dict[str, Any]], limits: Limits, first: int = 0) -> bytes:
    """These events, of which the first is number `first` of its request, as JSON values separated by commas. Raises
    EventError."""
    try:
        events = msgspec.convert(list(given), list[Event])
    except msgspec.ValidationError as error:
        said = re.sub(r"\$\[(\d+)\]", lambda found: f"$.events[{int(found[1]) + first}]", str(error))
        raise EventError(_sentence(said, "the body")) from None
    encoded = []
    for number, event in enumerate(events, first):
        try:
            text = msgspec.json.encode(event)
        except RecursionError:
            raise EventError(f"events[{number}].data is nested too deeply.") from None
        encoded.append(text)
        if event.timestamp is not None and not limits.oldest <= event.timestamp <= limits.newest:
            if event.timestamp > limits.newest:
                raise EventError(f"events[{number}].timestamp is in the future; this server's time is {_now(limits)}.")
            raise EventError(
                f"events[{number}].timestamp is older than events are kept here, since {limits.oldest:%Y-%m-%d} "
                "(ATLAS_USAGE_DAYS)."
            )
        if len(text) > DATA_BYTES and len(msgspec.json.encode(event.data)) > DATA_BYTES:
            raise EventError(f"events[{number}].data has more than {DATA_BYTES // 1024} KiB.")
        if not COUNTED.isdisjoint(event.data):
            try:
                msgspec.convert(event.data, Counted)
            except msgspec.ValidationError as error:
                said = str(error).replace("`$", f"`$.events[{number}].data")
                raise EventError(_sentence(said, f"events[{number}].data")) from None
        # Two backslashes are one character of the text, and no escape begins with the second one.
        if b"\\u0000" in text.replace(b"\\\\", b""):
            raise EventError(f"events[{number}] contains the character U+0000, which Postgres cannot keep.")
    return b",".join(encoded)


def group(parts: Iterable[bytes], events: int, key: str | None = None) -> Group:
    """A group of what `check` returned."""
    document = b"[" + b",".join(parts) + b"]"
    if key is None:
        return Group(document.decode(), events)
    return Group(document.decode(), events, _hash(key.encode()), _hash(document))


def slices(events: Sequence[dict[str, Any]]) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    """The events in portions of SLICE, each with the number of its first."""
    for first in range(0, len(events), SLICE):
        yield first, events[first : first + SLICE]


def sync_completed(
    user: str, *, tier: str, outcome: str, milliseconds: float, rows: Mapping[str, int], size: int, at: int
) -> Event:
    """A device caught up: `milliseconds` after its hello it had everything, by `size` bytes with these rows, by kind.
    `outcome`: as of atlas_hellos_total; `at`: microseconds since 1970."""
    data = {
        "tier": tier,
        "outcome": outcome,
        "milliseconds": round(milliseconds, 1),
        "rows": dict(rows),
        "bytes": size,
    }
    when = datetime.fromtimestamp(at // 1_000_000, UTC).replace(microsecond=at % 1_000_000)
    return Event(UUID(user), "sync_completed", data, when)


def own(events: Sequence[Event]) -> Group:
    """A group of the server's own events."""
    return group(map(msgspec.json.encode, events), len(events))


def _sentence(said: str, whole: str) -> str:
    """msgspec's message as a sentence that begins with the field."""
    problem, _, path = said.partition(" - at `")
    field = path.rstrip("`").removeprefix("$").removeprefix(".") or whole
    return f"{field}: {problem[0].lower()}{problem[1:]}."


def _now(limits: Limits) -> str:
    return (limits.newest - AHEAD).isoformat(timespec="seconds")


def _hash(data: bytes) -> UUID:
    return UUID(bytes=hashlib.sha256(data).digest()[:16])
