"""The rows that a device holds: examples, and a state machine against an oracle."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from atlas_sync.replica import Replica
from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Schema
from tests.atlas_sync.chat_rows import conversation_row, message_row, profile_row
from tests.atlas_sync.reading_device import ReadingDevice, Rows

USER, A, B, M, N = (UUID(int=n) for n in range(2, 7))
CHAT = Schema.chat()


# ---- Examples --------------------------------------------------------------------------------------------------------


def conversation(seq: int, cid: UUID = A, title: str = "t") -> Row:
    return conversation_row(seq, cid, title, 0, seq)


def message(seq: int, mid: UUID = M, cid: UUID = A, content: str = "x") -> Row:
    return message_row(seq, mid, cid, "user", content, 0, seq)


def test_an_upsert_replaces_an_older_row_and_one_of_the_same_seq() -> None:
    replica = Replica(CHAT)
    replica.apply([message(5, content="a")])
    replica.apply([message(5, content="b")])
    assert replica.rows["message"][M].content == "b"
    replica.apply([message(4, content="stale")])
    assert replica.rows["message"][M].content == "b"


def test_a_message_may_come_before_its_conversation() -> None:
    replica = Replica(CHAT)
    replica.apply([message(5), conversation(6)])
    assert set(replica.rows["message"]) == {M}
    assert set(replica.rows["conversation"]) == {A}


def test_a_deletion_does_not_delete_a_newer_row() -> None:
    replica = Replica(CHAT)
    replica.apply([message(7), conversation(7), profile_row(7, USER, "pro", None)])
    replica.apply([Deleted("message", 6, M), Deleted("conversation", 6, A), Deleted("profile", 6, USER)])
    assert (len(replica.rows["message"]), len(replica.rows["conversation"]), len(replica.rows["profile"])) == (1, 1, 1)
    replica.apply([Deleted("message", 7, M), Deleted("conversation", 7, A), Deleted("profile", 8, USER)])
    assert (replica.rows["message"], replica.rows["conversation"], replica.rows["profile"]) == ({}, {}, {})


def test_deleting_a_conversation_deletes_its_older_messages_and_no_others() -> None:
    replica = Replica(CHAT)
    replica.apply([message(5, M), message(9, N), message(5, UUID(int=9), cid=B), Deleted("conversation", 7, A)])
    assert set(replica.rows["message"]) == {N, UUID(int=9)}


def test_a_conversation_deleted_and_created_again_in_one_transaction_keeps_only_its_new_messages() -> None:
    replica = Replica(CHAT)
    replica.apply([message(3), message(7, N), Deleted("conversation", 7, A), conversation(7), message(7, UUID(int=9))])
    assert set(replica.rows["conversation"]) == {A}
    assert set(replica.rows["message"]) == {UUID(int=9)}


def test_a_conversation_created_again_does_not_have_its_old_messages() -> None:
    replica = Replica(CHAT)
    replica.apply([message(3), conversation(8), Deleted("conversation", 7, A)])
    assert set(replica.rows["conversation"]) == {A}
    assert replica.rows["message"] == {}


@pytest.mark.parametrize("gone", [Deleted("message", 7, M), Deleted("conversation", 7, A)])
def test_a_page_that_was_read_before_a_deletion_and_arrives_after_it_changes_nothing(gone: Deleted) -> None:
    replica = Replica(CHAT)
    with replica.expecting_page() as apply:
        replica.apply([gone])
        apply([message(6)])
        assert replica.rows["message"] == {}
        apply([message(8)])
        assert set(replica.rows["message"]) == {M}


def test_deletions_are_remembered_until_the_last_page_has_arrived() -> None:
    replica = Replica(CHAT)
    with ExitStack() as last:
        last.enter_context(replica.expecting_page())
        with replica.expecting_page():
            replica.apply([Deleted("message", 7, M), Deleted("message", 5, M)])
        replica.apply([message(6)])
        assert replica.rows["message"] == {}
    replica.apply([message(6)])
    assert set(replica.rows["message"]) == {M}


def test_a_snapshot_replaces_everything_even_what_has_greater_seqs() -> None:
    replica = Replica(CHAT)
    with replica.expecting_page():
        replica.apply([message(9), conversation(9), profile_row(9, USER, "pro", None), Deleted("message", 9, N)])
        replica.replace([message(2, N)])
        assert (replica.rows["profile"], replica.rows["conversation"], set(replica.rows["message"])) == ({}, {}, {N})


def test_a_page_asked_for_before_a_snapshot_changes_nothing() -> None:
    replica = Replica(CHAT)
    with replica.expecting_page() as before:
        replica.replace([conversation(20)])
        before([message(9)])
        assert replica.rows["message"] == {}
        with replica.expecting_page() as after:
            replica.apply([Deleted("message", 30, N)])
            after([message(25), message(25, N)])
            assert set(replica.rows["message"]) == {M}
    replica.apply([message(25, N)])
    assert set(replica.rows["message"]) == {M, N}


def test_a_moved_message_survives_the_deletion_of_its_former_conversation() -> None:
    replica = Replica(CHAT)
    replica.apply([message(3, cid=A), Deleted("message", 5, M), message(5, cid=B), Deleted("conversation", 6, A)])
    assert replica.rows["message"] == {M: message(5, cid=B)}
    replica.apply([Deleted("conversation", 7, B)])
    assert replica.rows["message"] == {}


# ---- Against an oracle -----------------------------------------------------------------------------------------------

CONVERSATIONS = [UUID(int=n) for n in (10, 20)]
HOMES = {UUID(int=home.int + n): home for home in CONVERSATIONS for n in (1, 2, 3)}
Operations = list[tuple[str, UUID]]
OPERATIONS: st.SearchStrategy[Operations] = st.lists(
    st.sampled_from(
        [(operation, row_id) for operation in ("c", "-c") for row_id in CONVERSATIONS]
        + [(operation, row_id) for operation in ("m", "-m", "move") for row_id in HOMES]
        + [("p", USER), ("-p", USER)]
    ),
    min_size=1,
    max_size=6,
)


class Database:
    """One user's rows and their feed. The rows that `SELECT` finds are the oracle."""

    def __init__(self) -> None:
        self.seq = 0
        self.profiles: dict[UUID, Row] = {}
        self.conversations: dict[UUID, Row] = {}
        self.messages: dict[UUID, Row] = {}
        self.feed: list[Rows] = []

    def transact(self, operations: Operations) -> None:
        """Deletions first, then the latest state of the remaining rows, without messages of a deleted conversation.

        A message that moves is deleted, and there again (5.3).
        """
        self.seq += 1
        seq = self.seq
        deleted: dict[tuple[str, UUID], Deleted] = {}
        for n, (operation, row_id) in enumerate(operations):
            text = f"{seq}.{n}"
            match operation:
                case "c":
                    self.conversations[row_id] = conversation_row(seq, row_id, text, 0, seq)
                case "m" if (held := self.messages.get(row_id)) or HOMES[row_id] in self.conversations:
                    home = held.conversation_id if held else HOMES[row_id]
                    self.messages[row_id] = message_row(seq, row_id, home, "user", text, 0, seq)
                case "move" if held := self.messages.get(row_id):
                    (elsewhere,) = set(CONVERSATIONS) - {held.conversation_id}
                    if elsewhere in self.conversations:
                        self.messages[row_id] = replace(
                            held, seq=seq, values={**held.values, "conversation_id": elsewhere}
                        )
                        deleted["m", row_id] = Deleted("message", seq, row_id)
                case "-m" if self.messages.pop(row_id, None):
                    deleted["m", row_id] = Deleted("message", seq, row_id)
                case "-c" if self.conversations.pop(row_id, None):
                    self.messages = {k: m for k, m in self.messages.items() if m.conversation_id != row_id}
                    deleted["c", row_id] = Deleted("conversation", seq, row_id)
                case "p":
                    self.profiles[row_id] = profile_row(seq, row_id, text, None)
                case "-p" if self.profiles.pop(row_id, None):
                    deleted["p", row_id] = Deleted("profile", seq, row_id)
        self.feed.append([*deleted.values(), *(row for row in self.rows() if row.seq == seq)])

    def rows(self) -> list[Row]:
        return [*self.profiles.values(), *self.conversations.values(), *self.messages.values()]

    def read(self) -> list[Row]:
        """The rows that a snapshot or a page reads now: every row's seq is the position of the reading."""
        return [replace(row, seq=self.seq) for row in self.rows()]


