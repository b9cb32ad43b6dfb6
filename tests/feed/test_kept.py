"""An answer comes out of a cache as it went in; whatever else is there under its key is none."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cursor import Position
from protocol.frames import Row
from server.declaration.model import Kind
from server.declaration.values import Rows
from server.feed import kept
from server.feed.ports import Answer, Before, Want
from tests.support.second import SECOND
from tests.support.values import KEYS, SENT

ANNE, BEN = str(UUID(int=1)), str(UUID(int=2))
SHELF = Rows(SECOND.kind["shelf"])
positions = st.builds(Position, st.integers(0, (1 << 63) - 1), st.just(0), st.integers(0, (1 << 63) - 1))
kinds = st.sampled_from(SECOND.kinds)


@st.composite
def rows(draw: st.DrawFn, kind: Kind) -> Row:
    key = [draw(KEYS[field.of]) for field in kind.key]
    values = [draw(SENT[c.field.of] | st.none() if c.field.nullable else SENT[c.field.of]) for c in kind.columns]
    return (kind.tag, draw(st.integers(0, (1 << 63) - 1)), key[0] if len(key) == 1 else tuple(key), *values)


@st.composite
def answers(draw: st.DrawFn) -> tuple[Kind, Answer]:
    kind = draw(kinds)
    found = [(i, draw(rows(kind))) for i in sorted(draw(st.lists(st.integers(0, 3), max_size=4)))]
    return kind, Answer(draw(positions), draw(st.none() | st.text()), found, bool(found) and draw(st.booleans()))


@given(answers())
def test_an_answer_comes_out_as_it_went_in(given_: tuple[Kind, Answer]) -> None:
    kind, answer = given_
    out = kept.unpack(Rows(kind), "key", kept.pack("key", answer))
    assert out == answer
    assert [list(map(type, row)) for _, row in out.rows] == [list(map(type, row)) for _, row in answer.rows]


@given(answers(), kinds)
def test_the_answer_of_another_kind_raises_nothing(given_: tuple[Kind, Answer], other: Kind) -> None:
    _, answer = given_
    kept.unpack(Rows(other), "key", kept.pack("key", answer))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_answer_are_none(data: bytes) -> None:
    assert kept.unpack(SHELF, "key", data) is None


@given(answers(), st.data())
def test_an_answer_with_one_byte_changed_raises_nothing(given_: tuple[Kind, Answer], data: st.DataObject) -> None:
    kind, answer = given_
    packed = bytearray(kept.pack("key", answer))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    kept.unpack(Rows(kind), "key", bytes(packed))


@pytest.mark.parametrize(
    "answer",
    [
        Answer(Position(1, 0, 2), "core", [], cut=True),
        Answer(Position(-1, 0, 2), "core", [], cut=False),
        Answer(Position(1 << 63, 0, 2), "core", [], cut=False),
        Answer(Position(1, 3, 2), "core", [], cut=False),
    ],
    ids=["cut before the first row", "before all time", "after all time", "within a transaction"],
)
def test_an_answer_that_postgres_cannot_have_given_is_none(answer: Answer) -> None:
    assert kept.unpack(SHELF, "key", kept.pack("key", answer)) is None


@pytest.mark.parametrize("row", [(), ("s",), ("s", 1), ("s", 1, "A", 1), ("s", 1, "A", 1, 2, 3), ("b", 1, "A", 1, 2)])
def test_an_answer_with_a_row_of_another_form_is_none(row: tuple[Any, ...]) -> None:
    assert kept.unpack(SHELF, "key", kept.pack("key", Answer(Position(1, 0, 2), "core", [(0, row)], cut=False))) is None


def test_an_answer_with_something_deep_in_it_is_none() -> None:
    deep = b"\x92\xa3key\x84\xa4rows\x91\x92\x00" + b"\x91" * 100_000
    assert kept.unpack(SHELF, "key", deep) is None


def test_an_answer_that_was_kept_under_another_key_is_none() -> None:
    answer = Answer(Position(1, 0, 2), None, [], cut=False)
    data = kept.pack("key", answer)
    assert kept.unpack(SHELF, "key", data) == answer
    assert kept.unpack(SHELF, "another", data) is None


def test_a_key_depends_on_the_history_the_declaration_the_user_and_the_request() -> None:
    wants = [
        [Want(None, None, 10)],
        [Want(None, None, 11)],
        [Want("1", None, 10)],
        [Want(1, None, 10)],
        [Want(UUID(int=1), None, 10)],
        [Want(None, Before(None, "1"), 10)],
        [Want(None, Before(5, "1"), 10)],
        [Want(None, Before(5, ("1", 2)), 10)],
        [Want(None, None, 10)] * 2,
        [],
    ]
    keys = {
        kept.key(history, digest, user, kind, want, content)
        for history in ("a", "b")
        for digest in ("0", "1")
        for user in (ANNE, BEN)
        for kind in ("shelf", "book")
        for want in wants
        for content in (1_000, 2_000)
    }
    assert len(keys) == 2 * 2 * 2 * 2 * len(wants) * 2


def test_every_key_names_the_form_of_answers() -> None:
    assert kept.key("history", "digest", ANNE).split(":")[:2] == ["atlas", kept.FORMAT]
