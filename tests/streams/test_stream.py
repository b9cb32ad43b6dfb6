"""Streams are found by their ids and by their users, and a group wakes those who wait for it, once."""

import asyncio
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from server.streams.ports import Found, State
from server.streams.stream import Group, Known, Stream
from server.streams.text import Text
from tests.support.stream_store import place


def stream(id_: UUID, user: str) -> Stream:
    return Stream(id_, user, place(), 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.sampled_from("ab"))))
def test_known_streams_are_those_that_were_added_and_not_removed(changes: list[tuple[bool, int, str]]) -> None:
    known, model = Known(), dict[UUID, str]()
    for adds, number, user in changes:
        id_ = UUID(int=number)
        if adds and id_ not in model:
            known.add(stream(id_, user))
            model[id_] = user
        elif not adds:
            removed = known.remove(id_)
            assert (removed is not None) == (model.pop(id_, None) is not None)
        assert {each.id: each.user for each in known} == model
        assert len(known) == len(model)
        for user_ in "ab":
            assert {each.id for each in known.of(user_)} == {id_ for id_, of in model.items() if of == user_}


def test_a_stream_that_is_found_is_noted_once_and_open_until_its_text_is_read() -> None:
    found = Found(uuid4(), "a", place(), 1, State.DONE, False, False, None, None)
    known = Known()
    noted = known.note(found)
    assert noted.open
    assert known.note(found) is noted


def test_a_doubt_keeps_what_devices_were_sent() -> None:
    doubted = stream(uuid4(), "a")
    doubted.text = sent = Text("sent")
    doubted.doubt()
    doubted.doubt()
    assert doubted.text is None
    assert doubted.former is sent


async def test_a_group_wakes_all_who_wait_even_if_one_was_cancelled() -> None:
    group = Group()
    waiting = [asyncio.create_task(group.written()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    group.finish()
    await asyncio.gather(*waiting[1:])
    await group.written()
    assert group.finished
