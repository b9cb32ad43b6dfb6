"""Whose turn it is: users take turns, however much each of them asks for."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by user, first come first served within a user, and users in turns. Sans-I/O."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        """In the order of turns."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, user: str, item: T) -> None:
        self._waiting.setdefault(user, deque()).append(item)
        self._count += 1

    def take(self) -> T:
        """The next item of the user whose turn it is. The queue must not be empty."""
        user = next(iter(self._waiting))
        items = self._waiting.pop(user)
        item = items.popleft()
        self._count -= 1
        if items:
            self._waiting[user] = items  # behind everybody else
        return item


class Turns:
    """So many at a time, and of each user one: whoever asks for more waits for himself and not for others."""

    def __init__(self, at_once: int) -> None:
        self._turn = asyncio.Semaphore(at_once)
        self._users: dict[str, tuple[asyncio.Lock, int]] = {}
        """With how many have it or wait for it."""

    @contextlib.asynccontextmanager
    async def of(self, user: str) -> AsyncIterator[None]:
        lock, count = self._users.get(user) or (asyncio.Lock(), 0)
        self._users[user] = lock, count + 1
        try:
            async with lock, self._turn:
                yield
        finally:
            lock, count = self._users.pop(user)
            if count > 1:
                self._users[user] = lock, count - 1
