"""The hub forgets nobody who is behind, and nobody is told that they have everything while they lack what they are to
have, whatever order things happen in."""

from typing import Any
from uuid import UUID, uuid4

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from protocol.cursor import Position
from server.feed.hub import Cohort, Hub, Lane, Phase, Reader, State
from tests.support.sink import FakeSink

USERS = [str(UUID(int=i)) for i in range(3)]


class HubMachine(RuleBasedStateMachine):
    """Feeds move, doorbells ring or are lost, sockets come, fill, drain and go, reads take their time."""

    readers: Bundle[Reader] = Bundle("readers")
    reads: Bundle[tuple[Cohort, int]] = Bundle("reads")
    asked: Bundle[list[tuple[Cohort, int]]] = Bundle("asked")
    moves: Bundle[tuple[str, int]] = Bundle("moves")

    @initialize()
    def begin(self) -> None:
        self.woken: set[Lane] = set()
        self.hub = Hub(self.woken.add)
        self.heads = dict.fromkeys(USERS, 0)
        self.alive: set[Reader] = set()
        self.reading: set[Cohort] = set()
        self.due: dict[Reader, int] = {}
        """What each reader is to have before it is told `live`."""
        self.untold: set[Reader] = set()
        """Those that are to be told `live`."""

    @rule(target=readers, user=st.sampled_from(USERS))
    def connect(self, user: str) -> Reader:
        reader = self.hub.add(user, uuid4(), FakeSink(), {})
        self.hub.place(reader, Position(0), Phase.HELLO)
        self.alive.add(reader)
        self.is_due(reader)
        return reader

    @rule(reader=consumes(readers))
    def disconnect(self, reader: Reader) -> None:
        self.hub.remove(reader)
        self.alive.discard(reader)
        self.untold.discard(reader)

    @rule(user=st.sampled_from(USERS))
    def prove(self, user: str) -> None:
        """What is committed by now is to be with all of the user's devices."""
        for reader in self.alive:
            if reader.feed.user == user:
                self.hub.prove(reader)
                self.is_due(reader)

    def is_due(self, reader: Reader) -> None:
        self.due[reader] = self.heads[reader.feed.user]
        self.untold.add(reader)

    def told(self, reader: Reader) -> None:
        """It is sent `live`."""
        assert self.socket(reader).at.seq >= self.due[reader]
        self.untold.discard(reader)

    @rule(user=st.sampled_from(USERS), heard=st.booleans())
    def commit(self, user: str, heard: bool) -> None:
        self.heads[user] += 1
        if heard:
            self.hub.ring(user, self.heads[user])

    @rule(target=moves, user=st.sampled_from(USERS))
    def commit_into_the_stream(self, user: str) -> Any:
        self.heads[user] += 1
        return user, self.heads[user]

    @rule(move=moves)
    def carry(self, move: tuple[str, int]) -> None:
        """At any time, in any order, again and again, or never."""
        user, seq = move
        if (cohort := self.hub.live_at(user, seq - 1)) is not None:
            for reader in self.hub.advance(cohort, Position(seq), more=False):
                assert self.socket(reader).at == Position(seq - 1)
                self.socket(reader).at = Position(seq)
        self.hub.ring(user, seq)

    @rule(reader=readers)
    def fill(self, reader: Reader) -> None:
        if not self.socket(reader).full:
            self.socket(reader).full = True
            self.hub.stall(reader)

    @rule(reader=readers)
    def drain(self, reader: Reader) -> None:
        if self.socket(reader).full:
            self.socket(reader).full = False
            self.hub.resume(reader)

    @rule(target=reads, lane=st.sampled_from(Lane))
    def read(self, lane: Lane) -> Any:
        taken = self.hub.take(lane, 1)
        if not taken:
            return (None, 0)
        self.reading.add(taken[0])
        # The database snapshot of the read: what commits later is not in it.
        return (taken[0], self.heads[taken[0].feed.user])

    @rule(read=consumes(reads), fails=st.booleans(), more=st.booleans())
    def deliver(self, read: tuple[Cohort | None, int], fails: bool, more: bool) -> None:
        cohort, head = read
        if cohort is None:
            return
        self.reading.discard(cohort)
        if fails:
            self.hub.fail([cohort])
            return
        behind = head > cohort.position.seq
        to = Position(cohort.position.seq + 1 if more and behind else head)
        before = {reader: reader.cohort.position for reader in cohort.readers if reader.cohort is not None}
        phase, more = cohort.phase, to.seq < head or cohort.again
        readers = self.hub.advance(cohort, to, more=more)
        for reader in readers:
            # Only readers that stood where the read began are given what it found.
            assert before[reader] == self.socket(reader).at
            self.socket(reader).at = to
            if phase is not Phase.LIVE and not more:
                self.told(reader)

    @rule(read=consumes(reads), lag=st.integers(0, 3))
    def deliver_from_a_replica(self, read: tuple[Cohort | None, int], lag: int) -> None:
        cohort, head = read
        if cohort is None:
            return
        self.reading.discard(cohort)
        if cohort.needs_primary:
            self.hub.fail([cohort])
        elif head - lag < cohort.position.seq:
            self.hub.leave_to_primary(cohort)
            assert cohort.needs_primary
        else:
            to = Position(head - lag)
            for reader in self.hub.advance(cohort, to, more=cohort.again, confirmed=False):
                assert not reader.live
                self.socket(reader).at = to

    @rule(target=asked)
    def ask_the_primary(self) -> Any:
        return [(cohort, self.heads[cohort.feed.user]) for cohort in self.hub.take_confirming(2)]

    @rule(answers=consumes(asked), away=st.booleans())
    def answer(self, answers: list[tuple[Cohort, int]], away: bool) -> None:
        for cohort, head in answers:
            for reader in self.hub.confirm(cohort, None if away else Position(head)):
                assert not away
                assert reader.live
                assert self.socket(reader).at == Position(head)
                self.told(reader)

    @rule()
    def sweep(self) -> None:
        for user, head in self.heads.items():
            self.hub.compare(user, Position(head))

    @invariant()
    def the_readers_are_counted(self) -> None:
        assert self.hub.count == len(self.alive) == len(list(self.hub.readers()))

    @invariant()
    def nobody_who_lacks_something_may_get_a_heartbeat_that_says_otherwise(self) -> None:
        for reader in self.alive:
            assert not reader.live or self.socket(reader).at.seq >= self.due[reader]

    @invariant()
    def a_position_is_what_was_written(self) -> None:
        for reader in self.alive:
            if reader.cohort is not None:
                assert reader.cohort.position == self.socket(reader).at
                assert reader in reader.cohort.readers

    @invariant()
    def nobody_full_is_read_for(self) -> None:
        for reader in self.alive:
            if self.socket(reader).full:
                assert reader.cohort is None
                assert reader.stalled is not None

    def teardown(self) -> None:
        """When everything settles, everybody has everything."""
        for reader in self.alive:
            if self.socket(reader).full:
                self.socket(reader).full = False
                self.hub.resume(reader)
        self.hub.fail(self.reading)
        self.sweep()
        for feed in self.hub.users():
            for cohort in list(
                self.hub._feeds[feed].cohorts.values()
            ):  # whose question to the primary was not answered
                for reader in self.hub.confirm(cohort, Position(self.heads[feed])):
                    self.told(reader)
        for _ in range(1_000):
            taken = [cohort for lane in Lane for cohort in self.hub.take(lane, 10)]
            if not taken:
                break
            for cohort in taken:
                to, phase = Position(self.heads[cohort.feed.user]), cohort.phase
                for reader in self.hub.advance(cohort, to, more=False):
                    self.socket(reader).at = to
                    if phase is not Phase.LIVE:
                        self.told(reader)
        for reader in self.alive:
            assert self.socket(reader).at == Position(self.heads[reader.feed.user])
            assert reader.live
            assert reader.cohort is not None
            assert reader.cohort.state is State.IDLE
        assert not self.untold
        assert {reader.feed.user for reader in self.alive} == set(self.hub.users())

    @staticmethod
    def socket(reader: Reader) -> FakeSink:
        assert isinstance(reader.sink, FakeSink)
        return reader.sink


