"""The state machine of a connection: the frames that it sends, and the events that it makes of received frames."""

import base64
import json
from uuid import UUID

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atlas_sync.chat import create_message, delete_conversation, rename_conversation
from atlas_sync.checks import ProtocolError
from atlas_sync.codec import CODECS, Encoding
from atlas_sync.mutation import Applied, Mutation, Rejected, Repeated
from atlas_sync.rows import Deleted, Row
from atlas_sync.schema import Schema
from atlas_sync.session import (
    ALLOWED,
    Acknowledged,
    Batch,
    ErrorAnswer,
    Event,
    Live,
    PageArrived,
    Pong,
    Refreshed,
    SchemaArrived,
    Session,
    State,
    StateError,
    Welcomed,
)
from tests.atlas_sync.chat_rows import conversation_row, message_row, profile_row
from tests.atlas_sync.second_schema import SECOND

DEVICE, USER, A, B, M, N = (UUID(int=n) for n in range(1, 7))
K0, K1, K2, K3 = b"k0", b"k1", b"k2", b"k3"


# ---- The connection ------------------------------------------------------------------------------------------------

CHAT = Schema.chat()
LIMITS = {"frame_bytes": 262_144, "page_rows": 1000, "pages_in_flight": 4, "mutations": 2}
WELCOME = {
    "t": "welcome",
    "session": "s",
    "epoch": "e",
    "schema": CHAT.hash,
    "tier": "pro",
    "mode": "resumed",
    "time": 1,
    "expires": 2,
    "keepalive": 25_000,
    "limits": LIMITS,
}
SNAPSHOT = {**WELCOME, "mode": "snapshot", "why": "new"}
FRAMES: dict[str, dict[str, object]] = {
    "welcome": WELCOME,
    "schema": {"t": "schema", **CHAT.plain(), "hash": "another"},
    "snapshot": {"t": "snapshot", "as_of": 7, "rows": [], "cursor": K1},
    "changes": {"t": "changes", "from": K0, "to": K1, "rows": []},
    "live": {"t": "live", "cursor": K0, "seq": 7},
    "page": {"t": "page", "id": 1, "as_of": 7, "rows": [], "more": False},
    "ack": {"t": "ack", "results": [["applied", 1, 7]]},
    "refreshed": {"t": "refreshed", "expires": 9},
    "error": {"t": "error", "code": "internal", "message": "m", "retryable": True},
    "pong": {"t": "pong"},
    "tomorrow": {"t": "tomorrow", "rows": 1},
}


def pack(frame: object) -> bytes:
    packed: bytes = msgpack.packb(frame)
    return packed


def receive(session: Session, frame: dict[str, object]) -> Event:
    event = session.receive(pack(frame))
    assert event is not None
    return event


def new(cursor: bytes | None = K0, encoding: Encoding = "msgpack") -> Session:
    return Session(token="a.b.c", client_id=DEVICE, schema=CHAT, cursor=cursor, encoding=encoding)


def session_in(state: State) -> Session:
    """A session in this state, with the cursor K0 if it has one; page 1 and push 1 are unanswered if possible."""
    session = new()
    if state is State.NEW:
        return session
    session.hello()
    if state is State.GREETING:
        return session
    if state is State.SCHEMA_DUE:
        receive(session, {**WELCOME, "schema": "another"})
        return session
    if state in (State.SNAPSHOT_DUE, State.SNAPSHOT):
        receive(session, SNAPSHOT)
        session.push(1, [delete_conversation(A)])
        if state is State.SNAPSHOT:
            receive(session, {"t": "snapshot", "as_of": 7, "rows": []})
        return session
    receive(session, WELCOME)
    session.ask_page("conversation")
    session.push(1, [delete_conversation(A)])
    if state is State.LIVE:
        receive(session, FRAMES["live"])
    elif state is State.BROKEN:
        with pytest.raises(ProtocolError):
            session.receive(pack({"t": "live", "cursor": K3, "seq": 7}))
    return session


