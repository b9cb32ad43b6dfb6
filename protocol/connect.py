"""The asyncio edge around client.py: one device that stays in step, whatever the network does.

Knows sockets, clocks and back-off; what frames mean and what to do after a close is client.py's, what to do with rows
is the app's.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from inspect import isawaitable
from typing import TypeVar
from uuid import UUID

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from protocol.client import (
    MAY_ASK,
    Batch,
    ChainBroken,
    Client,
    Encoding,
    Event,
    Live,
    PageArrived,
    ProtocolError,
    Refreshed,
    Refused,
    Welcomed,
    next_step,
    refresh_after,
)

T = TypeVar("T")

# Seconds.
TOKEN_WITHIN = 60.0  # a token endpoint that hangs must not keep the device offline for ever
CONNECT_WITHIN = 10.0
WELCOME_WITHIN = 60.0  # until the welcome has told the server's keepalive
CLOSE_WITHIN = 2.0  # the other side of a close is a courtesy
REFRESH_AGAIN_AFTER = 1.0  # at the earliest, if a refresh was refused

# Frames read ahead of the app: some 260 KB each, so a slow app holds about 1 MB here before TCP holds the server back.
FRAMES_AHEAD = 4

HANG_UP, COME_BACK_LATER = 1000, 4000  # the close codes that a client sends


class StayAway(Exception):  # noqa: N818 (it is an instruction, and not always somebody's error)
    """The server said not to come back by itself (43xx): `code` is the close code, `message` says why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


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


class _Socket(ClientConnection):
    """Remembers when the last byte came: a large row on a slow line is long in becoming a message, and no silence."""

    heard = 0.0  # seconds, the loop's clock

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        super().data_received(data)


@dataclass(slots=True)
class _Line:
    """One open connection. Instants are seconds of the loop's clock."""

    client: Client
    socket: _Socket
    token: str  # in use
    offered: str  # the last one sent
    quiet: float  # seconds of silence that are too many
    keeper: asyncio.Task[None] | None = None
    pages: dict[int, asyncio.Future[PageArrived | Refused | None]] = field(default_factory=dict)
    server_clock: float = 0.0  # what to add to the loop's clock to get the server's, in seconds since 1970
    token_ends: float = 0.0
    refresh_at: float = 0.0
    live_since: float | None = None
    last_error: Refused | None = None
    close_code: int | None = None  # the server's
    goodbye: int | None = HANG_UP  # ours; None: cut it, there is nobody to hear


@dataclass(frozen=True, slots=True)
class _End:
    """How a connection ended, or an attempt at one."""

    close_code: int | None = None
    last_error: Refused | None = None
    lived_seconds: float = 0.0
    fresh_token: bool = True
    ended_token: str | None = None  # the one that a 41xx is about