TestHub = HubMachine.TestCase
TestHub.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_doorbell_for_nobody_here_is_ignored() -> None:
    assert not Hub(lambda lane: None).ring(USERS[0], 5)


def test_a_doorbell_that_was_made_up_costs_one_read_and_no_more() -> None:
    hub = Hub(lambda lane: None)
    reader = hub.add(USERS[0], uuid4(), FakeSink(), {})
    hub.place(reader, Position(7), Phase.HELLO)
    (cohort,) = hub.take(Lane.CATCH_UP, 1)
    hub.advance(cohort, Position(7), more=False)
    hub.ring(USERS[0], 1 << 60)
    (cohort,) = hub.take(Lane.LIVE, 1)
    hub.advance(cohort, Position(7), more=False)
    assert not hub.take(Lane.LIVE, 1)


def test_a_read_that_does_not_show_what_the_wal_has_is_not_the_last_one() -> None:
    seen: list[tuple[str, int]] = []
    hub = Hub(lambda _: None, lambda user, seq: seen.append((user, seq)))
    hub.place(hub.add(USERS[0], uuid4(), FakeSink(), {}), Position(7), Phase.HELLO)
    hub.expected.note(USERS[0], 9)
    for head, expected in ((7, [(USERS[0], 9)]), (8, [(USERS[0], 9)]), (9, [])):
        (cohort,) = hub.take(Lane.CATCH_UP, 1) or hub.take(Lane.LIVE, 1)
        seen.clear()
        hub.advance(cohort, Position(head), more=False)
        assert seen == expected
        hub.ring(USERS[0], 9)


