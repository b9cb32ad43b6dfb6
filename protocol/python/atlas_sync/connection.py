"""One connection to the server: its deadlines, its tasks, and the answers that callers wait for.

Session decides what the frames mean, Device what to do before and after the connection.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from websockets.exceptions import ConnectionClosed

from atlas_sync.checks import ProtocolError
from atlas_sync.clock import ServerClock
from atlas_sync.comeback import refresh_after
from atlas_sync.outbox_sender import OutboxSender
from atlas_sync.reason import NoTokenError, SilentError
from atlas_sync.rows import Key
from atlas_sync.session import ErrorAnswer, Event, PageArrived, Refreshed, Session, Welcomed
from atlas_sync.stop_sender import StopSender
from atlas_sync.stopping import Stopping
from atlas_sync.websocket import WebSocket

T = TypeVar("T")

# Seconds.
WELCOME_WITHIN = 60.0  # of silence, before `welcome` says the server's keepalive
REFRESH_AGAIN_AFTER = 1.0  # at the earliest, if the server refused a refresh

NORMAL_CLOSE, SERVER_AT_FAULT = 1000, 4000  # the close codes that a client sends


class PageError(Exception):
    """The server answered a page with an `error`. `answer.retryable` says whether asking again can help."""

    def __init__(self, answer: ErrorAnswer) -> None:
        super().__init__(f"{answer.code}: {answer.message}")
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Calls:
    """What a connection calls on its device."""

    fetch_token: Callable[[], Awaitable[str]]
    """Raises NoTokenError if there is none for now."""
    apply: Callable[[Event], Awaitable[None]]
    """Store what the event brought: before the outbox receives the event."""
    announce: Callable[[Event], None]
    """Tell the app: after the outbox received the event."""
    report: Callable[[ErrorAnswer | Exception], None]
    """Remember the last error."""


class Connection:
    """An open WebSocket, from `hello` to its close.

    May be read: `session`; `close_code`, received from the server, None if its close was cut off; `token`, the one in
    use, and `offered_token`, the last one sent; `opened`, seconds of the event loop's clock.
    """

    def __init__(
        self,
        session: Session,
        websocket: WebSocket,
        token: str,
        *,
        sender: OutboxSender | None,
        stops: StopSender,
        clock: ServerClock,
        stopping: Stopping,
        calls: Calls,
    ) -> None:
        self.session = session
        self.close_code: int | None = None
        self.token = self.offered_token = token
        self._loop = asyncio.get_running_loop()
        self.opened = self._loop.time()
        self._websocket = websocket
        self._stops = stops
        self._sender, self._clock, self._stopping, self._calls = sender, clock, stopping, calls
        self._silence = WELCOME_WITHIN  # seconds without a byte after which the connection is dead
        self._our_close: int | None = NORMAL_CLOSE  # None: abort
        self._expires: asyncio.Future[int] = self._loop.create_future()
        self._refresh: asyncio.Future[Refreshed | ErrorAnswer] | None = None
        self._pages: dict[int, asyncio.Future[PageArrived | Exception]] = {}

    async def run(self) -> None:
        """Say hello, and receive until the connection ends. Network errors are reported, not raised.

        Raises StopRequested, and what the app raises in a callback. Call `end` and `close` afterwards in any case.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                speakers = [tasks.create_task(self._keep_token()), tasks.create_task(self._stops.run())]
                if self._sender is not None:
                    speakers.append(tasks.create_task(self._sender.run()))
                await self._receive_all()
                for speaker in speakers:
                    speaker.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # the app gets what it raised, not a wrapping of it

    def end(self) -> None:
        """No further answer will arrive: end every wait for one."""
        if self._sender is not None:
            self._sender.end()
        for answer in self._pages.values():
            _resolve(answer, ConnectionError("the connection ended before the page came"))

    async def close(self) -> None:
        """Close the WebSocket."""
        await self._websocket.end(self._our_close)

    def wake_sender(self) -> None:
        """The outbox has something new to send."""
        if self._sender is not None:
            self._sender.wake()

    def wake_stops(self) -> None:
        """There is a new stop to send."""
        self._stops.wake()

    async def page(self, kind: str, parent: Key | None, before: tuple[Any, Key] | None, limit: int) -> PageArrived:
        """Ask for a page and wait for it. Raises as Session.ask_page, and PageError, ConnectionError."""
        page_id, frame = self.session.ask_page(kind, parent, before, limit)
        answer: asyncio.Future[PageArrived | Exception] = self._loop.create_future()
        self._pages[page_id] = answer
        try:
            with suppress(ConnectionClosed):  # `end` answers every page
                await self._websocket.send(frame)
            arrived = await answer
        finally:
            del self._pages[page_id]
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    async def _receive_all(self) -> None:
        with suppress(ConnectionClosed):  # receiving raises it again
            await self._websocket.send(self.session.hello())
        while True:
            try:
                event = self.session.receive(await self._next_message())
            except ConnectionClosed as closed:
                self.close_code = closed.rcvd.code if closed.rcvd else None
                if self.session.last_error is None:  # else that one says more
                    self._calls.report(closed)
                return
            except (TimeoutError, ProtocolError) as fault:
                self._calls.report(fault)
                self._our_close = SERVER_AT_FAULT if isinstance(fault, ProtocolError) else None
                return
            if event is not None:
                await self._receive(event)

    async def _next_message(self) -> bytes | str:
        from_now = self._loop.time()  # the time that the app took for the last batch was not the server's silence
        while (left := max(from_now, self._websocket.last_byte_at) + self._silence - self._loop.time()) > 0:
            with suppress(TimeoutError):
                return await self._stopping.wait_for(self._websocket.recv, left)
        raise SilentError(f"nothing came for {self._silence} s")

    async def _receive(self, event: Event) -> None:
        match event:
            case Welcomed():
                self._silence = 2 * event.keepalive_ms / 1000
                received = self._loop.time()
                self._clock.set(event.time, took=received - self.opened, loop_time=received)
                self._expires.set_result(event.expires)
            case Refreshed():
                _resolve(self._refresh, event)
            case PageArrived():
                _resolve(self._pages.get(event.id), event)
            case ErrorAnswer():
                self._calls.report(event)
                if event.answers == "refresh":
                    _resolve(self._refresh, event)
                elif event.answers != "stop" and event.id is not None and event.id not in self.session.unanswered:
                    _resolve(self._pages.get(event.id), PageError(event))
        await self._calls.apply(event)
        if self._sender is not None:
            self._sender.receive(event)
        self._stops.receive(event)
        self._calls.announce(event)

    async def _keep_token(self) -> None:
        """Send a later token before the one in use ends, again and again."""
        # A token's life is measured by the server's clock: the device's own may be wrong by years.
        ends, pause = self._clock.deadline(await self._expires), 0.0
        while (left := ends - self._loop.time()) > 0:
            await asyncio.sleep(max(refresh_after(left), pause))
            pause = REFRESH_AGAIN_AFTER
            try:
                async with asyncio.timeout_at(ends):
                    token = await self._calls.fetch_token()
            except NoTokenError as error:
                self._calls.report(error)
                continue
            except TimeoutError:
                self._calls.report(NoTokenError("token() gave none in time"))
                continue
            if token in (self.token, self.offered_token):
                continue  # the server has it already, or refused it
            self.offered_token, self._refresh = token, self._loop.create_future()
            with suppress(ConnectionClosed):  # then this task is cancelled
                await self._websocket.send(self.session.refresh(token))
            answer = await self._refresh
            if isinstance(answer, Refreshed):
                self.token, ends, pause = token, self._clock.deadline(answer.expires), 0.0
            elif answer.retry_after_ms is not None:
                pause = max(pause, answer.retry_after_ms / 1000)


def _resolve(answer: asyncio.Future[T] | None, value: T) -> None:
    if answer is not None and not answer.done():
        answer.set_result(value)
