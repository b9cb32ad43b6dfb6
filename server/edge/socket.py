"""One device's connection: messages to the session, its commands carried out, the read path's frames out.

An idle connection has no task, no queue and no timer of its own.
"""

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final
from uuid import uuid4

import structlog

from protocol import codec as codecs
from protocol.close import CloseCode
from protocol.codec import Codec, FrameError, UnknownFrameError
from protocol.frames import Ack, AskPage, Error, Limits, Pong, Rejected, Welcome
from server import metrics
from server.edge.auth import RefusedError
from server.edge.desk import Desk
from server.edge.websocket import CLOSE_SECONDS, WebSocket
from server.feed import encode, notices
from server.feed.change import Why, start
from server.feed.hub import Phase, Reader
from server.feed.pages import PAGE_ROWS
from server.session import (
    PAGES_IN_FLIGHT,
    CheckToken,
    Close,
    Command,
    ReadPage,
    Send,
    Session,
    State,
    Subscribe,
    Write,
)
from server.write import rules
from server.write.mutation import Push

log = structlog.get_logger()

ABNORMAL: Final = 1006
"""The code of a connection that ended without one (RFC 6455, 7.1.5)."""
HELLO_SECONDS: Final = 10.0
"""An honest client says hello at once; a connection costs memory before anybody has said who it is."""
FRAMES_PER_SECOND: Final = 200
"""Frames that one connection may send on average over a keep-alive period, pings and fragments included."""
BYTES_PER_SECOND: Final = 1024 * 1024
"""As FRAMES_PER_SECOND. The largest frames, decoded, then cost a tenth of a core."""
STRANGERS_FRAMES: Final = 50
STRANGERS_BYTES: Final = 512 * 1024
"""What a connection may send in a period before it is welcomed."""


