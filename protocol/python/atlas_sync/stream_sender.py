"""Sends what the streams of one process write to one server: shared by them, and gone with the last one."""

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from atlas_sync.stream_group import Batch, Group, Member
from atlas_sync.stream_text import PASSING, StreamError

if TYPE_CHECKING:
    from atlas_sync.stream_http import Http

Senders = dict[tuple[str, str], "StreamSender"]
_senders: WeakKeyDictionary[asyncio.AbstractEventLoop, Senders] = WeakKeyDictionary()


class StreamSender:
    """One task, which sends one grouped request after the other. Begins with the first stream, ends with the last."""

    def __init__(self, http: "Http") -> None:
        self.http = http
        self.users = 0
        self._loop = asyncio.get_running_loop()
        self._group = Group()
        self._wake = asyncio.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self._task = self._loop.create_task(self._run(), name="atlas-sync streams")

    def join(self, member: Member) -> None:
        self._group.join(member, self._loop.time())
        self._wake.set()

    def leave(self, member: Member) -> None:
        """May be repeated."""
        self._group.leave(member)

    def wrote(self, member: Member) -> None:
        """The member's text has grown, or is unsent again."""
        if self._group.wrote(member):
            self._wake.set()

    async def end(self) -> None:
        """Cancel what is under way, and close the connections."""
        tasks = [self._task, *self._requests]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.http.close()

    async def _run(self) -> None:
        try:
            while True:
                self._wake.clear()
                batch = self._group.take(self._loop.time())
                if batch:
                    request = self._loop.create_task(self._send(batch))
                    self._requests.add(request)
                    request.add_done_callback(self._requests.discard)
                else:
                    await self._until(self._group.next_at())
        except Exception as error:
            self._group.fail(StreamError(f"sending failed: {type(error).__name__}"))
            raise

    async def _until(self, at: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(None if math.isinf(at) and at > 0 else at):
                await self._wake.wait()

    async def _send(self, batch: Batch) -> None:
        from atlas_sync.stream_http import Away

        body = {"appends": [[member.stream, append.offset, append.text] for member, append in batch]}
        rnd = random.random()
        try:
            reply = await self.http.append(body)
        except Away:
            self._group.lost(batch, self._loop.time(), rnd)
        except Exception as error:
            # Without the error itself, which might quote text or the token, and which nobody would take.
            self._group.refused(batch, StreamError(f"sending failed: {type(error).__name__}"))
        else:
            now, answers = self._loop.time(), reply.fields.get("answers")
            if reply.status == 200 and isinstance(answers, list) and len(answers) == len(batch):
                self._group.answered(batch, answers, now, rnd)
            elif reply.status == 200 or reply.status in PASSING:
                self._group.lost(batch, now, rnd, reply.retry_after)
            else:
                self._group.refused(batch, reply.refusal())
        finally:
            self._wake.set()


@asynccontextmanager
async def sender_of(url: str, token: str) -> AsyncIterator[StreamSender]:
    """The sender of this URL and token on this event loop. Raises ImportError without httpx."""
    from atlas_sync.stream_http import Http

    senders = _senders.setdefault(asyncio.get_running_loop(), {})
    if (sender := senders.get((url, token))) is None:
        sender = senders[url, token] = StreamSender(Http(url, token))
    sender.users += 1
    try:
        yield sender
    finally:
        sender.users -= 1
        if not sender.users:
            del senders[url, token]
            await sender.end()
