"""Retrying: the delays, the log lines, and the return to the shortest delay."""

import asyncio

import pytest
from structlog.testing import capture_logs

from server.retry import Alarm, Retry, backoff


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)


def test_delays_double_from_a_tenth_of_a_second_up_to_the_longest() -> None:
    assert [backoff(failures) for failures in range(1, 8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert backoff(10**6, longest=5.0) == 5.0


def test_jitter_takes_away_at_most_half_of_a_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    delays = {backoff(3) for _ in range(100)}
    assert len(delays) > 1
    assert all(0.2 <= delay <= 0.4 for delay in delays)


async def test_each_pause_sleeps_for_the_delay_of_its_failure_and_a_success_starts_over() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    retry = Retry("postgres is away", longest=0.3, sleep=sleep)
    for _ in range(3):
        await retry.pause(OSError("no route"))
    assert retry.failures == 3
    retry.reset()
    assert retry.failures == 0
    await retry.pause(OSError("no route"))
    assert slept == [0.1, 0.2, 0.3, 0.1]


def test_a_failure_is_logged_with_the_error_the_delay_and_the_fields_of_the_operation() -> None:
    retry = Retry("postgres is away, readers wait", lane="LIVE")
    with capture_logs() as logs:
        delay = retry.failed(OSError("no route"))
    assert delay == 0.1
    assert logs == [
        {
            "event": "postgres is away, readers wait",
            "log_level": "warning",
            "lane": "LIVE",
            "error": "no route",
            "again_in": 0.1,
        }
    ]


def test_without_an_event_a_failure_is_counted_and_not_logged() -> None:
    retry = Retry(None)
    with capture_logs() as logs:
        retry.failed(OSError("no route"))
    assert retry.failures == 1
    assert logs == []


async def test_an_alarm_ends_every_pause_that_is_under_way() -> None:
    alarm = Alarm()
    retries = [Retry(None, longest=600.0, alarm=alarm) for _ in range(2)]
    for retry in retries:
        retry.failures = 20
    pauses = [asyncio.create_task(retry.pause(OSError("no route"))) for retry in retries]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    alarm.ring()
    await asyncio.wait_for(asyncio.gather(*pauses), 20.0)


async def test_an_alarm_during_an_attempt_makes_the_pause_after_it_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(self: Alarm, seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(Alarm, "sleep", sleep)
    alarm = Alarm()
    retry = Retry(None, alarm=alarm)
    retry.failures = 20
    for rings in (False, True, False):
        if rings:
            alarm.ring()
        await retry.pause(OSError("no route"))
    assert slept == [2.0, 0.1, 2.0]
