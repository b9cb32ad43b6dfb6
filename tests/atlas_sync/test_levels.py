"""Three levels of parents: deletions and moves with rows below rows, in the replica and in the view."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from atlas_sync.mutation import Delete, Insert, Mutation, Update
from atlas_sync.outbox import Entry, EntryState
from atlas_sync.replica import Replica
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.view import Certainty, View, build_view
from tests.atlas_sync.reading_device import ReadingDevice, Rows
from tests.atlas_sync.second_schema import SECOND

X, Y = UUID(int=1), UUID(int=2)


def topic(seq: int, key: str = "a", name: str = "n") -> Row:
    return Row("topic", seq, key, {"name": name, "pinned": False, "touched": None})


def thread(seq: int, key: int = 1, parent: str = "a", title: str = "t") -> Row:
    return Row("thread", seq, key, {"topic_id": parent, "title": title, "rank": None})


def post(seq: int, key: UUID = X, parent: int = 1, kind: str = "note", posted: int = 5, above: str = "a") -> Row:
    nils = dict.fromkeys(column.name for column in SECOND["post"].columns)
    return Row("post", seq, key, {**nils, "thread_id": parent, "topic_id": above, "kind": kind, "posted": posted})


def replica(*rows: Row | Deleted) -> Replica:
    held = Replica(SECOND)
    held.apply(rows)
    return held


def ids(held: Replica | View) -> dict[str, set[Key]]:
    return {kind: set(rows) for kind, rows in held.rows.items() if rows}


# ---- The replica ---------------------------------------------------------------------------------------------------


def test_a_deletion_deletes_all_rows_below_that_are_not_newer() -> None:
    held = replica(topic(3), thread(3), post(3), thread(9, 2), post(3, Y, 2), Deleted("topic", 7, "a"))
    assert ids(held) == {"thread": {2}}
    held = replica(topic(9), thread(3), post(9), Deleted("topic", 7, "a"))
    assert ids(held) == {"topic": {"a"}, "post": {X}}, "also if a newer row is held"
    held = replica(post(3), post(9, Y), Deleted("topic", 7, "a"))
    assert ids(held) == {"post": {Y}}, "also if the row between is not held"
    rows = (topic(3), topic(3, "b"), thread(3), thread(3, 2, "b"), post(3, Y, 2, above="b"))
    held = replica(*rows, Deleted("topic", 7, "a"))
    assert ids(held) == {"topic": {"b"}, "thread": {2}, "post": {Y}}


def test_a_row_that_moves_takes_the_rows_below_it_along() -> None:
    held = replica(topic(3), topic(3, "b"), thread(3), post(3))
    held.apply([Deleted("thread", 5, 1), thread(5, parent="b"), post(5, above="b")])
    held.apply([Deleted("topic", 6, "a")])
    assert ids(held) == {"topic": {"b"}, "thread": {1}, "post": {X}}
    held.apply([Deleted("topic", 7, "b")])
    assert ids(held) == {}


@pytest.mark.parametrize("gone", [Deleted("topic", 7, "a"), Deleted("thread", 7, 1), Deleted("post", 7, X)])
@pytest.mark.parametrize("is_held", [True, False])
def test_a_page_that_was_read_before_the_deletion_of_a_row_above_changes_nothing(gone: Deleted, is_held: bool) -> None:
    held = replica(topic(3), thread(3)) if is_held else replica()
    with held.expecting_page() as apply:
        held.apply([gone])
        apply([post(6)])
        assert "post" not in ids(held)
        apply([post(8)])
        assert "post" in ids(held)


def test_a_replica_without_a_schema_holds_nothing_until_it_adopts_one() -> None:
    held = Replica()
    held.apply([topic(1), Deleted("topic", 2, "b")])
    assert held.rows == {}
    held.adopt(SECOND)
    held.apply([topic(1), Row("song", 1, 1, {}), Deleted("song", 1, 1)])
    assert ids(held) == {"topic": {"a"}}
    held.adopt(SECOND)
    assert ids(held) == {"topic": {"a"}}


def test_lists_are_newest_first_and_of_one_parent() -> None:
    held = replica(*(topic(1, key) for key in "abc"), *(post(1, UUID(int=n), n % 2, posted=-n) for n in range(6)))
    assert [row.id for row in held.newest_first("topic")] == ["c", "b", "a"]
    assert [row.posted for row in held.newest_first("post", 1)] == [-1, -3, -5]
    assert held.newest_first("thread", "a") == []
    with pytest.raises(KeyError):
        held.newest_first("song")


# ---- Against an oracle ---------------------------------------------------------------------------------------------

TOPICS, THREADS, POSTS = ["a", "b"], [1, 2, 3], [UUID(int=n) for n in range(1, 5)]
EVERY_ROW = [*(("topic", key) for key in TOPICS), *(("thread", k) for k in THREADS), *(("post", k) for k in POSTS)]
Operations = list[tuple[str, str, Any, int]]
OPERATIONS: st.SearchStrategy[Operations] = st.lists(
    st.tuples(st.sampled_from(["put", "put", "move", "delete"]), st.sampled_from(EVERY_ROW), st.integers(0, 2)).map(
        lambda drawn: (drawn[0], *drawn[1], drawn[2])
    ),
    min_size=1,
    max_size=5,
)
ABOVE: dict[str, tuple[str, list[Any]]] = {"thread": ("topic", TOPICS), "post": ("thread", THREADS)}


class Database:
    """One user's rows and their feed, by SPEC 5.3."""

    def __init__(self) -> None:
        self.seq = 0
        self.rows: dict[tuple[str, Any], Row] = {}
        self.feed: list[Rows] = []

    def transact(self, operations: Operations) -> None:
        """Deletions first, then the latest state of the remaining rows."""
        self.seq += 1
        deleted: dict[tuple[str, Any], Deleted] = {}
        for n, (operation, kind, key, pick) in enumerate(operations):
            row, text = self.rows.get((kind, key)), f"{self.seq}.{n}"
            if operation == "delete" and row is not None:
                self.delete(kind, key, deleted)
            elif operation == "put" or (operation == "move" and kind == "topic"):
                self.put(kind, key, text, row, pick)
            elif operation == "move" and row is not None:
                parent = ABOVE[kind][1][pick % len(ABOVE[kind][1])]
                if (ABOVE[kind][0], parent) in self.rows and parent != SECOND[kind].parent_of(row):
                    deleted[kind, key] = Deleted(kind, self.seq, key)
                    self.move(row, parent)
        self.feed.append([*deleted.values(), *(row for row in self.rows.values() if row.seq == self.seq)])

    def put(self, kind: str, key: Any, text: str, row: Row | None, pick: int) -> None:
        if kind == "topic":
            self.rows[kind, key] = topic(self.seq, key, text)
            return
        of, parents = ABOVE[kind]
        parent = parents[pick % len(parents)] if row is None else SECOND[kind].parent_of(row)
        if (of, parent) in self.rows:
            if kind == "thread":
                self.rows[kind, key] = thread(self.seq, key, parent, text)
            else:
                self.rows[kind, key] = post(self.seq, key, parent, text, above=self.topic_of(parent))

    def delete(self, kind: str, key: Any, deleted: dict[tuple[str, Any], Deleted]) -> None:
        """The row and all rows below it, whose deletions are not said, but for those of moves before."""
        del self.rows[kind, key]
        deleted[kind, key] = Deleted(kind, self.seq, key)
        for child, column in SECOND.below(kind):
            for row in [row for row in self.rows.values() if row.kind == child and row.values[column] == key]:
                del self.rows[child, row.id]

    def move(self, row: Row, parent: Any) -> None:
        """The rows below it are sent again."""
        if row.kind == "post":
            values = {**row.values, "thread_id": parent, "topic_id": self.topic_of(parent)}
            self.rows["post", row.id] = replace(row, seq=self.seq, values=values)
            return
        self.rows["thread", row.id] = replace(row, seq=self.seq, values={**row.values, "topic_id": parent})
        for each in [each for each in self.rows.values() if each.kind == "post" and each.thread_id == row.id]:
            self.rows["post", each.id] = replace(each, seq=self.seq, values={**each.values, "topic_id": parent})

    def topic_of(self, thread: Any) -> str:
        return str(self.rows["thread", thread].topic_id)

    def read(self) -> list[Row]:
        """The rows that a snapshot or a page reads now."""
        return [replace(row, seq=self.seq) for row in self.rows.values()]


