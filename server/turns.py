"""Fair scheduling: users take turns, no matter how much each of them requests."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue that serves users in turns, and the items of one user in their order. Sans-I/O."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, deque[T]] = {}
        """By user, the next user first."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, user: Hashable, item: T) -> None:
        self._waiting.setdefault(user, deque()).append(item)
        self._count += 1

    def take(self) -> T:
        """Remove and return the next item. The queue must not be empty."""
        user = next(iter(self._waiting))
        items = self._waiting.pop(user)
        item = items.popleft()
        self._count -= 1
        if items:
            self._waiting[user] = items  # behind all other users
        return item


class Turns:
    """Admits `at_once` holders at a time (None: any number), and one of each user, so that a user who requests more
    delays nobody else."""

    def __init__(self, at_once: int | None) -> None:
        self._turn = contextlib.nullcontext() if at_once is None else asyncio.Semaphore(at_once)
        self._users: dict[Hashable, tuple[asyncio.Lock, int]] = {}
        """Each user's lock, with the number of its holders and waiters."""

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
