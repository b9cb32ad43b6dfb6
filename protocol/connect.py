"""The asyncio edge around client.py: a device that stays in step, whatever the network does.

Knows clocks and what goes on at the same time. What frames mean is client.py's, what to do after a close comeback.py's,
when to write pusher.py's; what to do with rows is the app's.
"""

import asyncio
import json
import random
import time
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from inspect import isawaitable
from typing import TypeVar
from uuid import UUID

from websockets.exceptions import ConnectionClosed, InvalidHandshake

from protocol.client import (
    Batch,
    Client,
    Event,
    Live,
    PageArrived,
    Refreshed,
    Refused,
    Welcomed,
)
from protocol.close import Instruction
from protocol.comeback import next_step, refresh_after
from protocol.line import Socket, dial, hang_up
from protocol.mutation import Mutation, clock_ahead
from protocol.outbox import Entry, Outbox, next_generation
from protocol.pusher import Pusher
from protocol.wire import Encoding, ProtocolError

T = TypeVar("T")

# Seconds.
TOKEN_WITHIN = 60.0  # a token endpoint that hangs must not keep the device offline for ever
CONNECT_WITHIN = 10.0
WELCOME_WITHIN = 60.0  # until the welcome has told the server's keepalive
REFRESH_AGAIN_AFTER = 1.0  # at the earliest, if a refresh was refused

HANG_UP, SERVER_AT_FAULT = 1000, 4000  # the close codes that a client sends


class StayAway(Exception):  # noqa: N818 (it is an instruction, and not always somebody's error)
    """The server said not to come back by itself (43xx): `code` is the close code, `message` says why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.message = code, message


class PageRefused(Exception):  # noqa: N818 (the refusal, not a fault)
    """The server answered a page with an `error`. `refusal.retryable` says whether asking again is of use."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(f"{refusal.code}: {refusal.message}")
        self.refusal = refusal


class Status(Enum):
    """How a device stands."""

    OFFLINE = "offline"
    CONNECTING = "connecting"
    CATCHING_UP = "catching_up"
    LIVE = "live"


class _Stopped(Exception):  # noqa: N818 (an instruction)
    """stop() was called."""


@dataclass(slots=True)
class _Line:
    """One open connection. Instants are seconds of the loop's clock."""

    client: Client
    socket: Socket
    token: str  # in use
    offered: str  # the last one sent
    opened: float
    quiet: float  # seconds of silence that are too many
    welcomed: asyncio.Future[Welcomed] = field(default_factory=asyncio.Future)
    refresh: asyncio.Future[Refreshed | Refused] | None = None  # the answer to the last one
    pages: dict[int, asyncio.Future[PageArrived | Exception]] = field(default_factory=dict)
    pusher: Pusher | None = None
    close_code: int | None = None  # the server's
    goodbye: int | None = HANG_UP  # ours; None: cut it, there is nobody to hear


