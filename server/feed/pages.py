"""Older rows, on request. Pages are read by keyset, so page 1,000 costs as much as page 1."""

from collections.abc import Sequence
from typing import Final

from protocol import errors
from protocol.frames import DEFAULT_ROWS, AskPage, Page, Row
from server import metrics
from server.exceptions import UnavailableError
from server.feed import encode
from server.feed.hub import Reader
from server.feed.limited import AT_ONCE
from server.feed.ports import CONTENT_BYTES, Rows, Want
from server.retry import Retry
from server.turns import Turns

PAGE_ROWS: Final = 500
"""The most rows of one page."""


class Pages:
    """Answers requests for pages, one of a user at a time."""

    def __init__(self, rows: Rows, at_once: int = AT_ONCE) -> None:
        self._rows = rows
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
                    data = encode.message(page, sink.codec)
                    sink.send(data)
                    metrics.sent(page.rows, 1, len(data))
                    return
            except UnavailableError as error:
                if not retry.failures:
                    sink.send_error(errors.UNAVAILABLE.frame(answers="page", id=ask.id))
                await retry.pause(error)

    async def _read(self, reader: Reader, ask: AskPage) -> Page:
        user, since = reader.feed.user, reader.position
        limit = min(ask.limit or DEFAULT_ROWS, PAGE_ROWS)
        rows: Sequence[Row]
        if ask.conversation is None:
            overview = await self._rows.conversations(user, ask.before, limit + 1, CONTENT_BYTES, since)
            position, rows, cut = overview.position, overview.conversations, bool(overview.rest)
        else:
            wants = [Want(ask.conversation, ask.before, limit + 1)]
            read = await self._rows.messages(user, wants, CONTENT_BYTES, since)
            position, rows, cut = read.position, [message for _, message in read.messages], read.cut
        return Page(id=ask.id, as_of=position.seq, rows=list(rows[:limit]), more=cut or len(rows) > limit)