def latest_state_only(transactions: Iterable[Rows]) -> Rows:
    """A feed that is read later has each row once, at its last change, and every deletion."""
    rows = [row for transaction in transactions for row in transaction]
    sent: Rows = []
    named: set[tuple[str, Any]] = set()
    for row in reversed(rows):
        if isinstance(row, Deleted) or (row.kind, row.id) not in named:
            sent.append(row)
        named.add((row.kind, row.id))
    return sent[::-1]


class DeviceAgainstDatabase(ReadingDevice):
    """Once the device has applied the whole feed, it holds no row that `SELECT` does not find, and every row that was
    in its window or changed since."""

    operations = OPERATIONS
    database: Database
    kinds_of_a_page = (("topic",), ("thread",), ("post",))

    def __init__(self) -> None:
        super().__init__(Replica(SECOND))
        self.database = Database()
        self.seen: set[tuple[str, Any]] = set()
        for kind in ("topic", "thread", "post"):
            self.database.transact([("put", k, key, n) for n, (k, key) in enumerate(EVERY_ROW) if k == kind])
        self.changes_arrive(3)

    def apply(self, rows: Rows) -> None:
        self.seen |= {(row.kind, row.id) for row in rows}
        super().apply(rows)

    def at_once(self, transactions: list[Rows]) -> Rows:
        return latest_state_only(transactions)

    @rule(window=st.sets(st.sampled_from(EVERY_ROW)))
    def the_device_is_given_a_snapshot(self, window: set[tuple[str, Any]]) -> None:
        """Of some rows: those below a row may be in the window while it is not."""
        self.position = len(self.database.feed)
        rows = [row for row in self.database.read() if (row.kind, row.id) in window]
        self.seen = {(row.kind, row.id) for row in rows}
        self.replica.replace(rows)

    @invariant()
    def at_live_the_device_holds_what_select_finds(self) -> None:
        if self.position == len(self.database.feed):
            held = {(row.kind, row.id): row.values for rows in self.replica.rows.values() for row in rows.values()}
            found = {key: row.values for key, row in self.database.rows.items()}
            assert {key: found.get(key) for key in held} == held
            assert found.keys() & self.seen <= held.keys()