OUTCOMES: dict[str, type[Event]] = {
    "welcome": Welcomed,
    "schema": SchemaArrived,
    "snapshot": Batch,
    "changes": Batch,
    "live": Live,
    "page": PageArrived,
    "ack": Acknowledged,
    "refreshed": Refreshed,
    "error": ErrorAnswer,
    "pong": Pong,
}


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("state", State)
def test_every_frame_has_a_defined_outcome_in_every_state(state: State, kind: str) -> None:
    session = session_in(state)
    assert session.state is state
    if state is State.BROKEN or kind == "tomorrow":
        assert session.receive(pack(FRAMES[kind])) is None
        assert session.state is state
    elif kind in ALLOWED[state]:
        assert type(receive(session, FRAMES[kind])) is OUTCOMES[kind]
    else:
        with pytest.raises(ProtocolError):
            session.receive(pack(FRAMES[kind]))
        assert session.state is State.BROKEN


@pytest.mark.parametrize("state", State)
def test_every_request_has_a_defined_outcome_in_every_state(state: State) -> None:
    session = session_in(state)
    if state is not State.NEW:
        with pytest.raises(StateError):
            session.hello()
    if state in (State.NEW, State.BROKEN):
        with pytest.raises(StateError):
            session.ping()
        with pytest.raises(StateError):
            session.refresh("t")
    else:
        assert msgpack.unpackb(session.ping()) == {"t": "ping"}
        assert msgpack.unpackb(session.refresh("t")) == {"t": "refresh", "token": "t"}
        with pytest.raises(StateError):
            session.refresh("t")
    with pytest.raises(StateError):
        session.push(2, [delete_conversation(A)])  # before welcome, after a break, and while one is unanswered
    if state in (State.CATCHING_UP, State.LIVE):
        assert session.ask_page("conversation")[0] == 2
    else:
        with pytest.raises(StateError):
            session.ask_page("conversation")


def test_hello_contains_token_client_id_cursor_and_window() -> None:
    session = Session(
        token="a.b.c", client_id=DEVICE, schema=CHAT, cursor=K1, window={"conversation": 500, "message": 0}
    )
    assert msgpack.unpackb(session.hello()) == {
        "t": "hello",
        "token": "a.b.c",
        "client_id": DEVICE.bytes,
        "cursor": K1,
        "schema": CHAT.hash,
        "window": {"conversation": 500, "message": 0},
    }
    said = json.loads(new(K1, "json").hello())
    assert said["client_id"] == str(DEVICE)
    assert said["cursor"] == base64.b64encode(K1).decode()
    later = msgpack.unpackb(Session(token="a.b.c", client_id=DEVICE, generation=1_751_000_000_123_456).hello())
    assert (later["generation"], later["schema"], "window" in later) == (1_751_000_000_123_456, "", False)


def test_frames_that_the_server_would_refuse_are_not_sent() -> None:
    for kind, rows in (("conversation", -1), ("conversation", 501), ("message", -1), ("message", 201), ("note", 1)):
        with pytest.raises(ValueError):
            Session(token="t", client_id=DEVICE, schema=CHAT, window={kind: rows})
    with pytest.raises(ValueError):
        new(bytes(129))
    session = session_in(State.LIVE)
    for limit in (0, 1001):
        with pytest.raises(ValueError):
            session.ask_page("conversation", limit=limit)
    with pytest.raises(ValueError):
        session.refresh("x" * 262_144)


def test_the_cursor_moves_with_each_batch() -> None:
    session = session_in(State.CATCHING_UP)
    assert session.cursor == K0
    assert receive(session, {"t": "changes", "from": K0, "to": K1, "rows": [], "partial": True}) == Batch(
        (), K1, replaces=False, partial=True
    )
    assert session.cursor == K1
    assert receive(session, {"t": "live", "cursor": K1, "seq": 8}) == Live(K1, 8)
    assert receive(session, {"t": "changes", "from": K1, "to": K2, "rows": []}) == Batch((), K2, False, False)
    assert (session.cursor, session.state) == (K2, State.LIVE)


