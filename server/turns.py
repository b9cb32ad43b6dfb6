"""Whose turn it is: users take turns, however much each of them asks for."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items by user, first come first served within a user, and users in turns. Sans-I/O."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}
        """In the order of turns."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, user: Hashable, item: T) -> None:
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
    """So many at a time, or any number, and of each user one: whoever asks for more delays nobody else."""

    def __init__(self, at_once: int | None) -> None:
        self._turn = contextlib.nullcontext() if at_once is None else asyncio.Semaphore(at_once)
        self._users: dict[Hashable, tuple[asyncio.Lock, int]] = {}
        """With how many have it or wait for it."""

    @contextlib.asynccontextmanager
    async def of(self, user: Hashable) -> AsyncIterator[None]:
        lock, count = self._users.get(user) or (asyncio.Lock(), 0)
        self._users[user] = lock, count + 1
        try:
            async with lock, self._turn:
                yield
        finally:
            lock, count = self._users.pop(user)
            if count > 1:
                self._users[user] = lock, count - 1