DeviceAgainstDatabase.TestCase.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
TestADeviceAgainstTheDatabase = DeviceAgainstDatabase.TestCase


# ---- The view ------------------------------------------------------------------------------------------------------


def pending(*mutations: Mutation) -> list[Entry]:
    return [Entry(n, n, mutation) for n, mutation in enumerate(mutations, 1)]


def test_a_write_is_shown_with_nil_in_what_the_server_fills_and_raises_its_parent() -> None:
    entries = pending(
        Insert("topic", "b", {"name": "new"}, 5),
        Insert("thread", 2, {"topic_id": "b", "title": "t"}, 7),
        Insert("post", Y, {"thread_id": 2, "kind": "note", "body": [1]}, 9),
        Update("post", (Y, 9), {"body": [2]}, 11),
        Insert("vote", ("a", 1), {"up": True}, 5),
    )
    shown = build_view(replica(), entries).rows
    assert shown["topic"]["b"].row == Row("topic", 0, "b", {"name": "new", "pinned": None, "touched": 7})
    assert shown["topic"]["b"].certainty is Certainty.PENDING
    assert (shown["post"][Y].row.body, shown["post"][Y].row.posted) == ([2], 9)
    assert shown["post"][Y].row.topic_id == "b", "the server fills it; the device knows it of the thread that it holds"
    assert shown["vote"]["a", 1].row.up is True


def test_a_deletion_in_the_outbox_hides_all_rows_below_and_later_ones() -> None:
    synced = replica(topic(1), thread(1), post(1))
    gone = Delete("topic", "a")
    assert ids(build_view(synced, pending(gone))) == {}
    late = Insert("post", Y, {"thread_id": 1}, 9)
    assert ids(build_view(synced, pending(gone, late))) == {}
    assert ids(build_view(synced, pending(late, gone))) == {}
    anew = [Insert("topic", "a", {}, 8), Insert("thread", 1, {"topic_id": "a"}, 8), late]
    assert ids(build_view(synced, pending(gone, *anew))) == {"topic": {"a"}, "thread": {1}, "post": {Y}}
    assert ids(build_view(replica(thread(1), post(1)), pending(gone))) == {}, "also if the topic is not held"


def test_a_rejected_insert_is_shown_and_other_rejected_mutations_are_not() -> None:
    synced = replica(topic(1), thread(1), post(1))
    entries = [
        Entry(1, 1, Insert("thread", 2, {"topic_id": "a"}, 9), EntryState.REJECTED),
        Entry(2, 2, Delete("topic", "a"), EntryState.REJECTED),
        Entry(3, 3, Update("post", (X, 5), {"kind": "x"}, 9), EntryState.REJECTED),
        Entry(4, 4, Insert("song", 2, {}, 9)),
    ]
    shown = build_view(synced, entries).rows
    assert shown["thread"][2].certainty is Certainty.REJECTED
    assert (shown["topic"]["a"].row, shown["post"][X].row) == (topic(1), post(1))
    assert "song" not in shown


def test_without_a_schema_nothing_is_shown() -> None:
    assert build_view(Replica(), pending(Insert("topic", "a", {}, 1))) == View()
