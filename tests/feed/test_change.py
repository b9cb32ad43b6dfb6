"""P5, P7: a batch is proved by the log itself; where it is not, the device starts over."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.cursor import Position
from protocol.frames import ID, SEQ, TAG, Key, Row
from server.feed.change import Batch, Entry, Reading, follow
from server.feed.resume import Why
from tests.support.rows import Conversation, ConversationDeleted, Message, MessageDeleted

IDS = [UUID(int=i) for i in range(6)]


@dataclass(frozen=True)
class Log:
    """A feed's log in memory, read as Postgres would: the entries behind a position, at most so many."""

    entries: Sequence[Entry]
    head: int
    mark: int = 0

    @classmethod
    def of(
        cls, transactions: Sequence[tuple[int, Sequence[tuple[str, Key, Row | None]]]], marks: Sequence[int] = ()
    ) -> "Log":
        """From (seq, [(kind, id, row)]) of each transaction, and the transactions' names."""
        flat = []
        prev = prev_mark = n = 0
        for i, (seq, changes) in enumerate(transactions):
            mark = marks[i] if marks else 0
            for kind, row_id, row in changes:
                n += 1
                flat.append(Entry(seq, n, prev, None, kind, row_id, row, mark, prev_mark, is_deletion(row)))
            prev, prev_mark = seq, mark
        chained = [
            replace(entry, next_seq=flat[i + 1].seq if i + 1 < len(flat) else None) for i, entry in enumerate(flat)
        ]
        return cls(chained, prev, prev_mark)

    def read(self, after: Position, most: int) -> Reading:
        behind = [
            entry
            for entry in self.entries
            if entry.seq > after.seq or (after.n and entry.seq == after.seq and entry.n > after.n)
        ]
        return Reading(self.head, "core", behind[:most], self.mark)

    def without_before(self, seq: int) -> "Log":
        """Retention dropped what is older."""
        return Log([entry for entry in self.entries if entry.seq >= seq], self.head)


def is_deletion(row: Row | None) -> bool:
    return row is not None and row[TAG].startswith("-")


def message(i: int, seq: int) -> tuple[str, UUID, Row | None]:
    return "m", IDS[i], Message(seq, IDS[i], IDS[0], "user", "hello", 1, 1)


def deletion(i: int, seq: int) -> tuple[str, UUID, Row | None]:
    return "m", IDS[i], MessageDeleted(seq, IDS[i])


@st.composite
def logs(draw: st.DrawFn) -> Log:
    transactions = []
    seq = 0
    for _ in range(draw(st.integers(0, 8))):
        seq += draw(st.integers(1, 5))
        kinds = draw(st.lists(st.tuples(st.sampled_from("ud-"), st.integers(0, 5)), min_size=1, max_size=6))
        transactions.append(
            (
                seq,
                [
                    message(i, seq) if op == "u" else deletion(i, seq) if op == "d" else ("m", IDS[i], None)
                    for op, i in kinds
                ],
            )
        )
    return Log.of(transactions)


def positions(log: Log) -> list[Position]:
    return [Position(0), *(Position(seq) for seq in sorted({entry.seq for entry in log.entries}))]


@given(logs(), st.integers(1, 7), st.data())
def test_from_any_transaction_the_batches_lead_to_the_head_and_skip_nothing(
    log: Log, most: int, data: st.DataObject
) -> None:
    after = data.draw(st.sampled_from(positions(log)))
    expected = {(e.kind, e.row_id): e.row for e in log.entries if e.seq > after.seq and e.row is not None}
    held: dict[tuple[str, Key], Row] = {}
    for _ in range(100):
        batch = follow(after, log.read(after, most))
        assert isinstance(batch, Batch)
        assert batch.to.seq >= after.seq
        for row in batch.rows:
            held["m", row[ID]] = row
        if batch.to == after:
            assert not batch.rows
        after = batch.to
        if not batch.more:
            break
    assert after == Position(log.head)
    assert held == expected


@given(logs(), st.integers(1, 7), st.data())
def test_a_page_ends_with_a_transaction_unless_one_is_larger_than_a_page(
    log: Log, most: int, data: st.DataObject
) -> None:
    after = data.draw(st.sampled_from(positions(log)))
    page = log.read(after, most)
    batch = follow(after, page)
    assert isinstance(batch, Batch)
    if batch.partial:
        assert len({entry.seq for entry in page.entries}) == 1
        assert len([entry for entry in log.entries if entry.seq == batch.to.seq]) > most
    else:
        assert batch.to == after or batch.to.seq in {entry.seq for entry in page.entries}


