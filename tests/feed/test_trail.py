"""A trail says that nothing changed only where that is certain."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.cursor import Position
from protocol.frames import Key
from server.declaration.chat import CHAT
from server.feed.change import Entry
from server.feed.trail import TOUCHED, List, Trail, touched
from tests.support.rows import Conversation, ConversationDeleted, Message, MessageDeleted, Profile
from tests.support.second import SECOND

IDS = [UUID(int=number) for number in range(1, 6)]
LISTS: list[List] = [("message", id_) for id_ in IDS]


def at(seq: int) -> Position:
    return Position(seq, 0, seq + 1_000)


@given(data=st.data(), changes=st.lists(st.sampled_from([*LISTS, None]), max_size=30))
def test_what_it_calls_untouched_was_not_changed(data: Any, changes: list[List | None]) -> None:
    """Transaction i changes `changes[i]`; None: a deletion that names no list. Readers at several positions
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
    asked = data.draw(st.sets(st.sampled_from(LISTS), min_size=1))
    for after in range(len(changes) + 1):
        for to in readers:
            if to > after and trail.untouched(asked, at(after), at(to)):
                assert None not in changes[after:to]
                assert asked.isdisjoint(changes[after:to])


def test_a_reader_that_read_step_by_step_knows_them_all_however_many() -> None:
    trail = Trail()
    for step in range(50):
        trail.step(at(step), at(step + 1), frozenset({LISTS[step % 2]}))
    assert trail.untouched({LISTS[2]}, at(0), at(50))
    assert trail.untouched({LISTS[1]}, at(48), at(49))
    assert not trail.untouched({LISTS[0]}, at(48), at(50))
    assert not trail.untouched({LISTS[2]}, at(0), at(51))


def test_writing_in_one_conversation_for_long_leaves_the_steps_before_known() -> None:
    trail = Trail()
    trail.step(at(0), at(1), frozenset({LISTS[0]}))
    trail.step(at(1), at(2), frozenset({LISTS[1]}))
    for step in range(2, 50):
        trail.step(at(step), at(step + 1), frozenset({LISTS[2]}))
    assert trail.untouched({LISTS[0]}, at(1), at(50))
    assert trail.untouched({LISTS[1]}, at(2), at(50))
    assert not trail.untouched({LISTS[1]}, at(1), at(50))
    assert not trail.untouched({LISTS[2]}, at(49), at(50))


def test_another_transaction_of_the_same_seq_is_not_a_step() -> None:
    trail = Trail()
    trail.step(Position(1, 0, 5), Position(2, 0, 6), frozenset())
    assert trail.untouched({LISTS[0]}, Position(1, 0, 5), Position(2, 0, 6))
    assert not trail.untouched({LISTS[0]}, Position(1, 0, 5), Position(2, 0, 7))
    assert not trail.untouched({LISTS[0]}, Position(1, 0, 4), Position(2, 0, 6))


def entry(row: Any, kind: str = "m", row_id: Key = IDS[0], *, deletion: bool = False) -> Entry:
    return Entry(1, 1, 0, None, kind, row_id, row, deletion=deletion)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (entry(Message(1, IDS[0], IDS[1], "user", "hello", 1, 1)), {("message", IDS[1])}),
        (entry(Conversation(1, IDS[0], None, 1, 1), "c"), {("conversation", None), ("message", IDS[0])}),
        (
            entry(ConversationDeleted(1, IDS[0]), "c", deletion=True),
            {("conversation", None), ("message", IDS[0])},
        ),
        (entry(None, "c"), {("conversation", None), ("message", IDS[0])}),
        (entry(Profile(1, IDS[0], "core", None), "p"), {("profile", None)}),
        (entry(MessageDeleted(1, IDS[0]), deletion=True), None),
        (entry(None), None),
        (entry(None, "x"), None),
    ],
)
def test_what_a_change_touches(change: Entry, found: set[List] | None) -> None:
    assert touched(CHAT, [change]) == found


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (entry(("s", 1, "A", "name", 0), "s", "A"), {("shelf", None), ("book", "A")}),
        (entry(("b", 1, 7, "A", "title"), "b", 7), {("book", "A"), ("mark", 7)}),
        (entry(("M", 1, (7, 3), 7, "note"), "M", (7, 3)), {("mark", 7)}),
        (entry(("0", 1, (IDS[0], "x"), None, None), "0", (IDS[0], "x")), {("follow", None)}),
        (entry(("-0", 1, (IDS[0], "x")), "0", (IDS[0], "x"), deletion=True), {("follow", None)}),
        (entry(("-b", 1, 7), "b", 7, deletion=True), None),
        (entry(("-M", 1, (7, 3)), "M", (7, 3), deletion=True), None),
        # The marks in its books went with it, and nothing names the books.
        (entry(("-s", 1, "A"), "s", "A", deletion=True), None),
        (entry(None, "s", "A"), None),
    ],
)
def test_what_a_change_touches_over_three_levels(change: Entry, found: set[List] | None) -> None:
    assert touched(SECOND, [change]) == found


