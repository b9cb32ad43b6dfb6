"""A process keeps the responses that were used last, none beyond its time, and no earlier one for a later one."""

from dataclasses import dataclass
from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from server.responses.memory import ENTRY_BYTES, Memory
from server.responses.ports import Response
from server.responses.question import Key


def named(name: int) -> Key:
    return Key(f"{name}", "core")


def response(version: int, size: int = 10) -> Response:
    return Response("x" * size, 0, Decimal(0), 0, 0, version)


@dataclass(frozen=True)
class Step:
    what: str
    name: int
    version: int
    seconds: float
    """For which it is kept."""
    passed: float
    """Since the step before."""


steps = st.builds(
    Step,
    st.sampled_from(["keep", "drop", "get"]),
    st.integers(0, 4),
    st.integers(1, 6),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
)


@given(st.lists(steps, max_size=60), st.integers(0, 5))
@example(
    [
        Step("keep", 1, 2, 1.0, 0.0),
        Step("keep", 0, 1, 0.0, 0.0),
        Step("keep", 1, 1, 1.0, 0.0),
        Step("get", 1, 1, 0.0, 0.0),
    ],
    1,
)
def test_what_is_returned_is_in_time_and_if_there_is_room_the_latest_and_memory_is_bounded(
    story: list[Step], room: int
) -> None:
    limit = room * (ENTRY_BYTES + 100)
    memory = Memory(limit)
    told: dict[int, tuple[int, float, bool]] = {}
    """What may be returned: the version, until when, and whether it is a response."""
    kept: dict[int, list[tuple[int, float]]] = {}
    """Every version, and until when, of which one that made room is forgotten."""
    now = 0.0
    for step in story:
        now += step.passed
        key, until = named(step.name), now + step.seconds
        known = told.get(step.name, (0, 0.0, False))
        if step.what == "get":
            found = memory.get(key, now)
            if found is not None:
                assert any(found.version == version and now < until for version, until in kept[step.name])
            if room == 5:  # for all
                right = known[0] if known[2] and now < known[1] else None
                assert (None if found is None else found.version) == right
        else:
            if step.what == "keep":
                memory.keep(key, response(step.version), until, now)
                kept.setdefault(step.name, []).append((step.version, until))
            else:
                memory.drop(key, step.version, until, now)
            if not (known[0] > step.version and now < known[1]):
                told[step.name] = (step.version, until, step.what == "keep")
        assert memory.size <= limit


def test_the_one_used_longest_ago_makes_room() -> None:
    memory = Memory(2 * (ENTRY_BYTES + 100))
    for name in (1, 2):
        memory.keep(named(name), response(1), 10.0, 0.0)
    assert memory.get(named(1), 1.0) is not None
    memory.keep(named(3), response(1), 10.0, 1.0)
    assert [name for name in (1, 2, 3) if memory.get(named(name), 1.0)] == [1, 3]


def test_one_that_is_larger_than_all_room_is_not_kept_and_displaces_nothing_but_its_former_self() -> None:
    memory = Memory(2 * (ENTRY_BYTES + 100))
    for name in (1, 2):
        memory.keep(named(name), response(1), 10.0, 0.0)
    memory.keep(named(2), response(2, size=100_000), 10.0, 0.0)
    assert memory.get(named(1), 1.0) is not None
    assert memory.get(named(2), 1.0) is None
    assert len(memory) == 1


def test_once_the_time_of_a_later_one_is_over_an_earlier_one_counts_again() -> None:
    """As after a database was restored."""
    memory = Memory(100_000)
    memory.keep(named(1), response(9), 5.0, 0.0)
    memory.keep(named(1), response(3), 10.0, 4.9)
    kept = memory.get(named(1), 4.9)
    assert kept is not None
    assert kept.version == 9
    memory.keep(named(1), response(3), 10.0, 5.0)
    kept = memory.get(named(1), 5.0)
    assert kept is not None
    assert kept.version == 3