def test_a_snapshot_replaces_with_its_first_frame_and_has_a_cursor_with_its_last() -> None:
    session = session_in(State.SNAPSHOT_DUE)
    first, second, last = (
        receive(session, {"t": "snapshot", "as_of": as_of, "rows": [["c", as_of, A.bytes, None, -1, 0]], **end})
        for as_of, end in ((7, {}), (8, {"cursor": None}), (9, {"cursor": K1}))
    )
    assert first == Batch((conversation_row(7, A, None, -1, 0),), None, replaces=True, partial=False)
    assert second == Batch((conversation_row(8, A, None, -1, 0),), None, replaces=False, partial=False)
    window = {kind.name: kind.window for kind in CHAT}
    assert last == Batch((conversation_row(9, A, None, -1, 0),), K1, replaces=False, partial=False, window=window)
    assert session.cursor == K1


def test_a_device_that_is_interrupted_within_a_snapshot_has_no_cursor() -> None:
    assert session_in(State.SNAPSHOT_DUE).cursor == K0  # nothing was replaced yet
    assert session_in(State.SNAPSHOT).cursor is None


@pytest.mark.parametrize("state", [State.CATCHING_UP, State.LIVE])
@pytest.mark.parametrize(
    "frame",
    [{"t": "changes", "from": K3, "to": K1, "rows": []}, {"t": "live", "cursor": K3, "seq": 7}],
    ids=["changes", "live"],
)
def test_a_missing_batch_breaks_the_session(state: State, frame: dict[str, object]) -> None:
    session = session_in(state)
    with pytest.raises(ProtocolError, match="the device's"):
        session.receive(pack(frame))
    assert session.state is State.BROKEN
    assert session.cursor == K0
    assert session.receive(pack({"t": "changes", "from": K0, "to": K1, "rows": []})) is None
    assert session.receive(b"\xc1") is None


def test_pages_may_arrive_in_any_order_and_each_once() -> None:
    session = session_in(State.LIVE)
    second, frame = session.ask_page("message", A, (-5, M), 1000)
    assert msgpack.unpackb(frame) == {
        "t": "page",
        "id": second,
        "kind": "message",
        "parent": A.bytes,
        "before": [-5, M.bytes],
        "limit": 1000,
    }
    assert session.unanswered == {1, second}
    rows = [["m", 40, M.bytes, A.bytes, "user", "é", 1, 2]]
    arrived = receive(session, {"t": "page", "id": second, "as_of": 40, "rows": rows, "more": True})
    assert arrived == PageArrived(second, 40, (message_row(40, M, A, "user", "é", 1, 2),), more=True)
    assert session.unanswered == {1}
    with pytest.raises(ProtocolError):
        session.receive(pack({"t": "page", "id": second, "as_of": 40, "rows": rows, "more": True}))


@pytest.mark.parametrize(("code", "waits"), [("too_many_pages", False), ("tomorrow", False), ("unavailable", True)])
def test_an_error_answers_a_page_unless_the_page_waits_for_postgres(code: str, waits: bool) -> None:
    session = session_in(State.LIVE)
    refusal = {**FRAMES["error"], "code": code, "answers": "page", "id": 1, "retry_after": 20}
    assert receive(session, refusal) == ErrorAnswer(code, "m", True, "page", 1, 20)
    assert session.unanswered == ({1} if waits else set())


def test_no_more_pages_are_asked_for_than_the_server_permits() -> None:
    session = session_in(State.LIVE)
    for _ in range(3):
        session.ask_page("conversation")
    assert not session.may_ask
    with pytest.raises(StateError):
        session.ask_page("conversation")
    receive(session, {**FRAMES["error"], "code": "unavailable", "answers": "page", "id": 2})
    assert not session.may_ask  # that one waits
    receive(session, {**FRAMES["error"], "code": "too_many_pages", "answers": "page", "id": 2})
    assert session.ask_page("conversation")[0] == 5


@pytest.mark.parametrize(
    "answer", [FRAMES["refreshed"], {**FRAMES["error"], "code": "token_refused", "answers": "refresh"}], ids=str
)
def test_one_refresh_at_a_time_is_unanswered(answer: dict[str, object]) -> None:
    session = session_in(State.GREETING)
    session.refresh("1")
    receive(session, WELCOME)
    receive(session, FRAMES["error"])
    with pytest.raises(StateError):
        session.refresh("2")
    receive(session, answer)
    session.refresh("2")


