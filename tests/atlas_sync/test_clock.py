"""The server's clock as a device computes it."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.clock import GREETED_WITHIN, clock_ahead
from atlas_sync.outbox import EARLIEST, redated

INSTANTS = st.integers(-(10**12), 10**12)
TOOK = st.integers(0, GREETED_WITHIN - 1)


@given(INSTANTS, TOOK, TOOK)
def test_a_clock_that_may_be_correct_is_not_adjusted(truth: int, before: int, after: int) -> None:
    took = min(before + after, GREETED_WITHIN - 1)
    assert clock_ahead(truth, truth - min(after, took), took) == truth


@given(INSTANTS, INSTANTS, TOOK)
def test_a_wrong_clock_is_adjusted_as_little_as_possible(believed: int, least: int, took: int) -> None:
    ahead = clock_ahead(believed, least, took)
    assert least <= ahead <= least + took
    assert all(abs(ahead - believed) <= abs(fits - believed) for fits in (least, least + took))


def test_after_a_very_long_greeting_the_servers_time_counts() -> None:
    assert clock_ahead(0, 600_000_000, 700_000_000) == 600_000_000


NOW = 1_751_000_000_000_000
GIVEN = st.lists(st.integers(-(10**15), 3 * 10**15), max_size=50)
SHIFTS = st.integers(-(10**15), 10**15)


@given(GIVEN, SHIFTS)
def test_instants_that_a_wrong_clock_gave_keep_their_order_and_fit(instants: list[int], shift: int) -> None:
    after = redated(instants, shift, NOW)
    assert all(EARLIEST <= at <= NOW for at in after.values())
    ordered = sorted(set(instants))
    assert all(after[a] < after[b] for a, b in pairwise(ordered))


@given(GIVEN, SHIFTS)
def test_instants_that_a_wrong_clock_gave_move_by_the_same(instants: list[int], shift: int) -> None:
    fit = [at for at in instants if EARLIEST <= at + shift <= NOW]
    assert redated(fit, shift, NOW) == {at: at + shift for at in fit}