class SyncSocket(WebSocket):
    """A connection, from the upgrade to its end. It is the `Sink` of its reader."""

    __slots__ = (
        "_closing_at",
        "_codec",
        "_desk",
        "_full_since",
        "_heartbeat_at",
        "_id",
        "_opened",
        "_pushed_at",
        "_reader",
        "_session",
        "_waiting",
        "text",
        "wheel_slot",
    )

    def __init__(self, desk: Desk, codec: Codec) -> None:
        super().__init__(codecs.MAX_INBOUND)
        self._desk = desk
        self._session = Session(desk.terms.mutations)
        self._id = uuid4().hex[:12]
        self._codec = codec
        self.text = codec.text
        self._reader: Reader | None = None
        self._opened = desk.wheel.clock()
        self._heartbeat_at = self._opened + HELLO_SECONDS
        """When something is due: hello before it was said, then a heartbeat."""
        self._full_since: float | None = None
        self._closing_at: float | None = None
        self._waiting: list[asyncio.Future[None]] = []
        """Answers that wait until the peer takes data again."""
        self._pushed_at = 0.0
        """When the push arrived whose answer is awaited."""
        self.wheel_slot = -1

    # --- the WebSocket

    def opened(self) -> None:
        self._desk.arrived(self)
        metrics.OPENED.inc()
        self._schedule()

    def lost(self) -> None:
        self._leave()
        self._desk.wheel.drop(self)
        self._desk.left(self)
        self._take_data()
        metrics.closed(self._close_code)
        sent, received = self.close_codes
        log.info(
            "connection closed",
            connection=self._id,
            user=self._user,
            sent=sent,
            received=received,
            seconds=round(self._desk.wheel.clock() - self._opened, 3),
        )

    def filled(self) -> None:
        self._full_since = self._desk.wheel.clock()
        metrics.STALLED.inc()
        if self._reader is not None:
            self._desk.hub.stall(self._reader)
        self._schedule()

    def drained(self) -> None:
        self._take_data()
        if self._reader is not None and not self._desk.snapshots.resume(self._reader):
            self._desk.hub.resume(self._reader)
        self._schedule()

    def message(self, data: bytes) -> None:
        try:
            frame = self._codec.decode_to_server(data)
        except UnknownFrameError as error:
            self._perform(self._session.unknown(str(error)))
        except FrameError as error:
            self._perform(self._session.malformed(str(error)))
        else:
            self._perform(self._session.receive(frame))

    def wrong_kind(self) -> None:
        kind = "text" if self.text else "binary"
        self._perform(self._session.malformed(f"{self._codec.subprotocol} travels in {kind} messages."))

    def sends_too_much(self) -> bool:
        if self._session.state in (State.NEW, State.CHECKING, State.JOINING):
            return self._frames > STRANGERS_FRAMES or self._bytes > STRANGERS_BYTES
        keepalive = self._desk.terms.keepalive
        return self._frames > FRAMES_PER_SECOND * keepalive or self._bytes > BYTES_PER_SECOND * max(keepalive, 10)

    def cut_off(self) -> None:
        metrics.CUT_OFF.inc()
        log.warning("connection sends too much", connection=self._id, user=self._user)
        self._perform(self._session.flooded())

    def ending(self) -> None:
        self._leave()
        if self._closing_at is None:
            self._closing_at = self._desk.wheel.clock() + CLOSE_SECONDS
            self._schedule()

    @property
    def _user(self) -> str | None:
        claims = self._session.claims
        return str(claims.user) if claims else None

    @property
    def _close_code(self) -> int:
        return self.close_code or ABNORMAL

    def _take_data(self) -> None:
        if self._full_since is not None:
            self._full_since = None
            metrics.STALLED.dec()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _leave(self) -> None:
        self._session.ended()
        if self._reader is not None:
            self._desk.stand_up(self._reader, self._close_code)
            self._reader = None

    # --- commands

    def _perform(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Send(frame):
                    self.write(encode.message(frame, self._codec))
                case Close(code, error):
                    self.close(code, error)
                case CheckToken(token):
                    self._spawn(self._check(token))
                case Subscribe():
                    self._subscribe(command)
                case ReadPage(ask):
                    self._spawn(self._answer(ask))
                case Write():
                    self._write_down(command)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._desk.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._desk.tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("a request failed", connection=self._id, exc_info=failure)
            message = "The server failed at this. Come back; if it happens again, tell its operator the session's name."
            self.close(CloseCode.INTERNAL, Error(code="internal", message=message, retryable=True))

    async def _check(self, token: str) -> None:
        try:
            claims = await self._desk.verifier.verify(token)
        except RefusedError as error:
            self._perform(self._session.refused(str(error)))
        else:
            self._perform(self._session.accepted(claims))
            self._schedule()

    async def _answer(self, ask: AskPage) -> None:
        claims = self._session.claims
        assert claims is not None
        await self._desk.pages.answer(str(claims.user), ask, self)
        self._session.page_answered()

    def _write_down(self, command: Write) -> None:
        frame = command.push
        claims, client_id = self._session.claims, self._session.client_id
        assert claims is not None
        assert client_id is not None
        now = self._desk.clock.now()
        limits = self._desk.terms.writes
        push = Push(
            user=claims.user,
            client_id=client_id,
            session=self._id,
            takes=command.takes,
            first=frame.n,
            mutations=[rules.check(self._codec.mutation(raw), limits, now) for raw in frame.mutations],
            generation=self._session.generation,
            held=frame.held,
        )
        self._pushed_at = time.perf_counter()
        self._desk.batcher.put(push, sum(map(len, frame.mutations)), self._written_down, lambda: self.gone)

    def _written_down(self, answer: Ack | Error) -> None:
        if isinstance(answer, Ack):
            metrics.ACK_SECONDS.observe(time.perf_counter() - self._pushed_at)
            metrics.acked(answer.results)
            if self._reader is not None:
                seqs = [each.seq for each in answer.results if not isinstance(each, Rejected)]
                self._reader.acknowledged = max(self._reader.acknowledged, *seqs, 1)  # what was rejected has no seq
        else:
            metrics.PUSHES.labels(answer.code).inc()
        self._perform(self._session.push_answered(answer))

    def _subscribe(self, command: Subscribe) -> None:
        desk, user = self._desk, str(command.user)
        if (wait := desk.hellos.take(command.user, 1, desk.wheel.clock())) > 0:
            message = "This user connects more often than is permitted. Come back after the delay."
            delay = int(wait * 1000) + random.randrange(1_000, 10_000)
            error = Error(code="too_many_hellos", message=message, retryable=True, answers="hello", retry_after=delay)
            self.close(CloseCode.TOO_MANY_HELLOS, error)
            return
        if (other := desk.hub.of_client(user, command.client_id)) is not None:
            if (other.generation or 0) > (command.generation or other.generation or 0):
                # This one's line stalled, and the device has given it up.
                notices.replaced(self)
                return
            notices.replaced(other.sink)
        if desk.hub.sockets(user) >= desk.terms.sockets_per_user:
            message = f"This user has {desk.terms.sockets_per_user} connections open, which is the limit."
            # It may be that some of them are dead and not yet noticed, which takes less than a minute.
            delay = random.randrange(30_000, 60_000)
            error = Error(code="too_many_sockets", message=message, retryable=True, answers="hello", retry_after=delay)
            self.close(CloseCode.TOO_MANY_SOCKETS, error)
            return
        reader = self._reader = desk.hub.add(user, command.client_id, self, command.window, command.generation)
        position = start(command.cursor, command.user, desk.history.epoch)
        if isinstance(position, Why):
            desk.snapshots.begin(reader, position)
        else:
            desk.hub.place(reader, position, Phase.HELLO)

    # --- the reader's sink

    @property
    def codec(self) -> Codec:
        return self._codec

    @property
    def session(self) -> str:
        return self._id

    async def room(self) -> None:
        while self.full and not self.gone:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    def welcome(self, tier: str, why: Why | None) -> None:
        claims = self._session.claims
        assert claims is not None
        keepalive = self._desk.terms.keepalive
        frame = Welcome(
            session=self._id,
            epoch=self._desk.history.epoch,
            tier=tier,
            mode="resumed" if why is None else "snapshot",
            why=why,
            time=self._desk.clock.now(),
            expires=claims.expires * 1_000_000,
            keepalive=int(keepalive * 1000),
            limits=Limits(
                frame_bytes=codecs.MAX_INBOUND,
                page_rows=PAGE_ROWS,
                pages_in_flight=PAGES_IN_FLIGHT,
                mutations=self._desk.terms.mutations,
                title_bytes=self._desk.terms.writes.title,
                content_bytes=self._desk.terms.writes.content,
            ),
        )
        self._session.welcomed()
        metrics.HELLOS.labels(why or "resumed").inc()
        if self._reader is not None:
            self._desk.sit_down(self._reader, tier)
        self.write(encode.message(frame, self._codec))
        log.info("connection welcomed", connection=self._id, user=str(claims.user), tier=tier, why=why)
        # Spread from the first one on, so that a storm of hellos is no storm of heartbeats.
        self._heartbeat_at = self._desk.wheel.clock() + keepalive * random.uniform(0.1, 0.9)
        self._schedule()

    def say(self, error: Error) -> None:
        self.write(encode.message(error, self._codec))

    def close(self, code: CloseCode, error: Error) -> None:
        if self.gone:
            return
        self.say(error)
        # A close frame carries 123 bytes at most; the whole sentence is in the error frame.
        self.send_close(code, error.code)

    def goodbye(self, retry_after: float) -> None:
        """This server shuts down; come back after so many seconds."""
        error = Error(
            code="going_away",
            message="This server shuts down. Come back after the delay, to another one or to its successor.",
            retryable=True,
            retry_after=int(retry_after * 1000),
        )
        self.close(CloseCode.GOING_AWAY, error)

    # --- time

    def on_time(self, now: float) -> float | None:
        if self._transport is None:
            return None
        deadline = self._desk.terms.write_deadline
        if self._closing_at is not None:
            if now >= self._closing_at:
                self.abort()
        elif self._full_since is not None and now - self._full_since >= deadline:
            log.info("connection takes no data", connection=self._id)
            self.abort()
        elif self._session.claims is not None and self._desk.clock.seconds() >= self._session.claims.expires - 1:
            self._perform(self._session.expired())
        elif now >= self._heartbeat_at:
            self._heartbeat(now)
        return self._next_moment()

    def _heartbeat(self, now: float) -> None:
        keepalive = self._desk.terms.keepalive
        self._heartbeat_at = now + keepalive * random.uniform(0.9, 1.0)
        self.forgive()
        if self._session.state is State.NEW:
            self._perform(self._session.silent())
            return
        if self.full:
            return
        reader = self._reader
        if reader is not None and reader.cohort is not None and reader.live and self._desk.hub.doorbells_work:
            beat = encode.live(self._desk.history.epoch, reader.feed.owner, reader.cohort.position)
            self.write(beat.wire(self._codec))
        else:
            self.write(encode.message(Pong(), self._codec))

    def _next_moment(self) -> float:
        if self._closing_at is not None:
            return self._closing_at
        moment = self._heartbeat_at
        if self._full_since is not None:
            moment = min(moment, self._full_since + self._desk.terms.write_deadline)
        if self._session.claims is not None:
            left = self._session.claims.expires - 1 - self._desk.clock.seconds()
            moment = min(moment, self._desk.wheel.clock() + left - 1)
        return moment

    def _schedule(self) -> None:
        if self._transport is not None:
            self._desk.wheel.at(self, self._next_moment())