def test_the_last_error_is_kept_until_another_frame_arrives() -> None:
    session = session_in(State.LIVE)
    assert session.last_error is None
    assert receive(session, FRAMES["error"]) == session.last_error == ErrorAnswer("internal", "m", True)
    session.receive(pack(FRAMES["tomorrow"]))
    assert session.last_error is None
    receive(session, FRAMES["error"])
    with pytest.raises(ProtocolError):
        session.receive(pack({"t": "live", "cursor": K3, "seq": 7}))
    assert session.last_error is None


def test_a_heartbeat_may_arrive_at_any_time_and_unavailable_does_not_end_the_session() -> None:
    session = new()
    frames = [FRAMES["pong"], {**FRAMES["error"], "code": "unavailable", "answers": "hello"}, FRAMES["pong"], SNAPSHOT]
    frames += [FRAMES["pong"], {"t": "snapshot", "as_of": 7, "rows": []}, FRAMES["pong"], FRAMES["snapshot"]]
    frames += [FRAMES["pong"], {"t": "live", "cursor": K1, "seq": 8}, FRAMES["pong"]]
    receive(session, FRAMES["pong"])
    session.hello()
    kinds = [type(receive(session, frame)) for frame in frames]
    assert kinds == [Pong, ErrorAnswer, Pong, Welcomed, Pong, Batch, Pong, Batch, Pong, Live, Pong]
    assert session.state is State.LIVE


def test_a_page_is_asked_for_only_after_the_snapshot() -> None:
    session = session_in(State.SNAPSHOT_DUE)
    with pytest.raises(StateError):
        session.ask_page("conversation")
    receive(session, FRAMES["snapshot"])
    session.ask_page("conversation")


def test_unknown_fields_columns_and_kinds_are_ignored() -> None:
    session = session_in(State.LIVE)
    rows = [["r", {}], ["-p", 5, USER.bytes, "why"], ["p", 5, USER.bytes, "pro", None, 1.5, []]]
    frame: dict[str, object] = {"t": "changes", "from": K0, "to": K1, "rows": rows, "colour": {1: [2]}, "partial": None}
    event = receive(session, frame)
    assert isinstance(event, Batch)
    assert event.rows == (Deleted("profile", 5, USER), profile_row(5, USER, "pro", None))


def test_values_from_the_future_are_accepted() -> None:
    session = session_in(State.GREETING)
    welcomed = receive(session, {**SNAPSHOT, "tier": "titanium", "why": "reshaped"})
    assert isinstance(welcomed, Welcomed)
    assert (welcomed.tier, welcomed.why) == ("titanium", "reshaped")
    rows = [["m", 7, M.bytes, A.bytes, "tool", "x", 0, 7], ["p", 7, USER.bytes, "titanium", "dormant"]]
    batch = receive(session, {"t": "snapshot", "as_of": 7, "rows": rows})
    assert isinstance(batch, Batch)
    assert batch.rows == (message_row(7, M, A, "tool", "x", 0, 7), profile_row(7, USER, "titanium", "dormant"))
    refused = receive(session, {**FRAMES["error"], "code": "tired"})
    assert isinstance(refused, ErrorAnswer)
    assert refused.code == "tired"


def test_a_snapshot_may_have_no_reason() -> None:
    for why in ({}, {"why": None}):
        welcomed = receive(session_in(State.GREETING), {**WELCOME, "mode": "snapshot", **why})
        assert isinstance(welcomed, Welcomed)
        assert welcomed.why is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        pack(FRAMES["pong"])[:-1],
        pack(FRAMES["pong"]) + b"\x00",
        pack([1]),
        pack(None),
        pack({}),
        pack({"t": 1}),
        pack({"t": ["live"]}),
        b"\x81\x91\xc0\x01",  # a map whose key is an array
        b"\x81\xa1t\xa1\xff",  # not UTF-8
        b"\x91" * 100_000 + b"\xc0",
        '{"t": "pong"}',  # text
    ],
    ids=lambda frame: repr(frame)[:40],
)
def test_data_that_is_no_frame_raises(frame: bytes | str) -> None:
    session = session_in(State.LIVE)
    with pytest.raises(ProtocolError):
        session.receive(frame)
    assert session.state is State.BROKEN


