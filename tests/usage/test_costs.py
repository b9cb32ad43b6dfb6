"""Which day's cost is unusual."""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.usage import costs
from server.usage.costs import DAYS, FEWEST, Day, unusual, usual

TODAY: Final = date(2026, 7, 14)
FLOOR: Final = 5.0
amounts = st.floats(0, 1e6)
histories = st.lists(amounts, min_size=FEWEST, max_size=DAYS)


@given(histories, st.floats(0.01, 1e4))
def test_the_median_is_usual_and_so_is_all_that_costs_no_more_than_the_floor(days: list[float], floor: float) -> None:
    range_ = usual(days, floor)
    assert range_ is not None
    assert 0 <= range_.low <= range_.high
    assert range_.high >= floor
    assert range_.contains(
        sorted(days)[len(days) // 2]
        if len(days) % 2
        else sum(sorted(days)[len(days) // 2 - 1 : len(days) // 2 + 1]) / 2
    )
    assert range_.low == 0 or not range_.contains(0)


@given(histories, amounts)
def test_a_single_day_however_dear_does_not_make_ten_times_the_others_usual(days: list[float], dear: float) -> None:
    """Of days that vary by a tenth."""
    steady = [100 + day % 10 for day in days]
    steady[0] = dear
    range_ = usual(steady, FLOOR)
    assert range_ is not None
    assert not range_.contains(1_000)
    assert range_.contains(100)


@given(st.lists(amounts, max_size=FEWEST - 1))
def test_too_few_days_judge_nothing(days: list[float]) -> None:
    assert usual(days, FLOOR) is None


@given(histories)
def test_days_that_are_all_alike_allow_half_as_much_more(days: list[float]) -> None:
    range_ = usual([days[0] + FLOOR] * len(days), FLOOR)
    assert range_ is not None
    assert range_.high == pytest.approx(1.5 * (days[0] + FLOOR))


STEADY: Final[Sequence[float]] = (10.0, 11.0, 9.0, 10.0, 12.0, 10.0, 9.0)


@pytest.mark.parametrize(
    ("day", "cost", "found"),
    [
        (TODAY, 100.0, True),
        (TODAY, 12.0, False),
        (TODAY, 0.0, False),  # it is not over
        (TODAY - timedelta(days=1), 100.0, True),
        (TODAY - timedelta(days=1), 0.0, True),
        (TODAY - timedelta(days=1), 9.0, False),
    ],
)
def test_a_day_is_unusual_outside_its_range_and_too_cheap_only_when_it_is_over(
    day: date, cost: float, found: bool
) -> None:
    assert bool(unusual([Day("core", day, cost, STEADY)], TODAY, FLOOR)) == found


def test_somebody_who_never_cost_anything_is_unusual_beyond_the_floor() -> None:
    days = [Day("one", TODAY, FLOOR, [0.0] * DAYS), Day("two", TODAY, FLOOR + 0.01, [0.0] * DAYS)]
    assert [day.whose for day in unusual(days, TODAY, FLOOR)] == ["two"]


def test_the_most_expensive_comes_first() -> None:
    days = [Day("one", TODAY, 100.0, STEADY), Day("two", TODAY, 200.0, STEADY)]
    assert [day.whose for day in unusual(days, TODAY, FLOOR)] == ["two", "one"]


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["core", "studio"]), st.integers(0, 20)), st.floats(0.01, 100), max_size=30
    )
)
def test_days_without_usage_cost_nothing_and_those_before_the_first_of_all_do_not_count(
    known: dict[tuple[str, int], float],
) -> None:
    given_costs = [(whose, TODAY - timedelta(days=ago), cost) for (whose, ago), cost in known.items()]
    oldest = max((ago for _, ago in known), default=0)
    for day in costs.by_day(given_costs, TODAY):
        ago = (TODAY - day.date).days
        assert ago in (0, 1)
        assert day.cost == known.get((day.whose, ago), 0.0)
        expected = [known.get((day.whose, ago + n), 0.0) for n in range(1, DAYS + 1) if ago + n <= oldest]
        assert list(day.before) == expected
