"""The door to streams: for the app's backend, which writes them, and for devices, which see and stop them."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID, uuid4

import structlog

from protocol.frames import Key
from protocol.frames import Streams as StreamsFrame
from server import metrics
from server.declaration.model import Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.outgoing import Outgoing
from server.rate_limit import TokenBuckets
from server.streams.appending import Appends
from server.streams.audience import Audience, Device
from server.streams.following import Following
from server.streams.keeper import Keeper
from server.streams.ports import ANYWHERE, Notices, Opened, Place, Sink, State, StreamStore
from server.streams.stream import Group, Known, Stream
from server.streams.text import Text

__all__ = ["APPENDS_PER_SECOND", "OPEN_STREAMS", "TEXT_BYTES", "Answer", "Device", "Outcome", "Streams"]

log = structlog.get_logger()

OPEN_STREAMS: Final = 32
"""Most open streams of one user."""
TEXT_BYTES: Final = 1024 * 1024
"""Longest text of a stream, in bytes of UTF-8: some 250,000 words."""
APPENDS_PER_SECOND: Final = 200
"""Appends of one stream. A writer that batches for 40 ms makes 25."""
HOLDER_SECONDS: Final = 0.1
"""For so long a stop waits for the process that holds the stream, which knows what is not written yet."""
UNCERTAIN: Final = "This server does not know at this moment which streams there are."


class Outcome(Enum):
    """What became of an append or an end."""

    DONE = 200
    UNKNOWN = 404
    CONFLICT = 409
    """It does not fit, or the stream has ended."""
    TOO_LONG = 413
    TOO_FAST = 429


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    state: State | None = None
    """None: there is no such stream, or it was not looked at."""
    offset: int | None = None
    """Where the text ends."""


class Streams:
    """`store` and `notices` connect it with other processes."""

    def __init__(self, store: StreamStore, notices: Notices, synced: Synced) -> None:
        self._store = store
        self._notices = notices
        self._synced = synced
        self._known = Known()
        self._audience = Audience(self._known, self._key)
        self._appends = Appends(store, self._appended)
        self._following = Following(
            store, self._known, self._audience, wanted=self._is_wanted, changed=self._changed, gone=self._gone
        )
        self._keeper = Keeper(store, self._known, self._following, end=self._end_failed, gone=self._gone)
        self._buckets = TokenBuckets(APPENDS_PER_SECOND, APPENDS_PER_SECOND)
        self._waiting: dict[UUID, list[asyncio.Future[None]]] = {}
        """Who waits for the end of a stream."""
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._declared = asyncio.Event()
        synced.on_use.append(self._declared.set)

    async def run(self) -> None:
        """Serve until cancelled, as soon as something is declared to be streamed."""
        async with asyncio.TaskGroup() as tasks:
            # From the start: an app may append to what an earlier declaration streamed.
            tasks.create_task(self._appends.run(), name="stream-appends")
            while not self._synced.declaration.streams:
                await self._declared.wait()
                self._declared.clear()
            tasks.create_task(self._following.run(), name="stream-following")
            tasks.create_task(self._keeper.run(), name="stream-keeper")
            tasks.create_task(
                self._notices.run(self._following.heard, self._following.up, self._following.down),
                name="stream-notices",
            )

    def close(self) -> None:
        """From now on nobody waits for the end of a stream here: the process is going."""
        self._closed = True
        for id_ in list(self._waiting):
            self._wake(id_)

    # --- devices

    def join(self, user: str, sink: Sink) -> Device:
        """A device that asks for streams has come. Call it before its rows are read."""
        device = self._audience.add(user, sink)
        for stream in self._known.of(user):
            if stream.text is None:
                self._following.want(stream)
        return device

    def welcome(self, device: Device) -> bytes:
        """The device is welcomed. Returns what it is sent before its rows, as bytes of whole messages."""
        wire = self._audience.welcome(device)
        if not self._synced.declaration.streams:
            # It may hold some of an earlier declaration.
            wire = Outgoing(StreamsFrame(open=[])).wire(device.sink.codec)
        return wire

    def resume(self, device: Device) -> None:
        """The device's socket takes data again."""
        self._audience.resume(device)

    def leave(self, device: Device) -> None:
        self._audience.remove(device)
        for stream in self._known.of(device.user):
            self._drop_unwanted(stream)

    async def stop(self, user: str, tag: str, key: Sequence[str], column: str | None) -> bool:
        """End the open streams of a row of the user. Returns whether there was one. Raises UnavailableError."""
        there = [
            stream
            for stream in self._known.of(user)
            if stream.open
            and stream.place.tag == tag
            and stream.place.key == tuple(key)
            and column in (None, stream.place.column)
        ]
        if not there:
            if self._synced.declaration.streams and not self._audience.certain:
                raise UnavailableError(UNCERTAIN)
            return False
        metrics.STREAM_STOPS.inc()
        found = await self._store.stop([stream.id for stream in there])
        for stream in there:
            self._end_soon(stream)
        return bool(found)

    # --- the app's backend

    def streamed(self, name: str, column: str) -> Kind | None:
        """The kind, if this column of it may be streamed."""
        kind = self._synced.kind(name)
        return kind if kind is not None and column in kind.streams else None

    async def open(self, user: UUID, place: Place, *, restart: bool) -> Opened:
        """Open a stream, or find the one that is there. Raises NoRowError, TooManyError, UnavailableError."""
        opened = await self._store.open(uuid4(), user, place, OPEN_STREAMS, restart=restart)
        if opened.fresh and self._known.get(opened.id) is None:
            stream = self._known.add(Stream(opened.id, str(user), place, opened.since))
            stream.text = Text()
            stream.held = True
            stream.touched = asyncio.get_running_loop().time()
            self._audience.publish(stream)
        return opened

    async def append(self, appends: Sequence[tuple[UUID, int, str]]) -> list[Answer]:
        """Append texts to different streams, and return when they are committed. Raises UnavailableError."""
        now = asyncio.get_running_loop().time()
        answers: list[Answer | None] = []
        taken: list[tuple[int, Group, Answer]] = []
        for number, (id_, offset, text) in enumerate(appends):
            stream = self._known.get(id_)
            answer = None
            if self._buckets.take(id_, 1, now) > 0:
                answers.append(_too_fast(stream))
                continue
            if stream is not None and stream.text is not None and stream.ending is None:
                answer = self._take(stream, offset, text)
            if answer is not None and stream is not None and stream.group is not None:
                taken.append((number, stream.group, answer))
            answers.append(answer)
        for number, group, answer in taken:
            await group.written()
            answers[number] = None if appends[number][0] in group.lost else answer
            if group.error is not None:
                raise group.error
        others = [number for number, answer in enumerate(answers) if answer is None]
        found = await asyncio.gather(*(self._append(*appends[number]) for number in others))
        for number, answer in zip(others, found, strict=True):
            answers[number] = answer
        return [answer for answer in answers if answer is not None]

    async def end(self, id_: UUID, state: State, expected: int | None, *, write: bool) -> Answer:
        """End a stream, where its text is to end. `write`: the server writes the row at once. Raises
        UnavailableError."""
        stream = await self._find(id_)
        if stream is None:
            return await self._end_at(None, id_, state, expected, write=write)
        with self._ending(stream):
            while stream.group is not None:
                await stream.group.written()
            return await self._end_at(stream, id_, state, expected, write=write)

    async def _end_at(
        self, stream: Stream | None, id_: UUID, state: State, expected: int | None, *, write: bool
    ) -> Answer:
        if expected is not None:
            expected = min(expected, ANYWHERE)
        found = await self._store.end(id_, state, expected, write=write)
        if found is None:
            self._gone(id_)
            return Answer(Outcome.UNKNOWN)
        became, end = found
        if stream is not None and self._known.get(id_) is stream:
            if stream.text is not None and stream.text.end != end:
                if stream.group is None:
                    # A crash of Postgres has lost what was committed last, or another process has appended.
                    stream.doubt()
            elif became is not stream.state:
                stream.state = became
                self._audience.publish(stream)
                self._changed(stream, False)
            if stream.text is None and self._is_wanted(stream):
                self._following.want(stream)
        if write:
            self._keeper.look()
        # Of a settled stream it may not be known any more where it ended.
        fits = expected in (None, end) or end == 0
        return Answer(Outcome.DONE if became is state and fits else Outcome.CONFLICT, became, end)

    async def read(self, id_: UUID) -> tuple[Answer, str]:
        """The state of a stream, and its text, which may be gone once it is settled. Raises UnavailableError."""
        found = await self._store.read([(id_, 0)])
        if not found:
            return Answer(Outcome.UNKNOWN), ""
        text = found[0].text or ""
        return Answer(Outcome.DONE, found[0].state, len(text)), text

    async def wait_for_end(self, id_: UUID, seconds: float) -> Answer | None:
        """The state of a stream once it is not open. None: it is open after so many seconds. Raises
        UnavailableError."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(id_, []).append(waiting)
        try:
            answer, _ = await self.read(id_)
            if answer.outcome is Outcome.UNKNOWN or answer.state is not State.OPEN:
                return answer
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0 if self._closed else seconds):
                    await waiting
            answer, _ = await self.read(id_)
            return answer if answer.outcome is Outcome.UNKNOWN or answer.state is not State.OPEN else None
        finally:
            others = self._waiting[id_]
            others.remove(waiting)
            if not others:
                del self._waiting[id_]
            if (stream := self._known.get(id_)) is not None:
                _told(stream)
                self._drop_unwanted(stream)

    def _take(self, stream: Stream, offset: int, text: str) -> Answer | None:
        """Take an append to a stream whose text is known; it counts when the stream's group is written. None: it does
        not fit what is known here."""
        assert stream.text is not None
        end = stream.text.end
        stream.touched = asyncio.get_running_loop().time()
        if not stream.open:
            _told(stream)
            return Answer(Outcome.CONFLICT, stream.state, end)
        news = stream.text.news(offset, text)
        if news is None:
            return None
        if news and stream.text.size + len(news.encode()) > TEXT_BYTES:
            return Answer(Outcome.TOO_LONG, stream.state, end)
        stream.held = True
        if news:
            stream.group = self._appends.add(stream.id, end, news)
            stream.text.append(news)
            self._audience.publish(stream)
        return Answer(Outcome.DONE, stream.state, stream.text.end)

    async def _append(self, id_: UUID, offset: int, text: str) -> Answer:
        """Append to a stream of which more has to be known. Raises UnavailableError."""
        looked = False
        while True:
            stream = await self._find(id_)
            if stream is None:
                return Answer(Outcome.UNKNOWN)
            if stream.ending is not None:
                await stream.ending.wait()
                continue
            with self._using(stream):
                if stream.text is None:
                    await self._read_on(stream)
                    if stream.text is None or self._known.get(id_) is not stream:
                        continue
                answer = self._take(stream, offset, text)
                if answer is None and not looked:
                    # Perhaps it fits what another process has appended.
                    looked = await self._read_on(stream)
                    continue
                if answer is None:
                    return Answer(Outcome.CONFLICT, stream.state, stream.text.end)
                group = stream.group
                if group is None or answer.outcome is not Outcome.DONE:
                    return answer
                await group.written()
                if group.error is not None:
                    raise group.error
                if id_ not in group.lost:
                    return answer
                # Another process has appended, or ended it. Perhaps it is the same text: a writer has sent it to both.

    @contextlib.contextmanager
    def _using(self, stream: Stream) -> Iterator[None]:
        """Have its text kept here meanwhile."""
        stream.uses += 1
        try:
            yield
        finally:
            stream.uses -= 1
            self._drop_unwanted(stream)

    @contextlib.contextmanager
    def _ending(self, stream: Stream) -> Iterator[None]:
        """Have appends wait meanwhile: devices would be shown a text that comes too late to be written."""
        if stream.ending is not None:
            yield
            return
        stream.ending = asyncio.Event()
        try:
            yield
        finally:
            stream.ending.set()
            stream.ending = None

    async def _read_on(self, stream: Stream) -> bool:
        """Returns False if it may have missed what is older than this call. Raises UnavailableError."""
        while stream.group is not None:
            await stream.group.written()
        return await self._following.read(stream)

    async def _find(self, id_: UUID) -> Stream | None:
        """Raises UnavailableError."""
        stream = self._known.get(id_)
        if stream is None:
            found = await self._store.read([(id_, 0)])
            if not found:
                return None
            (each,) = found
            if each.settled:
                # It is not known here, because nobody sees it. Its state is all that is left.
                stream = Stream(each.id, each.user, each.place, each.since, each.state)
                stream.text = Text(each.text or "")
                return stream
            stream = self._known.note(each)
        return stream

    # --- what others report

    def _key(self, place: Place) -> Key | None:
        rows = self._synced.rows.get(place.tag)
        if rows is None:
            return None
        try:
            return rows.key(place.key)
        except ValueError:  # by another declaration its kind has another key
            return None

    def _drop_unwanted(self, stream: Stream) -> None:
        """Nobody reads on for a stream that nobody here waits for, so its text would become an old one."""
        if not self._is_wanted(stream):
            stream.text = None

    def _is_wanted(self, stream: Stream) -> bool:
        return stream.held or stream.uses > 0 or stream.id in self._waiting or self._audience.has(stream.user)

    def _appended(self, group: Group) -> None:
        for id_ in group.parts.keys() | group.lost:
            stream = self._known.get(id_)
            if stream is None:
                continue
            if stream.group is group:
                stream.group = None
            if id_ in group.lost:
                stream.doubt()
                self._following.want(stream)

    def _changed(self, stream: Stream, stopping: bool) -> None:
        if stopping:
            self._end_soon(stream)
            return
        if stream.state is State.STOPPED:
            stream.ended_at = asyncio.get_running_loop().time()
        self._wake(stream.id)

    def _gone(self, id_: UUID) -> None:
        stream = self._known.remove(id_)
        if stream is not None:
            self._audience.forget(stream)
        self._wake(id_)

    def _wake(self, id_: UUID) -> None:
        """Those who wait for the end of a stream look again."""
        for waiting in self._waiting.get(id_, ()):
            if not waiting.done():
                waiting.set_result(None)

    async def _end_failed(self, id_: UUID) -> None:
        """Raises UnavailableError."""
        await self.end(id_, State.FAILED, None, write=True)

    def _end_soon(self, stream: Stream) -> None:
        """End a stream that is to stop: now if this process holds it, else when the one that does has not."""
        task = asyncio.get_running_loop().create_task(self._end(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, stream: Stream) -> None:
        if not stream.held:
            await asyncio.sleep(HOLDER_SECONDS)
        if stream.open and self._known.get(stream.id) is stream:
            try:
                await self.end(stream.id, State.STOPPED, None, write=False)
            except UnavailableError as error:
                # The note in the database stays: who reads the stream next ends it.
                log.warning("a stream could not be stopped yet", error=str(error))
                self._following.want(stream)


def _too_fast(stream: Stream | None) -> Answer:
    if stream is None or stream.text is None:
        return Answer(Outcome.TOO_FAST)  # to look would be work for one that asks too often
    return Answer(Outcome.TOO_FAST, stream.state, stream.text.end)


def _told(stream: Stream) -> None:
    """The writer learns how its stream ended."""
    if stream.ended_at is not None:
        metrics.STREAM_STOP_KNOWN.observe(asyncio.get_running_loop().time() - stream.ended_at)
        stream.ended_at = None
