"""One device's connection: passes messages to the session, carries out its commands, and sends the read path's frames.

An idle connection has no task, no queue and no timer of its own.
"""

import asyncio
import random
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from protocol import codec as codecs
from protocol import errors
from protocol.codec import Codec, FrameError, UnknownFrameError
from protocol.errors import ERRORS
from protocol.frames import (
    Ack,
    AskPage,
    Error,
    Instant,
    Limits,
    Milliseconds,
    Pong,
    Rejected,
    SchemaFrame,
    Stop,
    Stopped,
    Streams,
    Welcome,
)
from server import metrics
from server.clock import Clock
from server.declaration.synced import Synced
from server.declaration.values import BadValue, key_texts
from server.edge.auth import RefusedError, Verifier
from server.edge.registry import Registry
from server.edge.timers import TimerWheel
from server.edge.websocket import CLOSE_SECONDS, WebSocket
from server.exceptions import UnavailableError
from server.feed.readers import PAGE_ROWS, Reader, Readers
from server.feed.resume import Why
from server.outgoing import message
from server.session import (
    PAGES_IN_FLIGHT,
    ApplyPush,
    CheckToken,
    Claims,
    Close,
    Command,
    EndStream,
    ReadPage,
    Send,
    Session,
    State,
    Subscribe,
)
from server.streams.streams import Device
from server.streams.streams import Streams as StreamsDoor
from server.write.intake import Intake

log = structlog.get_logger()

ABNORMAL: Final = 1006
"""The code of a connection that ended without a close frame (RFC 6455, 7.1.5)."""
HELLO_SECONDS: Final = 10.0
"""Until `hello` must have arrived: a connection costs memory before its user is known."""
EXPIRY_MARGIN: Final = 1.0
"""Seconds before a token's end at which its connection closes: nothing may be sent after the end (SPEC.md, 7.8)."""
FRAMES_PER_SECOND: Final = 200
"""Frames that one connection may send on average over a keep-alive period, pings and fragments included."""
BYTES_PER_SECOND: Final = 1024 * 1024
"""As FRAMES_PER_SECOND. Decoding the largest frames at this rate costs a tenth of a core."""
STRANGERS_FRAMES: Final = 50
"""Frames that a connection may send in a keep-alive period before it is welcomed."""
STRANGERS_BYTES: Final = 512 * 1024
"""As STRANGERS_FRAMES, in bytes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Settings of a connection, in seconds."""

    keepalive: float
    """Interval between heartbeats."""
    write_deadline: float
    """How long a full socket may take no data."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of this process that its connections use."""

    verifier: Verifier
    readers: Readers
    intake: Intake
    synced: Synced
    registry: Registry
    timers: TimerWheel
    clock: Clock
    timing: Timing
    streams: StreamsDoor | None = None
    """None: nothing may be streamed here."""