@pytest.mark.parametrize(
    "change",
    [
        {"from": None},
        {"from": "k0"},
        {"from": bytes(129)},
        {"to": 1},
        {"rows": None},
        {"rows": {}},
        {"partial": 1},
        {"seq": 2**53},
        {"seq": "7"},
        {"rows": [[]]},
        {"rows": ["m"]},
        {"rows": [[1, 2]]},
        {"rows": [["p", 1, USER.bytes, "pro"]]},
        {"rows": [["p", True, USER.bytes, "pro", None]]},
        {"rows": [["p", -1, USER.bytes, "pro", None]]},
        {"rows": [["p", 2**53, USER.bytes, "pro", None]]},
        {"rows": [["p", 1.0, USER.bytes, "pro", None]]},
        {"rows": [["p", 1, USER.bytes[1:], "pro", None]]},
        {"rows": [["p", 1, str(USER), "pro", None]]},
        {"rows": [["p", 1, USER.bytes, None, None]]},
        {"rows": [["p", 1, USER.bytes, "pro", 1]]},
        {"rows": [["c", 1, A.bytes, None, None, 1]]},
        {"rows": [["-m", 1]]},
    ],
    ids=repr,
)
def test_a_malformed_frame_raises_and_moves_nothing(change: dict[str, object]) -> None:
    session = session_in(State.LIVE)
    with pytest.raises(ProtocolError):
        session.receive(pack({**FRAMES["changes"], **change}))
    assert (session.cursor, session.state) == (K0, State.BROKEN)


@pytest.mark.parametrize("change", [{"as_of": None}, {"as_of": 2**53}, {"rows": 7}, {"cursor": bytes(129)}], ids=repr)
def test_a_malformed_part_of_a_snapshot_raises_and_replaces_nothing(change: dict[str, object]) -> None:
    session = session_in(State.SNAPSHOT_DUE)
    with pytest.raises(ProtocolError):
        session.receive(pack({**FRAMES["snapshot"], **change}))
    assert (session.cursor, session.state) == (K0, State.BROKEN)


@pytest.mark.parametrize("missing", [k for k in WELCOME if k not in ("t", "tier")])
def test_a_welcome_has_all_its_fields(missing: str) -> None:
    session = session_in(State.GREETING)
    with pytest.raises(ProtocolError, match=missing):
        session.receive(pack({k: v for k, v in WELCOME.items() if k != missing}))


@pytest.mark.parametrize(
    "change",
    [{"mode": "later"}, {"why": 1}, {"keepalive": 0}, {"keepalive": -1}, {"limits": []}]
    + [{"limits": {k: v for k, v in LIMITS.items() if k != missing}} for missing in LIMITS],
    ids=repr,
)
def test_a_welcome_with_impossible_values_raises(change: dict[str, object]) -> None:
    session = session_in(State.GREETING)
    with pytest.raises(ProtocolError):
        session.receive(pack({**WELCOME, **change}))


def test_resumed_without_a_cursor_raises() -> None:
    session = new(cursor=None)
    session.hello()
    with pytest.raises(ProtocolError):
        session.receive(pack(WELCOME))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{",
        '{"t":"pong"} 1',
        '{"t":"live","cursor":"azA"}',
        '{"t":"live","cursor":"a*A="}',
        '{"t":"live","cursor":"é"}',
        "[" * 100_000,
        '{"t":"refreshed","expires":1.0}',
        '{"t":"refreshed","expires":NaN}',
        '{"t":"refreshed","expires":' + "9" * 5000 + "}",
        '{"t":"changes","from":"azA=","to":"azA=","rows":[["-m",1,"{00000000-0000-0000-0000-000000000001}"]]}',
        '{"t":"changes","from":"azA=","to":"azA=","rows":[["-m",1,"00000000000000000000000000000001"]]}',
        '{"t":"changes","from":"azA=","to":"azA=","rows":[["-m",1,"zz"]]}',
        b"\x81\xa1t\xa4pong",
    ],
    ids=lambda text: repr(text)[:40],
)
def test_data_that_is_no_json_frame_raises(text: str | bytes) -> None:
    session = new(encoding="json")
    session.hello()
    frame = {**WELCOME}
    assert session.receive(json.dumps(frame))
    with pytest.raises(ProtocolError):
        session.receive(text)


