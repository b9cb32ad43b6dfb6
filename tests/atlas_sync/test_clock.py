"""The server's clock as a device computes it."""

from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.clock import GREETED_WITHIN, clock_ahead

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
