"""Sends an outbox over one connection, one push at a time. The asyncio edge around outbox.py.

Knows the clock and when to send; what is sent, and what a result means, is decided by the outbox.
"""

import asyncio
import random
from contextlib import suppress

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from atlas_sync.outbox import Outbox
from atlas_sync.session import Acknowledged, Batch, ErrorAnswer, Event, Live, SchemaArrived, Session, Welcomed


class OutboxSender:
    """Sends what the outbox holds, and reports the server's answers to it."""

    def __init__(self, outbox: Outbox, session: Session, websocket: ClientConnection, rng: random.Random) -> None:
        self._outbox, self._session, self._websocket, self._rng = outbox, session, websocket, rng
        self._clock = asyncio.get_running_loop().time
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to send now."""
        self._woken.set()

    def receive(self, event: Event) -> None:
        """Report an event to the outbox. Call it after the app has stored what the event brought."""
        match event:
            case Welcomed():
                self._outbox.begin(event.limits)
            case SchemaArrived():
                self._outbox.learn(event.schema)
            case Batch() | Live():
                self._outbox.advance(event.seq)
                return
            case Acknowledged():
                self._outbox.acknowledge(event.results)
            case ErrorAnswer(answers="push") if self._outbox.unanswered is not None and self._session.pushed is None:
                self._outbox.push_failed(event, self._clock(), self._rng.random())
            case _:
                return
        self.wake()

    def end(self) -> None:
        """The connection has ended."""
        self._outbox.end()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            self._woken.clear()
            pause = await self._push() if self._session.may_push else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _push(self) -> float | None:
        """Send a push if one is due. Else returns the seconds until one will be; None: not before the next event."""
        due = self._outbox.due(self._clock())
        if due != 0:
            return due
        wire = self._session.wire
        push = None if wire is None else self._outbox.next_push(self._session.limits, wire, self._clock())
        if push is not None:
            with suppress(ConnectionClosed):  # the receiving task learns of it
                await self._websocket.send(self._session.push(push.n, push.mutations, push.held))
        return None