@given(logs(), st.integers(1, 7), st.data())
def test_a_position_before_what_retention_left_is_too_old_and_never_resumed_over_a_hole(
    log: Log, most: int, data: st.DataObject
) -> None:
    after = data.draw(st.sampled_from(positions(log)))
    kept = log.without_before(data.draw(st.integers(0, log.head + 1)))
    missing = [entry for entry in log.entries if entry.seq > after.seq and entry not in kept.entries]
    outcome = follow(after, kept.read(after, most))
    assert (outcome is Why.TOO_OLD) if missing else isinstance(outcome, Batch)


def test_a_position_inside_a_transaction_whose_rest_was_dropped_is_too_old() -> None:
    log = Log.of([(10, [message(0, 10), message(1, 10), message(2, 10)]), (20, [message(3, 20)])])
    after = Position(10, n=1)
    assert isinstance(follow(after, log.read(after, 5)), Batch)
    assert follow(after, log.without_before(20).read(after, 5)) is Why.TOO_OLD
    assert follow(after, Reading(10, "core", [])) is Why.TOO_OLD


def test_a_position_beyond_the_head_is_ahead() -> None:
    log = Log.of([(10, [message(0, 10)])])
    assert follow(Position(11), log.read(Position(11), 5)) is Why.AHEAD
    assert follow(Position(11), Reading(0, None, [])) is Why.AHEAD


def test_a_history_that_lost_its_tail_and_then_overtook_the_device_is_recognised() -> None:
    lost = Position(30)
    rewound = Log.of([(10, [message(0, 10)]), (40, [message(1, 40)])])
    assert follow(lost, rewound.read(lost, 5)) is Why.AHEAD


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(1, 3), st.data())
def test_a_history_that_gave_the_same_seqs_to_other_transactions_is_recognised(
    common: int, lost: int, gained: int, most: int, data: st.DataObject
) -> None:
    def history(length: int, name: int) -> Log:
        seqs = range(1, common + length + 1)
        marks = [1_000 * (name if seq > common else 9) + seq for seq in seqs]
        return Log.of([(seq, [message(1, seq), message(0, seq)]) for seq in seqs], marks)

    before, now = history(lost, 1), history(gained, 2)
    # Everywhere that a device can have come to, inside of transactions too.
    places = [Position(0), *(Position(entry.seq, n, entry.mark) for entry in before.entries for n in (0, entry.n))]
    after = data.draw(st.sampled_from(places))
    outcome = follow(after, now.read(after, most))
    # The last entry of a transaction is not within it: devices are never left there.
    assume(not after.n or any(entry.seq == after.seq and entry.n > after.n for entry in before.entries))
    assert isinstance(outcome, Batch) is (after.seq <= common)
    if isinstance(outcome, Batch) and outcome.rows:
        assert all(row[SEQ] > common or row[SEQ] > after.seq or after.n for row in outcome.rows)
        assert outcome.to.mark in {entry.mark for entry in now.entries}


def test_a_position_that_names_no_transaction_resumes_as_before_there_were_names() -> None:
    log = Log.of([(10, [message(0, 10)]), (20, [message(1, 20)])], [77, 88])
    batch = follow(Position(10), log.read(Position(10), 5))
    assert isinstance(batch, Batch)
    assert batch.to == Position(20, 0, 88)


def test_a_hole_inside_a_page_is_never_passed_over() -> None:
    log = Log.of([(10, [message(0, 10)]), (20, [message(1, 20)]), (30, [message(2, 30)])])
    holed = Log([entry for entry in log.entries if entry.seq != 20], 30)
    assert follow(Position(0), holed.read(Position(0), 5)) is Why.TOO_OLD


def test_a_deletion_before_an_upsert_that_is_gone_is_still_told() -> None:
    log = Log.of([(10, [message(0, 10)]), (20, [deletion(0, 20), ("m", IDS[0], None)])])
    batch = follow(Position(10), log.read(Position(10), 5))
    assert isinstance(batch, Batch)
    assert batch.rows == [MessageDeleted(20, IDS[0])]


def test_a_conversation_deleted_and_made_anew_is_told_as_both() -> None:
    gone = ConversationDeleted(20, IDS[0])
    anew = Conversation(30, IDS[0], "again", 1, 1)
    log = Log.of([(20, [("c", IDS[0], gone)]), (30, [("c", IDS[0], anew)])])
    batch = follow(Position(0), log.read(Position(0), 5))
    assert isinstance(batch, Batch)
    assert batch.rows == [gone, anew]


# ---- Deletions -----------------------------------------------------------------------------------------------------


