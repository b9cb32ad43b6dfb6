"""What an answer leaves open is read by the next statement: every row once, in its order, however it is cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from protocol.frames import ID, Row
from server.declaration.chat import CHAT
from server.declaration.model import Kind
from server.feed.ports import Answer, Before, Want, place_of
from tests.support.rows import Conversation, Message
from tests.support.second import SECOND

BOOK = SECOND.kind["book"]
PARENTS = "ABCD"


@dataclass(frozen=True)
class Library:
    """Books by shelf, newest first; some are as old as others, and some have no date."""

    shelves: dict[str, list[Row]]

    def read(self, wants: Sequence[Want], most: int) -> Answer:
        """As the statement reads: newest first in each list, and at most so many rows in all, but one."""
        found = []
        for i, want in enumerate(wants):
            assert isinstance(want.parent, str)
            rows = self.shelves[want.parent]
            if want.before is not None:
                rows = [row for row in rows if order(place_of(BOOK, row)) < order(want.before)]
            found += [(i, row) for row in rows[: want.rows]]
        return Answer(Position(1), "core", found[:most], cut=len(found) > most)


def order(place: Before) -> tuple[int, int]:
    assert isinstance(place.id, int)
    return (-1 if place.at is None else place.at, place.id)


def book(number: int, shelf: str, added: int | None) -> Row:
    values = {"shelf": shelf, "title": "x", "added_at": added}
    return ("b", 1, number, *(values.get(column.name) for column in BOOK.columns))


@st.composite
def libraries(draw: st.DrawFn) -> Library:
    dates = draw(st.lists(st.tuples(st.sampled_from(PARENTS), st.none() | st.integers(0, 3)), max_size=25))
    books = [book(number, shelf, added) for number, (shelf, added) in enumerate(dates)]
    newest = sorted(books, key=lambda row: order(place_of(BOOK, row)), reverse=True)
    return Library({shelf: [row for row in newest if row[3] == shelf] for shelf in PARENTS})


@given(libraries(), st.integers(0, 12), st.integers(1, 6), st.integers(1, 4), st.integers(1, 5))
def test_all_that_is_wanted_is_read_once_whatever_a_statement_reads(
    library: Library, rows: int, most: int, lists: int, of_each: int
) -> None:
    left = [Want(parent, None, rows) for parent in PARENTS]
    found: list[Row] = []
    statements = 0
    while left:
        asked = [want._replace(rows=min(want.rows, of_each)) for want in left[:lists]]
        answer = library.read(asked, most)
        found += [row for _, row in answer.rows]
        left = answer.rest(BOOK, left, asked)
        statements += 1
        assert statements < 200, "it never ends"
    for parent in PARENTS:
        wanted = library.shelves[parent][:rows]
        assert [row[ID] for row in found if row[3] == parent] == [row[ID] for row in wanted]


def test_an_answer_that_was_not_cut_leaves_what_was_not_asked_for() -> None:
    wants = [Want(parent, None, 5) for parent in PARENTS]
    nothing = Answer(Position(1), "core", [], cut=False)
    assert nothing.rest(BOOK, wants, wants[:2]) == wants[2:]
    assert nothing.rest(BOOK, wants, wants) == []


def test_the_rest_of_a_list_begins_behind_the_last_row_that_was_read() -> None:
    wants = [Want("A", None, 9), Want("B", None, 9)]
    cut = Answer(Position(1), "core", [(0, book(7, "A", 3)), (0, book(5, "A", None))], cut=True)
    assert cut.rest(BOOK, wants, wants) == [Want("A", Before(None, 5), 7), Want("B", None, 9)]


@pytest.mark.parametrize(
    ("kind", "row", "place"),
    [
        (CHAT.kind["conversation"], Conversation(1, UUID(int=1), "t", 5, 6), Before(6, UUID(int=1))),
        (CHAT.kind["message"], Message(1, UUID(int=1), UUID(int=2), "user", "x", 5, 6), Before(5, UUID(int=1))),
        (SECOND.kind["mark"], ("M", 1, (7, 3), 7, "note"), Before(None, (7, 3))),
        (SECOND.kind["follow"], ("0", 1, (UUID(int=1), "x"), None, None), Before(None, (UUID(int=1), "x"))),
        (SECOND.kind["shelf"], ("s", 1, "A", "name", 4), Before(4, "A")),
    ],
)
def test_the_place_of_a_row_is_what_orders_its_list_and_its_key(kind: Kind, row: Row, place: Before) -> None:
    assert place_of(kind, row) == place
