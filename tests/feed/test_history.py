"""Of two histories one is the newer, whoever answered first; and only the newest counts."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from server.exceptions import UnavailableError
from server.feed.history import LATEST, SOONEST, History, HistoryReport, come_back_apart, latest, newer
from server.feed.hub import Hub, Phase, Reader
from tests.support.sink import FakeSink

FIRST = HistoryReport("0" * 16, (), system=1, timeline=1, began_at=1_000, started=1_000)


@st.composite
def histories(draw: st.DrawFn) -> list[HistoryReport]:
    """Databases that came out of one, by promotions, restores and dumps; some of them live on beside each other."""
    made = [FIRST]
    for number in range(1, draw(st.integers(2, 8))):
        parent = draw(st.sampled_from(made))
        system, timeline = draw(
            st.sampled_from([(parent.system, parent.timeline + 1), (parent.system, parent.timeline), (number + 1, 1)])
        )
        made.append(
            HistoryReport(
                epoch=f"{number:016x}",
                lineage=(*parent.lineage, parent.epoch),
                system=system,
                timeline=timeline,
                began_at=draw(st.integers(0, 5_000)),  # clocks of different machines
                started=0,
            )
        )
    return made


@given(histories())
def test_of_two_histories_exactly_one_is_newer_and_a_descendant_always_is(made: Sequence[HistoryReport]) -> None:
    for one in made:
        for other in made:
            if one.epoch == other.epoch:
                assert not newer(one, other)
            else:
                assert newer(one, other) is not newer(other, one)
                assert newer(one, other) or other.epoch not in one.lineage


def test_within_a_cluster_the_later_timeline_is_newer_whatever_the_clocks_say() -> None:
    zombie = HistoryReport("a" * 16, (FIRST.epoch,), system=1, timeline=1, began_at=9_000, started=0)
    promoted = HistoryReport("b" * 16, (FIRST.epoch,), system=1, timeline=2, began_at=2_000, started=0)
    assert newer(promoted, zombie)


def test_without_a_common_cluster_the_one_that_began_later_is_newer() -> None:
    restored = HistoryReport("a" * 16, (FIRST.epoch,), system=2, timeline=1, began_at=3_000, started=0)
    again = HistoryReport("b" * 16, (FIRST.epoch,), system=3, timeline=1, began_at=4_000, started=0)
    assert newer(again, restored)


def reader(hub: Hub, at: int | None, acknowledged: int) -> Reader:
    made = hub.add(str(UUID(int=at or 0)), uuid4(), FakeSink("a session"), {}, generation=1)
    if at is not None:
        hub.place(made, Position(at), Phase.LIVE)
    made.acknowledged = acknowledged
    return made


def test_an_earlier_history_is_refused_and_changes_nothing() -> None:
    history = History(Hub(lambda _: None))
    promoted = replace(FIRST, epoch="b" * 16, lineage=(FIRST.epoch,), timeline=2)
    history.connected(FIRST)
    history.connected(promoted)
    with pytest.raises(UnavailableError, match="earlier history"):
        history.connected(FIRST)
    assert history.epoch == promoted.epoch


def test_a_newer_history_has_every_device_start_over_and_is_told_to_those_who_asked() -> None:
    hub = Hub(lambda _: None)
    history, told = History(hub), []
    history.on_change.append(lambda: told.append(history.epoch))
    history.connected(FIRST)
    here = reader(hub, 5, 0)
    assert not here.sink.gone
    history.connected(replace(FIRST, epoch="b" * 16, lineage=(FIRST.epoch,), timeline=2))
    assert here.sink.gone
    assert told == ["b" * 16]


def test_a_restart_ends_only_those_whose_acknowledged_writes_have_not_been_read() -> None:
    hub = Hub(lambda _: None)
    history = History(hub)
    history.connected(FIRST)
    proved, unproved, nowhere = reader(hub, 5, 5), reader(hub, 6, 7), reader(hub, None, 1)
    history.connected(FIRST)
    assert not unproved.sink.gone, "the same Postgres"
    history.connected(replace(FIRST, started=2_000))
    assert [each.sink.gone for each in (proved, unproved, nowhere)] == [False, True, True]


@given(st.integers(0, 1_000_000))
def test_few_devices_come_back_soon_and_many_come_back_apart(devices: int) -> None:
    assert SOONEST <= come_back_apart(devices) < latest(devices) <= latest(devices + 1) <= LATEST


def test_a_newer_history_ends_everybodys_pauses() -> None:
    history = History(Hub(lambda _: None))
    history.connected(FIRST)
    assert history.alarm.rung == 0
    history.connected(replace(FIRST, epoch="b" * 16, lineage=(FIRST.epoch,), timeline=2))
    assert history.alarm.rung == 1


@pytest.mark.parametrize(
    ("schemas", "outdated"),
    [
        ("", ""),
        ("d", "c"),
        ("cd", "bc"),
        ("bcd", "abc"),
        ("abcd", "abc"),
        ("bd", "c"),
        ("bc", ""),
    ],
)
def test_an_epoch_is_outdated_if_nothing_but_schemas_lead_from_it_to_the_present_one(
    schemas: str, outdated: str
) -> None:
    report = replace(FIRST, epoch="d", lineage=("a", "b", "c"), schemas=frozenset(schemas))
    assert report.outdated == set(outdated)


def test_devices_keep_their_cursor_over_another_schema() -> None:
    hub = Hub(lambda _: None)
    history = History(hub)
    history.connected(FIRST)
    here = reader(hub, 5, 0)
    history.connected(replace(FIRST, epoch="b" * 16, lineage=(FIRST.epoch,), schemas=frozenset(["b" * 16])))
    assert isinstance(here.sink, FakeSink)
    assert [error.code for error in here.sink.errors] == ["going_away"]
    assert history.outdated == {FIRST.epoch}