class Device:
    """One device that stays in step: connects, resumes, and reconnects by itself. Runs once; then make another one.

    `token` gives a token of the user, newly made if the last one will not do any more; it is called before each
    connection, and again before the token of a living one ends. It may raise OSError (ConnectionError, TimeoutError) to
    say that there is none for now; anything else it raises ends run().

    `on_batch` stores a batch's rows and its cursor in one local transaction. While it works nothing is read, and
    `cursor` moves only when it has returned. It must not await page(): nothing would read the answer.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Callable[[], str | Awaitable[str]],
        client_id: UUID,
        on_batch: Callable[[Batch], Awaitable[None] | None],
        cursor: bytes | None = None,
        window: tuple[int, int] = (50, 50),
        encoding: Encoding = "msgpack",
        on_event: Callable[[Event], None] | None = None,
        on_status: Callable[[Status], None] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.status = Status.OFFLINE
        self.cursor = cursor
        self.last_error: Refused | Exception | None = None
        self._url, self._client_id, self._window, self._encoding = url, client_id, window, encoding
        self._token, self._on_batch, self._on_event, self._on_status = token, on_batch, on_event, on_status
        self._rng = rng or random.Random()
        self._new_client("")  # a window or cursor out of bounds: say so now
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._over = asyncio.Event()
        self._changed = asyncio.Event()  # replaced each time it is set: a condition without a lock
        self._patience: asyncio.Timeout | None = None  # what run() is waiting in, unless the app is at work
        self._line: _Line | None = None  # while it is open
        self._last_token: str | None = None  # of the last connection's hello
        self._ended_token: str | None = None  # what the last 41xx was about

    # ---- For the app -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stay in step until stop(). Raises StayAway if the server says so, and whatever on_batch raises."""
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
        timeout: float = 30.0,
    ) -> PageArrived:
        """Older history. Waits for its turn while the permitted number of pages is unanswered.

        Raises PageRefused, ConnectionError (offline, or the line was lost meanwhile), TimeoutError (after `timeout`
        seconds), ValueError (a limit outside 1–1000).
        """
        async with asyncio.timeout(timeout):
            while (line := self._open_line()).client.state not in MAY_ASK or self._all_pages_taken(line.client):
                await self._changed.wait()
            page_id, frame = line.client.ask_page(conversation, before, limit)
            answer: asyncio.Future[PageArrived | Refused | None] = asyncio.get_running_loop().create_future()
            line.pages[page_id] = answer
            try:
                with suppress(ConnectionClosed):  # its end answers every page of the line
                    await line.socket.send(frame)
                arrived = await answer
            finally:
                line.pages.pop(page_id, None)
        if arrived is None:
            raise ConnectionError("the connection ended before the page came")
        if isinstance(arrived, Refused):
            raise PageRefused(arrived)
        return arrived

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
            end = await self._one_connection()
            step = next_step(
                end.close_code,
                end.last_error,
                attempt,
                end.lived_seconds,
                self._rng.random(),
                fresh_token=end.fresh_token,
            )
            if step.give_up:
                assert end.close_code is not None
                raise StayAway(end.close_code, end.last_error.message if end.last_error else "")
            if step.drop_cursor:
                self.cursor = None
            if step.new_token:
                self._ended_token = end.ended_token
            attempt = step.attempt
            self._become(Status.OFFLINE)
            with suppress(TimeoutError):
                await self._patiently(self._stop.wait, step.delay_seconds)

    async def _one_connection(self) -> _End:
        """From the token to the close. What the app raises and _Stopped pass through; what the network does, not."""
        self._become(Status.CONNECTING)
        try:
            token = await self._patiently(self._fetch_token, TOKEN_WITHIN)
            if token == self._ended_token:
                raise ConnectionError("token() gave the token again that the server does not take any more")
            client = self._new_client(token)
            socket = await self._patiently(self._connect, CONNECT_WITHIN)
        except (OSError, InvalidHandshake) as error:  # TimeoutError is an OSError
            self.last_error = error
            return _End()
        fresh_token, self._last_token = token != self._last_token, token
        line = self._line = _Line(client, socket, token, token, WELCOME_WITHIN)
        ended = 0.0
        try:
            await self._converse(line)
        finally:
            ended = asyncio.get_running_loop().time()
            self._line = None
            for answer in line.pages.values():
                if not answer.done():
                    answer.set_result(None)
            try:
                self._become(Status.OFFLINE)
            finally:
                await self._hang_up(socket, line.goodbye)
        about_refresh = line.last_error is not None and line.last_error.answers == "refresh"
        return _End(
            line.close_code,
            line.last_error,
            0.0 if line.live_since is None else ended - line.live_since,
            fresh_token,
            line.offered if about_refresh else line.token,
        )

    def _new_client(self, token: str) -> Client:
        return Client(
            token=token, client_id=self._client_id, cursor=self.cursor, window=self._window, encoding=self._encoding
        )

    async def _fetch_token(self) -> str:
        token = self._token()
        return await token if isawaitable(token) else token

    async def _connect(self) -> _Socket:
        socket = await connect(
            self._url,
            subprotocols=[Subprotocol(f"atlas-sync.v1.{self._encoding}")],
            create_connection=_Socket,
            compression=None,
            proxy=None,
            max_size=None,  # a single row may have any size
            max_queue=FRAMES_AHEAD,
            ping_interval=None,  # the server is the one who speaks regularly
            open_timeout=CONNECT_WITHIN,
            close_timeout=CLOSE_WITHIN,
        )
        assert isinstance(socket, _Socket)
        return socket

    async def _hang_up(self, socket: _Socket, code: int | None) -> None:
        try:
            if code is not None:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(socket.close(code))
                    with suppress(ConnectionClosed):
                        while True:  # what we do not read stands before the server's close
                            await socket.recv()
        finally:
            socket.transport.abort()  # also when the close was cancelled: nothing of the socket stays behind
            await socket.wait_closed()

    # ---- One connection ----------------------------------------------------------------------------------------------

    async def _converse(self, line: _Line) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                try:
                    await self._listen(line, tasks)
                finally:
                    if line.keeper is not None:
                        line.keeper.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # the app gets what it raised, not our TaskGroup's wrapping of it

    async def _listen(self, line: _Line, tasks: asyncio.TaskGroup) -> None:
        with suppress(ConnectionClosed):  # receiving will tell
            await line.socket.send(line.client.hello())
        while (events := await self._next_events(line)) is not None:
            for event in events:
                await self._handle(event, line, tasks)
                if isinstance(event, ChainBroken):
                    return

    async def _next_events(self, line: _Line) -> list[Event] | None:
        """What came; None when nothing more will, and then the line knows why."""
        try:
            return line.client.receive(await self._next_message(line))
        except ConnectionClosed as closed:
            line.close_code = closed.rcvd.code if closed.rcvd else None
            if line.last_error is None:  # else that one says it better
                self.last_error = closed
        except TimeoutError as silence:
            self.last_error, line.goodbye = silence, None
        except ProtocolError as malformed:
            # The spec has no close code for this. The cure is the one for a broken chain.
            self.last_error, line.goodbye = malformed, COME_BACK_LATER
        return None

    async def _next_message(self, line: _Line) -> bytes | str:
        loop = asyncio.get_running_loop()
        from_now = loop.time()  # the time that on_batch took was not the server's silence
        while (left := max(from_now, line.socket.heard) + line.quiet - loop.time()) > 0:
            with suppress(TimeoutError):
                return await self._patiently(line.socket.recv, left)
        raise TimeoutError(f"nothing came for {line.quiet} s")

    async def _handle(self, event: Event, line: _Line, tasks: asyncio.TaskGroup) -> None:
        now = asyncio.get_running_loop().time()
        match event:
            case Welcomed():
                line.quiet = 2 * event.keepalive_ms / 1000
                # The token's life is measured by the server's clock: the device's own may be wrong by years.
                line.server_clock = event.time / 1e6 - now
                self._token_lasts_until(event.expires, line)
                line.keeper = tasks.create_task(self._keep_token(line))
                self._become(Status.CATCHING_UP)
            case Batch():
                if (storing := self._on_batch(event)) is not None:
                    await storing
                self.cursor = event.cursor
                self._notify()
            case Live():
                line.live_since = now if line.live_since is None else line.live_since
                self._become(Status.LIVE)
            case Refreshed():
                line.token = line.offered
                self._token_lasts_until(event.expires, line)
            case Refused():
                self.last_error = line.last_error = event
                if event.id not in line.client.unanswered:
                    self._answer(event.id, event, line)
            case PageArrived():
                self._answer(event.id, event, line)
            case ChainBroken():
                line.goodbye = COME_BACK_LATER
                self.last_error = ProtocolError("what came does not start at our cursor")
        if self._on_event is not None:
            self._on_event(event)

    def _answer(self, page_id: int | None, answer: PageArrived | Refused, line: _Line) -> None:
        waiting = None if page_id is None else line.pages.get(page_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)
        self._notify()

    # ---- The token of a living connection ----------------------------------------------------------------------------

    def _token_lasts_until(self, expires: int, line: _Line) -> None:
        now = asyncio.get_running_loop().time()
        line.token_ends = expires / 1e6 - line.server_clock
        line.refresh_at = now + refresh_after(line.token_ends - now)

    async def _keep_token(self, line: _Line) -> None:
        loop = asyncio.get_running_loop()
        while (left := line.token_ends - loop.time()) > 0:
            if line.refresh_at > loop.time():
                await asyncio.sleep(line.refresh_at - loop.time())
                continue  # meanwhile it may have been put off
            line.refresh_at = loop.time() + max(refresh_after(left), REFRESH_AGAIN_AFTER)  # in case this one fails
            try:
                async with asyncio.timeout(left):
                    token = await self._fetch_token()
                if token not in (line.token, line.offered):  # else the server has it already, or has refused it
                    line.offered = token
                    await line.socket.send(line.client.refresh(token))
            except OSError as error:
                self.last_error = error
            except ConnectionClosed:
                return  # run() notices by itself

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
        if changed and self._on_status is not None:
            self._on_status(status)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _open_line(self) -> _Line:
        if self._line is None:
            raise ConnectionError("offline")
        return self._line

    @staticmethod
    def _all_pages_taken(client: Client) -> bool:
        return client.limits is not None and len(client.unanswered) >= client.limits.pages_in_flight
