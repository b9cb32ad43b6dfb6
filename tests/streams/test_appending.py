"""Appends are written in groups: each stream once, in order, and what follows a refused part is refused too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from server.streams import appending
from server.streams.appending import Appends
from server.streams.ports import Part
from server.streams.stream import Group
from tests.support.stream_store import FakeStore
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(appending, "EVERY", 0.0)


@contextlib.asynccontextmanager
async def appends(store: FakeStore, finished: list[Group]) -> AsyncIterator[Appends]:
    made = Appends(store, finished.append)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


async def under_way(store: FakeStore, count: int = 1) -> None:
    await eventually(lambda: len(store.appends) >= count)


async def test_what_comes_while_a_transaction_is_under_way_is_the_next_one() -> None:
    store = FakeStore()
    one, two = store.add(number=1), store.add(number=2)
    store.going.clear()
    finished: list[Group] = []
    async with appends(store, finished) as made:
        first = made.add(one, 0, "a")
        await under_way(store)
        groups = [made.add(one, 1, "b"), made.add(two, 0, "x"), made.add(one, 2, "c")]
        assert all(group is groups[0] for group in groups)
        assert groups[0] is not first
        assert not first.finished
        store.going.set()
        await groups[0].written()
        assert first.finished
    assert store.appends == [[Part(one, 0, "a")], [Part(one, 1, "bc"), Part(two, 0, "x")]]
    assert finished == [first, groups[0]]
    assert first.lost == groups[0].lost == set()


async def test_what_follows_a_part_that_was_refused_is_not_written_and_others_are() -> None:
    store = FakeStore()
    one, two = store.add("elsewhere", number=1), store.add(number=2)
    store.going.clear()
    async with appends(store, []) as made:
        first = made.add(one, 0, "a")
        made.add(two, 0, "x")
        await under_way(store)
        second = made.add(one, 1, "b")
        made.add(two, 1, "y")
        store.going.set()
        await second.written()
    assert (first.lost, second.lost) == ({one}, {one})
    assert store.kept[two].text == "xy"
    assert store.appends[1] == [Part(two, 1, "y")]


async def test_a_group_of_which_nothing_is_left_is_over_at_once() -> None:
    store = FakeStore()
    one = store.add("elsewhere")
    store.going.clear()
    finished: list[Group] = []
    async with appends(store, finished) as made:
        made.add(one, 0, "a")
        await under_way(store)
        second = made.add(one, 1, "b")
        store.going.set()
        await second.written()
        assert second.lost == {one}
        assert len(finished) == 2
        assert made.add(one, 9, "c") is not second
        await under_way(store, 2)
    assert store.kept[one].text == "elsewherec"


async def test_an_outage_is_told_to_those_of_its_group_and_the_next_one_is_written() -> None:
    store = FakeStore()
    one, two = store.add(number=1), store.add(number=2)
    store.going.clear()
    async with appends(store, []) as made:
        first = made.add(one, 0, "a")
        await under_way(store)
        second = made.add(one, 1, "b")
        third = made.add(two, 0, "x")
        store.failing = 1
        store.going.set()
        await third.written()
    assert first.error is not None
    assert second.error is None
    assert first.lost == second.lost == {one}
    assert store.kept[two].text == "x"
