"""A connection on which transactions arrive: from Postgres, or from the process that streams for all."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from server.exceptions import UnavailableError
from server.postgres import wire
from server.postgres.wal.pgoutput import Committed, Transactions


class Receiving(asyncio.Protocol, ABC):
    """`deliver` gets each transaction; an error that it raises ends the connection. `over`: the sentence for its end.
    `most`: bytes of a message that are kept."""

    def __init__(self, deliver: Callable[[Committed], object], over: str, most: int | None = None) -> None:
        self._deliver = deliver
        self._over = over
        self._messages = wire.Messages(most)
        self._transactions = Transactions()
        self._transport: asyncio.Transport | None = None
        self._failure: Exception | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self, seconds: float) -> None:
        """Wait for so many seconds. Raises UnavailableError as soon as it has ended."""
        await asyncio.wait([self.ended], timeout=seconds)
        if self.ended.done():
            raise self._failure or UnavailableError(self._over)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body, at, end in self._messages.split(data):
                self._received(kind, body, at, end)
        except Exception as error:
            # It would be lost in the callback of a transport.
            self._failure = UnavailableError(f"{self._over} ({type(error).__name__})")
            self._failure.__cause__ = error
            self.end()

    @abstractmethod
    def _received(self, kind: int, body: bytes, at: int, end: int) -> None:
        """A message has arrived."""

    def _take(self, body: bytes, at: int, end: int) -> None:
        """A message of pgoutput has arrived."""
        ended = self._transactions.receive(body, at, end)
        if ended is not None:
            self._deliver(ended)

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        if not self.ended.done():
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()