def test_what_is_expected_ends_once_postgres_shows_it() -> None:
    hub = Hub(lambda _: None)
    hub.expected.note(USERS[0], 9)
    hub.compare(USERS[0], Position(8))
    assert hub.expected.of(USERS[0]) == 9
    hub.compare(USERS[0], Position(9))
    assert hub.expected.of(USERS[0]) == 0


def test_readers_at_one_position_are_read_for_once_and_move_together() -> None:
    hub = Hub(lambda lane: None)
    for _ in range(100):
        hub.place(hub.add(USERS[0], uuid4(), FakeSink(), {}), Position(7), Phase.HELLO)
    (cohort,) = hub.take(Lane.CATCH_UP, 10)
    assert len(hub.advance(cohort, Position(8), more=False)) == 100


def test_the_connection_of_a_device_is_found_until_it_ends() -> None:
    hub, client_id = Hub(lambda _: None), uuid4()
    assert hub.of_client(USERS[0], client_id) is None
    reader = hub.add(USERS[0], client_id, FakeSink(), {})
    hub.add(USERS[0], uuid4(), FakeSink(), {})
    assert hub.of_client(USERS[0], client_id) is reader
    assert hub.of_client(USERS[1], client_id) is None
    hub.remove(reader)
    assert hub.of_client(USERS[0], client_id) is None


def a_hub(*positions: int, phase: Phase = Phase.CATCHING_UP) -> tuple[Hub, list[Reader]]:
    """One user's readers at these positions, each to be read for."""
    hub = Hub(lambda lane: None)
    readers = [hub.add(USERS[0], uuid4(), FakeSink(), {}) for _ in positions]
    for reader, seq in zip(readers, positions, strict=True):
        hub.place(reader, Position(seq), phase)
    return hub, readers


def a_live_reader(seq: int) -> tuple[Hub, Reader]:
    hub, (reader,) = a_hub(seq)
    (cohort,) = hub.take(Lane.CATCH_UP, 1)
    hub.advance(cohort, Position(seq), more=False)
    assert reader.live
    return hub, reader


def test_a_reader_that_is_to_be_proved_is_live_no_more_until_it_was_read_for_and_does_not_wait_for_others() -> None:
    hub, reader = a_live_reader(7)
    hub.prove(reader)
    assert not reader.live
    assert not hub.waiting(Lane.CATCH_UP)
    (cohort,) = hub.take(Lane.LIVE, 1)
    assert cohort.needs_primary
    assert hub.advance(cohort, Position(8), more=False) == [reader]
    assert reader.live


def test_a_read_that_had_begun_proves_nothing_for_who_comes_meanwhile() -> None:
    hub, (first,) = a_hub(7)
    (cohort,) = hub.take(Lane.CATCH_UP, 1)
    second = hub.add(USERS[0], uuid4(), FakeSink(), {})
    hub.place(second, Position(7), Phase.CATCHING_UP)
    assert cohort.again
    hub.advance(cohort, Position(8), more=cohort.again)
    assert not first.live
    assert hub.take(Lane.CATCH_UP, 1) == [second.cohort]
    assert not cohort.again


def test_a_read_that_had_begun_proves_nothing_for_who_reaches_its_beginning_meanwhile() -> None:
    hub, (ahead, behind) = a_hub(7, 5)
    (there, cohort) = hub.take(Lane.CATCH_UP, 2)
    hub.prove(behind)
    hub.advance(cohort, Position(7), more=cohort.again)
    assert behind.cohort is ahead.cohort is there
    assert there.again


def test_a_question_that_was_asked_before_proves_nothing() -> None:
    for comes in (False, True):
        hub, (first,) = a_hub(7)
        (cohort,) = hub.take(Lane.CATCH_UP, 1)
        hub.advance(cohort, Position(7), more=False, confirmed=False)
        assert hub.take_confirming(1) == [cohort]
        if comes:
            second = hub.add(USERS[0], uuid4(), FakeSink(), {})
            hub.place(second, Position(5), Phase.CATCHING_UP)
            (other,) = hub.take(Lane.CATCH_UP, 1)
            hub.advance(other, Position(7), more=False, confirmed=False)
            assert second.cohort is cohort
        else:
            hub.prove(first)
        assert hub.confirm(cohort, Position(7)) == []
        if comes:
            assert hub.take_confirming(1) == [cohort]
            assert set(hub.confirm(cohort, Position(7))) == {first, second}
        else:
            assert hub.take(Lane.CATCH_UP, 1) == [cohort]
            assert cohort.needs_primary
