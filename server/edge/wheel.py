"""One timer for all connections: what is due in a second is in that second's slot."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

SLOTS: Final = 64
"""Seconds ahead that the wheel reaches; a later moment is looked at again when the wheel comes by."""


class Timed(Protocol):
    """Something that wants to be called at a moment. It is in at most one slot, which it remembers for the wheel."""

    wheel_slot: int

    def on_time(self, now: float) -> float | None:
        """It is `now` (monotonic seconds), and maybe time. Returns the next moment, or None for no more."""


class Wheel:
    """Calls within a second after the moment asked for. 10,000 idle connections cost it 400 calls a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._slots: list[set[Timed]] = [set() for _ in range(SLOTS)]
        self._reached = int(clock())

    def at(self, item: Timed, moment: float) -> None:
        """Call `item` at `moment` (monotonic seconds), instead of whenever it was to be called before."""
        self.drop(item)
        second = min(max(int(moment) + 1, self._reached + 1), self._reached + SLOTS - 1)
        item.wheel_slot = second % SLOTS
        self._slots[item.wheel_slot].add(item)

    def drop(self, item: Timed) -> None:
        if item.wheel_slot >= 0:
            self._slots[item.wheel_slot].discard(item)
            item.wheel_slot = -1

    def turn(self) -> None:
        """Call everything whose second has come."""
        now = self.clock()
        # After a stall of more than a turn every slot is due once.
        first = max(self._reached + 1, int(now) - SLOTS + 1)
        for second in range(first, int(now) + 1):
            self._reached = second
            slot, self._slots[second % SLOTS] = self._slots[second % SLOTS], set()
            for item in slot:
                item.wheel_slot = -1
            for item in slot:
                moment = item.on_time(now)
                if moment is not None:
                    self.at(item, moment)

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(1 - self.clock() % 1)
            self.turn()
