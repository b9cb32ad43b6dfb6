"""A page is asked for by kind, parent and place. What cannot be meant is refused, and reaches no database."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import JSON, MSGPACK, Codec
from protocol.cursor import Position
from protocol.frames import AskPage, Key, Page, Row
from server.declaration.chat import CHAT
from server.declaration.model import Declaration, Kind
from server.declaration.synced import Synced
from server.exceptions import UnavailableError
from server.feed.hub import Hub, Phase, Reader
from server.feed.pages import DEFAULT_ROWS, PAGE_ROWS, BadPageError, Pages, asked_list
from server.feed.ports import Answer, Before, Want
from server.retry import Retry
from tests.support.second import SECOND
from tests.support.sink import FakeSink
from tests.support.values import BIG, KEYS, SENT, TEXTS

ID = UUID(int=1)
BIGGEST = (1 << 63) - 1
_PACKER = msgspec.msgpack.Encoder(uuid_format="bytes")
both = pytest.mark.parametrize("codec", [MSGPACK, JSON], ids=["msgpack", "json"])


def asked(
    codec: Codec, kind: str, declaration: Declaration = SECOND, **fields: Any
) -> tuple[Kind, Key | None, Before | None]:
    """What a server understands of a page that names these fields."""
    page = {"t": "page", "id": 9, "kind": kind, **fields}
    frame = codec.decode_to_server(msgspec.json.encode(page) if codec.text else _PACKER.encode(page))
    assert isinstance(frame, AskPage)
    return asked_list(declaration, frame, codec)


@both
@pytest.mark.parametrize(
    ("fields", "parent", "before"),
    [
        ({"kind": "shelf"}, None, None),
        ({"kind": "shelf", "parent": None, "before": None}, None, None),
        ({"kind": "shelf", "before": [4, "A"]}, None, Before(4, "A")),
        ({"kind": "shelf", "before": [None, ""]}, None, Before(None, "")),
        ({"kind": "book", "parent": "A"}, "A", None),
        ({"kind": "book", "parent": "A", "before": [-5, 7]}, "A", Before(-5, 7)),
        ({"kind": "book", "parent": "A", "before": [None, str(BIGGEST)]}, "A", Before(None, str(BIGGEST))),
        ({"kind": "mark", "parent": 7, "before": [None, [7, 3]]}, 7, Before(None, (7, 3))),
        ({"kind": "mark", "parent": "7", "before": [None, ["7", "3"]]}, 7, Before(None, (7, 3))),
        ({"kind": "follow", "before": [str(BIGGEST), [str(ID), "x"]]}, None, Before(str(BIGGEST), (ID, "x"))),
    ],
)
def test_a_list_and_a_place_are_understood(
    codec: Codec, fields: Any, parent: Key | None, before: Before | None
) -> None:
    kind, its_parent, its_place = asked(codec, **fields)
    assert (kind.name, its_parent, its_place) == (fields["kind"], parent, before)


@both
@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "nothing"},
        {"kind": ""},
        {"kind": "b"},
        {"kind": "shelf", "parent": "A"},
        {"kind": "book"},
        {"kind": "book", "parent": None},
        {"kind": "book", "parent": 5},
        {"kind": "book", "parent": ["A"]},
        {"kind": "book", "parent": {"A": 1}},
        {"kind": "book", "parent": "a\0"},
        {"kind": "mark", "parent": "A"},
        {"kind": "mark", "parent": 1.5},
        {"kind": "mark", "parent": "9223372036854775808"},
        {"kind": "mark", "parent": True},
        {"kind": "mark", "parent": 7, "before": [5, [7, 3]]},
        {"kind": "mark", "parent": 7, "before": [None, 7]},
        {"kind": "mark", "parent": 7, "before": [None, [7]]},
        {"kind": "mark", "parent": 7, "before": [None, [7, 3, 1]]},
        {"kind": "mark", "parent": 7, "before": [None, [7, 1 << 31]]},
        {"kind": "mark", "parent": 7, "before": [None, [[7], 3]]},
        {"kind": "account", "before": [None, 1 << 31]},
        {"kind": "shelf", "before": []},
        {"kind": "shelf", "before": [None]},
        {"kind": "shelf", "before": [4]},
        {"kind": "shelf", "before": [4, "A", "B"]},
        {"kind": "shelf", "before": 4},
        {"kind": "shelf", "before": {"4": "A"}},
        {"kind": "shelf", "before": ["x", "A"]},
        {"kind": "shelf", "before": [1 << 15, "A"]},
        {"kind": "shelf", "before": [[4], "A"]},
        {"kind": "shelf", "before": [4, None]},
        {"kind": "shelf", "before": [4, 5]},
        {"kind": "book", "parent": "A", "before": [1 << 60, 7]},
        {"kind": "book", "parent": "A", "before": ["infinity", 7]},
        {"kind": "follow", "before": [5, ["no uuid", "x"]]},
    ],
)
def test_a_page_that_cannot_be_meant_is_refused(codec: Codec, fields: Any) -> None:
    with pytest.raises(BadPageError) as refused:
        asked(codec, **fields)
    assert str(refused.value).endswith(".")


scalars = st.one_of(st.none(), st.booleans(), st.integers(-(1 << 63), BIGGEST), st.text(), st.binary(max_size=20), BIG)
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=2))


@both
@given(kind=st.sampled_from(SECOND.kinds), parent=anything, before=anything | st.tuples(scalars, anything))
def test_whatever_is_asked_for_is_understood_or_refused(codec: Codec, kind: Kind, parent: Any, before: Any) -> None:
    if codec.text:
        parent, before = (msgspec.json.decode(msgspec.json.encode(each)) for each in _without_halves((parent, before)))
    try:
        found, its_parent, place = asked(codec, kind.name, parent=parent, before=before)
    except BadPageError:
        return
    assert found is kind
    assert (its_parent is None) == (kind.parent is None)
    assert place is None or isinstance(place.id, tuple) == (len(kind.key) == 2)


def _without_halves(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case list() | tuple():
            return [_without_halves(each) for each in value]
        case dict():
            return {name: _without_halves(each) for name, each in value.items()}
    return value


@both
@given(data=st.data())
def test_the_place_of_any_row_can_be_asked_for(codec: Codec, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(SECOND.kinds))
    key = [data.draw(KEYS[field.of]) for field in kind.key]
    at = None
    if kind.newest is not None and (field := kind.column[kind.newest].field).type != "smallint":
        at = data.draw(SENT[field.of])
    parent = None if kind.parent is None else data.draw(KEYS[kind.parent.field.of])
    id_ = key[0] if len(key) == 1 else tuple(key)
    assert asked(codec, kind.name, parent=parent, before=[at, id_]) == (kind, parent, Before(at, id_))


# ---- Answers -------------------------------------------------------------------------------------------------------


class FakeRows:
    """A database that holds so many rows."""

    def __init__(self, rows: int = 0, *, cut: bool = False) -> None:
        self.rows_: list[Row] = [("c", 9, UUID(int=number), None, 1, 1) for number in range(rows)]
        self.cut = cut
        self.away = False
        self.wants: list[Want] = []

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        if self.away:
            raise UnavailableError("away")
        self.wants += wants
        return Answer(Position(9), "core", [(0, row) for row in self.rows_[: wants[0].rows]], self.cut)


def a_reader(sink: FakeSink) -> Reader:
    hub = Hub(lambda lane: None)
    reader = hub.add(str(ID), uuid4(), sink, {})
    hub.place(reader, Position(5), Phase.LIVE)
    return reader


def frames(sink: FakeSink) -> list[object]:
    return [MSGPACK.decode_to_client(data[2 if data[1] < 126 else 4 :]) for data in sink.sent]


def page(**fields: Any) -> AskPage:
    return AskPage(id=3, kind="conversation", **fields)


@pytest.mark.parametrize(
    ("asked_for", "held", "cut", "sent", "more"),
    [
        (None, 0, False, 0, False),
        (None, DEFAULT_ROWS, False, DEFAULT_ROWS, False),
        (None, DEFAULT_ROWS + 1, False, DEFAULT_ROWS, True),
        (2, 2, False, 2, False),
        (2, 3, False, 2, True),
        (2, 1, True, 1, True),
        (1_000, PAGE_ROWS + 1, False, PAGE_ROWS, True),
    ],
)
async def test_a_page_has_the_rows_that_were_asked_for_and_says_whether_there_are_more(
    asked_for: int | None, held: int, cut: bool, sent: int, more: bool
) -> None:
    sink = FakeSink()
    await Pages(FakeRows(held, cut=cut), Synced(CHAT)).answer(a_reader(sink), page(limit=asked_for))
    (found,) = frames(sink)
    assert isinstance(found, Page)
    assert (found.id, found.as_of, len(found.rows), found.more) == (3, 9, sent, more)


async def test_a_page_that_cannot_be_meant_is_answered_with_an_error_and_asks_no_database() -> None:
    sink, rows = FakeSink(), FakeRows()
    await Pages(rows, Synced(CHAT)).answer(a_reader(sink), AskPage(id=3, kind="message"))
    (error,) = sink.errors
    assert (error.code, error.retryable, error.answers, error.id) == ("bad_page", False, "page", 3)
    assert (rows.wants, sink.sent, sink.gone) == ([], [], False)


async def test_a_page_is_sent_when_postgres_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    paused = asyncio.Event()

    async def pause(self: Retry, error: Exception) -> None:
        self.failures += 1
        paused.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(Retry, "pause", pause)
    sink, rows = FakeSink(), FakeRows(1)
    rows.away = True
    answering = asyncio.create_task(Pages(rows, Synced(CHAT)).answer(a_reader(sink), page()))
    await paused.wait()
    rows.away = False
    await answering
    assert [error.code for error in sink.errors] == ["unavailable"]
    assert [type(frame) for frame in frames(sink)] == [Page]


async def test_a_device_that_left_is_sent_no_page() -> None:
    sink, rows = FakeSink(), FakeRows(1)
    reader = a_reader(sink)
    sink.gone = True
    await Pages(rows, Synced(CHAT)).answer(reader, page())
    assert (rows.wants, sink.sent) == ([], [])


async def test_pages_follow_another_declaration_as_soon_as_it_is_in_force() -> None:
    sink, rows, synced = FakeSink(), FakeRows(), Synced(CHAT)
    answers = Pages(rows, synced)
    await answers.answer(a_reader(sink), AskPage(id=3, kind="shelf"))
    synced.use(SECOND)
    await answers.answer(a_reader(sink), AskPage(id=4, kind="shelf"))
    assert [error.id for error in sink.errors] == [3]
    assert [type(frame) for frame in frames(sink)] == [Page]
    assert rows.wants == [Want(None, None, DEFAULT_ROWS + 1)]