def test_a_protocol_error_never_quotes_a_persons_text() -> None:
    rows = [["m", 1, M.bytes, A.bytes, "user", "secret", "secret", 1]]
    with pytest.raises(ProtocolError) as raised:
        session_in(State.LIVE).receive(pack({**FRAMES["changes"], "rows": rows}))
    assert "secret" not in str(raised.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(State), st.binary(max_size=80))
def test_any_bytes_give_an_event_or_a_protocol_error(state: State, data: bytes) -> None:
    only_protocol_errors(session_in(state), data)


@given(st.sampled_from(State), st.sampled_from(sorted(FRAMES)), st.data())
def test_any_value_in_a_field_gives_an_event_or_a_protocol_error(state: State, kind: str, data: st.DataObject) -> None:
    frame = dict(FRAMES[kind])
    frame[data.draw(st.sampled_from([*frame, "cursor", "id", "partial"]))] = data.draw(ANYTHING)
    only_protocol_errors(session_in(state), pack(frame))


def only_protocol_errors(session: Session, data: bytes) -> None:
    try:
        session.receive(data)
    except ProtocolError:
        assert session.state is State.BROKEN


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=20))
def test_batches_form_one_chain_whatever_the_server_sends(steps: list[tuple[bool, int]]) -> None:
    """Each accepted batch starts where the one before it ended."""
    session = session_in(State.CATCHING_UP)
    at, cursors = K0, [K0, K1, K2]
    for honest, pick in steps:
        start, to = (at if honest else cursors[pick]), cursors[pick]
        try:
            event = session.receive(pack({"t": "changes", "from": start, "to": to, "rows": []}))
        except ProtocolError:
            assert start != at
        else:
            assert event is None or start == at
            at = at if event is None else to
        assert session.cursor == at


# ---- Writing -------------------------------------------------------------------------------------------------------


def test_a_push_carries_its_mutations_as_arrays_in_order() -> None:
    for state, encoding in ((State.GREETING, "msgpack"), (State.GREETING, "json")):
        session = new(encoding="json" if encoding == "json" else "msgpack")
        session.hello()
        assert (session.state, session.may_push) == (state, False)
        session.receive(pack(WELCOME) if encoding == "msgpack" else json.dumps(WELCOME))
        written: list[Mutation | None] = [create_message(M, A, "user", "é", 5), None]
        said = session.push(9, written, held=3)
        frame = msgpack.unpackb(said) if isinstance(said, bytes) else json.loads(said)
        ids = [M.bytes, A.bytes] if encoding == "msgpack" else [str(M), str(A)]
        columns = {"conversation_id": ids[1], "role": "user", "content": "é"}
        assert frame == {"t": "push", "n": 9, "mutations": [["+", "m", ids[0], columns, 5], []], "held": 3}
        assert (session.pushed, session.may_push) == (range(9, 11), False)


def writing(n: int, count: int = 1) -> Session:
    """A session whose push of `count` mutations from `n` on is unanswered."""
    session = session_in(State.LIVE)
    receive(session, FRAMES["ack"])
    session.push(n, [rename_conversation(A, None, 1)] * count)
    return session


def test_one_push_at_a_time_is_unanswered_and_gets_one_result_for_each_mutation() -> None:
    session = writing(5, 2)
    results = [["rejected", 5, "tomorrow's", "said for people", "title", {}], ["repeated", 6, 40, 1]]
    expected = Acknowledged((Rejected(5, "tomorrow's", "said for people", "title"), Repeated(6, 40)))
    assert receive(session, {"t": "ack", "results": results}) == expected
    assert session.may_push
    session.push(7, [delete_conversation(A)])
    assert receive(session, {"t": "ack", "results": [["applied", 7, 41]]}) == Acknowledged((Applied(7, 41),))
    with pytest.raises(ProtocolError, match="no push is unanswered"):
        session.receive(pack({"t": "ack", "results": [["applied", 7, 41]]}))


