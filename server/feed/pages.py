"""Older history, on request: by keyset, so that page 1,000 costs what page 1 does."""

import asyncio
from collections.abc import Sequence
from typing import Final

from protocol.frames import DEFAULT_ROWS, AskPage, Page, Row
from server import metrics
from server.backoff import backoff
from server.errors import UnavailableError
from server.feed import encode, notices
from server.feed.ports import Sink, Store, Want
from server.turns import Turns

PAGE_ROWS: Final = 500
"""Rows of one page at most."""
PAGE_CONTENT: Final = 256 * 1024
"""Bytes of content of one page at most."""
AT_ONCE: Final = 2
"""Statements under way, for the same reason as in snapshot.py."""


class Pages:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = Turns(AT_ONCE)

    async def answer(self, user: str, ask: AskPage, sink: Sink) -> None:
        """Write the page to the socket, as soon as Postgres can be asked; nothing if the socket closes before."""
        failures = 0
        while True:
            await sink.room()
            if sink.gone:
                return
            try:
                async with self._turns.of(user):
                    if sink.full:
                        continue  # by a page that was asked for before
                    page = await self._read(user, ask)
                    data = encode.message(page, sink.codec)
                    sink.write(data)
                    metrics.sent(page.rows, 1, len(data))
                    return
            except UnavailableError:
                if not failures:
                    sink.say(notices.unavailable("page", ask.id))
                failures += 1
                await asyncio.sleep(backoff(failures))

    async def _read(self, user: str, ask: AskPage) -> Page:
        limit = min(ask.limit or DEFAULT_ROWS, PAGE_ROWS)
        rows: Sequence[Row]
        if ask.conversation is None:
            overview = await self._store.conversations(user, ask.before, limit + 1, PAGE_CONTENT)
            as_of, rows, cut = overview.as_of, overview.conversations, bool(overview.rest)
        else:
            history = await self._store.messages(user, [Want(ask.conversation, ask.before, limit + 1)], PAGE_CONTENT)
            as_of, rows, cut = history.as_of, [message for _, message in history.messages], history.cut
        return Page(id=ask.id, as_of=as_of, rows=list(rows[:limit]), more=cut or len(rows) > limit)
