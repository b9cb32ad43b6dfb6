"""Older rows, on request. Pages are read by keyset, so page 1,000 costs as much as page 1."""

from typing import Final

from protocol import errors
from protocol.codec import Codec, FrameError
from protocol.frames import NOTHING, AskPage, Key, Page
from server import metrics
from server.declaration.model import Declaration, Kind
from server.declaration.synced import Synced
from server.declaration.values import BadValue, read, read_key
from server.exceptions import UnavailableError
from server.feed.hub import Reader
from server.feed.limited import AT_ONCE
from server.feed.ports import CONTENT_BYTES, Before, Rows, Want
from server.outgoing import message
from server.retry import Retry
from server.turns import Turns

PAGE_ROWS: Final = 500
"""The most rows of one page."""
DEFAULT_ROWS: Final = 50
"""Rows of a page that names no number."""


class Pages:
    """Answers requests for pages, one of a user at a time."""

    def __init__(self, rows: Rows, synced: Synced, at_once: int = AT_ONCE) -> None:
        self._rows = rows
        self._synced = synced
        self._turns = Turns(at_once)

    async def answer(self, reader: Reader, ask: AskPage) -> None:
        """Send the page to the reader as soon as Postgres answers; send nothing if its socket closes before."""
        sink = reader.sink
        retry = Retry(None)  # the listener and the inspector log that Postgres is away
        while True:
            await sink.wait_writable()
            if sink.gone:
                return
            try:
                async with self._turns.of(reader.feed.user):
                    if sink.full:
                        continue  # an earlier page filled it
                    page = await self._read(reader, ask)
                    data = message(page, sink.codec)
                    sink.send(data)
                    metrics.sent(page.rows, 1, len(data))
                    return
            except BadPageError as error:
                sink.send_error(errors.BAD_PAGE.frame(str(error), answers="page", id=ask.id))
                return
            except UnavailableError as error:
                if not retry.failures:
                    sink.send_error(errors.UNAVAILABLE.frame(answers="page", id=ask.id))
                await retry.pause(error)

    async def _read(self, reader: Reader, ask: AskPage) -> Page:
        """Raises BadPageError."""
        kind, parent, before = asked_list(self._synced.declaration, ask, reader.sink.codec)
        user, since = reader.feed.user, reader.position
        limit = min(ask.limit or DEFAULT_ROWS, PAGE_ROWS)
        answer = await self._rows.rows(kind, user, [Want(parent, before, limit + 1)], CONTENT_BYTES, since)
        rows = [row for _, row in answer.rows]
        more = answer.cut or len(rows) > limit
        return Page(id=ask.id, as_of=answer.position.seq, rows=rows[:limit], more=more)


class BadPageError(Exception):
    """No such page can be asked for. The message says why."""


def asked_list(declaration: Declaration, ask: AskPage, codec: Codec) -> tuple[Kind, Key | None, Before | None]:
    """The list and the place that a device asks for. Raises BadPageError."""
    kind = declaration.kind.get(ask.kind)
    if kind is None:
        raise BadPageError("The server syncs no rows of this kind.")
    try:
        parent = _parent(declaration, kind, ask, codec)
        if ask.before == NOTHING:
            return kind, parent, None
        place = codec.values(ask.before)
        if place == [ask.before] and codec.value(ask.before) is None:
            return kind, parent, None
        if len(place) != 2:
            raise BadPageError("`before` is a pair: the value of the column that orders the list, and the id.")
        at = codec.value(place[0])
        if at is not None:
            if kind.newest is None:
                raise BadPageError("No column orders this list, so the first half of `before` is nil.")
            read(kind.column[kind.newest].field, at)
        return kind, parent, Before(at, read_key(kind, [codec.value(half) for half in codec.values(place[1])]))
    except (FrameError, BadValue):
        raise BadPageError("A value of the page is not of the column's type.") from None


def _parent(declaration: Declaration, kind: Kind, ask: AskPage, codec: Codec) -> Key | None:
    value = None if ask.parent == NOTHING else codec.value(ask.parent)
    above = declaration.parent_of(kind)
    if (above is None) != (value is None):
        problem = "has no parent" if above is None else "belongs to a parent, which the page has to name"
        raise BadPageError(f"A row of this kind {problem}.")
    return None if above is None else read_key(above, [value])