@pytest.mark.parametrize(
    "results",
    [
        None,
        {},
        [],
        [["applied", 5, 9]],
        [["applied", 6, 9], ["applied", 5, 9]],
        [["applied", 4, 9], ["applied", 5, 9]],
        [["applied", 5, 9], ["applied", 6, 9], ["applied", 7, 9]],
        [["applied", 5, 9], ["applied", 5, 9]],
        [["applied", 5, 9], ["postponed", 6, 9]],  # what became of it?
        [["applied", 5, 9], []],
        [["applied", 5, 9], ["applied", 6]],
        [["applied", 5, 9], ["applied", 6, 2**53]],
        [["applied", 5, 9], ["rejected", 6, "code", None]],
    ],
    ids=repr,
)
def test_an_ack_that_does_not_answer_the_push_breaks_the_session(results: object) -> None:
    session = writing(5, 2)
    with pytest.raises(ProtocolError):
        session.receive(pack({"t": "ack", "results": results}))
    assert session.state is State.BROKEN
    assert not session.may_push


@pytest.mark.parametrize("code", ["unavailable", "slow_down", "too_many_pushes", "gap", "tomorrow's"])
def test_an_error_answers_a_push_whatever_its_code(code: str) -> None:
    session = writing(5)
    refusal = {**FRAMES["error"], "code": code, "answers": "push", "id": 5, "retry_after": 20, "expected": 3}
    assert receive(session, refusal) == ErrorAnswer(code, "m", True, "push", 5, 20, 3)
    session.push(5, [delete_conversation(A)])


def test_an_error_to_another_push_answers_no_push() -> None:
    session = writing(5)
    receive(session, {**FRAMES["error"], "code": "too_many_pushes", "answers": "push", "id": 4})
    assert session.pushed == range(5, 6)
    assert isinstance(receive(session, {"t": "ack", "results": [["applied", 5, 9]]}), Acknowledged)
    receive(session, {**FRAMES["error"], "code": "gap", "answers": "push", "id": 5})


@pytest.mark.parametrize("expected", [{}, {"expected": None}, {"expected": 0}, {"expected": 5}], ids=str)
def test_a_gap_without_another_number_breaks_the_session(expected: dict[str, object]) -> None:
    session = writing(5)
    with pytest.raises(ProtocolError, match="expected"):
        session.receive(pack({**FRAMES["error"], "code": "gap", "answers": "push", "id": 5, **expected}))
    assert session.state is State.BROKEN


@pytest.mark.parametrize("expected", [1, 4, 6, 7, 900], ids=str)
def test_a_gap_may_expect_a_number_below_or_above_the_push(expected: int) -> None:
    session = writing(5, 2)
    told = receive(session, {**FRAMES["error"], "code": "gap", "answers": "push", "id": 5, "expected": expected})
    assert told == ErrorAnswer("gap", "m", True, "push", 5, expected=expected)
    session.push(expected, [delete_conversation(A)])


def test_a_push_that_the_server_would_refuse_is_not_sent() -> None:
    session = session_in(State.LIVE)
    receive(session, FRAMES["ack"])
    one = delete_conversation(A)
    too_much: list[tuple[int, list[Mutation | None]]] = [
        (1, [one] * 3),
        (0, [one]),
        (2**53, [one, one]),
        (1, [create_message(M, A, "user", "x" * 262_144, 1)]),
    ]
    for n, mutations in too_much:
        with pytest.raises(ValueError):
            session.push(n, mutations)
        assert session.may_push
    session.push(2**53, [one])


def test_complete_transactions_and_live_give_a_position() -> None:
    session = session_in(State.CATCHING_UP)
    part = receive(session, {"t": "changes", "from": K0, "to": K1, "rows": [], "partial": True, "seq": 9})
    rest = receive(session, {"t": "changes", "from": K1, "to": K2, "rows": [], "seq": 9})
    silent = receive(session, {"t": "changes", "from": K2, "to": K1, "rows": []})
    positions = [batch.seq for batch in (part, rest, silent) if isinstance(batch, Batch)]
    assert positions == [None, 9, None]
    for malformed in ({"t": "live", "cursor": K1}, {"t": "live", "cursor": K1, "seq": None}):
        with pytest.raises(ProtocolError, match="seq"):
            session_in(State.LIVE).receive(pack({**malformed, "cursor": K0}))


