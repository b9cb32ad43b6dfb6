"""Writers that are there are noted, rows are looked at, and nobody counts as gone who could not have come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from server.exceptions import UnavailableError
from server.streams import keeper
from server.streams.ports import Settled, State
from tests.support.stream_store import USER, FakeStore, Process, place, process
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(keeper, "TOUCH_SECONDS", 0.0)


@contextlib.asynccontextmanager
async def writing(store: FakeStore) -> AsyncIterator[tuple[Process, UUID]]:
    """A process that writes a stream."""
    async with process(store) as here:
        opened = await here.streams.open(USER, place(), restart=False)
        yield here, opened.id


async def test_a_writer_is_noted_as_long_as_it_gives_signs_of_life() -> None:
    store = FakeStore()
    async with writing(store) as (here, id_):
        await eventually(lambda: store.touched)
        assert set().union(*store.touched) == {id_}
        before = len(store.silent)
        await eventually(lambda: len(store.silent) > before + 2)
        count = len(store.touched)
        await eventually(lambda: len(store.silent) > before + 5)
        assert len(store.touched) == count, "without a sign of life"
        await here.streams.append([(id_, 0, "")])
        await eventually(lambda: len(store.touched) > count)


async def test_a_stream_of_another_process_is_not_noted() -> None:
    store = FakeStore()
    store.add()
    async with process(store):
        await eventually(lambda: len(store.silent) > 3)
    assert store.touched == []


async def test_nobody_counts_as_gone_right_after_a_start_or_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "RETURN_SECONDS", 0.05)
    store = FakeStore()
    async with writing(store):
        await eventually(lambda: store.silent)
        assert not store.silent[0]
        await eventually(lambda: store.silent[-1])
        store.away = True
        await asyncio.sleep(0.02)
        count = len(store.silent)
        store.away = False
        await eventually(lambda: len(store.silent) > count)
        assert not store.silent[count]
        await eventually(lambda: store.silent[-1])


async def test_more_rows_than_one_call_looks_at_are_looked_at_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 3_600)
    store = FakeStore()
    async with writing(store) as (here, id_):
        store.settling = [Settled(uuid4(), State.DONE, True, False, None) for _ in range(keeper.LOOKS)]
        await here.streams.end(id_, State.DONE, None, write=True)
        await eventually(lambda: len(store.silent) == 2)


async def test_a_table_that_cannot_be_read_delays_no_stream_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()

    async def fail(_: object) -> set[UUID]:
        raise UnavailableError("the table is locked")

    monkeypatch.setattr(store, "lost", fail)
    monkeypatch.setattr(keeper, "RETURN_SECONDS", 0.05)
    async with writing(store) as (here, id_):
        other = store.add("text", number=2)
        here.elsewhere(other, state=State.DONE)
        await eventually(lambda: len(store.silent) > 2)
        assert {id_} in store.touched
        store.settling = [Settled(other, State.DONE, True, True, None)]
        await eventually(lambda: not store.settling)
        await eventually(lambda: store.silent[-1])


async def test_a_stream_that_has_lost_its_row_is_ended() -> None:
    store = FakeStore()
    async with writing(store) as (_, id_):
        store.without_row.add(id_)
        await eventually(lambda: store.kept[id_].state is State.FAILED)


async def test_a_settled_stream_is_forgotten_and_one_that_was_ended_is_read() -> None:
    store = FakeStore()
    async with writing(store) as (here, id_):
        await here.streams.append([(id_, 0, "x")])
        other = (await here.streams.open(USER, place(2), restart=False)).id
        store.kept[other].state = State.FAILED
        store.settling = [
            Settled(id_, State.FAILED, True, True, None),
            Settled(other, State.FAILED, False, False, "23514"),
        ]
        store.kept[id_].settled = True
        store.kept[id_].state = State.FAILED
        waited = await here.streams.wait_for_end(other, 10)
        assert waited is not None
        assert waited.state is State.FAILED
        (answer,) = await here.streams.append([(id_, 1, "y")])
        assert (answer.outcome.value, answer.state) == (409, State.FAILED)


async def test_what_is_not_needed_any_more_is_removed_also_where_nothing_is_streamed() -> None:
    store = FakeStore()
    async with process(store):
        await eventually(lambda: store.rotations)
