"""Streams that send together: who is in the next request, and when it begins."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.stream_group import (
    APPENDS,
    AT_ONCE,
    CHARACTERS,
    EVERY,
    LOOK_EVERY,
    SIGN_AFTER,
    Batch,
    Group,
    Member,
    pause,
)
from atlas_sync.stream_text import PART, Append, StreamError, StreamText

NOW = 1000.0


class Together:
    """A group, with what its members were told."""

    def __init__(self) -> None:
        self.group = Group()
        self.told: list[str] = []
        self.members: list[Member] = []

    def member(self, name: str = "a", patience: float = 60.0) -> Member:
        member = Member(name, StreamText(), NOW, patience=patience, changed=lambda: self.told.append(name))
        self.members.append(member)
        self.group.join(member, NOW)
        return member

    def write(self, member: Member, text: str) -> bool:
        member.text.write(text)
        return self.group.wrote(member)

    def answer(self, batch: Batch, now: float, **others: Any) -> None:
        """As a server that accepts everything, but what is said of `others`."""
        good = [(200, "open", append.offset + len(append.text)) for _, append in batch]
        answers = [others.get(m.stream, each) for (m, _), each in zip(batch, good, strict=True)]
        self.group.answered(batch, answers, now, 0.5)


def names(batch: Batch) -> list[str]:
    return [member.stream for member, _ in batch]


@pytest.fixture
def together() -> Together:
    return Together()


def test_the_first_text_is_sent_at_once_and_the_next_40_ms_after_it(together: Together) -> None:
    member = together.member()
    assert together.write(member, "a")
    assert together.group.next_at() == -math.inf
    batch = together.group.take(NOW)
    assert [append for _, append in batch] == [Append(0, "a")]
    together.write(member, "b")
    together.answer(batch, NOW + 0.01)
    assert together.group.next_at() == NOW + EVERY
    assert together.group.take(NOW + 0.039) == []
    together.write(member, "c")
    assert [append for _, append in together.group.take(NOW + EVERY)] == [Append(1, "bc")]


def test_streams_share_a_request(together: Together) -> None:
    for name in "abc":
        together.write(together.member(name), name)
    assert names(together.group.take(NOW)) == ["a", "b", "c"]


def test_only_the_first_that_is_ready_wakes_the_sender(together: Together) -> None:
    a, b = together.member("a"), together.member("b")
    assert [together.write(a, "a"), together.write(a, "a"), together.write(b, "b")] == [True, False, False]


def test_a_stream_whose_append_is_under_way_waits_and_others_do_not(together: Together) -> None:
    a, b = together.member("a"), together.member("b")
    together.write(a, "a")
    together.group.take(NOW)
    together.write(a, "a")
    together.write(b, "b")
    assert names(together.group.take(NOW + EVERY)) == ["b"]


def test_so_many_requests_are_under_way_and_no_more(together: Together) -> None:
    batches = []
    for n in range(AT_ONCE + 1):
        together.write(together.member(str(n)), "x")
        batches.append(together.group.take(NOW + n))
    assert [len(batch) for batch in batches] == [1] * AT_ONCE + [0]
    assert together.group.next_at() == math.inf
    together.answer(batches[0], NOW + 9)
    assert together.group.next_at() < NOW + 9


def test_two_writers_of_one_stream_are_not_in_one_request(together: Together) -> None:
    for member in (together.member("a"), together.member("a"), together.member("b")):
        together.write(member, "x")
    assert [names(together.group.take(NOW)) for _ in range(2)] == [["a", "b"], ["a"]]


def test_a_request_has_at_most_so_many_appends_and_what_is_left_follows_at_once(together: Together) -> None:
    for n in range(APPENDS + 1):
        together.write(together.member(str(n)), "x")
    assert len(together.group.take(NOW)) == APPENDS
    assert names(together.group.take(NOW)) == [str(APPENDS)]


def test_a_request_has_at_most_so_many_characters(together: Together) -> None:
    for n in range(10):
        together.write(together.member(str(n)), "x" * PART)
    batch = together.group.take(NOW)
    assert sum(len(append.text) for _, append in batch) == CHARACTERS
    assert len(together.group.take(NOW)) == len(batch)


def test_a_silent_stream_gives_a_sign_of_life(together: Together) -> None:
    member = together.member()
    batches: list[tuple[float, list[Append]]] = []
    at = NOW
    while len(batches) < 3:
        at = together.group.next_at()
        if batch := together.group.take(at):
            batches.append((at, [append for _, append in batch]))
            together.answer(batch, at)
    assert [appends for _, appends in batches] == [[Append(0, "")]] * 3
    times = [NOW, *(each for each, _ in batches)]
    assert all(SIGN_AFTER <= b - a <= SIGN_AFTER + LOOK_EVERY for a, b in pairwise(times))
    assert member.text.fault is None


def test_what_had_no_answer_is_sent_again_after_a_pause_that_grows(together: Together) -> None:
    member = together.member()
    together.write(member, "a")
    now, pauses = NOW, []
    for _ in range(8):
        batch = together.group.take(now)
        assert [append for _, append in batch] == [Append(0, "a")]
        together.group.lost(batch, now, 1.0)
        pauses.append(together.group.next_at() - now)
        now = together.group.next_at()
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.1)
    assert pauses[-1] == pytest.approx(2.0)


def test_while_the_server_is_away_one_request_at_a_time_asks_whether_it_is_back(together: Together) -> None:
    a, b = together.member("a"), together.member("b")
    together.write(a, "a")
    together.group.lost(together.group.take(NOW), NOW, 0.5)
    at = together.group.next_at()
    batch = together.group.take(at)
    together.write(b, "b")
    assert together.group.next_at() == math.inf
    together.answer(batch, at)
    assert names(together.group.take(at + EVERY)) == ["b"]


def test_the_server_says_how_long_to_wait(together: Together) -> None:
    together.write(together.member(), "a")
    together.group.lost(together.group.take(NOW), NOW, 0.5, retry_after=7.0)
    assert together.group.next_at() == NOW + 7


def test_one_stream_that_must_wait_does_not_hold_up_the_others(together: Together) -> None:
    a, b = together.member("a"), together.member("b")
    together.write(a, "a")
    together.write(b, "b")
    together.answer(together.group.take(NOW), NOW, a=(429, "open", 0))
    together.write(b, "b")
    assert names(together.group.take(NOW + EVERY)) == ["b"]
    assert names(together.group.take(NOW + 1)) == ["a"]


@pytest.mark.parametrize("answer", [None, "x", [], ["200"], [200], [200, "open"], [200, 5, "open"], [200, "open", "5"]])
def test_an_answer_that_is_none_does_not_stop_the_others(together: Together, answer: Any) -> None:
    a, b = together.member("a"), together.member("b")
    together.write(a, "a")
    together.write(b, "b")
    together.answer(together.group.take(NOW), NOW, a=answer)
    assert (a.text.confirmed, b.text.confirmed) == (0, 1)
    assert together.told == ["a", "b"]


def test_a_stream_that_had_no_answer_for_long_is_given_up_and_the_others_are_not(together: Together) -> None:
    a, b = together.member("a", patience=5.0), together.member("b", patience=50.0)
    together.write(a, "a secret")
    together.write(b, "b")
    together.group.lost(together.group.take(NOW), NOW + 6, 0.5)
    assert isinstance(a.text.fault, StreamError)
    assert "secret" not in str(a.text.fault)
    assert b.text.fault is None
    assert names(together.group.take(NOW + 7)) == ["b"]


def test_a_stream_that_is_busy_for_long_is_given_up(together: Together) -> None:
    a = together.member("a", patience=5.0)
    together.write(a, "a")
    together.answer(together.group.take(NOW), NOW + 6, a=(503, None, None))
    assert isinstance(a.text.fault, StreamError)


def test_a_stream_that_ended_is_in_no_request_any_more(together: Together) -> None:
    a = together.member("a")
    together.write(a, "a")
    together.answer(together.group.take(NOW), NOW, a=(409, "stopped", 0))
    assert together.told == ["a"]
    assert together.group.next_at() == math.inf


def test_a_refused_request_ends_its_streams(together: Together) -> None:
    a = together.member("a")
    together.write(a, "a")
    together.group.refused(together.group.take(NOW), StreamError("send a token", 401))
    assert isinstance(a.text.fault, StreamError)
    assert a.text.fault.status == 401
    assert together.told == ["a"]


def test_a_stream_that_left_while_its_append_was_under_way_does_not_come_back(together: Together) -> None:
    a = together.member("a")
    together.write(a, "a")
    batch = together.group.take(NOW)
    together.write(a, "b")
    together.group.leave(a)
    together.answer(batch, NOW)
    assert together.group.take(NOW + 1) == []


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["write", "take", "answer", "lose", "busy"])), max_size=60)
)
def test_no_text_is_forgotten_whatever_the_order(steps: list[tuple[int, str]]) -> None:
    together = Together()
    members = [together.member(str(n), patience=math.inf) for n in range(5)]
    under_way: list[Batch] = []
    now = NOW
    for who, what in steps:
        now += 0.02
        match what:
            case "write":
                together.write(members[who], "x")
            case "take":
                under_way += [batch] if (batch := together.group.take(now)) else []
            case "answer" if under_way:
                together.answer(under_way.pop(), now)
            case "lose" if under_way:
                together.group.lost(under_way.pop(), now, 0.5)
            case "busy" if under_way:
                together.group.answered(batch := under_way.pop(), [(503, None, None)] * len(batch), now, 0.5)
    for batch in under_way:
        together.answer(batch, now)
    for _ in range(100):
        now += 1.0
        if batch := together.group.take(now):
            together.answer(batch, now)
    assert [member.text.unsent for member in members] == [0] * 5


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_is_never_longer_than_two_seconds(failures: int, rnd: float) -> None:
    assert 0.05 <= pause(failures, rnd) <= 2.0
