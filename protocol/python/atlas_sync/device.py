"""A device that stays in step whatever the network does: one connection after the other (SPEC.md, 7–10).

Knows when to connect and with which token and cursor. connection.py drives one connection, comeback.py decides what
follows its end; storing rows is the app's.
"""

import asyncio
import json
import random
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from enum import Enum
from functools import partial
from inspect import isawaitable
from typing import Any
from uuid import UUID

from websockets.exceptions import InvalidHandshake

from atlas_sync import clock
from atlas_sync.clock import ServerClock
from atlas_sync.codec import Encoding
from atlas_sync.comeback import Instruction, next_step
from atlas_sync.connection import Calls, Connection
from atlas_sync.mutation import Mutation, check_key
from atlas_sync.outbox import Entry, Outbox, next_generation
from atlas_sync.outbox_sender import OutboxSender
from atlas_sync.reason import NoTokenError, Reason, reason_of
from atlas_sync.rows import Key
from atlas_sync.schema import Schema
from atlas_sync.session import (
    Batch,
    ErrorAnswer,
    Event,
    Live,
    PageArrived,
    Refreshed,
    SchemaArrived,
    Session,
    Welcomed,
)
from atlas_sync.stop_sender import Stops, StopSender
from atlas_sync.stopping import Stopping, StopRequested
from atlas_sync.streams import StreamGrew, StreamsNamed
from atlas_sync.websocket import open_websocket

# Seconds.
TOKEN_WITHIN = 60.0  # a token endpoint that hangs must not keep the device offline for ever
CONNECT_WITHIN = 10.0