# ---- The schema ----------------------------------------------------------------------------------------------------

THEIRS = {"t": "schema", **SECOND.plain()}
TOPIC = ["t", 7, "a", "n", True, None]


def greeted(schema: Schema | None, named: str, cursor: bytes | None = K0) -> Session:
    session = Session(token="t", client_id=DEVICE, schema=schema, cursor=cursor)
    session.hello()
    receive(session, {**(WELCOME if cursor else SNAPSHOT), "schema": named})
    return session


def test_without_a_schema_of_its_own_a_device_takes_the_server_s() -> None:
    session = greeted(None, SECOND.hash)
    assert (session.state, session.schema, session.may_push, session.may_ask) == (State.SCHEMA_DUE, None, False, False)
    assert receive(session, THEIRS) == SchemaArrived(SECOND)
    assert (session.state, session.schema, session.may_push, session.may_ask) == (
        State.CATCHING_UP,
        SECOND,
        True,
        True,
    )
    batch = receive(session, {**FRAMES["changes"], "rows": [TOPIC]})
    assert isinstance(batch, Batch)
    assert batch.rows == (Row("topic", 7, "a", {"name": "n", "pinned": True, "touched": None}),)


def test_with_a_schema_a_device_maps_the_server_s_to_its_own() -> None:
    session = greeted(CHAT, SECOND.hash, cursor=None)
    session.receive(pack(THEIRS))
    assert (session.state, session.schema) == (State.SNAPSHOT_DUE, CHAT)
    batch = receive(session, {**FRAMES["snapshot"], "rows": [TOPIC]})
    assert isinstance(batch, Batch)
    assert batch.rows == ()
    assert msgpack.unpackb(session.push(1, [delete_conversation(A)]))["mutations"] == [[]]
    assert msgpack.unpackb(session.ask_page("message", A, (5, M))[1])["before"] == [5, M.bytes]


@pytest.mark.parametrize(
    "frame",
    [
        {**THEIRS, "hash": "a third"},
        {**THEIRS, "kinds": 7},
        {"t": "schema"},
        FRAMES["changes"],
        FRAMES["live"],
        FRAMES["ack"],
    ],
    ids=lambda frame: str(frame)[:50],
)
def test_the_schema_that_welcome_named_comes_first_and_once(frame: dict[str, object]) -> None:
    for schema in (None, CHAT):
        session = greeted(schema, SECOND.hash)
        with pytest.raises(ProtocolError):
            session.receive(pack(frame))
    session = greeted(None, SECOND.hash)
    session.receive(pack(THEIRS))
    with pytest.raises(ProtocolError, match="schema may not arrive now"):
        session.receive(pack(THEIRS))


def test_a_page_that_fits_no_kind_is_not_asked_for() -> None:
    session = session_in(State.LIVE)
    for kind, parent in (("song", None), ("message", None), ("conversation", A)):
        with pytest.raises(ValueError):
            session.ask_page(kind, parent)
    assert session.unanswered == {1}


def test_a_window_without_a_schema_has_the_wider_bounds() -> None:
    Session(token="t", client_id=DEVICE, window={"anything": 500})
    with pytest.raises(ValueError):
        Session(token="t", client_id=DEVICE, window={"anything": 501})


def test_a_user_of_a_server_without_a_gate_has_no_tier() -> None:
    welcomed = receive(session_in(State.GREETING), {k: v for k, v in WELCOME.items() if k != "tier"})
    assert isinstance(welcomed, Welcomed)
    assert (welcomed.tier, welcomed.schema) == (None, CHAT.hash)


def test_a_device_without_an_id_of_its_own_says_no_hello() -> None:
    with pytest.raises(ValueError, match="the nil UUID names no device"):
        Session(token="x", client_id=UUID(int=0))


@pytest.mark.parametrize("encoding", CODECS)
@pytest.mark.parametrize("at", [2**53, -62_135_596_800_000_000, 2**63 - 1, -(2**63)])
def test_an_instant_that_no_device_holds_exactly_is_taken_as_the_nearest_bound(encoding: Encoding, at: int) -> None:
    assert CODECS[encoding].types["instant"](at) == (2**53 - 1 if at > 0 else 1 - 2**53)
