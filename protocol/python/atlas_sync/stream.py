"""What the app's backend writes while it comes into being: a stream (SPEC.md, section 13).

stream_text.py and stream_group.py decide what is sent, and what answers mean; stream_sender.py sends it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, urlsplit
from uuid import UUID

from atlas_sync.stream_group import Member, pause
from atlas_sync.stream_sender import StreamSender, sender_of
from atlas_sync.stream_text import OPEN, PASSING, STOPPED, StreamError, StreamText

if TYPE_CHECKING:
    from atlas_sync.stream_http import Reply

AHEAD = 65_536
"""Characters that a writer may be ahead of the server: then `write` waits."""
# Seconds.
PATIENCE = 60.0
WAIT = 25.0  # of the server, before it answers that the stream was not stopped
FAIL_WITHIN = 5.0  # after an exception: longer than a restart of the server, shorter than a deployment waits

OPEN_SENTENCE = "open the stream with «async with» first"
NOWHERE = (
    "nothing takes streams at this address: `url` must be that of an Atlas Sync server, without a path, and "
    "ATLAS_SERVICE_TOKEN must be set there"
)


class Stream:
    """Writes the text of one column of one row, of which every device of the user shows each part at once::

        async with Stream(url, token, user, "message", message_id, "content") as out:
            async for word in model:
                await out.write(word)

    The row must exist when the stream is opened. Leaving the block ends the stream: as done, or as failed after an
    exception, and if the server refused the text. Then the app commits the row with `out.text`; if it does not, the
    server writes it (`finish`).

    A text that is there already is continued: a job that is repeated finds in `out.text` what was written before it,
    and so writes no second answer. All streams of a process send in shared requests, which begin 40 ms apart.
    A server that is away is waited for; what was written is sent then, exactly once.

    Args:
        url: The server's address, for example ``https://sync.example.com``.
        token: ATLAS_SERVICE_TOKEN.
        user: The user to whom the row belongs.
        kind: The name of the row's kind.
        key: The row's key; of two columns, a tuple.
        column: The column, one of `streams` of the kind in the declaration.
        restart: End the stream that there is, if any, discard its text, and begin a new one.
        patience: Seconds without an answer after which the stream is given up.

    Entering the block raises Ended (or Stopped) if the stream has ended already, StreamError if the server refuses it,
    ValueError for a `url` that is none, RuntimeError if httpx is missing.

    May be read: `stream`, the stream's id; `text`, all that was written, and once the stream has ended what the server
    has of it (if it had ended at the opening, perhaps nothing: the row has it then);
    `offset`, how many characters the server has confirmed; `state`, "open", "done", "failed" or "stopped".
    """

    def __init__(
        self,
        url: str,
        token: str,
        user: UUID | str,
        kind: str,
        key: UUID | str | int | tuple[UUID | str | int, UUID | str | int],
        column: str,
        *,
        restart: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("url: give the server's address, which begins with http:// or https://")
        parts = [str(part) if isinstance(part, UUID) else part for part in (key if isinstance(key, tuple) else (key,))]
        self.stream = ""
        self._url, self._token, self._patience = url.rstrip("/"), token, patience
        self._opening: dict[str, object] = {"user": str(user), "kind": kind, "column": column, "restart": restart}
        self._opening["id"] = parts if isinstance(key, tuple) else parts[0]
        self._text = StreamText()
        self._told = False  # the app knows why nothing can be written any more
        self._changed = asyncio.Event()  # replaced each time it is set
        self._over = asyncio.Event()
        self._sender: StreamSender | None = None
        self._member: Member | None = None
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"Stream({self.stream or 'not opened'}, {self.state}, offset={self.offset})"

    @property
    def text(self) -> str:
        return self._text.text

    @property
    def offset(self) -> int:
        return self._text.confirmed

    @property
    def state(self) -> str:
        return self._text.state

    async def __aenter__(self) -> Self:
        if self._sender is not None:
            raise RuntimeError("a Stream is opened once")
        async with AsyncExitStack() as stack:
            try:
                self._sender = await stack.enter_async_context(sender_of(self._url, self._token))
            except ImportError:
                raise RuntimeError("a Stream needs httpx: pip install 'atlas-sync-client[streams]'") from None
            await self._open(self._sender)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and not self._told:
                await self.finish()
        except BaseException as failure:
            error = failure  # cancelled, or not understood
            raise
        finally:
            if (error is not None and self._text.fault is None) or self._text.is_refused:
                with suppress(Exception):  # the app gets the first exception
                    async with asyncio.timeout(FAIL_WITHIN):
                        await self._fail()
            self._sending.leave(self._joined)
            self._text.fail(StreamError("the stream's block was left"))
            self._notify()
            await self._stack.aclose()

    async def write(self, text: str) -> None:
        """Add text. It is on its way when this returns, and is sent again until the server has it.

        Waits while the server is more than 65,536 characters behind. Raises Stopped or Ended once the server has said
        that the stream has ended, StreamError once it refused the text or gave no answer for `patience` seconds,
        ValueError for text with NUL or half of a surrogate pair.
        """
        sender, member = self._sending, self._joined
        self._telling()
        self._text.write(text)
        sender.wrote(member)
        await asyncio.sleep(0)  # a source that never waits would keep everything else from running
        await self._until(lambda: self._text.unsent <= AHEAD)

    async def finish(self, *, write: bool = False) -> None:
        """End the stream as done, after all of its text has arrived. Leaving the block does the same.

        `write`: the server writes the text to the row, in a moment. Without it the app commits the row, and the server
        does it 10 s later if the app has not. May be repeated. Raises as `write`, also if the stream was stopped
        meanwhile.
        """
        if self._told and self.state == "done":
            return
        while True:
            await self._until(lambda: not self._text.unsent)
            body = {"offset": self._text.length, "write": write}
            reply = await self._insist(self._path("done"), body)
            state, offset = _end(reply)
            if reply.status == 200 and state == "done":
                self._end(state, offset)
                self._told = True
                return
            if reply.status == 409 and state != OPEN:
                self._end(state, offset)
            self._telling()
            if reply.status == 409 and offset != self._text.length:
                self._text.rewind(offset)
                self._sending.wrote(self._joined)
            else:
                raise reply.refusal()

    async def stopped(self) -> bool:
        """Wait until the stream has ended, and return whether it was stopped.

        A stop is known here at once. `write` knows it within a second, which is enough unless the model is silent for
        long. Raises StreamError as `write`. May be cancelled.
        """
        polling, over = asyncio.ensure_future(self._poll()), asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait([polling, over], return_when=asyncio.FIRST_COMPLETED)
            if polling.done():
                polling.result()
        finally:
            polling.cancel()
            over.cancel()
            await asyncio.gather(polling, over, return_exceptions=True)
        if isinstance(self._text.fault, StreamError):
            raise self._text.fault.with_traceback(None)
        return self.state == STOPPED

    # ---- Inside ------------------------------------------------------------------------------------------------------

    @property
    def _sending(self) -> StreamSender:
        if self._sender is None:
            raise RuntimeError(OPEN_SENTENCE)
        return self._sender

    @property
    def _joined(self) -> Member:
        if self._member is None:
            raise RuntimeError(OPEN_SENTENCE)
        return self._member

    async def _open(self, sender: StreamSender) -> None:
        reply = await self._insist("/v1/streams", self._opening)
        if reply.status not in (200, 201):
            raise StreamError(NOWHERE, reply.status) if reply.is_no_endpoint else reply.refusal()
        match reply.fields:
            case {"stream": str(stream), "state": str(state), "text": str(text)}:
                self.stream, self._text = stream, StreamText(text)
            case _:
                raise StreamError("the server's answer is not that of a stream: is this its address?", reply.status)
        if state != OPEN:
            self._text.ended(state, len(text))
            self._telling()
        now = asyncio.get_running_loop().time()
        self._member = Member(stream, self._text, now, patience=self._patience, changed=self._notify)
        sender.join(self._member)

    async def _poll(self) -> None:
        """Ask until the stream has ended."""
        failures = 0
        while self._text.fault is None:
            reply = await _or_none(self._sending.http.wait(self._path("stop"), WAIT))
            if reply is None or reply.status in PASSING:
                failures += 1
                await asyncio.sleep(pause(failures, random.random()))
            elif reply.status == 200:
                self._end(*_end(reply))
            elif reply.status == 204:
                failures = 0
            else:
                raise reply.refusal()

    async def _fail(self) -> None:
        if self._text.fault is None:
            with suppress(TimeoutError, StreamError):
                async with asyncio.timeout(FAIL_WITHIN / 2):
                    await self._until(lambda: not self._text.unsent)
        if self._text.fault is None or self._text.is_refused:
            state, offset = _end(await self._insist(self._path("failed"), {}))
            if state != OPEN:
                self._text.ended(state, offset)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Raises what ended the stream."""
        while self._text.fault is None and not condition():
            await self._changed.wait()
        self._telling()

    def _telling(self) -> None:
        """Raise what ended the stream, if it has ended."""
        if self._text.fault is not None:
            self._told = True
            raise self._text.fault.with_traceback(None)

    def _end(self, state: str, offset: int) -> None:
        if self._text.fault is None:
            self._text.ended(state, offset)
            self._sending.leave(self._joined)
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self._text.fault is not None:
            self._over.set()

    def _path(self, what: str) -> str:
        return f"/v1/streams/{quote(self.stream, safe='')}/{what}"

    async def _insist(self, path: str, body: object) -> "Reply":
        """The answer of a server that may be away for a while. Raises StreamError once patience is at its end."""
        loop = asyncio.get_running_loop()
        until, failures = loop.time() + self._patience, 0
        while True:
            reply = await _or_none(self._sending.http.post(path, body))
            # 429 says here that the user has too many streams.
            if reply is not None and (reply.status not in PASSING or reply.status == 429):
                return reply
            failures += 1
            delay = max(pause(failures, random.random()), 0.0 if reply is None else reply.retry_after)
            if loop.time() + delay >= until:
                status = None if reply is None else reply.status
                raise StreamError(f"the server gave no answer for {self._patience:g} s", status)
            await asyncio.sleep(delay)


async def _or_none(asking: Awaitable["Reply"]) -> "Reply | None":
    """None: there was no answer."""
    from atlas_sync.stream_http import Away

    try:
        return await asking
    except Away:
        return None


def _end(reply: "Reply") -> tuple[str, int]:
    """The state and the offset that an answer names."""
    match reply.fields:
        case {"state": str(state), "offset": int(offset)}:
            return state, offset
    if reply.status in (200, 409):
        raise StreamError(f"the server answered {reply.status} without a state and an offset", reply.status)
    return OPEN, -1