def latest_state_only(transactions: Iterable[Rows]) -> Rows:
    """A feed that is read later names each row once, at its last change, and no message of a deleted conversation.

    A deletion stays even if the row came back: a conversation's has messages to take away, a message's may have moved
    it out of where the device holds it.
    """
    rows = [row for transaction in transactions for row in transaction]
    sent: Rows = []
    named: set[tuple[str, object]] = set()
    for row in reversed(rows):
        gone = isinstance(row, Deleted)
        key = (row.kind, row.id)
        over = isinstance(row, Row) and row.kind == "message" and ("-c", row.conversation_id) in named
        if gone or not (over or key in named):
            sent.append(row)
        named |= {key, ("-c", row.id)} if gone and row.kind == "conversation" else {key}
    return sent[::-1]


def content(rows: Iterable[Row]) -> dict[tuple[str, object], object]:
    return {(row.kind, row.id): row.values for row in rows}


class DeviceAgainstDatabase(ReadingDevice):
    """Once the device has applied the whole feed, it holds exactly the rows that `SELECT` finds."""

    operations = OPERATIONS
    database: Database
    kinds_of_a_page = (("message",), ("conversation",), ("profile", "conversation", "message"))

    def __init__(self) -> None:
        super().__init__(Replica(CHAT))
        self.database = Database()
        everything = [("p", USER), *(("c", c) for c in CONVERSATIONS), *(("m", m) for m in HOMES)]
        self.database.transact(everything)
        self.changes_arrive(1)

    def at_once(self, transactions: list[Rows]) -> Rows:
        return latest_state_only(transactions)

    @rule(back=st.integers(0, 5))
    def the_device_reconnects_and_hears_a_part_of_the_feed_again(self, back: int) -> None:
        self.pages_end_with_the_connection()
        self.position = max(0, self.position - back)

    @rule(between=st.none() | OPERATIONS, after=st.none() | OPERATIONS)
    def the_device_is_given_a_snapshot_in_parts(self, between: Operations | None, after: Operations | None) -> None:
        """Pages of the connection before may still be applied late, without harm."""
        self.position = len(self.database.feed)
        self.replica.replace(row for row in self.database.read() if row.kind != "message")
        for operations in (between, after):
            if operations is not None:
                self.database.transact(operations)
        self.replica.apply(row for row in self.database.read() if row.kind == "message")

    def pages_end_with_the_connection(self) -> None:
        for _, expected, _ in self.pages:
            expected.close()
        self.pages = []

    @invariant()
    def at_live_the_device_holds_what_select_finds(self) -> None:
        if self.position == len(self.database.feed):
            rows = [row for held in self.replica.rows.values() for row in held.values()]
            assert content(rows) == content(self.database.rows())


DeviceAgainstDatabase.TestCase.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)
TestADeviceAgainstTheDatabase = DeviceAgainstDatabase.TestCase