# ---- What it says of a whole database ------------------------------------------------------------------------------


class Library:
    """Shelves, books and marks, and the log of their changes as the triggers record them."""

    def __init__(self) -> None:
        self.shelves: set[str] = set()
        self.books: dict[int, str] = {}
        self.marks: dict[tuple[int, int], int] = {}
        self.log: list[tuple[str, Key, bool]] = []

    def lists(self) -> dict[List, Sequence[object]]:
        """All lists with what they show."""
        found: dict[List, Sequence[object]] = {("shelf", None): sorted(self.shelves)}
        found |= {("book", shelf): sorted(b for b, s in self.books.items() if s == shelf) for shelf in "AB"}
        found |= {
            ("mark", book): sorted((key, at) for key, at in self.marks.items() if key[0] == book) for book in (1, 2, 3)
        }
        return found

    def change(self, data: st.DataObject, step: int) -> None:
        shelf = data.draw(st.sampled_from("AB"))
        book, page = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
        match data.draw(st.sampled_from(["shelf", "book", "mark", "no shelf", "no book", "no mark"])):
            case "shelf":
                self.shelves.add(shelf)
                self.log.append(("s", shelf, False))
            case "book" if shelf in self.shelves:
                if self.books.get(book, shelf) != shelf:
                    self.log.append(("b", book, True))
                    self.log += [("M", key, False) for key in self.marks if key[0] == book]
                self.books[book] = shelf
                self.log.append(("b", book, False))
            case "mark" if book in self.books:
                self.marks[book, page] = step
                self.log.append(("M", (book, page), False))
            case "no shelf" if shelf in self.shelves:
                self.shelves.remove(shelf)
                self.log.append(("s", shelf, True))
                self._drop(lambda of: self.books[of] == shelf, recorded=False)
            case "no book" if book in self.books:
                self._drop(lambda of: of == book, recorded=True)
            case "no mark" if self.marks.pop((book, page), None) is not None:
                self.log.append(("M", (book, page), True))

    def _drop(self, which: Callable[[int], bool], *, recorded: bool) -> None:
        for book in [book for book in self.books if which(book)]:
            del self.books[book]
            for key in [key for key in self.marks if key[0] == book]:
                del self.marks[key]
            if recorded:
                self.log.append(("b", book, True))

    def entries(self, since: int) -> list[Entry]:
        """The log since then, with rows in their latest state."""
        return [
            Entry(
                i + 1, i + 1, i, None, kind, key, (f"-{kind}", i, key) if gone else self._row(kind, key), deletion=gone
            )
            for i, (kind, key, gone) in enumerate(self.log)
            if i >= since
        ]

    def _row(self, kind: str, key: Any) -> tuple[Any, ...] | None:
        if kind == "s":
            return ("s", 1, key, None, 0) if key in self.shelves else None
        if kind == "b":
            return ("b", 1, key, self.books[key]) if key in self.books else None
        return ("M", 1, key, key[0], "note") if key in self.marks else None


@given(st.data())
def test_a_list_that_is_not_named_is_as_it_was(data: st.DataObject) -> None:
    library = Library()
    for step in range(data.draw(st.integers(1, 12))):
        before, since = library.lists(), len(library.log)
        for _ in range(data.draw(st.integers(1, 3))):
            library.change(data, step)
        if len(library.log) > since:
            named = touched(SECOND, library.entries(since))
            changed = {each for each, shown in library.lists().items() if shown != before[each]}
            assert named is None or changed <= named


def test_where_the_log_goes_on_it_is_unknown_what_changed() -> None:
    """The message was edited in one conversation, and has moved to the other since."""
    moved = entry(Message(1, IDS[0], IDS[1], "user", "hello", 1, 1))
    assert touched(CHAT, [replace(moved, next_seq=2)]) is None


def test_many_conversations_count_as_everything() -> None:
    rows = [Message(1, IDS[0], UUID(int=100 + number), "user", "x", 1, 1) for number in range(TOUCHED + 1)]
    assert touched(CHAT, [entry(row) for row in rows]) is None
    assert len(touched(CHAT, [entry(row) for row in rows[:-1]]) or ()) == TOUCHED
