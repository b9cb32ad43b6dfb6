"""What keeps failing is held back longer each time, and in the end rejected if it may be at fault; nobody else is."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from server.write.ports import Cause
from server.write.suspects import (
    ATTEMPTS,
    DEVICES,
    FIRST_ATTEMPT,
    FIRST_PAUSE,
    INVOLVED,
    LONG,
    LONGEST_ATTEMPT,
    LONGEST_PAUSE,
    PRUNE_FROM,
    WATCHED,
    Suspects,
)

ANNE, BERT = UUID(int=1), UUID(int=2)
PHONE, LAPTOP = UUID(int=3), UUID(int=4)


def test_what_a_rule_is_against_is_rejected_at_once() -> None:
    suspects = Suspects()
    assert suspects.failed(ANNE, PHONE, 1, Cause.RULE, 0) == "refused"
    assert suspects.held_until(ANNE, PHONE) == 0
    assert not suspects.slow(ANNE)


def test_what_takes_too_long_gets_more_time_and_is_then_rejected() -> None:
    suspects, now, seconds, codes = Suspects(), 0.0, [], []
    for _ in range(ATTEMPTS):
        seconds.append(suspects.seconds(ANNE, PHONE))
        codes.append(suspects.failed(ANNE, PHONE, 1, Cause.TIME, now))
        now = max(now, suspects.held_until(ANNE, PHONE))
    assert seconds == [1, 2, 4, 8, 15]
    assert codes == [*[None] * (ATTEMPTS - 1), "too_slow"]
    assert suspects.held_until(ANNE, PHONE) == 0
    assert suspects.seconds(ANNE, PHONE) == FIRST_ATTEMPT


def test_what_ends_its_connection_is_refused_in_the_end() -> None:
    suspects = Suspects()
    codes, pauses = [], 0.0
    for _ in range(ATTEMPTS):
        codes.append(suspects.failed(ANNE, PHONE, 1, Cause.END, 0))
        pauses += suspects.held_until(ANNE, PHONE)
    assert codes == [*[None] * (ATTEMPTS - 1), "refused"]
    assert pauses >= 60, "an operator may end several connections in a row"


def test_what_somebody_has_locked_is_never_rejected() -> None:
    suspects, pauses = Suspects(), []
    for _ in range(50):
        assert suspects.failed(ANNE, PHONE, 1, Cause.STATE, 100) is None
        pauses.append(suspects.held_until(ANNE, PHONE) - 100)
    assert pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert suspects.seconds(ANNE, PHONE) == LONGEST_ATTEMPT


def test_tries_of_one_mutation_do_not_count_for_another_nor_for_another_device() -> None:
    suspects = Suspects()
    for n in range(1, 4 * ATTEMPTS):
        assert suspects.failed(ANNE, PHONE, n, Cause.TIME, 0) is None
    for _ in range(ATTEMPTS - 2):
        assert suspects.failed(ANNE, LAPTOP, 1, Cause.TIME, 0) is None
        assert suspects.failed(ANNE, PHONE, 4 * ATTEMPTS - 1, Cause.TIME, 0) is None
    assert suspects.failed(ANNE, LAPTOP, 1, Cause.TIME, 0) is None
    assert BERT not in suspects


def test_who_had_nothing_to_do_with_a_failure_is_cleared_by_the_first_success() -> None:
    suspects = Suspects()
    suspects.add(ANNE, 10)
    assert ANNE in suspects
    suspects.passed(ANNE, PHONE, 11)
    assert ANNE not in suspects


def test_who_is_in_one_failing_group_after_the_other_is_watched_for_a_while() -> None:
    suspects = Suspects()
    for number in range(INVOLVED):
        suspects.add(ANNE, number)
        suspects.passed(ANNE, PHONE, number)
    assert ANNE in suspects
    suspects.passed(ANNE, PHONE, INVOLVED + WATCHED)
    assert ANNE not in suspects
    for number in range(5):
        suspects.add(BERT, 2 * WATCHED * number)
        suspects.passed(BERT, PHONE, 2 * WATCHED * number)
        assert BERT not in suspects, "now and then is chance"


def test_whose_pushes_take_long_is_watched_for_a_while() -> None:
    suspects = Suspects()
    suspects.took(ANNE, LONG / 2, 10)
    suspects.passed(ANNE, PHONE, 10)
    assert ANNE not in suspects
    suspects.took(ANNE, 2 * LONG, 10)
    suspects.passed(ANNE, PHONE, 10)
    assert ANNE in suspects


def test_who_failed_by_himself_is_watched_for_a_while() -> None:
    suspects = Suspects()
    suspects.failed(ANNE, PHONE, 1, Cause.RULE, 10)
    suspects.passed(ANNE, PHONE, 11)
    assert ANNE in suspects
    suspects.passed(ANNE, PHONE, 10 + WATCHED)
    assert ANNE not in suspects


def test_a_success_of_one_device_does_not_clear_another() -> None:
    suspects = Suspects()
    suspects.failed(ANNE, PHONE, 1, Cause.TIME, 0)
    suspects.passed(ANNE, LAPTOP, WATCHED + 1)
    assert ANNE in suspects
    assert suspects.slow(ANNE)
    assert suspects.held_until(ANNE, PHONE) > 0


def test_what_is_remembered_has_a_bound() -> None:
    suspects = Suspects()
    for number in range(3 * DEVICES):
        suspects.failed(ANNE, UUID(int=number), 1, Cause.TIME, 0)
    assert sum(suspects.held_until(ANNE, UUID(int=number)) > 0 for number in range(3 * DEVICES)) == DEVICES
    for number in range(PRUNE_FROM):
        suspects.add(UUID(int=1000 + number), 0)
    suspects.add(BERT, 10_000)
    assert [user for user in (ANNE, UUID(int=1000), BERT) if user in suspects] == [BERT]


@given(st.lists(st.tuples(st.sampled_from(Cause), st.integers(1, 3), st.floats(0, 100)), max_size=40))
def test_every_mutation_is_rejected_held_or_tried_and_never_for_longer_than_the_limits(
    failures: list[tuple[Cause, int, float]],
) -> None:
    suspects, now = Suspects(), 0.0
    for cause, n, later in failures:
        now += later
        code = suspects.failed(ANNE, PHONE, n, cause, now)
        pause = suspects.held_until(ANNE, PHONE) - now
        assert FIRST_ATTEMPT <= suspects.seconds(ANNE, PHONE) <= LONGEST_ATTEMPT
        if code is None:
            assert cause is not Cause.RULE
            assert FIRST_PAUSE <= pause + 1e-6 <= LONGEST_PAUSE + 1e-6
        else:
            assert cause is not Cause.STATE
            assert code in {"refused", "too_slow"}
