"""Stops of streams that a device was asked for, until the server has answered them (SPEC.md, 13.6)."""

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed

from atlas_sync.rows import Key
from atlas_sync.session import ErrorAnswer, Event, SchemaArrived, Session, StopAnswered, Welcomed
from atlas_sync.websocket import WebSocket

AGAIN_AFTER = 1.0  # seconds, if the server does not say


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop that is not answered. `answer`: whether there was an open stream."""

    kind: str
    id: Key
    column: str | None
    answer: asyncio.Future[bool]


class Stops:
    """The stops that are not answered, by their numbers. They outlive connections."""

    def __init__(self) -> None:
        self.waiting: dict[int, Stop] = {}
        self._last = 0

    async def ask(self, kind: str, key: Key, column: str | None) -> bool:
        """Wait for the answer. Raises ConnectionError once `end` was called. May be cancelled."""
        self._last += 1
        number = self._last
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.waiting[number] = Stop(kind, key, column, answer)
        try:
            return await answer
        finally:
            del self.waiting[number]

    def answered(self, number: int, found: bool) -> None:
        if (stop := self.waiting.get(number)) is not None and not stop.answer.done():
            stop.answer.set_result(found)

    def end(self) -> None:
        """No answer will come any more."""
        for stop in self.waiting.values():
            if not stop.answer.done():
                stop.answer.set_exception(ConnectionError("the device does not run any more"))


class StopSender:
    """Sends them over one connection, those too that an earlier one left without an answer."""

    def __init__(self, stops: Stops, session: Session, websocket: WebSocket) -> None:
        self._stops, self._session, self._websocket = stops, session, websocket
        self._clock = asyncio.get_running_loop().time
        self._not_before: dict[int, float] = {}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to send now."""
        self._woken.set()

    def receive(self, event: Event) -> None:
        match event:
            case StopAnswered():
                self._stops.answered(event.n, event.found)
            case ErrorAnswer(answers="stop", id=int(number)):
                after = AGAIN_AFTER if event.retry_after_ms is None else event.retry_after_ms / 1000
                self._not_before[number] = self._clock() + after
            case ErrorAnswer(code="unknown_frame"):
                # A server of an earlier version: it has no streams.
                for number in self._session.drop_stops():
                    self._stops.answered(number, False)
            case Welcomed() | SchemaArrived():
                pass
            case _:
                return
        self.wake()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            self._woken.clear()
            pause = await self._send()
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()

    async def _send(self) -> float | None:
        """Send what may be sent. Returns the seconds until more may be; None: not before the next event."""
        later = math.inf
        for number, stop in list(self._stops.waiting.items()):
            if number in self._session.stops or stop.answer.done():
                continue
            left = self._not_before.get(number, -math.inf) - self._clock()
            if left > 0:
                later = min(later, left)
            elif self._session.may_stop:
                frame = self._session.stop(number, stop.kind, stop.id, stop.column)
                if frame is None:
                    self._stops.answered(number, False)
                else:
                    with suppress(ConnectionClosed):  # the receiving task learns of it
                        await self._websocket.send(frame)
        return None if math.isinf(later) else later
