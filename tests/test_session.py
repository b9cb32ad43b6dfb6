"""P9, the pure half: whatever comes, in whatever state, has one defined answer, and nothing follows a close."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from protocol.errors import ERRORS, CloseCode
from protocol.frames import Ack, AskPage, Error, Hello, Ping, Pong, Push, Refresh, Refreshed, Stop, Stopped, ToServer
from server.session import (
    PAGES_IN_FLIGHT,
    STOPS_IN_FLIGHT,
    ApplyPush,
    CheckToken,
    Claims,
    Close,
    Command,
    EndStream,
    ReadPage,
    Send,
    Session,
    State,
    Subscribe,
)

ANNE, BERT = UUID(int=1), UUID(int=2)
HELLO = Hello(token="token of hello", client_id=UUID(int=3), cursor=b"here", window={"conversation": 3, "message": 4})
PAGE = AskPage(id=9, kind="conversation")
PUSH = Push(n=4, mutations=[])
ACK = Ack(results=[])
LATER = Error(code="unavailable", message="later", retryable=True, answers="push", id=4)
NOT_NOW = Error(code="unavailable", message="later", retryable=True, answers="stop", id=7)
UNPAID = Error(code="local_only", message="unpaid", retryable=False, answers="push", id=4)
REPLACED = Error(code="replaced", message="replaced", retryable=False, answers="push", id=4)
EXPIRES = 1_000
PROBLEM = "what was wrong"
MUTATIONS = 2

# ---- What may happen to a connection -------------------------------------------------------------------------------

FRAMES: dict[str, ToServer] = {
    "hello": HELLO,
    "page": PAGE,
    "push": PUSH,
    "refresh": Refresh(token="token of refresh"),
    "ping": Ping(),
    "stop": Stop(n=7, kind="m", id=Raw(b"")),
}
REPORTS: dict[str, Callable[[Session], list[Command] | None]] = {
    "malformed": lambda session: session.malformed(PROBLEM),
    "unknown": lambda session: session.unknown(PROBLEM),
    "accepted": lambda session: session.accepted(Claims(ANNE, EXPIRES)),
    "accepted, later": lambda session: session.accepted(Claims(ANNE, EXPIRES + 1)),
    "accepted, another user": lambda session: session.accepted(Claims(BERT, EXPIRES)),
    "refused": lambda session: session.refused(PROBLEM),
    "expired": lambda session: session.expired(),
    "silent": lambda session: session.silent(),
    "flooded": lambda session: session.flooded(),
    "welcomed": lambda session: session.welcomed(),
    "page_answered": lambda session: session.page_answered(),
    "stop_answered": lambda session: session.stop_answered(Stopped(n=7, found=True)),
    "stop_answered, not now": lambda session: session.stop_answered(NOT_NOW),
    "push_answered": lambda session: session.push_answered(ACK),
    "push_answered, not now": lambda session: session.push_answered(LATER),
    "push_answered, replaced": lambda session: session.push_answered(REPLACED),
    "push_answered, local only": lambda session: session.push_answered(UNPAID),
    "ended": lambda session: session.ended(),
}


def happen(session: Session, event: str) -> list[Command]:
    if event in FRAMES:
        return session.receive(FRAMES[event])
    return REPORTS[event](session) or []


# ---- How a session comes to stand where it stands ------------------------------------------------------------------

WELCOME = ["hello", "accepted", "welcomed"]
TO: dict[str, list[str]] = {
    "new": [],
    "checking": ["hello"],
    "joining": ["hello", "accepted"],
    "joining, refreshing": ["hello", "accepted", "refresh"],
    "open": WELCOME,
    "open, refreshing": [*WELCOME, "refresh"],
    "open, a page is read": [*WELCOME, "page"],
    "open, all pages are read": [*WELCOME, *["page"] * PAGES_IN_FLIGHT],
    "open, all stops are carried out": [*WELCOME, *["stop"] * STOPS_IN_FLIGHT],
    "open, a push is written": [*WELCOME, "push"],
    "open, a push was acknowledged": [*WELCOME, "push", "push_answered"],
    "open, a push was put off": [*WELCOME, "push", "push_answered, not now"],
    "closed by the client's fault": ["malformed"],
    "closed while checking": ["hello", "hello"],
    "closed while refreshing": [*WELCOME, "refresh", "expired"],
    "ended": [*WELCOME, "page", "push", "ended"],
}


def session_in(place: str) -> Session:
    session = Session(MUTATIONS)
    for event in TO[place]:
        happen(session, event)
    return session


# ---- The answers ---------------------------------------------------------------------------------------------------


def closes(code: CloseCode, name: str, answers: str | None = None, *, again: bool = False) -> str:
    return f"close {int(code)} {name} answers {answers} retryable {again}"


def says(name: str, answers: str | None = None, *, again: bool) -> str:
    return f"error {name} answers {answers} retryable {again}"


def described(commands: list[Command]) -> str:
    """Commands in the words of the table."""
    match commands:
        case []:
            return "nothing"
        case [Close(error)]:
            code = ERRORS[error.code].close
            assert code is not None
            return closes(code, error.code, error.answers, again=error.retryable)
        case [Send(Error() as error)]:
            return says(error.code, error.answers, again=error.retryable)
        case [Send(Refreshed(expires=expires))]:
            return f"refreshed {expires}"
        case [Send(Pong())]:
            return "pong"
        case [CheckToken(token)]:
            return f"check {token}"
        case [Subscribe(user, client_id, cursor, window)]:
            assert (client_id, cursor, window) == (HELLO.client_id, HELLO.cursor, HELLO.window)
            return f"subscribe {user.int}"
        case [ReadPage(ask)]:
            assert ask is PAGE
            return "read"
        case [ApplyPush(push, claims)]:
            assert push is PUSH
            return "write, taking the client_id" if claims else "write"
        case [Send(Ack())]:
            return "ack"
        case [EndStream(stop)]:
            return f"stop {stop.n}"
        case [Send(Stopped(n=n))]:
            return f"stopped {n}"
    raise AssertionError(commands)


BAD = CloseCode.BAD_FRAME
HELLO_FIRST = closes(BAD, "hello_first")
FLOODED = closes(CloseCode.TOO_MANY_FRAMES, "too_many_frames", again=True)
SECOND_HELLO = closes(BAD, "second_hello", "hello")
BAD_FRAME = closes(BAD, "bad_frame")
UNKNOWN = says("unknown_frame", again=False)
TOO_MANY = says("too_many_pages", "page", again=True)
EXPIRED = closes(CloseCode.TOKEN_EXPIRED, "token_expired", again=True)
SILENT = closes(CloseCode.HELLO_TIMEOUT, "hello_timeout", again=True)
REFUSED_HELLO = closes(CloseCode.TOKEN_REFUSED, "token_refused", "hello", again=True)
REFUSED_REFRESH = says("token_refused", "refresh", again=True)
ANOTHER_USER = closes(CloseCode.TOKEN_REFUSED, "token_refused", "refresh", again=True)
TOO_MANY_PUSHES = says("too_many_pushes", "push", again=True)
TOO_MANY_STOPS = says("slow_down", "stop", again=True)
TAKE = "write, taking the client_id"
UNASKED = {
    "welcomed": "nothing",
    "page_answered": "nothing",
    "stop_answered": "stopped 7",
    "stop_answered, not now": says("unavailable", "stop", again=True),
    "push_answered": "ack",
    "push_answered, not now": says("unavailable", "push", again=True),
    "push_answered, replaced": closes(CloseCode.REPLACED, "replaced", "push"),
    "push_answered, local only": closes(CloseCode.LOCAL_ONLY, "local_only", "push"),
}
OPEN = {
    "hello": SECOND_HELLO,
    "page": "read",
    "push": TAKE,
    "refresh": "check token of refresh",
    "ping": "pong",
    "stop": "stop 7",
    "malformed": BAD_FRAME,
    "unknown": UNKNOWN,
    "accepted": f"refreshed {EXPIRES}000000",
    "accepted, later": f"refreshed {EXPIRES + 1}000000",
    "accepted, another user": ANOTHER_USER,
    "refused": REFUSED_REFRESH,
    "expired": EXPIRED,
    "silent": SILENT,
    "flooded": FLOODED,
    **UNASKED,
    "ended": "nothing",
}
NOTHING = dict.fromkeys([*FRAMES, *REPORTS], "nothing")
TABLE: dict[str, dict[str, str]] = {
    "new": {
        "hello": "check token of hello",
        "page": closes(BAD, "hello_first", "page"),
        "push": closes(BAD, "hello_first", "push"),
        "refresh": closes(BAD, "hello_first", "refresh"),
        "ping": closes(BAD, "hello_first", "ping"),
        "stop": closes(BAD, "hello_first", "stop"),
        "malformed": BAD_FRAME,
        "unknown": HELLO_FIRST,
        "accepted": "nothing",
        "accepted, later": "nothing",
        "accepted, another user": "nothing",
        "refused": "nothing",
        "expired": EXPIRED,
        "silent": SILENT,
        "flooded": FLOODED,
        **UNASKED,
        "ended": "nothing",
    },
    "checking": {
        "hello": SECOND_HELLO,
        "page": TOO_MANY,
        "push": TOO_MANY_PUSHES,
        "refresh": REFUSED_REFRESH,
        "ping": "pong",
        "stop": TOO_MANY_STOPS,
        "malformed": BAD_FRAME,
        "unknown": UNKNOWN,
        "accepted": "subscribe 1",
        "accepted, later": "subscribe 1",
        "accepted, another user": "subscribe 2",
        "refused": REFUSED_HELLO,
        "expired": EXPIRED,
        "silent": SILENT,
        "flooded": FLOODED,
        **UNASKED,
        "ended": "nothing",
    },
    "joining": {**OPEN, "page": TOO_MANY, "push": TOO_MANY_PUSHES, "stop": TOO_MANY_STOPS},
    "joining, refreshing": {
        **OPEN,
        "page": TOO_MANY,
        "push": TOO_MANY_PUSHES,
        "stop": TOO_MANY_STOPS,
        "refresh": REFUSED_REFRESH,
    },
    "open": OPEN,
    "open, refreshing": {**OPEN, "refresh": REFUSED_REFRESH},
    "open, a page is read": OPEN,
    "open, all pages are read": {**OPEN, "page": TOO_MANY},
    "open, all stops are carried out": {**OPEN, "stop": TOO_MANY_STOPS},
    "open, a push is written": {**OPEN, "push": TOO_MANY_PUSHES},
    "open, a push was acknowledged": {**OPEN, "push": "write"},
    "open, a push was put off": OPEN,
    "closed by the client's fault": NOTHING,
    "closed while checking": NOTHING,
    "closed while refreshing": NOTHING,
    "ended": NOTHING,
}


def test_the_table_names_every_state_every_frame_and_every_report() -> None:
    public = {name for name in vars(Session) if not name.startswith("_")} - {
        "receive",
        "claims",
        "client_id",
        "generation",
        "schema",
        "state",
        "streams",
    }
    assert {name.partition(",")[0] for name in REPORTS} == public
    assert {type(frame) for frame in FRAMES.values()} == set(ToServer.__args__)
    assert {session_in(place).state for place in TABLE} == set(State)
    assert TABLE.keys() == TO.keys()
    for place in TABLE:
        assert TABLE[place].keys() == FRAMES.keys() | REPORTS.keys(), place


@pytest.mark.parametrize("event", [*FRAMES, *REPORTS])
@pytest.mark.parametrize("place", TO)
def test_whatever_happens_in_whatever_state_has_its_answer(place: str, event: str) -> None:
    assert described(happen(session_in(place), event)) == TABLE[place][event]


@pytest.mark.parametrize("event", [*FRAMES, *REPORTS])
@pytest.mark.parametrize("place", TO)
def test_a_session_is_closed_exactly_when_it_said_so_or_was_told_so(place: str, event: str) -> None:
    session = session_in(place)
    was_closed = session.state is State.CLOSED
    answer = described(happen(session, event))
    assert (session.state is State.CLOSED) == (was_closed or event == "ended" or answer.startswith("close"))


# ---- What a table of single steps does not show --------------------------------------------------------------------


def test_the_user_is_known_only_once_the_token_is_accepted() -> None:
    assert session_in("checking").claims is None
    assert session_in("open").claims == Claims(ANNE, EXPIRES)


def test_a_refused_token_leaves_the_one_in_use() -> None:
    session = session_in("open, refreshing")
    happen(session, "refused")
    assert session.claims == Claims(ANNE, EXPIRES)


def test_a_later_token_moves_the_end_and_an_earlier_one_does_not_move_it_back() -> None:
    session = session_in("open, refreshing")
    happen(session, "accepted, later")
    assert session.claims == Claims(ANNE, EXPIRES + 1)
    happen(session, "refresh")
    assert described(happen(session, "accepted")) == f"refreshed {EXPIRES + 1}000000"
    assert session.claims == Claims(ANNE, EXPIRES + 1)


@pytest.mark.parametrize("answer", ["accepted", "refused"])
def test_after_a_refresh_was_answered_another_one_may_come(answer: str) -> None:
    session = session_in("open, refreshing")
    happen(session, answer)
    assert described(happen(session, "refresh")) == "check token of refresh"


def test_a_push_has_no_more_mutations_than_the_welcome_said() -> None:
    most = Push(n=1, mutations=[Raw(b"")] * MUTATIONS)
    assert session_in("open").receive(most) == [ApplyPush(most, claims_client_id=True)]
    more = Push(n=1, mutations=[Raw(b"")] * (MUTATIONS + 1))
    assert described(session_in("open").receive(more)) == BAD_FRAME


def test_an_answered_page_makes_room_for_another_one() -> None:
    session = session_in("open, all pages are read")
    happen(session, "page_answered")
    assert described(happen(session, "page")) == "read"
    assert described(happen(session, "page")) == TOO_MANY


def test_a_page_that_is_refused_is_named_by_its_id() -> None:
    (command,) = happen(session_in("open, all pages are read"), "page")
    assert isinstance(command, Send)
    assert isinstance(command.frame, Error)
    assert command.frame.id == PAGE.id


@pytest.mark.parametrize("place", TO)
@pytest.mark.parametrize("event", ["hello", "refresh"])
def test_no_error_repeats_a_token(place: str, event: str) -> None:
    for command in happen(session_in(place), event):
        if isinstance(command, Close) or (isinstance(command, Send) and isinstance(command.frame, Error)):
            assert "token of" not in str(command)


# ---- Any order of events -------------------------------------------------------------------------------------------


@dataclass
class Edge:
    """Does what the edge does: carries out the commands, and reports only what it was asked for."""

    session: Session = field(default_factory=lambda: Session(MUTATIONS))
    closed: bool = False
    subscribed: int = 0
    reading: int = 0
    writing: int = 0
    checks: int = 0

    def carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            assert not self.closed, f"{command} after a close"
            match command:
                case Close():
                    self.closed = True
                case Subscribe():
                    self.subscribed += 1
                case ReadPage():
                    assert self.subscribed, "a page is read for nobody"
                    self.reading += 1
                case ApplyPush():
                    assert self.subscribed, "nobody's push is written"
                    self.writing += 1
                case CheckToken():
                    self.checks += 1
                case Send(Refreshed()):
                    assert self.subscribed
        assert self.subscribed <= 1
        assert self.reading <= PAGES_IN_FLIGHT
        assert self.writing <= 1
        assert self.checks <= 1

    def step(self, event: str) -> None:
        if event.partition(",")[0] in ("accepted", "refused"):
            if not self.checks:
                return
            self.checks -= 1
        if event == "page_answered":
            if not self.reading:
                return
            self.reading -= 1
        if event.partition(",")[0] == "push_answered":
            if not self.writing:
                return
            self.writing -= 1
        if event == "welcomed" and not self.subscribed:
            return
        self.carry_out(happen(self.session, event))
        if event == "ended":
            self.closed = True


@given(st.lists(st.sampled_from([*FRAMES, *REPORTS]), max_size=60))
def test_in_any_order_of_events_nothing_raises_and_nothing_follows_a_close(events: list[str]) -> None:
    edge = Edge()
    for event in events:
        edge.step(event)


@given(st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_a_long_life_keeps_its_bounds(dice: random.Random) -> None:
    """Without the events that end a connection, which would make most random lives short."""
    edge = Edge()
    for event in WELCOME:
        edge.step(event)
    deadly = {
        "hello",
        "malformed",
        "accepted, another user",
        "push_answered, replaced",
        "push_answered, local only",
        "expired",
        "silent",
        "flooded",
        "ended",
    }
    lively: list[Any] = [event for event in [*FRAMES, *REPORTS] if event not in deadly]
    for _ in range(200):
        edge.step(dice.choice(lively))
    assert not edge.closed
    assert edge.session.state is State.OPEN


@given(st.lists(st.sampled_from([*FRAMES, *REPORTS]), max_size=30))
def test_reports_that_nobody_asked_for_raise_nothing_either(events: list[str]) -> None:
    session, closed = Session(MUTATIONS), False
    for event in events:
        commands = happen(session, event)
        assert not (closed and commands)
        closed = closed or event == "ended" or any(isinstance(command, Close) for command in commands)