class Device:
    """One device that stays in step: connects, resumes, and reconnects by itself. Runs once; then make another one.

    `user` is whose `cursor` and `outbox` these are. `token` gives a token of theirs, newly made if the last one will
    not do any more; it is called before each connection, and again before the token of a living one ends. It may raise
    OSError (ConnectionError, TimeoutError) to say that there is none for now; anything else it raises ends run(). A
    token that is another user's, or no JWT whose `sub` can be read, is never sent: it counts as none for now, and
    `last_error` says so.

    `on_batch` stores a batch's rows and its cursor in one local transaction. While it works nothing is read, and
    `cursor` moves only when it has returned. It must not await page(): nothing would read the answer.

    With an `outbox` it writes, too: whatever is added is sent as soon as a connection permits. `on_event` is called
    after the outbox has heard of the event.
    """

    def __init__(
        self,
        url: str,
        *,
        user: UUID,
        token: Callable[[], str | Awaitable[str]],
        client_id: UUID,
        on_batch: Callable[[Batch], Awaitable[None] | None],
        cursor: bytes | None = None,
        window: tuple[int, int] = (50, 50),
        encoding: Encoding = "msgpack",
        outbox: Outbox | None = None,
        on_event: Callable[[Event], object] = lambda event: None,
        on_status: Callable[[Status], object] = lambda status: None,
        rng: random.Random | None = None,
    ) -> None:
        self.status = Status.OFFLINE
        self.cursor = cursor
        self.last_error: Refused | Exception | None = None
        self._url, self._client_id, self._window, self._encoding = url, client_id, window, encoding
        self._user = user
        self._token, self._on_batch, self._on_event, self._on_status = token, on_batch, on_event, on_status
        self._rng = rng or random.Random()
        self._outbox = outbox
        self._new_client("")  # a window or cursor out of bounds: say so now
        if outbox is not None:
            if outbox.user not in (None, user):
                raise ValueError("the outbox is another user's: give this device the outbox of its own user")
            if outbox.client_id != client_id:
                raise ValueError("the outbox's numbers belong to another client_id: give this device outbox.client_id")
            outbox.on_add = self._something_to_send
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._over = asyncio.Event()
        self._changed = asyncio.Event()  # replaced each time it is set: a condition without a lock
        self._patience: asyncio.Timeout | None = None  # what run() is waiting in, unless the app is at work
        self._line: _Line | None = None  # while it is open
        self._ended_token: str | None = None  # what the last 41xx was about
        self._generation = 0  # of the last connection, without an outbox, which would keep it
        self._ahead = 0  # microseconds: the server's clock less ours, as of the last welcome

    # ---- For the app -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stay in step until stop(). Raises StayAway if the server says so, and what on_batch or the outbox raises."""
        if self._task is not None:
            raise RuntimeError("a Device runs once")
        self._task = asyncio.current_task()
        try:
            with suppress(_Stopped):
                await self._stay_in_step()
        finally:
            self._over.set()
            self._become(Status.OFFLINE)

    async def stop(self) -> None:
        """End run(). Returns when the socket is closed; from within a callback of run(): at once. May be repeated."""
        self._stop.set()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())
        if self._task is not None and asyncio.current_task() is not self._task:
            await self._over.wait()

    async def page(
        self,
        conversation: UUID | None = None,
        before: tuple[int, UUID] | None = None,
        limit: int = 50,
        timeout: float = 30,
    ) -> PageArrived:
        """Older history. Waits for its turn while the permitted number of pages is unanswered.

        Raises PageRefused, ConnectionError (offline, or the line was lost meanwhile), TimeoutError (after `timeout`
        seconds), ValueError (a limit outside 1–1000).
        """
        async with asyncio.timeout(timeout):
            while (line := self._line) is not None and not line.client.may_ask:
                await self._changed.wait()
            if line is None:
                raise ConnectionError("offline")
            page_id, frame = line.client.ask_page(conversation, before, limit)
            answer: asyncio.Future[PageArrived | Exception] = asyncio.Future()
            line.pages[page_id] = answer
            try:
                with suppress(ConnectionClosed):  # its end answers every page of the line
                    await line.socket.send(frame)
                arrived = await answer
            finally:
                del line.pages[page_id]
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def write(self, mutation: Mutation) -> Entry:
        """Add to the outbox: durable when it returns, sent when it can be. Raises WriteError as Outbox.add does."""
        if self._outbox is None:
            raise RuntimeError("a device writes only with an outbox: give it one")
        return self._outbox.add(mutation)

    def now(self) -> int:
        """Microseconds by the server's clock, as far as it is known: what a mutation's `at` should be."""
        return time.time_ns() // 1000 + self._ahead

    async def wait_live(self, timeout: float | None) -> None:
        """Until the status is live. Raises TimeoutError after `timeout` seconds, ConnectionError once run() ended."""
        async with asyncio.timeout(timeout):
            while self.status is not Status.LIVE:
                if self._over.is_set():
                    raise ConnectionError("the device does not run any more")
                await self._changed.wait()

    # ---- One connection after the other ------------------------------------------------------------------------------

    async def _stay_in_step(self) -> None:
        attempt = 0
        while True:
            self._become(Status.CONNECTING)
            if (line := await self._open()) is None:
                step = next_step(None, None, attempt, 0.0, self._rng.random())
            else:
                await self._converse(line)
                words = line.client.last_words
                lasted = asyncio.get_running_loop().time() - line.opened
                step = next_step(line.close_code, words, attempt, lasted, self._rng.random())
                match step.order:
                    case Instruction.STAY_AWAY:
                        assert line.close_code is not None
                        raise StayAway(line.close_code, words.message if words else "")
                    case Instruction.START_OVER:
                        self.cursor = None
                    case Instruction.NEW_TOKEN:
                        self._ended_token = line.offered if words and words.answers == "refresh" else line.token
            attempt = step.attempt
            self._become(Status.OFFLINE)
            with suppress(TimeoutError):
                await self._patiently(self._stop.wait, step.delay_seconds)

    async def _open(self) -> _Line | None:
        """A new connection, on which nothing was said yet. What the app raises passes through."""
        try:
            token = await self._patiently(self._fetch_token, TOKEN_WITHIN)
            if token == self._ended_token:
                raise ConnectionError("token() gave the token again that the server does not take any more")
            client = self._new_client(token, self._next_generation())
            socket = await self._patiently(partial(dial, self._url, self._encoding), CONNECT_WITHIN)
        except (OSError, InvalidHandshake) as error:  # TimeoutError is an OSError
            self.last_error = error
            return None
        line = _Line(client, socket, token, token, asyncio.get_running_loop().time(), WELCOME_WITHIN)
        if self._outbox is not None:
            line.pusher = Pusher(self._outbox, client, socket, self._encoding, self._rng)
        return line

    def _new_client(self, token: str, generation: int | None = None) -> Client:
        return Client(
            token=token,
            client_id=self._client_id,
            cursor=self.cursor,
            window=self._window,
            encoding=self._encoding,
            generation=generation,
        )

    def _next_generation(self) -> int:
        now = time.time_ns() // 1000
        if self._outbox is not None:
            return self._outbox.generation(now)
        self._generation = next_generation(self._generation, now)
        return self._generation

    async def _fetch_token(self) -> str:
        """Raises ConnectionError for a token that must not be used, and what the app raises."""
        given = self._token()
        token = await given if isawaitable(given) else given
        # Somebody else may have signed in meanwhile: this user's outbox must never travel under that name.
        subject = _subject(token)
        if subject is None:
            raise ConnectionError(
                "token() gave a token whose sub cannot be read: give the JWT that the server verifies"
            )
        if subject != str(self._user):
            raise ConnectionError(
                "token() gave another user's token: make a Device, with an outbox of its own, for each"
            )
        return token

    # ---- One connection ----------------------------------------------------------------------------------------------

    async def _converse(self, line: _Line) -> None:
        """From hello to the close. What the app raises and _Stopped pass through; what the network does, not."""
        self._line = line
        try:
            async with asyncio.TaskGroup() as tasks:
                speakers = [tasks.create_task(self._keep_token(line))]
                if line.pusher is not None:
                    speakers.append(tasks.create_task(line.pusher.run()))
                await self._listen(line)
                for speaker in speakers:
                    speaker.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # the app gets what it raised, not our TaskGroup's wrapping of it
        finally:
            self._line = None
            if line.pusher is not None:
                line.pusher.end()
            for answer in line.pages.values():
                _settle(answer, ConnectionError("the connection ended before the page came"))
            try:
                self._become(Status.OFFLINE)
            finally:
                await hang_up(line.socket, line.goodbye)

    async def _listen(self, line: _Line) -> None:
        """Until nothing more will come; then the line knows why."""
        with suppress(ConnectionClosed):  # receiving will tell
            await line.socket.send(line.client.hello())
        while True:
            try:
                event = line.client.receive(await self._next_message(line))
            except ConnectionClosed as closed:
                line.close_code = closed.rcvd.code if closed.rcvd else None
                if line.client.last_words is None:  # else that one says it better
                    self.last_error = closed
                return
            except (TimeoutError, ProtocolError) as fault:
                self.last_error = fault
                line.goodbye = SERVER_AT_FAULT if isinstance(fault, ProtocolError) else None
                return
            if event is not None:
                await self._handle(event, line)

    async def _next_message(self, line: _Line) -> bytes | str:
        loop = asyncio.get_running_loop()
        from_now = loop.time()  # the time that on_batch took was not the server's silence
        while (left := max(from_now, line.socket.heard) + line.quiet - loop.time()) > 0:
            with suppress(TimeoutError):
                return await self._patiently(line.socket.recv, left)
        raise TimeoutError(f"nothing came for {line.quiet} s")

    async def _handle(self, event: Event, line: _Line) -> None:
        match event:
            case Welcomed():
                line.quiet = 2 * event.keepalive_ms / 1000
                line.welcomed.set_result(event)
                took = asyncio.get_running_loop().time() - line.opened
                self._ahead = clock_ahead(self._ahead, event.time - time.time_ns() // 1000, round(took * 1_000_000))
                self._become(Status.CATCHING_UP)
            case Batch():
                if (storing := self._on_batch(event)) is not None:
                    await storing
                self.cursor = event.cursor
            case Live():
                self._become(Status.LIVE)
            case Refreshed():
                _settle(line.refresh, event)
            case PageArrived():
                _settle(line.pages.get(event.id), event)
            case Refused():
                self.last_error = event
                if event.answers == "refresh":
                    _settle(line.refresh, event)
                elif event.id is not None and event.id not in line.client.unanswered:
                    _settle(line.pages.get(event.id), PageRefused(event))
        if line.pusher is not None:
            line.pusher.hear(event)
        self._notify()
        self._on_event(event)

    async def _keep_token(self, line: _Line) -> None:
        """Give the server a later token before the one in use ends, again and again."""
        loop = asyncio.get_running_loop()
        welcomed = await line.welcomed
        # The token's life is measured by the server's clock: the device's own may be wrong by years.
        server_clock = welcomed.time / 1e6 - loop.time()
        ends, pause = welcomed.expires / 1e6 - server_clock, 0.0
        while (left := ends - loop.time()) > 0:
            await asyncio.sleep(max(refresh_after(left), pause))
            pause = REFRESH_AGAIN_AFTER
            try:
                async with asyncio.timeout_at(ends):
                    token = await self._fetch_token()
            except OSError as error:
                self.last_error = error
                continue
            if token in (line.token, line.offered):
                continue  # the server has it already, or has refused it
            line.offered, line.refresh = token, asyncio.Future()
            with suppress(ConnectionClosed):  # then it will be cancelled
                await line.socket.send(line.client.refresh(token))
            answer = await line.refresh
            if isinstance(answer, Refreshed):
                line.token, ends, pause = token, answer.expires / 1e6 - server_clock, 0.0
            elif answer.retry_after_ms is not None:
                pause = max(pause, answer.retry_after_ms / 1000)

    def _something_to_send(self) -> None:
        if self._line is not None and self._line.pusher is not None:
            self._line.pusher.wake()

    # ---- Waiting -----------------------------------------------------------------------------------------------------

    async def _patiently(self, wait: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Wait so long, then TimeoutError, or until stop(), then _Stopped."""
        if self._stop.is_set():
            raise _Stopped
        try:
            async with asyncio.timeout(seconds) as self._patience:
                return await wait()
        except TimeoutError:
            if self._stop.is_set():
                raise _Stopped from None
            raise
        finally:
            self._patience = None

    def _become(self, status: Status) -> None:
        changed, self.status = status is not self.status, status
        self._notify()
        if changed:
            self._on_status(status)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _subject(token: str) -> str | None:
    """Whose a token is; None if it cannot be read. Nothing is verified here: the server does that."""
    try:
        payload = token.split(".")[1]
        subject = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except (LookupError, TypeError, ValueError):
        return None
    return subject.lower() if isinstance(subject, str) else None


def _settle(answer: asyncio.Future[T] | None, value: T) -> None:
    if answer is not None and not answer.done():
        answer.set_result(value)
