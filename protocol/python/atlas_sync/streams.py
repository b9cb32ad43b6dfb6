"""The streams of a user: texts that grow in columns of rows while the app's backend writes them (SPEC.md, section 13).

Pure: frames and rows in, what is shown out.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal
from uuid import UUID

from atlas_sync.rows import Key, Row

OPEN = "open"

RowOf = Callable[[str, Key], Row | None]
"""The synced row of a kind and a key; None if it is not held."""


@dataclass(frozen=True, slots=True)
class StreamsNamed:
    """All streams of the user that are not settled."""

    streams: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class StreamGrew:
    """A part of a stream's text, which follows the character `offset`. `since` is the feed's position at its opening.

    `state` is "open" while the text may grow; "done", "failed", "stopped", or any other one, after that.
    """

    stream: UUID
    kind: str
    id: Key
    column: str
    since: int
    offset: int
    text: str
    state: str


@dataclass(frozen=True, slots=True)
class HeldStream:
    """A stream that a device holds.

    base: The column's value in the last row that was held and was not newer than the stream; None if there was none.
    listed: Whether the server still names it.
    over: Whether it is shown no more. It is remembered until the server does not name it.
    """

    stream: UUID
    kind: str
    id: Key
    column: str
    since: int
    text: str = ""
    state: str = OPEN
    base: Any = None
    listed: bool = True
    over: bool = False

    def shows(self, row: Row | None) -> Literal["nothing", "row", "stream", "lags"]:
        """What is shown in the column: the stream, or the row for good (SPEC.md, 13.4).

        nothing: no row is held. lags: the row's value is shown until the stream has got as far.
        """
        if row is None:
            return "nothing"
        is_open, value = self.state == OPEN, row.values.get(self.column)
        if not is_open and not self.text:
            return "row"
        if row.seq <= self.since or value is None or value in ("", self.base):
            return "stream"
        if not isinstance(value, str):
            return "row"
        if len(value) < len(self.text) and self.text.startswith(value):
            return "stream"
        return "lags" if is_open and value.startswith(self.text) else "row"


class Streams:
    """The streams that a device holds, in the order in which they came. Keep them beside the rows, over restarts."""

    def __init__(self, held: Iterable[HeldStream] = ()) -> None:
        self._held = {each.stream: each for each in held}

    def __iter__(self) -> Iterator[HeldStream]:
        return iter(self._held.values())

    def __bool__(self) -> bool:
        return bool(self._held)

    def name(self, streams: frozenset[UUID]) -> None:
        """The server named the streams that are not settled. The others are held until `drop_unnamed`."""
        for each in list(self):
            if each.stream in streams or not each.over:
                self._held[each.stream] = replace(each, listed=each.stream in streams)
            else:
                del self._held[each.stream]

    def grow(self, part: StreamGrew, row: Row | None) -> None:
        """A part of a text arrived; `row` is the row held. What follows no text that is held is left out."""
        held = self._held.get(part.stream)
        if held is None:
            held = HeldStream(part.stream, part.kind, part.id, part.column, part.since)
        if held.over or part.offset > len(held.text):
            return
        held = replace(held, text=held.text[: part.offset] + part.text, state=part.state, listed=True)
        self._held[part.stream] = _decided(held, row)

    def look(self, row_of: RowOf) -> None:
        """Rows have changed: decide anew what is shown. Call it once for each batch."""
        for each in self:
            if not each.over:
                self._held[each.stream] = _decided(each, row_of(each.kind, each.id))

    def forget(self, kind: str, key: Key) -> None:
        """A row was deleted."""
        for each in self:
            if (each.kind, each.id) == (kind, key):
                self._held[each.stream] = _over(each)

    def drop_unnamed(self) -> None:
        """The device is live: the rows of the streams that the server does not name any more have arrived."""
        self._held = {each.stream: each for each in self if each.listed}


def _decided(held: HeldStream, row: Row | None) -> HeldStream:
    if row is not None and row.seq <= held.since:
        held = replace(held, base=row.values.get(held.column))
    return _over(held) if held.shows(row) == "row" else held


def _over(held: HeldStream) -> HeldStream:
    return replace(held, over=True, text="")
