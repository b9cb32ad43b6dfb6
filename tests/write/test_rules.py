"""What is refused, and what is said of a push's outcome."""

from typing import Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.frames import (
    Ack,
    Applied,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    Error,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
)
from server.write.push import Outcome, OwnedPush, Rejection
from server.write.rules import AHEAD, EARLIEST, SENTENCES, Limits, answer, check

ID, OTHER = UUID(int=1), UUID(int=2)
NOW = 1_800_000_000_000_000
LIMITS = Limits(title=8, content=16, roles=frozenset({"user", "assistant"}))


def with_text(text: str) -> list[Mutation]:
    return [CreateMessage(ID, OTHER, "user", text, NOW), EditMessage(ID, NOW, text, NOW)]


def at(instant: int) -> list[Mutation]:
    return [
        CreateMessage(ID, OTHER, "user", "", instant),
        EditMessage(ID, NOW, "", instant),
        CreateConversation(ID, None, instant),
        RenameConversation(ID, None, instant),
    ]


@pytest.mark.parametrize("instant", [EARLIEST, NOW, NOW + AHEAD])
def test_an_instant_within_its_bounds_is_accepted(instant: int) -> None:
    assert all(check(mutation, LIMITS, NOW) is mutation for mutation in at(instant))


@pytest.mark.parametrize("instant", [EARLIEST - 1, NOW + AHEAD + 1, 0, -1, 1 << 80, -(1 << 80)])
def test_an_instant_beyond_them_is_not(instant: int) -> None:
    assert all(check(mutation, LIMITS, NOW) == Rejection("bad_time") for mutation in at(instant))


@pytest.mark.parametrize("text", ["", "x" * 16, "ä" * 8, "🔑" * 4])
def test_a_content_of_the_longest_length_is_accepted(text: str) -> None:
    assert all(check(mutation, LIMITS, NOW) is mutation for mutation in with_text(text))


@pytest.mark.parametrize("text", ["x" * 17, "ä" * 8 + "x", "🔑" * 4 + "x"])
def test_a_byte_more_is_too_long(text: str) -> None:
    assert all(check(mutation, LIMITS, NOW) == Rejection("too_long") for mutation in with_text(text))


@pytest.mark.parametrize("kind", [CreateConversation, RenameConversation])
def test_titles_have_a_limit_of_their_own(kind: type[CreateConversation | RenameConversation]) -> None:
    assert isinstance(check(kind(ID, "x" * 8, NOW), LIMITS, NOW), kind)
    assert check(kind(ID, "x" * 9, NOW), LIMITS, NOW) == Rejection("too_long")


def test_what_postgres_cannot_keep_is_refused() -> None:
    assert all(check(mutation, LIMITS, NOW) == Rejection("bad_text") for mutation in with_text("a\0b"))


@pytest.mark.parametrize("role", ["", "admin", "User", "user ", "system"])
def test_a_message_is_of_a_role_that_devices_may_write(role: str) -> None:
    assert check(CreateMessage(ID, OTHER, role, "", NOW), LIMITS, NOW) == Rejection("bad_role")


def test_deletions_have_nothing_to_object_to() -> None:
    for mutation in (DeleteMessage(ID, -(1 << 70)), DeleteConversation(ID)):
        assert check(mutation, LIMITS, NOW) is mutation


def test_what_could_not_be_decoded_is_malformed() -> None:
    assert check(None, LIMITS, NOW) == Rejection("malformed")


# ---- Outcomes ------------------------------------------------------------------------------------------------------


Refused = Literal["replaced", "local_only"]


def push(first: int, mutations: int) -> OwnedPush:
    return OwnedPush(
        user=ID,
        client_id=OTHER,
        session="s",
        claims_client_id=True,
        first=first,
        mutations=[DeleteConversation(ID)] * mutations,
    )


def outcome(before: int, after: int, rejected: dict[int, str] | None = None, refusal: Refused | None = None) -> Outcome:
    return Outcome(before, after, 77, rejected or {}, refusal)


def test_every_number_gets_its_result() -> None:
    told = answer(push(3, 4), outcome(before=4, after=6, rejected={3: "bad_id", 6: "too_long"}))
    assert told == Ack(
        results=[
            Rejected(3, "bad_id", SENTENCES["bad_id"]),
            Repeated(4, 77),
            Applied(5, 77),
            Rejected(6, "too_long", SENTENCES["too_long"]),
        ]
    )


@pytest.mark.parametrize(
    ("happened", "code", "expected"),
    [
        (outcome(before=1, after=1), "gap", 2),
        (outcome(before=2, after=2, refusal="replaced"), "replaced", None),
        (outcome(before=2, after=2, refusal="local_only"), "local_only", None),
    ],
)
def test_a_push_without_results_names_what_it_answers(happened: Outcome, code: str, expected: int | None) -> None:
    told = answer(push(3, 4), happened)
    assert isinstance(told, Error)
    assert (told.code, told.answers, told.id, told.expected) == (code, "push", 3, expected)
    assert told.retryable == (code == "gap")


@given(first=st.integers(1, 100), mutations=st.integers(1, 50), before=st.integers(0, 200), done=st.integers(0, 50))
def test_nothing_is_acknowledged_that_was_not_consumed(first: int, mutations: int, before: int, done: int) -> None:
    after = before if first > before + 1 else max(before, min(before + done, first + mutations - 1))
    if outcome(before, after).unfinished(push(first, mutations)):
        assert after < first + mutations - 1
        return
    told = answer(push(first, mutations), outcome(before, after))
    if isinstance(told, Ack):
        assert [result.n for result in told.results] == list(range(first, first + mutations))
        assert all(result.n <= after for result in told.results)
        assert all((result.n <= before) == isinstance(result, Repeated) for result in told.results)
    else:
        assert told.retryable
        assert first + mutations - 1 > after
