"""Which connections of this process are open, and their orderly end at shutdown."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

GOODBYES_PER_SECOND: Final = 500
"""Connections closed per second of a shutdown; more if the drain time is too short for that."""


class Closable(Protocol):
    """A connection, as the shutdown sees it."""

    def goodbye(self, retry_after: float) -> None:
        """Ask the client to come back after so many seconds, and close."""

    def abort(self) -> None:
        """End the connection at once."""


class Registry:
    """The open connections, and the requests that they wait for."""

    def __init__(self) -> None:
        self._open: set[Closable] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def add(self, connection: Closable) -> None:
        self._open.add(connection)
        self._empty.clear()

    def remove(self, connection: Closable) -> None:
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    def spawn(self, request: Coroutine[Any, Any, None], done: Callable[[asyncio.Task[None]], None]) -> None:
        """Run a request of a connection, for example the check of a token. `done` receives its finished task."""
        task = asyncio.get_running_loop().create_task(request)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(done)

    async def drain(self, seconds: float) -> None:
        """Ask every client to come back, a few at a time and each after another delay. Wait up to `seconds` for all to
        leave, then abort the rest."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if not (connections := list(self._open)):
            return
        spread = min(seconds * 0.7, len(connections) / GOODBYES_PER_SECOND)
        for count, connection in enumerate(connections, 1):
            connection.goodbye(retry_after=random.uniform(0.1, max(1.0, spread)))
            due = begun + spread * count / len(connections)
            if due > loop.time() + 0.01:
                await asyncio.sleep(due - loop.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(begun + seconds):
                await self._empty.wait()
        for connection in list(self._open):
            connection.abort()

    def cancel(self) -> None:
        """Cancel the requests in progress."""
        for task in self._tasks:
            task.cancel()