class Connection:
    """A connection from its upgrade to its end. It receives the events of its WebSocket, and is its reader's `Sink`."""

    __slots__ = (
        "_closing_at",
        "_codec",
        "_full_since",
        "_heartbeat_at",
        "_id",
        "_opened",
        "_reader",
        "_services",
        "_session",
        "_streaming",
        "_waiting",
        "send",
        "timer_slot",
        "websocket",
    )

    def __init__(self, services: Services, codec: Codec) -> None:
        self._services = services
        self._codec = codec
        self._session = Session(services.intake.mutations)
        self._id = secrets.token_hex(6)
        self.websocket = WebSocket(self, text=codec.text, max_size=codecs.MAX_INBOUND)
        self.send = self.websocket.send
        """`Sink.send`. The bound method saves a call in between, because fan-out spends its time here."""
        self._reader: Reader | None = None
        self._streaming: Device | None = None
        """Its place among the devices that see streams."""
        self._opened = services.timers.clock()
        self._heartbeat_at = self._opened + HELLO_SECONDS
        """When the next heartbeat is due; before `hello` arrived, when it must have."""
        self._full_since: float | None = None
        """Monotonic seconds; None while the socket takes data."""
        self._closing_at: float | None = None
        """When a closing connection is aborted; None while it is open."""
        self._waiting: list[asyncio.Future[None]] = []
        """Answers that wait until the socket takes data."""
        self.timer_slot = -1

    # --- events of the WebSocket

    def opened(self) -> None:
        self._services.registry.add(self)
        metrics.OPENED.inc()
        self._schedule()

    def received(self, data: bytes) -> None:
        try:
            frame = self._codec.decode_to_server(data)
        except UnknownFrameError as error:
            self._perform(self._session.unknown(str(error)))
        except FrameError as error:
            self._perform(self._session.malformed(str(error)))
        else:
            self._perform(self._session.receive(frame))

    def wrong_kind(self) -> None:
        kind = "text" if self._codec.text else "binary"
        self._perform(self._session.malformed(f"{self._codec.subprotocol} travels in {kind} messages."))

    def within_limits(self, frames: int, size: int) -> bool:
        if self._session.state in (State.NEW, State.CHECKING, State.JOINING):
            return frames <= STRANGERS_FRAMES and size <= STRANGERS_BYTES
        keepalive = self._services.timing.keepalive
        return frames <= FRAMES_PER_SECOND * keepalive and size <= BYTES_PER_SECOND * max(keepalive, 10)

    def over_limits(self) -> None:
        metrics.CUT_OFF.inc()
        log.warning("connection sends too much", connection=self._id, user=self._user)
        self._perform(self._session.flooded())

    def writable(self, yes: bool) -> None:
        if yes:
            self._release_waiting()
            if self._reader is not None:
                self._services.readers.resume(self._reader)
            if self._streaming is not None and self._services.streams is not None:
                self._services.streams.resume(self._streaming)
        else:
            self._full_since = self._services.timers.clock()
            metrics.STALLED.inc()
            if self._reader is not None:
                self._services.readers.stall(self._reader)
        self._schedule()

    def ending(self) -> None:
        self._leave()
        if self._closing_at is None:
            self._closing_at = self._services.timers.clock() + CLOSE_SECONDS
            self._schedule()

    def lost(self) -> None:
        self._leave()
        self._services.timers.drop(self)
        self._services.registry.remove(self)
        self._release_waiting()
        metrics.closed(self._close_code)
        sent, received = self.websocket.close_codes
        log.info(
            "connection closed",
            connection=self._id,
            user=self._user,
            sent=sent,
            received=received,
            seconds=round(self._services.timers.clock() - self._opened, 3),
        )

    @property
    def _user(self) -> str | None:
        claims = self._session.claims
        return str(claims.user) if claims else None

    @property
    def _close_code(self) -> int:
        return self.websocket.close_code or ABNORMAL

    def _release_waiting(self) -> None:
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
            self._services.readers.leave(self._reader, self._close_code)
            self._reader = None
        if self._streaming is not None and self._services.streams is not None:
            self._services.streams.leave(self._streaming)
            self._streaming = None

    # --- commands of the session

    def _perform(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case Send(frame):
                    self.send(message(frame, self._codec))
                case Close(error):
                    self.close(error)
                case CheckToken(token):
                    claims = self._services.verifier.recall(token)
                    if claims is None:
                        self._spawn(self._check_token(token))
                    else:
                        self._accept(claims)
                case Subscribe():
                    self._subscribe(command)
                case ReadPage(ask):
                    self._spawn(self._answer_page(ask))
                case ApplyPush():
                    self._apply_push(command)
                case EndStream(stop):
                    self._spawn(self._end_stream(stop))

    def _spawn(self, request: Coroutine[Any, Any, None]) -> None:
        self._services.registry.spawn(request, self._request_done)

    def _request_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            log.error("a request failed", connection=self._id, exc_info=failure)
            self.close(errors.INTERNAL.frame())

    async def _check_token(self, token: str) -> None:
        try:
            claims = await self._services.verifier.verify(token)
        except RefusedError as error:
            self._perform(self._session.refused(str(error)))
        else:
            self._accept(claims)

    def _accept(self, claims: Claims) -> None:
        self._perform(self._session.accepted(claims))
        self._schedule()

    def _subscribe(self, command: Subscribe) -> None:
        if self._session.streams and self._services.streams is not None:
            # Before anything is read: a stream that is settled meanwhile is told apart.
            self._streaming = self._services.streams.join(str(command.user), self)
        joined = self._services.readers.join(
            self, command.user, command.client_id, command.cursor, command.window, command.generation
        )
        if isinstance(joined, Error):
            self.close(joined)
        else:
            self._reader = joined

    async def _answer_page(self, ask: AskPage) -> None:
        if self._reader is not None:
            await self._services.readers.answer_page(self._reader, ask)
        self._session.page_answered()

    async def _end_stream(self, stop: Stop) -> None:
        self._perform(self._session.stop_answered(await self._stopped(stop)))

    async def _stopped(self, stop: Stop) -> Stopped | Error:
        streams, claims = self._services.streams, self._session.claims
        kind = self._services.synced.declaration.tagged.get(stop.kind)
        if streams is None or kind is None or claims is None:
            return Stopped(n=stop.n, found=False)
        try:
            values = [self._codec.value(half) for half in self._codec.values(stop.id)]
            found = await streams.stop(str(claims.user), kind.tag, key_texts(kind, values), stop.column)
        except (FrameError, BadValue):
            return Stopped(n=stop.n, found=False)
        except UnavailableError:
            return errors.UNAVAILABLE.frame(answers="stop", id=stop.n)
        return Stopped(n=stop.n, found=found)

    def _apply_push(self, command: ApplyPush) -> None:
        claims, client_id = self._session.claims, self._session.client_id
        assert claims is not None
        assert client_id is not None
        self._services.intake.apply(
            command.push,
            self._codec,
            self._push_answered,
            lambda: self.gone,
            user=claims.user,
            client_id=client_id,
            session=self._id,
            generation=self._session.generation,
            claims_client_id=command.claims_client_id,
        )

    def _push_answered(self, answer: Ack | Error) -> None:
        if isinstance(answer, Ack) and self._reader is not None:
            seqs = [each.seq for each in answer.results if not isinstance(each, Rejected)]
            # At least 1: it was acknowledged, with no seq of its own if all was rejected or the user has no feed.
            self._services.readers.acknowledged(self._reader, max([1, *seqs]))
        self._perform(self._session.push_answered(answer))

    # --- the reader's sink

    @property
    def codec(self) -> Codec:
        return self._codec

    @property
    def session(self) -> str:
        return self._id

    @property
    def full(self) -> bool:
        return self.websocket.full

    @property
    def gone(self) -> bool:
        return self.websocket.gone

    async def wait_writable(self) -> None:
        while self.full and not self.gone:
            self._waiting.append(asyncio.get_running_loop().create_future())
            await self._waiting[-1]

    def welcome(self, tier: str | None, why: Why | None, wire: bytes) -> Instant:
        claims, intake = self._session.claims, self._services.intake
        assert claims is not None
        keepalive, schema = self._services.timing.keepalive, self._services.synced.schema
        now = self._services.clock.now()
        frame = Welcome(
            session=self._id,
            epoch=self._services.readers.epoch,
            schema=schema.hash,
            tier=tier,
            mode="resumed" if why is None else "snapshot",
            why=why,
            time=now,
            expires=claims.expires * 1_000_000,
            keepalive=Milliseconds(int(keepalive * 1000)),
            limits=Limits(
                frame_bytes=codecs.MAX_INBOUND,
                page_rows=PAGE_ROWS,
                pages_in_flight=PAGES_IN_FLIGHT,
                mutations=intake.mutations,
            ),
        )
        self._session.welcomed()
        if self._session.streams:
            # Before the rows: the `live` behind them then ends streams that are settled.
            wire = self._streams() + wire
        if self._session.schema not in (None, schema.hash):
            wire = message(SchemaFrame(hash=schema.hash, kinds=schema.kinds), self._codec) + wire
        # In one write, because each is a system call.
        self.send(message(frame, self._codec) + wire)
        log.info("connection welcomed", connection=self._id, user=str(claims.user), tier=tier, why=why)
        # Spread the first heartbeats too: a storm of hellos must not become a storm of heartbeats.
        self._heartbeat_at = self._services.timers.clock() + keepalive * random.uniform(0.1, 0.9)
        self._schedule()
        return now

    def _streams(self) -> bytes:
        """What the device is sent of streams first, as bytes of whole messages."""
        if self._streaming is None or self._services.streams is None:
            # It may hold some of a server that had them.
            return message(Streams(open=[]), self._codec)
        return self._services.streams.welcome(self._streaming)

    def prove(self) -> None:
        if self._reader is not None:
            self._services.readers.prove(self._reader)

    def send_error(self, error: Error) -> None:
        self.send(message(error, self._codec))

    def close(self, error: Error) -> None:
        if self.gone:
            return
        code = ERRORS[error.code].close
        assert code is not None
        self.send_error(error)
        # A close frame carries at most 123 bytes; the error frame has the whole sentence.
        self.websocket.send_close(code, error.code)

    # --- shutdown

    def goodbye(self, retry_after: float) -> None:
        self.close(errors.GOING_AWAY.frame(retry_after=Milliseconds(int(retry_after * 1000))))

    def abort(self) -> None:
        self.websocket.abort()

    # --- deadlines

    def on_time(self, now: float) -> float | None:
        if not self.websocket.connected:
            return None
        if self._closing_at is not None:
            if now >= self._closing_at:
                self.abort()
        elif self._full_since is not None and now - self._full_since >= self._services.timing.write_deadline:
            log.info("connection takes no data", connection=self._id)
            self.abort()
        elif self._session.claims is not None and self._until_expiry(self._session.claims.expires) <= 0:
            self._perform(self._session.expired())
        elif now >= self._heartbeat_at:
            self._heartbeat(now)
        return self._next_deadline()

    def _until_expiry(self, expires: int) -> float:
        return expires - EXPIRY_MARGIN - self._services.clock.seconds()

    def _heartbeat(self, now: float) -> None:
        self._heartbeat_at = now + self._services.timing.keepalive * random.uniform(0.9, 1.0)
        self.websocket.reset_counts()
        if self._session.state is State.NEW:
            self._perform(self._session.silent())
            return
        if self.full:
            return
        live = None if self._reader is None else self._services.readers.live(self._reader)
        self.send(message(Pong(), self._codec) if live is None else live.wire(self._codec))

    def _next_deadline(self) -> float:
        if self._closing_at is not None:
            return self._closing_at
        deadline = self._heartbeat_at
        if self._full_since is not None:
            deadline = min(deadline, self._full_since + self._services.timing.write_deadline)
        if self._session.claims is not None:
            # A second early, because the wheel calls up to a second late.
            left = self._until_expiry(self._session.claims.expires) - 1
            deadline = min(deadline, self._services.timers.clock() + left)
        return deadline

    def _schedule(self) -> None:
        if self.websocket.connected:
            self._services.timers.at(self, self._next_deadline())