class StayAway(Exception):  # noqa: N818 (an instruction, not always a fault)
    """The server told this device not to reconnect by itself (43xx).

    `code` is the close code, received or announced by an `error`; `message` is the server's sentence, perhaps empty.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.message = code, message


class Status(Enum):
    """What a device is doing."""

    OFFLINE = "offline"
    """It has no connection: it waits before the next attempt, or does not run."""
    CONNECTING = "connecting"
    """It fetches a token, opens a connection, or waits for `welcome`."""
    CATCHING_UP = "catching_up"
    """It receives a snapshot, or the changes that it missed."""
    LIVE = "live"
    """It has every change; new ones arrive as they are committed."""


class Device:
    """One device of one user: connects, resumes where it stopped, reconnects by itself, and sends its outbox.

    A device runs once. To run again, make another Device with the `cursor` that this one had at its end::

        device = Device(url, user=user, token=token, client_id=client_id, cursor=cursor, on_batch=store)
        await device.run()

    Args:
        url: The server's WebSocket address, for example ``wss://sync.example.com/sync``.
        user: The user to whom `cursor` and `outbox` belong.
        token: Called before each connection, and again before the token of an open connection expires. Returns the
            user's JWT, or an awaitable of it; after a token was refused it must return a new one. Raise OSError (or
            ConnectionError, TimeoutError) if there is no token for now: the device tries again later. Any other
            exception ends `run`. A token of another user, or one without a readable `sub`, is never sent: it counts as
            no token, and `last_error` says so.
        client_id: Names this installation. Make it once at random and keep it; with an outbox, ``outbox.client_id``.
        on_batch: Stores a batch's rows and its cursor in one local transaction; may be async. Nothing is received
            while it works, so a slow app slows the server down instead of filling memory. It must not await `page`,
            because the answer could not be received. An exception ends `run`, and the batch arrives again with the
            next device.
        cursor: The cursor stored with the last batch. None starts with a snapshot.
        schema: The schema that the app was built with. Rows have its columns, whatever the server's schema is: those
            that the server does not have are None. None takes the server's schema, which arrives on each connection,
            as the event SchemaArrived, before the first batch.
        window: The size of a snapshot, by the names of kinds: the newest rows of a kind without parent (0–500), the
            newest rows of each parent (0–200). For a kind that it does not name the server's schema decides.
        encoding: "msgpack", or "json" for reading the frames in a debugger.
        outbox: The outbox to send. Without one the device only reads.
        on_stream: Asks for streams (SPEC.md, section 13), and is called with what changes them: StreamsNamed,
            StreamGrew and Live. `Replica.receive` takes these. May be async, as `on_batch`. None: the device gets no
            streams.
        on_event: Called with every event, after `on_batch` and after the outbox received it.
        on_status: Called whenever `status` changes.
        rng: Randomness for the delays between connections.

    Raises ValueError for a window out of bounds or of a kind that the schema does not have, a cursor of more than 128
    bytes, the nil UUID as `client_id`, or another user's outbox.

    May be read: `status`; `reason`, why there is no connection or soon will be none, and what to do, None if nothing is
    wrong; `retry_at`, when the next attempt begins, in seconds since 1970 by the device's clock, None if none is due or
    one is under way; `schema`, None until it is known; `cursor`, that of the last stored batch; `last_error`, for logs:
    the last exception or `error` frame, None if there was none.
    """

    def __init__(
        self,
        url: str,
        *,
        user: UUID,
        token: Callable[[], str | Awaitable[str]],
        client_id: UUID,
        on_batch: Callable[[Batch], Awaitable[None] | None],
        schema: Schema | None = None,
        cursor: bytes | None = None,
        window: Mapping[str, int] | None = None,
        encoding: Encoding = "msgpack",
        outbox: Outbox | None = None,
        on_stream: Callable[[StreamsNamed | StreamGrew | Live], Awaitable[None] | None] | None = None,
        on_event: Callable[[Event], object] = lambda event: None,
        on_status: Callable[[Status], object] = lambda status: None,
        rng: random.Random | None = None,
    ) -> None:
        self.status = Status.OFFLINE
        self.reason: Reason | None = None
        self.retry_at: float | None = None
        self.schema = schema
        self.cursor = cursor
        self.last_error: ErrorAnswer | Exception | None = None
        self._url, self._client_id, self._window, self._encoding = url, client_id, window, encoding
        self._user, self._built_with = user, schema
        self._token, self._on_batch, self._on_event, self._on_status = token, on_batch, on_event, on_status
        self._on_stream = on_stream
        self._rng = rng or random.Random()
        self._outbox = outbox
        self._new_session("")  # raises now for a window or cursor out of bounds
        if outbox is not None:
            if outbox.user not in (None, user):
                raise ValueError("the outbox is another user's: give this device the outbox of its own user")
            if outbox.client_id != client_id:
                raise ValueError("the outbox's numbers belong to another client_id: give this device outbox.client_id")
            outbox.on_add = self._wake_sender
        self._task: asyncio.Task[None] | None = None
        self._stopping = Stopping()
        self._stops = Stops()
        self._over = asyncio.Event()
        self._changed = asyncio.Event()  # replaced each time it is set: a condition without a lock
        self._connection: Connection | None = None  # while it is open
        self._ended_token: str | None = None  # the token that the last 41xx was about
        self._generation = 0  # of the last connection, without an outbox, which would keep it
        self._clock = ServerClock(0 if outbox is None else outbox.ahead)

    # ---- For the app -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stay in step until `stop` is called.

        Network errors, a server that is away and expired tokens do not end it: the device waits and reconnects.
        Raises StayAway if the server says so; whatever a callback or the outbox's storage raises; RuntimeError the
        second time. When it returns or raises, the connection is closed and no task is left.

        If it is cancelled, the connection is closed and the cancellation passes on. A batch is stored wholly or not at
        all, as far as `on_batch` is one transaction.
        """
        if self._task is not None:
            raise RuntimeError("a Device runs once")
        self._task = asyncio.current_task()
        try:
            with suppress(StopRequested):
                await self._stay_in_step()
        finally:
            self._over.set()
            self._stops.end()
            self.retry_at = None
            self._become(Status.OFFLINE)

    async def stop(self) -> None:
        """End `run`: a batch that is being stored is finished, and the connection closed, before this returns.

        Called from a callback of `run` it returns at once, and `run` ends after the callback. May be repeated, and
        called before `run`. Cancelling it does not undo it.
        """
        self._stopping.request()
        if self._task is not None and asyncio.current_task() is not self._task:
            await self._over.wait()

    async def stop_stream(self, kind: str, key: Key, column: str | None = None) -> bool:
        """Stop the open streams of a row, or the one of a column. Returns whether there was one, once that is durable
        on the server.

        Asked for without a connection, it is sent on the next one; unanswered, again on the one after that. `run` must
        be running, and a callback of it must not await this. May be cancelled. Raises ValueError for a kind that the
        schema does not have and for what is no key of it, ConnectionError once `run` has ended.
        """
        if self.schema is not None:
            if (found := self.schema.get(kind)) is None:
                raise ValueError(f"the schema has no kind {kind!r}")
            check_key(key, found)
        if self._over.is_set():
            raise ConnectionError("the device does not run any more")
        if self._connection is not None:
            self._connection.wake_stops()
        return await self._stops.ask(kind, key, column)

    async def page(
        self,
        kind: str,
        parent: Key | None = None,
        before: tuple[Any, Key] | None = None,
        limit: int = 50,
        timeout: float = 30,
    ) -> PageArrived:
        """Ask for older rows of a kind, newest first: of a kind with a parent, those of the row with the key `parent`.

        `before` is a place: the value of the column `newest` and the key. None asks for the newest. `Replica.older`
        says from where to ask, and applies the page. Waits while the permitted number of pages is unanswered, and until
        the device has caught up far enough to ask.

        Raises PageError if the server answers with an `error`, ConnectionError if the device is offline or its
        connection ends, TimeoutError after `timeout` seconds, ValueError for a limit outside 1–1000, an unknown kind,
        or a parent that is missing or superfluous. May be cancelled: an answer that still arrives is dropped.
        """
        async with asyncio.timeout(timeout):
            while (connection := self._connection) is not None and not connection.session.may_ask:
                await self._changed.wait()
            if connection is None:
                raise ConnectionError("offline")
            return await connection.page(kind, parent, before, limit)

    def write(self, mutation: Mutation) -> Entry:
        """Add a mutation to the outbox. It is durable when this returns, and sent as soon as a connection permits.

        Works offline too. Raises as Outbox.add does (WriteError for what no server would accept), and RuntimeError
        without an outbox.
        """
        if self._outbox is None:
            raise RuntimeError("a device writes only with an outbox: give it one")
        return self._outbox.add(mutation)

    def now(self) -> int:
        """The instant for a mutation's `at`: microseconds since 1970-01-01 UTC.

        By the server's clock, as the last `welcome` showed it; by the device's before the first one.
        """
        return self._clock.now()

    async def wait_live(self, timeout: float | None) -> None:
        """Wait until `status` is LIVE.

        Raises TimeoutError after `timeout` seconds (None: never), ConnectionError once `run` has ended. May be
        cancelled.
        """
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
            if (connection := await self._open()) is None:
                step = next_step(None, None, attempt, 0.0, self._rng.random())
            else:
                await self._converse(connection)
                error = connection.session.last_error
                lasted = asyncio.get_running_loop().time() - connection.opened
                step = next_step(connection.close_code, error, attempt, lasted, self._rng.random())
                match step.instruction:
                    case Instruction.STAY_AWAY:
                        assert step.close_code is not None
                        raise StayAway(step.close_code, error.message if error else "")
                    case Instruction.START_OVER:
                        self.cursor = None
                    case Instruction.NEW_TOKEN:
                        refreshing = error is not None and error.answers == "refresh"
                        self._ended_token = connection.offered_token if refreshing else connection.token
            attempt = step.attempt
            self.retry_at = clock.now() / 1e6 + step.delay_seconds
            self._become(Status.OFFLINE)
            await self._stopping.sleep(step.delay_seconds)
            self.retry_at = None

    async def _open(self) -> Connection | None:
        """A new connection, on which nothing was sent yet; None if there is none for now. The app's exceptions pass."""
        try:
            token = await self._stopping.wait_for(self._fetch_token, TOKEN_WITHIN)
        except NoTokenError as error:
            self._report(error)
            return None
        except TimeoutError:
            self._report(NoTokenError(f"token() gave none within {TOKEN_WITHIN:.0f} s"))
            return None
        if token == self._ended_token:
            self._report(NoTokenError("token() returned the token again that the server refuses"))
            return None
        try:
            session = self._new_session(token, self._next_generation())
            dial = partial(open_websocket, self._url, self._encoding)
            websocket = await self._stopping.wait_for(dial, CONNECT_WITHIN)
        except (OSError, InvalidHandshake) as error:  # TimeoutError is an OSError
            self._report(error)
            return None
        sender = None
        if self._outbox is not None:
            sender = OutboxSender(self._outbox, session, websocket, self._rng)
        calls = Calls(self._fetch_token, self._apply, self._announce, self._report)
        return Connection(
            session,
            websocket,
            token,
            sender=sender,
            stops=StopSender(self._stops, session, websocket),
            clock=self._clock,
            stopping=self._stopping,
            calls=calls,
        )

    async def _converse(self, connection: Connection) -> None:
        """From hello to the close."""
        self._connection = connection
        try:
            await connection.run()
        finally:
            self._connection = None
            connection.end()
            try:
                self._become(Status.OFFLINE)
            finally:
                await connection.close()

    def _new_session(self, token: str, generation: int | None = None) -> Session:
        return Session(
            token=token,
            client_id=self._client_id,
            schema=self._built_with,
            cursor=self.cursor,
            window=self._window,
            encoding=self._encoding,
            generation=generation,
            streams=self._on_stream is not None,
        )

    def _next_generation(self) -> int:
        if self._outbox is not None:
            return self._outbox.generation(clock.now())
        self._generation = next_generation(self._generation, clock.now())
        return self._generation

    async def _fetch_token(self) -> str:
        """Raises NoTokenError if there is none, or one that must not be used; and what else the app raises."""
        try:
            given = self._token()
            token = await given if isawaitable(given) else given
        except OSError as error:
            raise NoTokenError(f"token() failed ({error})") from error
        # Another user may have signed in since: this user's outbox must never be sent under that user's name.
        subject = _subject(token)
        if subject is None:
            raise NoTokenError(
                "token() returned a token whose sub cannot be read: return the JWT that the server verifies"
            )
        if subject != str(self._user):
            raise NoTokenError(
                "token() returned another user's token: make a Device, with an outbox of its own, for each user"
            )
        return token

    # ---- What a connection calls -------------------------------------------------------------------------------------

    async def _apply(self, event: Event) -> None:
        match event:
            case Welcomed():
                if self._outbox is not None:
                    self._outbox.keep_time(self._clock.ahead, self._clock.now())
                self.reason = None
                self._become(Status.CATCHING_UP)
            case Refreshed():
                self.reason = None
            case SchemaArrived():
                self.schema = self.schema if self._built_with is not None else event.schema
            case Batch():
                if (storing := self._on_batch(event)) is not None:
                    await storing
                self.cursor = event.cursor
            case StreamsNamed() | StreamGrew():
                await self._follow(event)
            case Live():
                await self._follow(event)
                self._become(Status.LIVE)

    async def _follow(self, event: StreamsNamed | StreamGrew | Live) -> None:
        if self._on_stream is not None and (storing := self._on_stream(event)) is not None:
            await storing

    def _announce(self, event: Event) -> None:
        self._notify()
        self._on_event(event)

    def _report(self, error: ErrorAnswer | Exception) -> None:
        self.last_error = error
        self.reason = reason_of(error, self._url) or self.reason

    def _wake_sender(self) -> None:
        if self._connection is not None:
            self._connection.wake_sender()

    def _become(self, status: Status) -> None:
        changed, self.status = status is not self.status, status
        self._notify()
        if changed:
            self._on_status(status)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _subject(token: str) -> str | None:
    """The user of a token; None if it cannot be read. Nothing is verified here: the server does that."""
    try:
        payload = token.split(".")[1]
        subject = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except (LookupError, TypeError, ValueError):
        return None
    return subject.lower() if isinstance(subject, str) else None
