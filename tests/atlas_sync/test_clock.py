"""By whose clock a device writes."""

from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.clock import GREETED_WITHIN, clock_ahead

INSTANTS = st.integers(-(10**12), 10**12)
TOOK = st.integers(0, GREETED_WITHIN - 1)


@given(INSTANTS, TOOK, TOOK)
def test_a_clock_that_may_be_right_is_left_alone(truth: int, before: int, after: int) -> None:
    took = min(before + after, GREETED_WITHIN - 1)
    assert clock_ahead(truth, truth - min(after, took), took) == truth


@given(INSTANTS, INSTANTS, TOOK)
def test_a_clock_that_is_wrong_is_corrected_by_no_more_than_it_must_be(believed: int, least: int, took: int) -> None:
    ahead = clock_ahead(believed, least, took)
    assert least <= ahead <= least + took
    assert all(abs(ahead - believed) <= abs(fits - believed) for fits in (least, least + took))


def test_a_greeting_that_took_very_long_proves_little() -> None:
    assert clock_ahead(0, 600_000_000, 700_000_000) == 600_000_000
