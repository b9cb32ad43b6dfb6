"""Nobody writes more than is permitted, and whoever waits as long as he is told is let in."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from server import rate_limit
from server.rate_limit import TokenBuckets

ANNE, BERT = UUID(int=1), UUID(int=2)


def test_a_burst_is_let_through_and_more_must_wait() -> None:
    one = TokenBuckets(rate=10, burst=30)
    assert one.take(ANNE, 30, now=0) == 0
    assert one.take(ANNE, 5, now=0) == 0.5
    assert one.take(ANNE, 5, now=0.5) == 0


def test_a_refused_push_takes_nothing() -> None:
    one = TokenBuckets(rate=10, burst=30)
    assert one.take(ANNE, 31, now=0) > 0
    assert one.take(ANNE, 30, now=0) == 0


def test_one_user_does_not_use_up_anothers() -> None:
    one = TokenBuckets(rate=1, burst=1)
    assert one.take(ANNE, 1, now=0) == 0
    assert one.take(BERT, 1, now=0) == 0


def test_full_buckets_are_forgotten_and_others_are_not() -> None:
    one = TokenBuckets(rate=1, burst=10)
    for i in range(rate_limit.PRUNE_FROM - 1):
        one.take(UUID(int=10 + i), 1, now=0)
    one.take(ANNE, 10, now=5)
    assert len(one._full_at) == 1
    assert one.take(ANNE, 1, now=5) > 0


@given(
    rate=st.floats(0.5, 1_000),
    burst=st.integers(1, 1_000),
    asked=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1_000)), max_size=50),
)
def test_no_stretch_of_time_sees_more_than_burst_and_rate_permit(
    rate: float, burst: int, asked: list[tuple[float, int]]
) -> None:
    one, now, taken = TokenBuckets(rate, burst), 0.0, []
    for pause, mutations in asked:
        now += pause
        wait = one.take(ANNE, mutations, now)
        if wait == 0:
            taken.append((now, mutations))
        elif mutations <= burst:
            now += wait
            assert one.take(ANNE, mutations, now) == 0, "waited as long as told, and still refused"
            taken.append((now, mutations))
    for i, (begin, _) in enumerate(taken):
        total = 0
        for end, mutations in taken[i:]:
            total += mutations
            assert total <= burst + rate * (end - begin) + 1e-3
