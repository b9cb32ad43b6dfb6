"""A trail says that nothing changed only where that is certain."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from protocol.frames import Conversation, ConversationDeleted, Message, MessageDeleted, Profile
from server.feed.change import Entry
from server.feed.trail import LIST, TOUCHED, Trail, touched

IDS = [UUID(int=number) for number in range(1, 6)]


def at(seq: int) -> Position:
    return Position(seq, 0, seq + 1_000)


@given(data=st.data(), changes=st.lists(st.sampled_from([*IDS, None]), max_size=30))
def test_what_it_calls_untouched_was_not_changed(data: Any, changes: list[UUID | None]) -> None:
    """Transaction i changes `changes[i]`; None: a deletion that names no conversation. Readers at several positions
    read on, each some transactions at a time."""
    trail, readers = Trail(), [0, 0]
    for _ in range(data.draw(st.integers(0, 20))):
        reader = data.draw(st.integers(0, 1))
        begin = readers[reader]
        end = data.draw(st.integers(begin, len(changes)))
        if end > begin:
            some = changes[begin:end]
            trail.step(at(begin), at(end), None if None in some else frozenset(c for c in some if c is not None))
            readers[reader] = end
    asked = data.draw(st.sets(st.sampled_from(IDS), min_size=1))
    for after in range(len(changes) + 1):
        for to in readers:
            if to > after and trail.untouched(asked, at(after), at(to)):
                assert None not in changes[after:to]
                assert asked.isdisjoint(changes[after:to])


def test_a_reader_that_read_step_by_step_knows_them_all_however_many() -> None:
    trail = Trail()
    for step in range(50):
        trail.step(at(step), at(step + 1), frozenset({IDS[step % 2]}))
    assert trail.untouched({IDS[2]}, at(0), at(50))
    assert trail.untouched({IDS[1]}, at(48), at(49))
    assert not trail.untouched({IDS[0]}, at(48), at(50))
    assert not trail.untouched({IDS[2]}, at(0), at(51))


def test_writing_in_one_conversation_for_long_leaves_the_steps_before_known() -> None:
    trail = Trail()
    trail.step(at(0), at(1), frozenset({IDS[0]}))
    trail.step(at(1), at(2), frozenset({IDS[1]}))
    for step in range(2, 50):
        trail.step(at(step), at(step + 1), frozenset({IDS[2]}))
    assert trail.untouched({IDS[0]}, at(1), at(50))
    assert trail.untouched({IDS[1]}, at(2), at(50))
    assert not trail.untouched({IDS[1]}, at(1), at(50))
    assert not trail.untouched({IDS[2]}, at(49), at(50))


def test_another_transaction_of_the_same_seq_is_not_a_step() -> None:
    trail = Trail()
    trail.step(Position(1, 0, 5), Position(2, 0, 6), frozenset())
    assert trail.untouched({IDS[0]}, Position(1, 0, 5), Position(2, 0, 6))
    assert not trail.untouched({IDS[0]}, Position(1, 0, 5), Position(2, 0, 7))
    assert not trail.untouched({IDS[0]}, Position(1, 0, 4), Position(2, 0, 6))


def entry(row: Any, row_id: UUID = IDS[0]) -> Entry:
    return Entry(1, 1, 0, None, "m", row_id, row)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        (Message(1, IDS[0], IDS[1], "user", "hello", 1, 1), {IDS[1]}),
        (Conversation(1, IDS[0], None, 1, 1), {IDS[0], LIST}),
        (ConversationDeleted(1, IDS[0]), {IDS[0], LIST}),
        (Profile(1, IDS[0], "core", None), {LIST}),
        (MessageDeleted(1, IDS[0]), None),
        (None, None),
    ],
)
def test_what_a_change_touches(row: Any, found: set[UUID] | None) -> None:
    assert touched([entry(row)]) == found


def test_where_the_log_goes_on_it_is_unknown_what_changed() -> None:
    """The message was edited in one conversation, and has moved to the other since."""
    moved = entry(Message(1, IDS[0], IDS[1], "user", "hello", 1, 1))
    assert touched([moved._replace(next_seq=2)]) is None


def test_many_conversations_count_as_everything() -> None:
    rows = [Message(1, IDS[0], UUID(int=100 + number), "user", "x", 1, 1) for number in range(TOUCHED + 1)]
    assert touched([entry(row) for row in rows]) is None
    assert len(touched([entry(row) for row in rows[:-1]]) or ()) == TOUCHED
