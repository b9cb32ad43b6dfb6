"""A snapshot brings the newest rows of each kind, parents first, in pieces of which the first fixes the cursor."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from structlog.testing import capture_logs

from protocol.cursor import Cursor, Position
from protocol.frames import COLUMNS, ID, Key, Row, Snapshot
from server.declaration.model import Declaration, Kind
from server.declaration.synced import EMPTY, Synced
from server.exceptions import UnavailableError
from server.feed import snapshot
from server.feed.history import History, HistoryReport
from server.feed.hub import Hub, Phase, Reader
from server.feed.ports import ANYWHERE, Answer, ReadingError, Want, Window, place_of
from server.feed.resume import Why
from server.feed.snapshot import LISTS, PIECE_ROWS, Snapshots
from server.retry import Retry
from tests.support.second import SECOND
from tests.support.sink import FakeSink
from tests.support.waiting import eventually

ANNE = str(UUID(int=1))
EPOCH = "0" * 16
SHELF, BOOK, MARK, FOLLOW = (SECOND.kind[name] for name in ("shelf", "book", "mark", "follow"))


def row(kind: Kind, key: Key, **values: Any) -> Row:
    return (kind.tag, 1, key, *(values.get(column.name) for column in kind.columns))


@dataclass
class Library:
    """A database. Its feed moves with every statement."""

    rows_: dict[str, list[Row]] = field(default_factory=dict)
    tier: str | None = "paid"
    most: int = 1_000
    """Rows of one answer, as the bound on content has it."""
    away: bool = False
    sick: set[str] = field(default_factory=set)
    """Users with a row that cannot be read."""
    asked: list[tuple[str, list[Want], Position | None]] = field(default_factory=list)
    at: int = 100

    async def rows(
        self, kind: Kind, user: str, wants: Sequence[Want], content_bytes: int, since: Position | None
    ) -> Answer:
        if self.away:
            raise UnavailableError("away")
        if user in self.sick:
            raise ReadingError("a value cannot be converted")
        self.at += 1
        self.asked.append((kind.name, list(wants), since))
        found: list[tuple[int, Row]] = []
        for i, want in enumerate(wants):
            below = [
                each for each in self.rows_.get(kind.name, []) if kind.parent is None or each[COLUMNS] == want.parent
            ]
            newest = sorted(below, key=lambda each: _order(kind, each), reverse=True)
            if want.before is not None:
                newest = [each for each in newest if place_of(kind, each) < want.before]
            found += [(i, each) for each in newest[: want.rows]]
        return Answer(Position(self.at, 0, 7), self.tier, found[: self.most], cut=len(found) > self.most)


def _order(kind: Kind, each: Row) -> tuple[Any, Key]:
    return place_of(kind, each)


class House:
    def __init__(self, library: Library, declaration: Declaration = SECOND, window: Window | None = None) -> None:
        self.library = library
        self.hub = Hub(lambda lane: None)
        self.history = History(self.hub)
        self.history.connected(HistoryReport(EPOCH, (), 1, 1, 0, 0))
        self.synced = Synced(declaration)
        self.snapshots = Snapshots(self.hub, self.history, library, self.synced, at_once=1)
        self.sink = FakeSink()
        self.reader: Reader = self.hub.add(ANNE, uuid4(), self.sink, window or {})

    async def sent(self, why: Why = Why.NEW) -> list[Snapshot]:
        """The pieces of a whole snapshot."""
        running = asyncio.create_task(self.snapshots.run())
        self.snapshots.begin(self.reader, why)
        try:
            await eventually(lambda: self.sink.gone or self.reader.cohort is not None)
        finally:
            running.cancel()
            await asyncio.wait([running])
        return [piece for piece in map(self.sink.frame, self.sink.sent) if isinstance(piece, Snapshot)]


def ids(pieces: Sequence[Snapshot], tag: str | None = None) -> list[Any]:
    return [each[ID] for piece in pieces for each in piece.rows if tag is None or each[0] == tag]


def furnished(shelves: int = 2, books: int = 3, marks: int = 2) -> Library:
    """So many shelves, books on each, and marks in each book. The first of each is the oldest."""
    codes = [f"shelf {number:03}" for number in range(shelves)]
    numbers = {code: range(1_000 * i, 1_000 * i + books) for i, code in enumerate(codes)}
    return Library(
        {
            "account": [row(SECOND.kind["account"], 5, plan="paid")],
            "shelf": [row(SHELF, code, name=code, position=i) for i, code in enumerate(codes)],
            "book": [row(BOOK, book, shelf=code, title="x", added_at=book) for code in codes for book in numbers[code]],
            "mark": [
                row(MARK, (book, page), book=book, note="n")
                for code in codes
                for book in numbers[code]
                for page in range(marks)
            ],
            "follow": [row(FOLLOW, (UUID(int=1), "x"), rank=1)],
        }
    )


def windowed(**windows: int | None) -> Declaration:
    """The second declaration with these windows; None: all."""
    kinds = tuple(structs.replace(kind, window=windows.get(kind.name, kind.window)) for kind in SECOND.kinds)
    return structs.replace(SECOND, kinds=kinds)


async def test_the_first_piece_is_sent_with_the_welcome() -> None:
    house = House(furnished())
    pieces = await house.sent()
    assert house.sink.writes == len(pieces)


async def test_kinds_come_after_their_parents_and_with_the_rows_below_those_that_came() -> None:
    library = furnished()
    house = House(library, windowed(book=2))
    pieces = await house.sent()
    assert ids(pieces) == [
        5,
        *("shelf 001", "shelf 000"),
        *(1_002, 1_001, 2, 1),
        *([book, page] for book in (1_002, 1_001, 2, 1) for page in (1, 0)),
    ]
    assert [kind for kind, _, _ in library.asked] == ["account", "shelf", "book", "mark"]
    assert house.sink.welcomes == [("paid", Why.NEW)]


async def test_the_first_piece_fixes_the_cursor_and_the_last_one_carries_it() -> None:
    house = House(furnished())
    pieces = await house.sent()
    assert [piece.cursor is None for piece in pieces] == [*[True] * (len(pieces) - 1), False]
    cursor = Cursor.decode(pieces[-1].cursor or b"")
    assert cursor is not None
    assert cursor.position == Position(101, 0, 7)
    assert house.reader.position == Position(101, 0, 7)
    assert [piece.as_of for piece in pieces] == sorted(piece.as_of for piece in pieces)
    _, *others = [since for _, _, since in house.library.asked]
    assert others == [Position(101, 0, 7)] * len(others)


@pytest.mark.parametrize(("why", "since"), [(Why.NEW, ANYWHERE), (Why.AHEAD, None), (Why.TOO_OLD, None)])
async def test_a_kept_answer_begins_no_snapshot_of_a_device_whose_cursor_led_nowhere(
    why: Why, since: Position | None
) -> None:
    house = House(furnished())
    await house.sent(why)
    assert house.library.asked[0][2] == since


@pytest.mark.parametrize(
    ("declared", "asked", "rows"),
    [
        (20, None, 20),
        (20, 5, 5),
        (20, 0, 0),
        (20, 100, 100),
        (20, 500, 200),
        (300, 500, 300),
        (0, None, 0),
        (0, 7, 7),
        (None, None, snapshot.ALL),
        (None, 150, 150),
    ],
)
async def test_a_window_is_the_declarations_unless_the_device_asks_for_another(
    declared: int | None, asked: int | None, rows: int
) -> None:
    library = furnished(shelves=1)
    house = House(library, windowed(book=declared), {} if asked is None else {"book": asked, "nothing": 3})
    await house.sent()
    wants = [want.rows for kind, asked_for, _ in library.asked if kind == "book" for want in asked_for]
    assert wants == ([min(rows, PIECE_ROWS)] if rows else [])


async def test_a_list_of_its_own_may_have_more_rows_than_those_of_parents() -> None:
    library = furnished(shelves=1)
    await House(library, SECOND, {"shelf": 400, "follow": 400}).sent()
    assert [want.rows for kind, wants, _ in library.asked if kind in ("shelf", "follow") for want in wants] == [
        400,
        400,
    ]


async def test_without_rows_there_are_none_below_them_and_no_statement() -> None:
    library = furnished()
    pieces = await House(library, windowed(shelf=0)).sent()
    assert ids(pieces) == [5]
    assert [kind for kind, _, _ in library.asked] == ["account"]


async def test_a_snapshot_of_nothing_is_one_empty_piece_with_a_cursor() -> None:
    library = Library()
    (piece,) = await House(library, windowed(account=0, shelf=0)).sent()
    assert (piece.rows, piece.cursor is not None) == ([], True)
    assert library.asked == [("account", [Want(None, None, 0)], ANYWHERE)]


async def test_all_rows_of_a_list_come_in_pieces_however_many_there_are() -> None:
    library = furnished(shelves=1, books=2 * PIECE_ROWS + 1, marks=0)
    pieces = await House(library, windowed(book=None)).sent()
    assert ids(pieces, "b") == list(range(2 * PIECE_ROWS, -1, -1))
    assert max(len(piece.rows) for piece in pieces) == PIECE_ROWS


async def test_no_statement_asks_for_more_than_a_piece_unless_all_rows_are_wanted() -> None:
    library = furnished(shelves=60, books=25, marks=0)
    library.most = 33
    await House(library).sent()
    for kind, wants, _ in library.asked:
        if kind == "book":
            assert sum(want.rows for want in wants) <= PIECE_ROWS
        elif kind == "mark":
            assert len(wants) <= LISTS


@given(
    shelves=st.integers(0, 4),
    books=st.integers(0, 5),
    marks=st.integers(0, 3),
    most=st.integers(1, 7),
    windows=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("shelf", "book", "mark", "follow"), st.none() | st.integers(0, 4))
    ),
)
async def test_however_small_the_pieces_are_each_row_of_the_windows_comes_once(
    shelves: int, books: int, marks: int, most: int, windows: dict[str, int | None]
) -> None:
    library = furnished(shelves, books, marks)
    library.most = most
    declaration = windowed(**windows)
    pieces = await House(library, declaration).sent()

    def newest(kind: str, parent: Key | None = None) -> list[Key]:
        of = declaration.kind[kind]
        rows = [each for each in library.rows_[kind] if of.parent is None or each[COLUMNS] == parent]
        return [each[ID] for each in sorted(rows, key=lambda each: _order(of, each), reverse=True)][: of.window]

    expected = {"s": newest("shelf"), "0": newest("follow")}
    expected["b"] = [book for shelf in expected["s"] for book in newest("book", shelf)]
    expected["M"] = [mark for book in expected["b"] for mark in newest("mark", book)]
    for tag, keys in expected.items():
        if tag == "0":
            continue
        found = [tuple(key) if isinstance(key, list) else key for key in ids(pieces, tag)]
        assert sorted(found) == sorted(keys)
    assert len(ids(pieces, "0")) == len(expected["0"])
    assert pieces[-1].cursor is not None


@pytest.mark.parametrize("tier", ["free", None])
async def test_a_user_who_does_not_sync_gets_nothing(tier: str | None) -> None:
    library = furnished()
    library.tier = tier
    house = House(library)
    assert await house.sent() == []
    assert [error.code for error in house.sink.errors] == ["local_only"]


async def test_without_a_gate_everybody_syncs_and_no_tier_is_named() -> None:
    library = furnished()
    library.tier = None
    house = House(library, structs.replace(SECOND, gate=None))
    assert ids(await house.sent(), "s")
    assert house.sink.welcomes == [(None, Why.NEW)]


async def test_a_snapshot_waits_for_a_declaration_and_begins_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(self: Retry, error: Exception) -> None:
        house.synced.use(SECOND)

    monkeypatch.setattr(Retry, "pause", pause)
    house = House(furnished(), EMPTY)
    assert ids(await house.sent(), "s") == ["shelf 001", "shelf 000"]
    assert [error.code for error in house.sink.errors] == ["unavailable"]


async def test_a_snapshot_goes_on_where_it_was_when_postgres_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    library = furnished()
    away = library.rows

    async def sometimes(kind: Kind, *rest: Any) -> Answer:
        library.away = not library.away
        return await away(kind, *rest)

    async def pause(self: Retry, error: Exception) -> None: ...

    monkeypatch.setattr(library, "rows", sometimes)
    monkeypatch.setattr(Retry, "pause", pause)
    house = House(library)
    assert ids(await house.sent()) == ids(await House(furnished()).sent())
    assert [error.code for error in house.sink.errors] == ["unavailable"]
    assert house.reader.cohort is not None
    assert house.reader.cohort.phase is Phase.CATCHING_UP


async def test_a_user_whose_rows_cannot_be_read_delays_no_other_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "FIRST_PAUSE", 0.001)
    house = House(furnished())
    house.library.sick.add(ANNE)
    others = [house.hub.add(str(uuid4()), uuid4(), FakeSink(), {}) for _ in range(3)]
    pauses: list[BaseException] = []

    async def pauses_all(_: Retry, error: BaseException) -> None:
        pauses.append(error)

    monkeypatch.setattr(Retry, "pause", pauses_all)
    running = asyncio.create_task(house.snapshots.run())
    try:
        with capture_logs() as logged:
            for reader in (house.reader, *others):
                house.snapshots.begin(reader, Why.NEW)
            await eventually(lambda: all(reader.cohort is not None for reader in others))
            assert house.reader.cohort is None
            house.library.sick.clear()
            await eventually(lambda: house.reader.cohort is not None)
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert pauses == []
    assert [line["user"] for line in logged] == [ANNE]
