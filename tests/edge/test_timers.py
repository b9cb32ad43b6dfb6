"""The wheel calls everybody once, not before the time and at most a second after it."""

from hypothesis import given
from hypothesis import strategies as st

from server.edge.timers import SLOTS, TimerWheel


class Item:
    def __init__(self, *after: float) -> None:
        self.timer_slot = -1
        self.called: list[float] = []
        self._after = list(after)

    def on_time(self, now: float) -> float | None:
        self.called.append(now)
        return now + self._after.pop(0) if self._after else None


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.5

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0, SLOTS - 2), min_size=1, max_size=20))
def test_each_is_called_once_within_a_second_after_its_moment(delays: list[float]) -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    start = clock.now
    items = [Item() for _ in delays]
    for item, delay in zip(items, delays, strict=True):
        wheel.at(item, start + delay)
    for _ in range((SLOTS + 2) * 2):
        clock.now += 0.5
        wheel.advance()
    for item, delay in zip(items, delays, strict=True):
        (called,) = item.called
        assert start + delay <= called <= start + delay + 1.5


@given(st.floats(0, 50), st.floats(0, 50))
def test_the_last_moment_asked_for_counts(first: float, second: float) -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    item = Item()
    wheel.at(item, clock.now + first)
    wheel.at(item, clock.now + second)
    for _ in range(60):
        clock.now += 1
        wheel.advance()
    assert len(item.called) == 1


def test_what_is_dropped_is_not_called() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    item = Item()
    wheel.at(item, clock.now + 1)
    wheel.drop(item)
    wheel.drop(item)
    clock.now += 10
    wheel.advance()
    assert item.called == []


def test_a_moment_beyond_the_wheel_is_looked_at_when_the_wheel_comes_by() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    item = Item()
    wheel.at(item, clock.now + 10 * SLOTS)
    for _ in range(SLOTS):
        clock.now += 1
        wheel.advance()
    assert len(item.called) == 1


def test_a_stalled_process_calls_everything_that_became_due_once() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    items = [Item() for _ in range(SLOTS)]
    for delay, item in enumerate(items):
        wheel.at(item, clock.now + delay)
    clock.now += 10 * SLOTS
    wheel.advance()
    assert [len(item.called) for item in items] == [1] * SLOTS


def test_what_asks_for_more_is_called_again() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    item = Item(5, 5)
    wheel.at(item, clock.now)
    for _ in range(20):
        clock.now += 1
        wheel.advance()
    assert len(item.called) == 3