@dataclass
class Held:
    """What a device holds of conversations and their messages, as SPEC.md 5 says, without a memory of deletions."""

    conversations: dict[UUID, int] = field(default_factory=dict)
    messages: dict[UUID, tuple[UUID, int]] = field(default_factory=dict)

    def apply(self, row: Row) -> None:
        match row:
            case ("c", seq, id_, *_):
                self.conversations[id_] = seq
            case ("m", seq, id_, conversation, *_):
                self.messages[id_] = (conversation, seq)
            case ("-m", _, id_):
                self.messages.pop(id_, None)
            case ("-c", seq, id_):
                self.conversations.pop(id_, None)
                for message, (conversation, of) in list(self.messages.items()):
                    if conversation == id_ and of <= seq:
                        del self.messages[message]


@st.composite
def stories(draw: st.DrawFn) -> tuple[Log, Held]:
    """The log of a user who creates, fills and deletes two conversations, and moves messages between them; and what is
    there in the end. As the triggers record it: rows in their latest state, and no deletion of a message whose
    conversation is gone."""
    there = Held()
    written: list[tuple[int, list[tuple[str, UUID, bool]]]] = []
    for seq in range(1, draw(st.integers(1, 12)) + 1):
        changes: list[tuple[str, UUID, bool]] = []
        for _ in range(draw(st.integers(1, 4))):
            conversation = draw(st.sampled_from(IDS[:2]))
            message_ = draw(st.sampled_from(IDS[2:]))
            match draw(st.sampled_from(["create", "say", "move", "unsay", "delete"])):
                case "create":
                    there.conversations[conversation] = seq
                    changes.append(("c", conversation, False))
                case "say" if conversation in there.conversations and message_ not in there.messages:
                    there.messages[message_] = (conversation, seq)
                    changes.append(("m", message_, False))
                case "move" if conversation in there.conversations and message_ in there.messages:
                    there.messages[message_] = (conversation, seq)
                    changes += [("m", message_, True), ("m", message_, False)]
                case "unsay" if message_ in there.messages:
                    del there.messages[message_]
                    changes.append(("m", message_, True))
                case "delete" if conversation in there.conversations:
                    there.apply(ConversationDeleted(seq, conversation))
                    changes.append(("c", conversation, True))
        if changes:
            written.append((seq, changes))
    transactions: list[tuple[int, list[tuple[str, UUID, Row | None]]]] = []
    for seq, changes in written:
        rows: list[tuple[str, UUID, Row | None]] = []
        for kind, id_, deletion in changes:
            row: Row | None = None
            if deletion:
                row = ConversationDeleted(seq, id_) if kind == "c" else MessageDeleted(seq, id_)
            elif kind == "c" and id_ in there.conversations:
                row = Conversation(seq, id_, None, 1, 1)
            elif kind == "m" and id_ in there.messages:
                row = Message(seq, id_, there.messages[id_][0], "user", "hello", 1, 1)
            rows.append((kind, id_, row))
        transactions.append((seq, rows))
    return Log.of(transactions), there


@given(stories(), st.integers(1, 9))
def test_a_device_that_applies_the_batches_in_order_holds_what_is_there(story: tuple[Log, Held], most: int) -> None:
    log, there = story
    device, after = Held(), Position(0)
    while True:
        batch = follow(after, log.read(after, most))
        assert isinstance(batch, Batch)
        for row in batch.rows:
            device.apply(row)
        after = batch.to
        if not batch.more:
            break
    assert device.conversations.keys() == there.conversations.keys()
    assert {id_: home for id_, (home, _) in device.messages.items()} == {
        id_: home for id_, (home, _) in there.messages.items()
    }


@given(stories())
def test_every_deletion_of_a_reading_is_sent_in_its_place(story: tuple[Log, Held]) -> None:
    log, _ = story
    batch = follow(Position(0), log.read(Position(0), 1_000))
    assert isinstance(batch, Batch)
    assert [row for row in batch.rows if is_deletion(row)] == [e.row for e in log.entries if e.deletion]
    assert [row[SEQ] for row in batch.rows] == sorted(row[SEQ] for row in batch.rows)


def test_a_row_that_is_deleted_twice_is_told_of_both() -> None:
    changes = [deletion(0, 20), message(0, 20), deletion(0, 20), message(0, 20)]
    batch = follow(Position(10), Log.of([(10, [message(1, 10)]), (20, changes)]).read(Position(10), 5))
    assert isinstance(batch, Batch)
    assert [row[TAG] for row in batch.rows] == ["-m", "-m", "m"]


def test_rows_of_two_kinds_with_one_id_are_two_rows() -> None:
    same: list[tuple[str, Key, Row | None]] = [
        ("a", 7, ("a", 20, 7)),
        ("b", 7, ("b", 20, 7)),
        ("b", (7, 1), ("b", 20, (7, 1))),
    ]
    batch = follow(Position(10), Log.of([(10, [message(1, 10)]), (20, same)]).read(Position(10), 5))
    assert isinstance(batch, Batch)
    assert batch.rows == [row for _, _, row in same]
