"""The outbox: every mutation is applied once and in order, or waits in quarantine; none is lost."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atlas_sync.chat import create_conversation, create_message, edit_message, rename_conversation
from atlas_sync.codec import CODECS
from atlas_sync.mutation import Applied, Mutation, Rejected, Repeated, Result, Update
from atlas_sync.outbox import Entry, EntryState, Head, Outbox, Push
from atlas_sync.schema import Schema
from atlas_sync.session import ErrorAnswer, Limits
from atlas_sync.storage import MemoryStorage
from atlas_sync.wire import Wire

A, M = UUID(int=1), UUID(int=2)
LIMITS = Limits(262_144, 1000, 4, mutations=3)
CHAT = Schema.chat()
WIRE = Wire(CODECS["msgpack"], CHAT)


def write(n: int) -> Mutation:
    return rename_conversation(A, f"title {n}", n)


def refusal(code: str, retry_after_ms: int | None = None, expected: int | None = None) -> ErrorAnswer:
    return ErrorAnswer(code, "said for people", True, "push", retry_after_ms=retry_after_ms, expected=expected)


def outbox_with(count: int) -> Outbox:
    outbox = Outbox(MemoryStorage(), CHAT)
    for n in range(count):
        outbox.add(write(n))
    return outbox


def pushed(outbox: Outbox, now: float = 0.0) -> Push:
    push = outbox.next_push(LIMITS, WIRE, now)
    assert push is not None
    return push


def applied(push: Push, seq: int = 10) -> tuple[Result, ...]:
    return tuple(Applied(push.n + i, seq) for i in range(len(push.mutations)))


# ---- Adding --------------------------------------------------------------------------------------------------------


def test_numbers_are_given_in_order_and_never_again_even_after_all_entries_are_gone() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    assert [outbox.add(write(n)).n for n in range(3)] == [1, 2, 3]
    outbox.begin(LIMITS)
    outbox.acknowledge(applied(pushed(outbox)))
    outbox.advance(10)
    assert outbox.entries == ()
    assert outbox.add(write(4)).n == 4
    again = Outbox(storage, CHAT)
    assert (again.client_id, again.add(write(5)).n) == (outbox.client_id, 5)


def test_a_mutation_is_stored_before_add_returns_and_before_on_add_is_called() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    kept: list[int] = []
    outbox.on_add = lambda: kept.append(len(storage.load()[1]))
    outbox.add(write(1))
    outbox.add(write(2))
    assert kept == [1, 2]


def test_a_mutation_that_the_storage_refuses_was_never_added() -> None:
    class Full(MemoryStorage):
        def commit(self, head: Head, put: list[Entry], drop: list[int]) -> None:
            raise OSError("the disk is full")

    outbox = Outbox(Full(), CHAT)
    with pytest.raises(OSError):
        outbox.add(write(1))
    assert outbox.entries == ()
    assert outbox.due(0) is None


@pytest.mark.parametrize(
    "mutation",
    [
        rename_conversation(A, "secret\0", 1),
        rename_conversation(A, "secret\ud800", 1),
        create_message(M, A, "secret\udfff", "", 1),
        create_message(M, A, "user", "secret\0", 1),
        edit_message(M, 1, "secret" + "\ud83d" + "x", 1),
        create_message(M, A, "user", "secret" * 50_000, 1),
        create_message(M, A, "user", "secret" + "\x01" * 50_000, 1),  # its escapes fit in no frame of JSON
        create_conversation(A, "secret", 2**53 + 1),
        edit_message(M, -(2**53) - 1, "secret", 1),
        create_conversation(A, "secret", True),
        create_conversation(A, "secret", 1.5),  # type: ignore[arg-type]
        create_conversation(str(A), "secret", 1),  # type: ignore[arg-type]
        create_message(M, A, "user", b"secret", 1),  # type: ignore[arg-type]
    ],
    ids=lambda mutation: repr(mutation)[:70],
)
def test_a_mutation_that_no_server_accepts_is_refused_at_once_and_its_text_not_quoted(mutation: Mutation) -> None:
    outbox = Outbox(MemoryStorage(), CHAT)
    with pytest.raises(ValueError) as raised:
        outbox.add(mutation)
    assert "secret" not in f"{raised.value!r} {raised.value.__cause__!r}"
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert outbox.entries == ()
    assert outbox.add(write(1)).n == 1


def test_the_last_known_frame_size_applies_also_offline_and_after_a_restart() -> None:
    storage = MemoryStorage()
    long = create_message(M, A, "user", "x" * 2000, 1)
    outbox = Outbox(storage, CHAT)
    outbox.add(long)
    outbox.begin(replace(LIMITS, frame_bytes=1000))
    outbox.end()
    for device in (outbox, Outbox(storage, CHAT)):
        with pytest.raises(ValueError):
            device.add(long)
        device.add(create_message(M, A, "user", "x" * 500, 1))


def test_without_a_schema_the_server_s_is_kept_and_nothing_is_added_before_it_came() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage)
    with pytest.raises(RuntimeError, match="schema"):
        outbox.add(write(1))
    outbox.learn(CHAT)
    assert outbox.add(write(1)).n == 1
    again = Outbox(storage)
    assert (again.schema, again.add(write(2)).n) == (CHAT, 2)
    built = Schema("another", CHAT.kinds)
    again = Outbox(storage, built)
    again.learn(CHAT)
    assert again.schema == built


# ---- Sending -------------------------------------------------------------------------------------------------------


def test_a_push_begins_with_the_lowest_number_without_a_result_and_has_as_many_as_permitted() -> None:
    outbox = outbox_with(4)
    assert pushed(outbox) == Push(1, (write(0), write(1), write(2)), 1)
    assert outbox.due(0) is None
    assert outbox.next_push(LIMITS, WIRE, 0) is None
    outbox.add(write(4))
    outbox.acknowledge(applied(Push(1, (write(0), write(1), write(2)), 1)))
    assert pushed(outbox) == Push(4, (write(3), write(4)), 1), "it holds what is acked until the rows have it"


def test_an_empty_outbox_pushes_nothing() -> None:
    outbox = Outbox(MemoryStorage(), CHAT)
    assert (outbox.due(0), outbox.next_push(LIMITS, WIRE, 0)) == (None, None)
    outbox.add(write(1))
    assert outbox.next_push(replace(LIMITS, mutations=0), WIRE, 0) is None
    assert outbox.unanswered is None


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12), at_most=st.integers(540, 1000))
def test_a_push_fits_in_a_frame_and_contains_every_mutation_that_fits(
    encoding: str, sizes: list[int], at_most: int
) -> None:
    codec = CODECS["json" if encoding == "json" else "msgpack"]
    wire = Wire(codec, CHAT)
    limits = replace(LIMITS, frame_bytes=at_most, mutations=100)
    outbox = Outbox(MemoryStorage(), CHAT)
    for size in sizes:
        outbox.add(create_message(M, A, "user", "\n" * (size // 3), 2**53))
    sent = 0
    while (push := outbox.next_push(limits, wire, 0)) is not None:
        written = [mutation for mutation in push.mutations if mutation is not None]
        assert len(push.mutations) == len(written)
        size = sum(wire.size(mutation) for mutation in written)
        assert len(codec.encode({"t": "push", "n": push.n, "mutations": []}, at_most)) + size < at_most
        sent += len(written)
        if sent < len(sizes):
            assert size + wire.size(outbox.entries[len(written)].mutation) > at_most - 96
        outbox.acknowledge(applied(push))
        outbox.advance(10)
    assert sent == len(sizes)


def test_a_push_without_an_answer_is_repeated_on_the_next_connection() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    outbox.add(write(1))
    first = pushed(outbox)
    outbox.end()
    outbox.begin(LIMITS)
    assert pushed(outbox) == first == pushed(Outbox(storage, CHAT))
    outbox.acknowledge((Repeated(1, 10),))
    assert [entry.state for entry in outbox.entries] == [EntryState.ACKED]


def test_a_mutation_beyond_shrunk_limits_gives_its_number_away_and_goes_into_quarantine() -> None:
    outbox = Outbox(MemoryStorage(), CHAT)
    long = create_message(M, A, "user", "x" * 5000, 1)
    for mutation in (write(1), long, write(3)):
        outbox.add(mutation)
    small = replace(LIMITS, frame_bytes=1000)
    assert outbox.next_push(small, WIRE, 0) == Push(1, (write(1), None, write(3)), 1)
    outbox.acknowledge((Applied(1, 10), Rejected(2, "malformed", "Not a mutation."), Applied(3, 10)))
    (kept,) = outbox.quarantine
    assert (kept.mutation, kept.code) == (long, "too_long")
    outbox = Outbox(MemoryStorage(), CHAT)
    outbox.add(long)
    assert outbox.next_push(small, WIRE, 0) == Push(1, (None,), 1)
    outbox.acknowledge((Repeated(1, 10),))  # it had arrived before the limits shrank, and its answer had not
    assert outbox.quarantine == ()


# ---- Refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["unavailable", "slow_down", "too_many_pushes", "tomorrow's"])
def test_a_push_answered_with_an_error_loses_nothing_and_is_due_after_the_delay(code: str) -> None:
    for rnd in (0.0, 1.0):
        outbox = outbox_with(2)
        first = pushed(outbox, now=100)
        outbox.push_failed(refusal(code, retry_after_ms=4000), now=101, rnd=rnd)
        wait = outbox.due(101)
        assert wait is not None
        assert 4 <= wait <= 6
        assert outbox.next_push(LIMITS, WIRE, 101 + wait - 0.01) is None
        outbox.begin(LIMITS)  # another connection changes nothing about that
        assert outbox.next_push(LIMITS, WIRE, 101 + wait - 0.01) is None
        assert pushed(outbox, now=101 + wait) == first


def test_devices_with_the_same_advised_delay_do_not_push_at_the_same_time() -> None:
    waits = set()
    for rnd in (0.0, 0.3, 0.6, 1.0):
        outbox = outbox_with(1)
        pushed(outbox)
        outbox.push_failed(refusal("unavailable", retry_after_ms=1000), now=0, rnd=rnd)
        waits.add(outbox.due(0))
    assert len(waits) == 4


def test_without_an_advised_delay_the_pauses_grow_until_a_push_is_acknowledged() -> None:
    outbox = outbox_with(1)
    now, waits = 0.0, []
    for _ in range(9):
        pushed(outbox, now)
        outbox.push_failed(refusal("unavailable"), now, rnd=1.0)
        waits.append(outbox.due(now) or 0)
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    outbox.acknowledge(applied(pushed(outbox, now)))
    outbox.add(write(2))
    pushed(outbox, now)
    outbox.push_failed(refusal("unavailable"), now, rnd=1.0)
    assert outbox.due(now) == 1


def test_after_a_gap_the_mutations_get_new_numbers_in_the_same_order_and_are_due_at_once() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    for n in range(3):
        outbox.add(write(n))
    outbox.acknowledge(applied(pushed(outbox), seq=10))
    outbox.advance(10)
    for n in range(3, 7):
        outbox.add(write(n))
    assert pushed(outbox).n == 4
    outbox.push_failed(refusal("gap", expected=2), now=5, rnd=1.0)
    assert outbox.due(5) == 0
    assert [entry.n for entry in outbox.entries] == [2, 3, 4, 5]
    assert pushed(Outbox(storage, CHAT)) == pushed(outbox, 5) == Push(2, (write(3), write(4), write(5)), 2)
    assert outbox.add(write(7)).n == 6


def test_after_a_gap_mutations_that_the_database_acked_and_lost_are_pushed_again() -> None:
    outbox = outbox_with(3)
    pushed(outbox)
    outbox.acknowledge((Applied(1, 10), Rejected(2, "refused", "no"), Applied(3, 12)))
    outbox.add(write(3))
    assert pushed(outbox).n == 4
    outbox.push_failed(refusal("gap", expected=2), now=0, rnd=0)
    states = [(entry.n, entry.state) for entry in outbox.entries]
    assert states == [(1, EntryState.ACKED), (2, EntryState.REJECTED), (2, EntryState.PENDING), (3, EntryState.PENDING)]
    assert pushed(outbox) == Push(2, (write(2), write(3)), 1)
    outbox.acknowledge((Applied(2, 20), Applied(3, 20)))
    assert outbox.add(write(4)).n == 4


def in_doubt(storage: MemoryStorage) -> Outbox:
    """An outbox whose three mutations were acknowledged on an earlier connection."""
    outbox = Outbox(storage, CHAT)
    for n in range(3):
        outbox.add(write(n))
    outbox.acknowledge(applied(pushed(outbox), seq=10))
    outbox.begin(LIMITS)
    return outbox


def test_the_position_of_a_connection_does_not_confirm_acks_of_an_earlier_one() -> None:
    storage = MemoryStorage()
    outbox = in_doubt(storage)
    outbox.advance(99)
    assert len(outbox.entries) == 3
    again = Outbox(storage, CHAT)
    again.begin(LIMITS)
    again.advance(99)
    assert len(again.entries) == 3, "the doubt outlasts the app"


def test_all_held_mutations_are_pushed_again_on_each_connection_and_then_confirmed() -> None:
    outbox = in_doubt(MemoryStorage())
    outbox.add(write(3))
    assert pushed(outbox) == Push(1, (write(0), write(1), write(2)), 1)
    outbox.acknowledge((Repeated(1, 10), Repeated(2, 10), Applied(3, 20)))
    outbox.advance(15)
    assert [(entry.n, entry.seq) for entry in outbox.entries] == [(3, 20), (4, None)]
    assert pushed(outbox) == Push(4, (write(3),), 3)


def test_numbers_in_between_without_a_mutation_are_pushed_empty_and_their_results_ignored() -> None:
    outbox = outbox_with(3)
    pushed(outbox)
    outbox.acknowledge((Applied(1, 10), Rejected(2, "refused", "no"), Applied(3, 12)))
    outbox.begin(LIMITS)
    assert pushed(outbox) == Push(1, (write(0), None, write(2)), 1)
    outbox.acknowledge((Repeated(1, 10), Rejected(2, "malformed", "no"), Repeated(3, 12)))
    assert [(entry.n, entry.state, entry.code) for entry in outbox.entries] == [
        (1, EntryState.ACKED, None),
        (2, EntryState.REJECTED, "refused"),
        (3, EntryState.ACKED, None),
    ]


def test_held_mutations_get_numbers_above_those_consumed_for_others() -> None:
    outbox = outbox_with(3)
    pushed(outbox)
    outbox.acknowledge((Applied(1, 10), Applied(2, 10), Applied(3, 10)))
    outbox.add(write(3))
    pushed(outbox)
    outbox.push_failed(refusal("gap", expected=14), now=0, rnd=0)
    assert [(entry.n, entry.state) for entry in outbox.entries] == [(n, EntryState.PENDING) for n in range(14, 18)]
    assert pushed(outbox) == Push(14, (write(0), write(1), write(2)), 14)


def test_repeated_gaps_are_answered_after_pauses() -> None:
    outbox, now = outbox_with(1), 0.0
    for expected, pause in ((5, 0), (9, 1), (3, 2)):
        pushed(outbox, now)
        outbox.push_failed(refusal("gap", expected=expected), now, rnd=1.0)
        assert outbox.due(now) == pause
        now += pause


def test_a_generation_is_larger_than_all_before_with_any_clock_and_after_a_restart() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    drawn = [outbox.generation(now) for now in (1000, 1000, 7, 2000)]
    drawn += [Outbox(storage, CHAT).generation(now) for now in (0, 5000)]
    assert drawn == [1000, 1001, 1002, 2000, 2001, 5000]


# ---- Settling ------------------------------------------------------------------------------------------------------


def test_an_acked_mutation_stays_until_the_synced_rows_have_it_whether_ack_or_rows_come_first() -> None:
    outbox = outbox_with(2)
    outbox.begin(LIMITS)
    outbox.advance(9)
    pushed(outbox)
    outbox.acknowledge((Applied(1, 9), Applied(2, 12)))
    assert [(entry.n, entry.seq) for entry in outbox.entries] == [(2, 12)]
    outbox.advance(None)
    outbox.advance(11)
    assert len(outbox.entries) == 1
    outbox.advance(12)
    outbox.advance(12)
    assert not outbox.entries


def test_the_position_of_an_earlier_connection_confirms_nothing() -> None:
    """The position of the next connection may be lower: a snapshot follows, or the app lost its rows."""
    outbox = outbox_with(1)
    outbox.begin(LIMITS)
    outbox.advance(50)
    outbox.end()
    outbox.begin(LIMITS)
    pushed(outbox)
    outbox.acknowledge((Applied(1, 20),))
    assert len(outbox.entries) == 1
    outbox.advance(20)
    assert not outbox.entries


def test_an_acked_mutation_outlasts_the_app_until_the_position_comes_again() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    outbox.add(write(1))
    pushed(outbox)
    outbox.acknowledge((Applied(1, 20),))
    again = Outbox(storage, CHAT)
    assert again.due(0) is None
    assert [(entry.state, entry.seq) for entry in again.entries] == [(EntryState.ACKED, 20)]
    again.advance(20)
    assert not Outbox(storage, CHAT).entries


# ---- Quarantine ----------------------------------------------------------------------------------------------------


def in_quarantine() -> tuple[Outbox, Entry]:
    outbox = outbox_with(2)
    pushed(outbox)
    outbox.acknowledge((Rejected(1, "tomorrow's", "fit to \ud800 show", "title"), Applied(2, 10)))
    outbox.advance(10)
    (entry,) = outbox.entries
    return outbox, entry


def test_a_rejected_mutation_waits_in_quarantine_and_delays_no_other() -> None:
    outbox, entry = in_quarantine()
    assert outbox.quarantine == (entry,)
    assert (entry.state, entry.mutation) == (EntryState.REJECTED, write(0))
    assert (entry.code, entry.message, entry.column) == ("tomorrow's", "fit to ? show", "title")
    outbox.add(write(2))
    assert pushed(outbox).n == 3


@pytest.mark.parametrize("corrected", [None, write(9)])
def test_a_retry_is_a_new_mutation_with_a_new_number_at_the_end(corrected: Mutation | None) -> None:
    outbox, entry = in_quarantine()
    outbox.add(write(2))
    again = outbox.retry(entry.key, corrected)
    assert (again.n, again.mutation, outbox.quarantine) == (4, corrected or write(0), ())
    assert [e.n for e in outbox.entries] == [3, 4]


def test_a_correction_that_no_server_accepts_leaves_the_mutation_in_quarantine() -> None:
    outbox, entry = in_quarantine()
    with pytest.raises(ValueError):
        outbox.retry(entry.key, rename_conversation(A, "\0", 1))
    assert outbox.quarantine == (entry,)


def test_a_discarded_mutation_does_not_return() -> None:
    storage = MemoryStorage()
    outbox = Outbox(storage, CHAT)
    outbox.add(write(0))
    pushed(outbox)
    outbox.acknowledge((Rejected(1, "refused", "no"),))
    outbox.discard(outbox.quarantine[0].key)
    assert (outbox.entries, Outbox(storage, CHAT).entries) == ((), ())


@pytest.mark.parametrize("act", [Outbox.retry, Outbox.discard])
def test_only_rejected_mutations_can_be_retried_or_discarded(act: Callable[[Outbox, int], object]) -> None:
    outbox, entry = in_quarantine()
    pending = outbox.add(write(2))
    for key in (pending.key, 99):
        with pytest.raises(ValueError):
            act(outbox, key)
    outbox.discard(entry.key)
    with pytest.raises(ValueError):
        act(outbox, entry.key)
    assert outbox.entries == (pending,)


# ---- Against servers ----------------------------------------------------------------------------------------------


NOTHING = 0  # in place of a write: an empty array


def which(mutation: Mutation | None) -> int:
    """The position of a mutation among those of the test."""
    if mutation is None:
        return NOTHING
    assert isinstance(mutation, Update)
    return mutation.at


class Server:
    """A server by SPEC.md 8.5: it consumes each number once, in order, and stores the result.

    It stores only the mutations that the device holds by its `held`.
    """

    def __init__(self, dislikes: set[int]) -> None:
        self.dislikes = dislikes
        self.last = 0  # the number that was consumed last
        self.applied: list[int] = []  # which writes, in their order
        self.rejected: set[int] = set()  # numbers
        self.consumed_for: dict[int, int] = {}  # which write had a number; NOTHING: none
        self.former: set[int] = set()  # which writes were applied under numbers that mean nothing any more
        self.seq = 0

    def take(self, push: Push, at_most: int) -> tuple[Result, ...] | ErrorAnswer:
        """Apply a push. The server may crash in the middle of it: then only the first mutations were applied."""
        numbered = list(enumerate(map(which, push.mutations), push.n))
        if push.n > self.last + 1:
            return refusal("gap", expected=self.last + 1)
        applied = {w for n, w in self.consumed_for.items() if n not in self.rejected}
        if any(w not in (NOTHING, self.consumed_for.get(n)) for n, w in numbered if n <= self.last):
            self.former |= applied
            self.consumed_for.clear()
            return refusal("gap", expected=self.last + 1)
        if any(w in applied for n, w in numbered if n > self.last):
            self.former |= applied  # its numbers are those of another history, and continue these by chance
        results = [self.consume(n, w) for n, w in numbered[:at_most]]
        self.consumed_for = {n: w for n, w in self.consumed_for.items() if n >= push.held}
        return tuple(results)

    def consume(self, n: int, w: int) -> Result:
        repeated = n <= self.last
        if not repeated:
            self.last, self.consumed_for[n] = n, w
            self.seq += 1
            if w == NOTHING or w % 7 in self.dislikes:
                self.rejected.add(n)
            elif w not in self.former:
                self.applied.append(w)
        if n in self.rejected:
            return Rejected(n, "refused", "no")
        return Repeated(n, self.seq) if repeated else Applied(n, self.seq)


class OutboxAgainstServers(RuleBasedStateMachine):
    """Frames are lost, and the database goes back to earlier histories: each mutation is applied exactly once and in
    order, or is in quarantine."""

    @initialize(dislikes=st.sets(st.integers(0, 6), max_size=2), count=st.integers(1, 9))
    def begin(self, dislikes: set[int], count: int) -> None:
        self.server = Server(dislikes)
        self.past = [deepcopy(self.server)]  # states of the database, up to the present
        self.left: list[list[Server]] = []  # pasts with a tail that another history lost
        self.storage = MemoryStorage()
        self.outbox = Outbox(self.storage, CHAT)
        self.outbox.begin(LIMITS)
        self.written = 0
        self.given_up: set[int] = set()  # by the person
        self.lost: set[int] = set()  # by the database, after the device had let them go
        self.now = 0.0
        self.answer: tuple[Result, ...] | ErrorAnswer | None = None
        self.the_person_writes(count, False)
        self.all_goes_well_for_a_while(0)

    # ---- The person ----

    def next_write(self) -> Mutation:
        self.written += 1
        return write(self.written)

    @rule(count=st.integers(1, 5), is_online=st.booleans())
    def the_person_writes(self, count: int, is_online: bool) -> None:
        for _ in range(count):
            self.outbox.add(self.next_write())
        if is_online:
            self.the_device_pushes(99, True)

    @precondition(lambda self: self.outbox.quarantine)
    @rule(decision=st.sampled_from(["retry", "correct", "discard"]))
    def the_person_decides(self, decision: str) -> None:
        entry = self.outbox.quarantine[0]
        if decision == "retry":
            self.outbox.retry(entry.key)
            return
        self.given_up.add(which(entry.mutation))
        if decision == "correct":
            self.outbox.retry(entry.key, self.next_write())
        else:
            self.outbox.discard(entry.key)

    # ---- The connection ----

    @rule(at_most=st.sampled_from([99, 99, 99, 0, 1, 2, "unavailable", "slow_down"]), is_heard=st.booleans())
    def the_device_pushes(self, at_most: int | str, is_heard: bool) -> None:
        """Deliver the push. `at_most`: how many of its mutations are applied, or the code of the `error`."""
        self.now += self.outbox.due(self.now) or 0
        if (push := self.outbox.next_push(LIMITS, WIRE, self.now)) is None:
            return
        if isinstance(at_most, str):
            self.answer = refusal(at_most, 100)
        else:
            self.answer = self.server.take(push, at_most)
            self.past.append(deepcopy(self.server))
            if at_most < len(push.mutations):
                self.the_connection_is_cut(False)
        if is_heard:
            self.the_answer_arrives()

    @rule()
    def the_answer_arrives(self) -> None:
        if isinstance(self.answer, ErrorAnswer):
            self.outbox.push_failed(self.answer, self.now, 0.5)
        elif self.answer is not None:
            self.outbox.acknowledge(self.answer)
        self.answer = None

    @rule(the_app_too=st.booleans())
    def the_connection_is_cut(self, the_app_too: bool) -> None:
        self.answer = None
        if the_app_too:
            self.outbox = Outbox(self.storage, CHAT)
        self.outbox.end()
        self.outbox.begin(LIMITS)

    @rule(behind=st.sampled_from([0, 0, 1, 2, 3]))
    def the_position_is_told(self, behind: int) -> None:
        self.outbox.advance(max(0, self.server.seq - behind))

    @rule(behind=st.sampled_from([0, 0, 1, 2, 3]))
    def all_goes_well_for_a_while(self, behind: int) -> None:
        self.the_answer_arrives()
        pushes = 2 + len(self.outbox.entries)  # the first may meet a gap; each further one gets on
        while self.outbox.due(self.now) is not None:
            assert (pushes := pushes - 1)
            self.the_device_pushes(99, True)
        self.the_position_is_told(behind)

    # ---- The database ----

    @precondition(lambda self: len(self.past) > 1)
    @rule(count=st.integers(1, 6))
    def the_database_loses_its_tail(self, count: int) -> None:
        self.left.append(self.past)
        self.go_on_from(self.past[: max(1, len(self.past) - count)])

    @precondition(lambda self: self.left)
    @rule(which_one=st.integers(0, 9))
    def operators_go_back_to_an_earlier_database(self, which_one: int) -> None:
        back = self.left.pop(which_one % len(self.left))
        self.left.append(self.past)
        self.go_on_from(back)

    def go_on_from(self, past: list[Server]) -> None:
        self.the_connection_is_cut(False)
        self.past = list(past)
        self.server = deepcopy(past[-1])
        # What a device has let go is the database's alone.
        self.lost = self.all_written - self.at_hand - self.given_up - set(self.server.applied)

    # ---- What holds at any time ----

    @property
    def all_written(self) -> set[int]:
        return set(range(1, self.written + 1))

    @property
    def at_hand(self) -> set[int]:
        """The mutations that the device holds or has in quarantine."""
        return {which(entry.mutation) for entry in self.outbox.entries}

    @invariant()
    def each_was_applied_at_most_once_and_in_order(self) -> None:
        assert self.server.applied == sorted(set(self.server.applied))

    @invariant()
    def what_the_device_has_let_go_is_applied(self) -> None:
        acknowledged = {which(e.mutation) for e in self.outbox.entries if e.seq is not None}
        let_go = self.all_written - self.at_hand - self.given_up - self.lost
        assert acknowledged | let_go <= set(self.server.applied)

    def teardown(self) -> None:
        if not hasattr(self, "server"):
            return
        self.the_connection_is_cut(False)
        self.all_goes_well_for_a_while(0)
        assert self.outbox.entries == self.outbox.quarantine
        for became in (self.given_up, self.lost, self.at_hand):
            assert not became & set(self.server.applied)
        self.each_was_applied_at_most_once_and_in_order()
        self.what_the_device_has_let_go_is_applied()


OutboxAgainstServers.TestCase.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestAnOutboxAgainstServers = OutboxAgainstServers.TestCase
