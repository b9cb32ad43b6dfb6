"""Waiting that `Device.stop` can end."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class StopRequested(Exception):  # noqa: N818 (a request, not a fault)
    """stop() was called."""


class Stopping:
    """Whether a device must stop. Ends the wait that is in progress, and refuses every later one.

    A callback of the app is not a wait: stopping never interrupts it.
    """

    def __init__(self) -> None:
        self._requested = asyncio.Event()
        self._waiting: asyncio.Timeout | None = None

    def request(self) -> None:
        """Stop. May be repeated."""
        self._requested.set()
        if self._waiting is not None and not self._waiting.expired():
            self._waiting.reschedule(asyncio.get_running_loop().time())

    async def wait_for(self, call: Callable[[], Awaitable[T]], seconds: float) -> T:
        """Await `call()`. Raises TimeoutError after `seconds`, StopRequested once stopping was requested."""
        if self._requested.is_set():
            raise StopRequested
        try:
            async with asyncio.timeout(seconds) as self._waiting:
                return await call()
        except TimeoutError:
            if self._requested.is_set():
                raise StopRequested from None
            raise
        finally:
            self._waiting = None

    async def sleep(self, seconds: float) -> None:
        """Raises StopRequested once stopping was requested."""
        with suppress(TimeoutError):
            await self.wait_for(self._requested.wait, seconds)
