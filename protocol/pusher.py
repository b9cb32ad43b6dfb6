"""The asyncio edge around outbox.py: keeps the outbox of one connection moving, one push at a time.

Knows the clock and when to speak; what is sent, and what becomes of it, is the outbox's.
"""

import asyncio
import random
from contextlib import suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from protocol.client import Acknowledged, Batch, Client, Event, Live, Refused, Welcomed
from protocol.outbox import Outbox
from protocol.wire import CODECS, Encoding


class Pusher:
    """Sends what the outbox has, over one connection, and tells the outbox what comes back."""

    def __init__(
        self, outbox: Outbox, client: Client, socket: ClientConnection, encoding: Encoding, rng: random.Random
    ) -> None:
        self._outbox, self._client, self._socket, self._rng = outbox, client, socket, rng
        self._codec = CODECS[encoding]
        self._clock = asyncio.get_running_loop().time
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to send now."""
        self._woken.set()

    def hear(self, event: Event) -> None:
        """After the app has stored what the event brought."""
        match event:
            case Welcomed():
                self._outbox.begin(event.limits)
            case Batch() | Live():
                self._outbox.reach(event.seq)
                return
            case Acknowledged():
                self._outbox.acknowledge(event.results)
            case Refused(answers="push") if self._outbox.unanswered is not None and self._client.pushed is None:
                self._outbox.refuse(event, self._clock(), self._rng.random())
            case _:
                return
        self.wake()

    def end(self) -> None:
        """The connection is over."""
        self._outbox.end()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._woken.clear()
            pause = await self._push() if self._client.may_push else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _push(self) -> float | None:
        """Send what is due; else say in how many seconds something will be, None if not before something happens."""
        due = self._outbox.due(self._clock())
        if due != 0:
            return due
        push = self._outbox.next_push(self._client.limits, self._codec, self._clock())
        if push is not None:
            with suppress(ConnectionClosed):  # receiving will tell
                await self._socket.send(self._client.push(push.n, push.mutations, push.held))
        return None
