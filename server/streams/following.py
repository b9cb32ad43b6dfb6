"""Reads what other processes did with streams that somebody here waits for."""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

import structlog

from server import metrics
from server.exceptions import UnavailableError
from server.retry import Retry
from server.streams.audience import Audience
from server.streams.ports import ANYWHERE, Found, StreamStore
from server.streams.stream import Known, Stream
from server.streams.text import Text

log = structlog.get_logger()

AT_ONCE: Final = 500
"""Streams read by one statement."""
MOST: Final = 10_000
"""With more streams to read than this, all are read instead: any role may send notices, of any ids."""


class Following:
    """`wanted`: whether somebody here waits for a stream. `changed`: called with a stream whose state is another one,
    and with True if it is to end. `gone`: called with a stream that is settled."""

    def __init__(
        self,
        store: StreamStore,
        known: Known,
        audience: Audience,
        *,
        wanted: Callable[[Stream], bool],
        changed: Callable[[Stream, bool], None],
        gone: Callable[[UUID], None],
    ) -> None:
        self._store = store
        self._known = known
        self._audience = audience
        self._wanted = wanted
        self._changed = changed
        self._gone = gone
        self._rung: dict[UUID, float] = {}
        """Streams to read, and since when, in seconds since 1970; 0: nobody said."""
        self._some = asyncio.Event()
        self._listening = False
        self._all = False
        """Whether all streams are to be read: some notices may have been lost."""

    def up(self) -> None:
        self._listening = self._all = True
        self._some.set()

    def down(self) -> None:
        self._listening = self._audience.certain = False
        for stream in self._known:
            if stream.group is None:
                # If Postgres has crashed, it may have lost the end of the text.
                stream.doubt()

    def heard(self, at: float, ids: Iterable[UUID]) -> None:
        """Others have changed these streams."""
        for id_ in ids:
            stream = self._known.get(id_)
            if stream is None or self._wanted(stream):
                self._rung.setdefault(id_, at)
            if stream is None:
                self._audience.unread.setdefault(id_)
        if len(self._rung) > MOST:
            self._rung.clear()
            self._all = True
        if self._rung or self._all:
            self._some.set()

    def want(self, stream: Stream) -> None:
        """Somebody here waits for a stream whose text is not known."""
        self._rung.setdefault(stream.id, 0.0)
        self._some.set()

    async def run(self) -> None:
        """Read until cancelled."""
        retry = Retry("streams cannot be read")
        while True:
            await self._some.wait()
            self._some.clear()
            try:
                # While others write all the time, there is always something to read.
                while self._all or self._rung:
                    await (self._read_all() if self._all else self._read_some())
                    retry.reset()
            except UnavailableError as error:
                self._some.set()
                await retry.pause(error)

    async def look(self) -> None:
        """Read the states of those that nobody here waits for: some may be settled. Raises UnavailableError."""
        ids = [stream.id for stream in self._known if not self._wanted(stream)]
        found = {each.id: each for each in await self._store.read([(id_, ANYWHERE) for id_ in ids])}
        for id_ in ids:
            stream = self._known.get(id_)
            if stream is None or self._wanted(stream):
                continue
            if id_ not in found or found[id_].settled:
                self._gone(id_)
            else:
                stream.state = found[id_].state
                stream.text = None

    async def read(self, stream: Stream) -> bool:
        """Read what the database has more of a stream. Returns False if the stream has changed here meanwhile: then its
        text may be older than this call. Raises UnavailableError."""
        asked = 0 if stream.text is None else stream.text.end
        found = await self._store.read([(stream.id, asked)])
        if not found:
            self._gone(stream.id)
        return all(self._take(each, asked, 0.0) for each in found)

    async def _read_all(self) -> None:
        """Raises UnavailableError."""
        self._all = False
        before = [stream.id for stream in self._known]
        try:
            found = await self._store.unsettled()
            for id_ in set(before) - {each.id for each in found}:
                self._gone(id_)
            for each in found:
                stream = self._known.note(each)
                if self._wanted(stream):
                    self._rung.setdefault(stream.id, 0.0)
                elif stream.group is None:
                    stream.state, stream.text = each.state, None
            # Those that are there now, which come first. Others may change meanwhile, again and again.
            for _ in range(0, len(self._rung), AT_ONCE):
                await self._read_some()
            self._audience.read(self._audience.unread.keys() - self._rung.keys())
        except UnavailableError:
            self._all = True
            raise
        if self._listening and not self._all:
            self._audience.list_to_all()
            for stream in self._known:
                self._audience.publish(stream)

    async def _read_some(self) -> None:
        """Raises UnavailableError."""
        some = dict(list(self._rung.items())[:AT_ONCE])
        wants = {}
        for id_ in some:
            del self._rung[id_]
            stream = self._known.get(id_)
            # Of a stream to which this process appends, the database's answer to that counts.
            own = stream is not None and stream.group is not None
            wants[id_] = ANYWHERE if own else 0 if stream is None or stream.text is None else stream.text.end
        try:
            found = await self._store.read(list(wants.items()))
        except UnavailableError:
            self._rung = {**some, **self._rung}
            raise
        for each in found:
            self._take(each, wants[each.id], some[each.id])
        for id_ in wants.keys() - {each.id for each in found}:
            self._gone(id_)
        self._audience.read(some)

    def _take(self, found: Found, asked: int, since: float) -> bool:
        """Returns False if the text could not be taken."""
        if found.settled:
            self._gone(found.id)
            return True
        stream = self._known.note(found)
        taken = asked != ANYWHERE and stream.group is None and self._take_text(stream, found, asked)
        if taken and since and found.text:
            metrics.STREAM_DELIVERY.observe(max(0.0, time.time() - since))
        if found.stopping and stream.open:
            self._changed(stream, True)
        return taken

    def _take_text(self, stream: Stream, found: Found, asked: int) -> bool:
        before = stream.state
        if stream.text is None:
            if asked:
                self.want(stream)
                return False
            stream.text = Text(found.text or "")
            if stream.former is not None:
                self._audience.cut(stream, stream.text.common(stream.former.whole()))
                stream.former = None
        elif stream.text.end != asked:
            self.heard(0.0, [stream.id])  # it has changed since it was asked for
            return False
        elif found.at is not None:
            if found.at != asked:
                stream.doubt()
                self.want(stream)
                return False
            if found.text:
                stream.text.append(found.text)
                stream.held = False
        stream.state = found.state
        self._audience.publish(stream)
        if stream.state is not before:
            self._changed(stream, False)
        if not self._wanted(stream):
            stream.text = None
        return True
