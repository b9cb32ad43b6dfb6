"""Verified tokens are remembered: the last ones, and never as such."""

from uuid import UUID

from server.edge.remembered import Remembered, Verified
from server.session import Claims

ANNE, BEN = Verified(Claims(UUID(int=1), 100), 0), Verified(Claims(UUID(int=2), 200), 0)


def test_a_token_is_found_once_for_each_time_that_it_was_put() -> None:
    remembered = Remembered()
    remembered.put("anne's", ANNE)
    remembered.put("ben's", BEN)
    assert remembered.take("anne's") is ANNE
    assert remembered.take("anne's") is None
    assert remembered.take("ben's") is BEN
    assert remembered.take("another") is None


def test_the_tokens_that_were_presented_last_are_kept() -> None:
    remembered = Remembered(most=2)
    for token in ("one", "two", "one", "three"):
        remembered.put(token, ANNE)
    assert len(remembered) == 2
    assert remembered.take("two") is None
    assert remembered.take("one") is ANNE
    assert remembered.take("three") is ANNE


def test_nothing_that_is_kept_can_be_compared_with_a_token_or_with_what_another_process_keeps() -> None:
    first, second = Remembered(), Remembered()
    for each in (first, second):
        each.put("a token", ANNE)
    (kept,), (elsewhere,) = first._found, second._found
    assert kept != elsewhere
    assert b"a token" not in kept
