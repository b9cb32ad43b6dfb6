"""The client's promises, without a network: what it holds, what it says, what it makes of what it hears."""

import ast
import base64
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from uuid import UUID

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atlas_sync import codec as codec_module
from atlas_sync import comeback as comeback_module
from atlas_sync import mutation as mutation_module
from atlas_sync import outbox as outbox_module
from atlas_sync import replica as replica_module
from atlas_sync import session as session_module
from atlas_sync import view as view_module
from atlas_sync.codec import Encoding, ProtocolError
from atlas_sync.comeback import Instruction, next_step, refresh_after
from atlas_sync.mutation import (
    Applied,
    CreateMessage,
    DeleteConversation,
    Mutation,
    Rejected,
    RenameConversation,
    Repeated,
)
from atlas_sync.replica import Conversation, Deleted, Message, Profile, Replica, Row
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
    Session,
    State,
    StateError,
    Welcomed,
)

DEVICE, USER, A, B, M, N = (UUID(int=n) for n in range(1, 7))
K0, K1, K2, K3 = b"k0", b"k1", b"k2", b"k3"


# ---- The replica: examples -----------------------------------------------------------------------------------------


def conversation(seq: int, cid: UUID = A, title: str = "t") -> Conversation:
    return Conversation(seq, cid, title, 0, seq)


def message(seq: int, mid: UUID = M, cid: UUID = A, content: str = "x") -> Message:
    return Message(seq, mid, cid, "user", content, 0, seq)


def test_an_upsert_replaces_what_is_older_and_what_is_equally_old() -> None:
    replica = Replica()
    replica.apply([message(5, content="a")])
    replica.apply([message(5, content="b")])
    assert replica.messages[M].content == "b"
    replica.apply([message(4, content="stale")])
    assert replica.messages[M].content == "b"


def test_a_message_may_come_before_its_conversation() -> None:
    replica = Replica()
    replica.apply([message(5), conversation(6)])
    assert set(replica.messages) == {M}
    assert set(replica.conversations) == {A}


def test_a_deletion_does_not_touch_what_is_newer() -> None:
    replica = Replica()
    replica.apply([message(7), conversation(7), Profile(7, USER, "pro", None)])
    replica.apply([Deleted("m", 6, M), Deleted("c", 6, A), Deleted("p", 6, USER)])
    assert (len(replica.messages), len(replica.conversations), len(replica.profiles)) == (1, 1, 1)
    replica.apply([Deleted("m", 7, M), Deleted("c", 7, A), Deleted("p", 8, USER)])
    assert (replica.messages, replica.conversations, replica.profiles) == ({}, {}, {})


def test_a_deleted_conversation_takes_its_older_messages_along_and_no_others() -> None:
    replica = Replica()
    replica.apply([message(5, M), message(9, N), message(5, UUID(int=9), cid=B), Deleted("c", 7, A)])
    assert set(replica.messages) == {N, UUID(int=9)}


def test_a_conversation_deleted_and_made_anew_in_one_transaction_keeps_only_its_new_messages() -> None:
    replica = Replica()
    replica.apply([message(3), message(7, N), Deleted("c", 7, A), conversation(7), message(7, UUID(int=9))])
    assert set(replica.conversations) == {A}
    assert set(replica.messages) == {UUID(int=9)}


def test_a_conversation_that_came_back_does_not_bring_its_old_messages_with_it() -> None:
    replica = Replica()
    replica.apply([message(3), conversation(8), Deleted("c", 7, A)])
    assert set(replica.conversations) == {A}
    assert replica.messages == {}


@pytest.mark.parametrize("gone", [Deleted("m", 7, M), Deleted("c", 7, A)])
def test_a_page_that_was_read_before_a_deletion_and_arrives_after_it_changes_nothing(gone: Deleted) -> None:
    replica = Replica()
    with replica.expecting_page() as apply:
        replica.apply([gone])
        apply([message(6)])
        assert replica.messages == {}
        apply([message(8)])
        assert set(replica.messages) == {M}


def test_deletions_are_forgotten_only_when_the_last_page_has_come() -> None:
    replica = Replica()
    with ExitStack() as last:
        last.enter_context(replica.expecting_page())
        with replica.expecting_page():
            replica.apply([Deleted("m", 7, M), Deleted("m", 5, M)])
        replica.apply([message(6)])
        assert replica.messages == {}
    replica.apply([message(6)])
    assert set(replica.messages) == {M}


def test_a_snapshot_replaces_everything_even_what_has_greater_seqs() -> None:
    replica = Replica()
    with replica.expecting_page():
        replica.apply([message(9), conversation(9), Profile(9, USER, "pro", None), Deleted("m", 9, N)])
        replica.replace([message(2, N)])
        assert (replica.profiles, replica.conversations, set(replica.messages)) == ({}, {}, {N})


def test_a_page_asked_for_before_a_snapshot_goes_with_what_the_snapshot_replaced() -> None:
    replica = Replica()
    with replica.expecting_page() as before:
        replica.replace([conversation(20)])
        before([message(9)])
        assert replica.messages == {}
        with replica.expecting_page() as after:
            replica.apply([Deleted("m", 30, N)])
            after([message(25), message(25, N)])
            assert set(replica.messages) == {M}
    replica.apply([message(25, N)])
    assert set(replica.messages) == {M, N}


def test_a_message_that_moved_is_where_it_went_and_does_not_go_with_where_it_was() -> None:
    replica = Replica()
    replica.apply([message(3, cid=A), Deleted("m", 5, M), message(5, cid=B), Deleted("c", 6, A)])
    assert replica.messages == {M: message(5, cid=B)}
    replica.apply([Deleted("c", 7, B)])
    assert replica.messages == {}


# ---- The replica: against an oracle --------------------------------------------------------------------------------

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
    """One user's rows, and the feed of what happened to them: what `SELECT` finds is the oracle."""

    def __init__(self) -> None:
        self.seq = 0
        self.profiles: dict[UUID, Profile] = {}
        self.conversations: dict[UUID, Conversation] = {}
        self.messages: dict[UUID, Message] = {}
        self.feed: list[list[Row]] = []

    def transact(self, operations: Operations) -> None:
        """Deletions first, then the latest state of what is left; messages gone with their conversation go unsaid.

        A message that moves is deleted, and there again (5.3).
        """
        self.seq += 1
        seq = self.seq
        deleted: dict[tuple[str, UUID], Row] = {}
        for n, (operation, row_id) in enumerate(operations):
            text = f"{seq}.{n}"
            match operation:
                case "c":
                    self.conversations[row_id] = Conversation(seq, row_id, text, 0, seq)
                case "m" if (held := self.messages.get(row_id)) or HOMES[row_id] in self.conversations:
                    home = held.conversation_id if held else HOMES[row_id]
                    self.messages[row_id] = Message(seq, row_id, home, "user", text, 0, seq)
                case "move" if held := self.messages.get(row_id):
                    (elsewhere,) = set(CONVERSATIONS) - {held.conversation_id}
                    if elsewhere in self.conversations:
                        self.messages[row_id] = replace(held, seq=seq, conversation_id=elsewhere)
                        deleted["m", row_id] = Deleted("m", seq, row_id)
                case "-m" if self.messages.pop(row_id, None):
                    deleted["m", row_id] = Deleted("m", seq, row_id)
                case "-c" if self.conversations.pop(row_id, None):
                    self.messages = {k: m for k, m in self.messages.items() if m.conversation_id != row_id}
                    deleted["c", row_id] = Deleted("c", seq, row_id)
                case "p":
                    self.profiles[row_id] = Profile(seq, row_id, text, None)
                case "-p" if self.profiles.pop(row_id, None):
                    deleted["p", row_id] = Deleted("p", seq, row_id)
        self.feed.append([*deleted.values(), *(row for row in self.rows() if row.seq == seq)])

    def rows(self) -> list[Row]:
        return [*self.profiles.values(), *self.conversations.values(), *self.messages.values()]

    def read(self) -> list[Row]:
        """What a snapshot or a page reads now: every row's seq is the position of the reading."""
        return [replace(row, seq=self.seq) for row in self.rows()]


def latest_state_only(transactions: Iterable[list[Row]]) -> list[Row]:
    """Caught up on, a feed names each row once, at its last change, and none that is gone with its conversation.

    A deletion stays even if the row came back: a conversation's has messages to take away, a message's may have moved
    it out of where the device holds it.
    """
    rows = [row for transaction in transactions for row in transaction]
    sent: list[Row] = []
    named: set[tuple[str, UUID]] = set()
    for row in reversed(rows):
        gone = isinstance(row, Deleted)
        key = (row.kind if isinstance(row, Deleted) else type(row).__name__[0].lower(), row.id)
        over = isinstance(row, Message) and ("-c", row.conversation_id) in named
        if gone or not (over or key in named):
            sent.append(row)
        named |= {key, ("-c", row.id)} if gone and key[0] == "c" else {key}
    return sent[::-1]


def content(rows: Iterable[Row]) -> set[Row]:
    return {replace(row, seq=0) for row in rows}


class DeviceAgainstDatabase(RuleBasedStateMachine):
    """Whatever happens on the way: once the device has applied the whole feed, it holds what `SELECT` finds."""

    def __init__(self) -> None:
        super().__init__()
        self.database = Database()
        self.replica = Replica()
        self.position = 0
        self.pages: list[tuple[list[Row], ExitStack, Callable[[Iterable[Row]], None]]] = []
        everything = [("p", USER), *(("c", c) for c in CONVERSATIONS), *(("m", m) for m in HOMES)]
        self.database.transact(everything)
        self.changes_arrive(1)

    @rule(operations=OPERATIONS)
    def a_transaction_commits(self, operations: Operations) -> None:
        self.database.transact(operations)

    @rule(count=st.integers(1, 4))
    def changes_arrive(self, count: int) -> None:
        for rows in self.database.feed[self.position : self.position + count]:
            self.replica.apply(rows)
            self.position += 1

    @rule(count=st.integers(2, 6))
    def the_device_catches_up_in_one_batch(self, count: int) -> None:
        batch = self.database.feed[self.position : self.position + count]
        self.replica.apply(latest_state_only(batch))
        self.position += len(batch)

    @precondition(lambda self: len(self.pages) < 4)
    @rule(kinds=st.sampled_from([Message, Conversation, Row]))
    def a_page_is_read(self, kinds: type[Row]) -> None:
        expected = ExitStack()
        apply = expected.enter_context(self.replica.expecting_page())
        self.pages.append(([row for row in self.database.read() if isinstance(row, kinds)], expected, apply))

    @precondition(lambda self: self.pages)
    @rule(pick=st.integers(0, 3), lost=st.sampled_from([False, False, False, True]))
    def a_page_arrives_late_or_never(self, pick: int, lost: bool) -> None:
        rows, expected, apply = self.pages.pop(pick % len(self.pages))
        with expected:
            apply([] if lost else rows)

    @rule(first=OPERATIONS, second=OPERATIONS, heard=st.integers(0, 2))
    def a_page_is_overtaken(self, first: Operations, second: Operations, heard: int) -> None:
        """What pages are hard for; chance alone would come upon it seldom."""
        self.changes_arrive(len(self.database.feed))
        self.database.transact(first)
        with self.replica.expecting_page() as apply:
            rows = self.database.read()
            self.database.transact(second)
            self.changes_arrive(heard)
            apply(rows)

    @rule(back=st.integers(0, 5))
    def the_device_reconnects_and_hears_a_part_of_the_feed_again(self, back: int) -> None:
        self.pages_end_with_the_connection()
        self.position = max(0, self.position - back)

    @rule(between=st.none() | OPERATIONS, after=st.none() | OPERATIONS)
    def the_device_is_given_a_snapshot_in_parts(self, between: Operations | None, after: Operations | None) -> None:
        """Pages of the connection before may still be at hand, and come late: nobody has to take care."""
        self.position = len(self.database.feed)
        self.replica.replace(row for row in self.database.read() if not isinstance(row, Message))
        for operations in (between, after):
            if operations is not None:
                self.database.transact(operations)
        self.replica.apply(row for row in self.database.read() if isinstance(row, Message))

    def pages_end_with_the_connection(self) -> None:
        for _, expected, _ in self.pages:
            expected.close()
        self.pages = []

    @invariant()
    def at_live_the_device_holds_what_select_finds(self) -> None:
        if self.position == len(self.database.feed):
            held = self.replica
            rows: list[Row] = [*held.profiles.values(), *held.conversations.values(), *held.messages.values()]
            assert content(rows) == content(self.database.rows())


DeviceAgainstDatabase.TestCase.settings = settings(max_examples=400, stateful_step_count=30, deadline=None)
TestADeviceAgainstTheDatabase = DeviceAgainstDatabase.TestCase


# ---- The connection ------------------------------------------------------------------------------------------------

LIMITS = {
    "frame_bytes": 262_144,
    "page_rows": 1000,
    "pages_in_flight": 4,
    "mutations": 2,
    "title_bytes": 1000,
    "content_bytes": 100_000,
}
WELCOME = {
    "t": "welcome",
    "session": "s",
    "epoch": "e",
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


def hear(client: Session, frame: dict[str, object]) -> Event:
    event = client.receive(pack(frame))
    assert event is not None
    return event


def new(cursor: bytes | None = K0, encoding: Encoding = "msgpack") -> Session:
    return Session(token="a.b.c", client_id=DEVICE, cursor=cursor, encoding=encoding)


def client_in(state: State) -> Session:
    """A client in this state. Its cursor is K0 where it has one; page 1 and push 1 are unanswered where they may be."""
    client = new()
    if state is State.NEW:
        return client
    client.hello()
    if state is State.GREETING:
        return client
    if state in (State.SNAPSHOT_DUE, State.SNAPSHOT):
        hear(client, SNAPSHOT)
        client.push(1, [DeleteConversation(A)])
        if state is State.SNAPSHOT:
            hear(client, {"t": "snapshot", "as_of": 7, "rows": []})
        return client
    hear(client, WELCOME)
    client.ask_page()
    client.push(1, [DeleteConversation(A)])
    if state is State.LIVE:
        hear(client, FRAMES["live"])
    elif state is State.BROKEN:
        with pytest.raises(ProtocolError):
            client.receive(pack({"t": "live", "cursor": K3, "seq": 7}))
    return client


OUTCOMES: dict[str, type[Event]] = {
    "welcome": Welcomed,
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
    client = client_in(state)
    assert client.state is state
    if state is State.BROKEN or kind == "tomorrow":
        assert client.receive(pack(FRAMES[kind])) is None
        assert client.state is state
    elif kind in ALLOWED[state]:
        assert type(hear(client, FRAMES[kind])) is OUTCOMES[kind]
    else:
        with pytest.raises(ProtocolError):
            client.receive(pack(FRAMES[kind]))
        assert client.state is State.BROKEN


@pytest.mark.parametrize("state", State)
def test_every_request_has_a_defined_outcome_in_every_state(state: State) -> None:
    client = client_in(state)
    if state is not State.NEW:
        with pytest.raises(StateError):
            client.hello()
    if state in (State.NEW, State.BROKEN):
        with pytest.raises(StateError):
            client.ping()
        with pytest.raises(StateError):
            client.refresh("t")
    else:
        assert msgpack.unpackb(client.ping()) == {"t": "ping"}
        assert msgpack.unpackb(client.refresh("t")) == {"t": "refresh", "token": "t"}
        with pytest.raises(StateError):
            client.refresh("t")
    with pytest.raises(StateError):
        client.push(2, [DeleteConversation(A)])  # before welcome, after a break, and while one is unanswered
    if state in (State.CATCHING_UP, State.LIVE):
        assert client.ask_page()[0] == 2
    else:
        with pytest.raises(StateError):
            client.ask_page()


def test_hello_says_who_where_and_how_much() -> None:
    client = Session(token="a.b.c", client_id=DEVICE, cursor=K1, window=(500, 0))
    assert msgpack.unpackb(client.hello()) == {
        "t": "hello",
        "token": "a.b.c",
        "client_id": DEVICE.bytes,
        "cursor": K1,
        "window": {"conversations": 500, "messages": 0},
    }
    said = json.loads(new(K1, "json").hello())
    assert said["client_id"] == str(DEVICE)
    assert said["cursor"] == base64.b64encode(K1).decode()
    later = Session(token="a.b.c", client_id=DEVICE, generation=1_751_000_000_123_456)
    assert msgpack.unpackb(later.hello())["generation"] == 1_751_000_000_123_456


def test_what_the_server_would_refuse_is_not_said() -> None:
    for window in ((-1, 0), (501, 0), (0, -1), (0, 201)):
        with pytest.raises(ValueError):
            Session(token="t", client_id=DEVICE, window=window)
    with pytest.raises(ValueError):
        new(bytes(129))
    client = client_in(State.LIVE)
    for limit in (0, 1001):
        with pytest.raises(ValueError):
            client.ask_page(limit=limit)
    with pytest.raises(ValueError):
        client.refresh("x" * 262_144)


def test_the_cursor_moves_with_what_arrives() -> None:
    client = client_in(State.CATCHING_UP)
    assert client.cursor == K0
    assert hear(client, {"t": "changes", "from": K0, "to": K1, "rows": [], "partial": True}) == Batch(
        (), K1, replaces=False, partial=True
    )
    assert client.cursor == K1
    assert hear(client, {"t": "live", "cursor": K1, "seq": 8}) == Live(K1, 8)
    assert hear(client, {"t": "changes", "from": K1, "to": K2, "rows": []}) == Batch((), K2, False, False)
    assert (client.cursor, client.state) == (K2, State.LIVE)


def test_a_snapshot_replaces_with_its_first_frame_and_has_a_cursor_with_its_last() -> None:
    client = client_in(State.SNAPSHOT_DUE)
    first, second, last = (
        hear(client, {"t": "snapshot", "as_of": as_of, "rows": [["c", as_of, A.bytes, None, -1, 0]], **end})
        for as_of, end in ((7, {}), (8, {"cursor": None}), (9, {"cursor": K1}))
    )
    assert first == Batch((Conversation(7, A, None, -1, 0),), None, replaces=True, partial=False)
    assert second == Batch((Conversation(8, A, None, -1, 0),), None, replaces=False, partial=False)
    assert last == Batch((Conversation(9, A, None, -1, 0),), K1, replaces=False, partial=False)
    assert client.cursor == K1


def test_a_device_that_is_interrupted_within_a_snapshot_has_no_cursor() -> None:
    assert client_in(State.SNAPSHOT_DUE).cursor == K0  # nothing was replaced yet
    assert client_in(State.SNAPSHOT).cursor is None


@pytest.mark.parametrize("state", [State.CATCHING_UP, State.LIVE])
@pytest.mark.parametrize(
    "frame",
    [{"t": "changes", "from": K3, "to": K1, "rows": []}, {"t": "live", "cursor": K3, "seq": 7}],
    ids=["changes", "live"],
)
def test_a_hole_in_the_chain_is_noticed_and_nothing_after_it_is_believed(
    state: State, frame: dict[str, object]
) -> None:
    client = client_in(state)
    with pytest.raises(ProtocolError, match="our"):
        client.receive(pack(frame))
    assert client.state is State.BROKEN
    assert client.cursor == K0
    assert client.receive(pack({"t": "changes", "from": K0, "to": K1, "rows": []})) is None
    assert client.receive(b"\xc1") is None


def test_pages_come_in_any_order_and_each_once() -> None:
    client = client_in(State.LIVE)
    second, frame = client.ask_page(A, (-5, M), 1000)
    assert msgpack.unpackb(frame) == {
        "t": "page",
        "id": second,
        "conversation": A.bytes,
        "before": [-5, M.bytes],
        "limit": 1000,
    }
    assert client.unanswered == {1, second}
    rows = [["m", 40, M.bytes, A.bytes, "user", "é", 1, 2]]
    arrived = hear(client, {"t": "page", "id": second, "as_of": 40, "rows": rows, "more": True})
    assert arrived == PageArrived(second, 40, (Message(40, M, A, "user", "é", 1, 2),), more=True)
    assert client.unanswered == {1}
    with pytest.raises(ProtocolError):
        client.receive(pack({"t": "page", "id": second, "as_of": 40, "rows": rows, "more": True}))


@pytest.mark.parametrize(("code", "waits"), [("too_many_pages", False), ("tomorrow", False), ("unavailable", True)])
def test_a_refused_page_is_answered_unless_it_only_waits_for_postgres(code: str, waits: bool) -> None:
    client = client_in(State.LIVE)
    refusal = {**FRAMES["error"], "code": code, "answers": "page", "id": 1, "retry_after": 20}
    assert hear(client, refusal) == ErrorAnswer(code, "m", True, "page", 1, 20)
    assert client.unanswered == ({1} if waits else set())


def test_no_more_pages_are_asked_for_than_the_server_permits() -> None:
    client = client_in(State.LIVE)
    for _ in range(3):
        client.ask_page()
    assert not client.may_ask
    with pytest.raises(StateError):
        client.ask_page()
    hear(client, {**FRAMES["error"], "code": "unavailable", "answers": "page", "id": 2})
    assert not client.may_ask  # that one waits
    hear(client, {**FRAMES["error"], "code": "too_many_pages", "answers": "page", "id": 2})
    assert client.ask_page()[0] == 5


@pytest.mark.parametrize(
    "answer", [FRAMES["refreshed"], {**FRAMES["error"], "code": "token_refused", "answers": "refresh"}], ids=str
)
def test_a_token_is_refreshed_one_at_a_time(answer: dict[str, object]) -> None:
    client = client_in(State.GREETING)
    client.refresh("1")
    hear(client, WELCOME)
    hear(client, FRAMES["error"])
    with pytest.raises(StateError):
        client.refresh("2")
    hear(client, answer)
    client.refresh("2")


def test_the_last_error_are_an_error_after_which_nothing_came() -> None:
    client = client_in(State.LIVE)
    assert client.last_error is None
    assert hear(client, FRAMES["error"]) == client.last_error == ErrorAnswer("internal", "m", True)
    client.receive(pack(FRAMES["tomorrow"]))
    assert client.last_error is None
    hear(client, FRAMES["error"])
    with pytest.raises(ProtocolError):
        client.receive(pack({"t": "live", "cursor": K3, "seq": 7}))
    assert client.last_error is None


def test_a_heartbeat_may_come_unasked_at_any_time_and_waiting_for_postgres_is_no_end() -> None:
    client = new()
    frames = [FRAMES["pong"], {**FRAMES["error"], "code": "unavailable", "answers": "hello"}, FRAMES["pong"], SNAPSHOT]
    frames += [FRAMES["pong"], {"t": "snapshot", "as_of": 7, "rows": []}, FRAMES["pong"], FRAMES["snapshot"]]
    frames += [FRAMES["pong"], {"t": "live", "cursor": K1, "seq": 8}, FRAMES["pong"]]
    hear(client, FRAMES["pong"])
    client.hello()
    kinds = [type(hear(client, frame)) for frame in frames]
    assert kinds == [Pong, ErrorAnswer, Pong, Welcomed, Pong, Batch, Pong, Batch, Pong, Live, Pong]
    assert client.state is State.LIVE


def test_a_page_is_asked_for_only_when_no_snapshot_can_wipe_it() -> None:
    client = client_in(State.SNAPSHOT_DUE)
    with pytest.raises(StateError):
        client.ask_page()
    hear(client, FRAMES["snapshot"])
    client.ask_page()


def test_unknown_fields_columns_and_kinds_are_ignored() -> None:
    client = client_in(State.LIVE)
    rows = [["r", {}], ["-p", 5, USER.bytes, "why"], ["p", 5, USER.bytes, "pro", None, 1.5, []]]
    frame: dict[str, object] = {"t": "changes", "from": K0, "to": K1, "rows": rows, "colour": {1: [2]}, "partial": None}
    event = hear(client, frame)
    assert isinstance(event, Batch)
    assert event.rows == (Deleted("p", 5, USER), Profile(5, USER, "pro", None))


def test_values_from_the_future_are_accepted() -> None:
    client = client_in(State.GREETING)
    welcomed = hear(client, {**SNAPSHOT, "tier": "titanium", "why": "reshaped"})
    assert isinstance(welcomed, Welcomed)
    assert (welcomed.tier, welcomed.why) == ("titanium", "reshaped")
    rows = [["m", 7, M.bytes, A.bytes, "tool", "x", 0, 7], ["p", 7, USER.bytes, "titanium", "dormant"]]
    batch = hear(client, {"t": "snapshot", "as_of": 7, "rows": rows})
    assert isinstance(batch, Batch)
    assert batch.rows == (Message(7, M, A, "tool", "x", 0, 7), Profile(7, USER, "titanium", "dormant"))
    refused = hear(client, {**FRAMES["error"], "code": "tired"})
    assert isinstance(refused, ErrorAnswer)
    assert refused.code == "tired"


def test_a_snapshot_may_have_no_reason() -> None:
    for why in ({}, {"why": None}):
        welcomed = hear(client_in(State.GREETING), {**WELCOME, "mode": "snapshot", **why})
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
def test_what_is_no_frame_raises(frame: bytes | str) -> None:
    client = client_in(State.LIVE)
    with pytest.raises(ProtocolError):
        client.receive(frame)
    assert client.state is State.BROKEN


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
    client = client_in(State.LIVE)
    with pytest.raises(ProtocolError):
        client.receive(pack({**FRAMES["changes"], **change}))
    assert (client.cursor, client.state) == (K0, State.BROKEN)


@pytest.mark.parametrize("change", [{"as_of": None}, {"as_of": 2**53}, {"rows": 7}, {"cursor": bytes(129)}], ids=repr)
def test_a_malformed_part_of_a_snapshot_raises_and_replaces_nothing(change: dict[str, object]) -> None:
    client = client_in(State.SNAPSHOT_DUE)
    with pytest.raises(ProtocolError):
        client.receive(pack({**FRAMES["snapshot"], **change}))
    assert (client.cursor, client.state) == (K0, State.BROKEN)


@pytest.mark.parametrize("missing", [k for k in WELCOME if k != "t"])
def test_a_welcome_is_whole(missing: str) -> None:
    client = client_in(State.GREETING)
    with pytest.raises(ProtocolError, match=missing):
        client.receive(pack({k: v for k, v in WELCOME.items() if k != missing}))


@pytest.mark.parametrize(
    "change",
    [{"mode": "later"}, {"why": 1}, {"keepalive": 0}, {"keepalive": -1}, {"limits": []}]
    + [{"limits": {k: v for k, v in LIMITS.items() if k != missing}} for missing in LIMITS],
    ids=repr,
)
def test_a_welcome_makes_sense(change: dict[str, object]) -> None:
    client = client_in(State.GREETING)
    with pytest.raises(ProtocolError):
        client.receive(pack({**WELCOME, **change}))


def test_nobody_is_told_resumed_who_had_no_cursor() -> None:
    client = new(cursor=None)
    client.hello()
    with pytest.raises(ProtocolError):
        client.receive(pack(WELCOME))


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
def test_what_is_no_frame_in_json_raises(text: str | bytes) -> None:
    client = new(encoding="json")
    client.hello()
    frame = {**WELCOME}
    assert client.receive(json.dumps(frame))
    with pytest.raises(ProtocolError):
        client.receive(text)


def test_an_error_of_the_client_never_quotes_what_somebody_wrote() -> None:
    rows = [["m", 1, M.bytes, A.bytes, "user", "secret", "secret", 1]]
    with pytest.raises(ProtocolError) as raised:
        client_in(State.LIVE).receive(pack({**FRAMES["changes"], "rows": rows}))
    assert "secret" not in str(raised.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(State), st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_a_protocol_error(state: State, data: bytes) -> None:
    only_protocol_errors(client_in(state), data)


@given(st.sampled_from(State), st.sampled_from(sorted(FRAMES)), st.data())
def test_any_value_in_any_field_is_taken_or_a_protocol_error(state: State, kind: str, data: st.DataObject) -> None:
    frame = dict(FRAMES[kind])
    frame[data.draw(st.sampled_from([*frame, "cursor", "id", "partial"]))] = data.draw(ANYTHING)
    only_protocol_errors(client_in(state), pack(frame))


def only_protocol_errors(client: Session, data: bytes) -> None:
    try:
        client.receive(data)
    except ProtocolError:
        assert client.state is State.BROKEN


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2)), max_size=20))
def test_batches_form_one_chain_whatever_the_server_sends(steps: list[tuple[bool, int]]) -> None:
    """Each batch that gets through starts where the one before it ended."""
    client = client_in(State.CATCHING_UP)
    at, cursors = K0, [K0, K1, K2]
    for honest, pick in steps:
        start, to = (at if honest else cursors[pick]), cursors[pick]
        try:
            event = client.receive(pack({"t": "changes", "from": start, "to": to, "rows": []}))
        except ProtocolError:
            assert start != at
        else:
            assert event is None or start == at
            at = at if event is None else to
        assert client.cursor == at


# ---- Writing -------------------------------------------------------------------------------------------------------


def test_a_push_carries_its_mutations_as_arrays_in_order() -> None:
    for state, encoding in ((State.GREETING, "msgpack"), (State.GREETING, "json")):
        client = new(encoding="json" if encoding == "json" else "msgpack")
        client.hello()
        assert (client.state, client.may_push) == (state, False)
        client.receive(pack(WELCOME) if encoding == "msgpack" else json.dumps(WELCOME))
        written: list[Mutation | None] = [CreateMessage(M, A, "user", "é", 5), None]
        said = client.push(9, written, held=3)
        frame = msgpack.unpackb(said) if isinstance(said, bytes) else json.loads(said)
        ids = [M.bytes, A.bytes] if encoding == "msgpack" else [str(M), str(A)]
        assert frame == {"t": "push", "n": 9, "mutations": [["+m", *ids, "user", "é", 5], []], "held": 3}
        assert (client.pushed, client.may_push) == (range(9, 11), False)


def writing(n: int, count: int = 1) -> Session:
    """A client whose push n of so many mutations is unanswered."""
    client = client_in(State.LIVE)
    hear(client, FRAMES["ack"])
    client.push(n, [RenameConversation(A, None, 1)] * count)
    return client


def test_one_push_at_a_time_and_each_is_answered_by_one_result_for_each_mutation() -> None:
    client = writing(5, 2)
    results = [["rejected", 5, "tomorrow's", "said for people", {}], ["repeated", 6, 40, 1]]
    expected = Acknowledged((Rejected(5, "tomorrow's", "said for people"), Repeated(6, 40)))
    assert hear(client, {"t": "ack", "results": results}) == expected
    assert client.may_push
    client.push(7, [DeleteConversation(A)])
    assert hear(client, {"t": "ack", "results": [["applied", 7, 41]]}) == Acknowledged((Applied(7, 41),))
    with pytest.raises(ProtocolError, match="nobody waits"):
        client.receive(pack({"t": "ack", "results": [["applied", 7, 41]]}))


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
def test_an_ack_that_does_not_answer_the_push_breaks_the_connection(results: object) -> None:
    client = writing(5, 2)
    with pytest.raises(ProtocolError):
        client.receive(pack({"t": "ack", "results": results}))
    assert client.state is State.BROKEN
    assert not client.may_push


@pytest.mark.parametrize("code", ["unavailable", "slow_down", "too_many_pushes", "gap", "tomorrow's"])
def test_a_refused_push_is_answered_whatever_the_code(code: str) -> None:
    client = writing(5)
    refusal = {**FRAMES["error"], "code": code, "answers": "push", "id": 5, "retry_after": 20, "expected": 3}
    assert hear(client, refusal) == ErrorAnswer(code, "m", True, "push", 5, 20, 3)
    client.push(5, [DeleteConversation(A)])


def test_a_refusal_that_is_about_another_push_answers_none() -> None:
    client = writing(5)
    hear(client, {**FRAMES["error"], "code": "too_many_pushes", "answers": "push", "id": 4})
    assert client.pushed == range(5, 6)
    assert isinstance(hear(client, {"t": "ack", "results": [["applied", 5, 9]]}), Acknowledged)
    hear(client, {**FRAMES["error"], "code": "gap", "answers": "push", "id": 5})


@pytest.mark.parametrize("expected", [{}, {"expected": None}, {"expected": 0}, {"expected": 5}], ids=str)
def test_a_gap_that_is_none_breaks_the_connection(expected: dict[str, object]) -> None:
    client = writing(5)
    with pytest.raises(ProtocolError, match="expected"):
        client.receive(pack({**FRAMES["error"], "code": "gap", "answers": "push", "id": 5, **expected}))
    assert client.state is State.BROKEN


@pytest.mark.parametrize("expected", [1, 4, 6, 7, 900], ids=str)
def test_a_gap_may_be_below_the_push_and_above_it(expected: int) -> None:
    client = writing(5, 2)
    told = hear(client, {**FRAMES["error"], "code": "gap", "answers": "push", "id": 5, "expected": expected})
    assert told == ErrorAnswer("gap", "m", True, "push", 5, expected=expected)
    client.push(expected, [DeleteConversation(A)])


def test_what_the_server_would_refuse_is_not_pushed() -> None:
    client = client_in(State.LIVE)
    hear(client, FRAMES["ack"])
    one = DeleteConversation(A)
    too_much: list[tuple[int, list[Mutation | None]]] = [
        (1, [one] * 3),
        (0, [one]),
        (2**53, [one, one]),
        (1, [CreateMessage(M, A, "user", "x" * 262_144, 1)]),
    ]
    for n, mutations in too_much:
        with pytest.raises(ValueError):
            client.push(n, mutations)
        assert client.may_push
    client.push(2**53, [one])


def test_a_position_comes_with_whole_transactions_and_with_live() -> None:
    client = client_in(State.CATCHING_UP)
    part = hear(client, {"t": "changes", "from": K0, "to": K1, "rows": [], "partial": True, "seq": 9})
    rest = hear(client, {"t": "changes", "from": K1, "to": K2, "rows": [], "seq": 9})
    silent = hear(client, {"t": "changes", "from": K2, "to": K1, "rows": []})
    positions = [batch.seq for batch in (part, rest, silent) if isinstance(batch, Batch)]
    assert positions == [None, 9, None]
    for malformed in ({"t": "live", "cursor": K1}, {"t": "live", "cursor": K1, "seq": None}):
        with pytest.raises(ProtocolError, match="seq"):
            client_in(State.LIVE).receive(pack({**malformed, "cursor": K0}))


# ---- After the end -------------------------------------------------------------------------------------------------


def refused(code: str = "internal", retry_after_ms: int | None = None, answers: str | None = None) -> ErrorAnswer:
    return ErrorAnswer(code, "m", True, answers, retry_after_ms=retry_after_ms)


@pytest.mark.parametrize("hundreds", range(10, 50))
def test_the_hundreds_digit_of_a_close_code_is_obeyed_also_for_codes_never_seen(hundreds: int) -> None:
    orders = {41: Instruction.NEW_TOKEN, 42: Instruction.START_OVER, 43: Instruction.STAY_AWAY}
    for code in range(hundreds * 100, hundreds * 100 + 100):
        step = next_step(code, None, 0, 0.0, 0.5)
        assert step.instruction is orders.get(hundreds, Instruction.COME_BACK)
        assert step.attempt == 1


def test_no_close_code_at_all_means_come_back_with_the_cursor() -> None:
    assert next_step(None, None, 0, 0.0, 1.0).instruction is Instruction.COME_BACK


CODES = [None, 1006, 1012, 4000, 4003, 4100, 4101, 4200]


@given(
    code=st.none() | st.integers(1000, 4999),
    attempt=st.integers(0, 10_000),
    lasted=st.floats(0, 1e6),
    rnd=st.floats(0, 1),
)
def test_the_delay_grows_with_every_end_in_a_row_and_never_past_half_a_minute(
    code: int | None, attempt: int, lasted: float, rnd: float
) -> None:
    step = next_step(code, refused(), attempt, lasted, rnd)
    assert 0 <= step.delay_seconds <= 30
    assert step.delay_seconds == rnd * min(30, 0.5 * 2 ** min(step.attempt, 20))
    assert step.attempt == (1 if lasted >= 60 else attempt + 1)


@pytest.mark.parametrize("code", CODES)
def test_the_count_starts_anew_with_the_end_of_a_connection_that_lasted_a_minute(code: int | None) -> None:
    assert [next_step(code, None, 5, lasted, 0.5).attempt for lasted in (0, 59.9, 60, 3600)] == [6, 6, 1, 1]


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("error", ["going_away", "internal", "too_many_sockets", "position_lost", "tomorrow"])
def test_the_servers_advice_on_when_to_come_back_is_followed_to_the_letter(code: int | None, error: str) -> None:
    for rnd in (0.0, 1.0):
        assert next_step(code, refused(error, 90_500), 7, 0.0, rnd).delay_seconds == 90.5
        assert next_step(code, refused(error, 0), 7, 0.0, rnd).delay_seconds == 0


@pytest.mark.parametrize(
    ("error", "answers", "code"),
    [
        ("unavailable", "hello", 1006),
        ("unavailable", "page", None),
        ("too_many_pages", "page", 1006),
        ("unknown_frame", None, None),
        ("slow_down", "push", 1006),
        ("gap", "push", None),
        ("too_many_pushes", "push", 1006),
        ("unavailable", "push", 1006),
        ("token_refused", "refresh", 1006),
    ],
)
def test_advice_on_something_else_than_coming_back_is_not_taken_for_it(
    error: str, answers: str | None, code: int | None
) -> None:
    assert next_step(code, refused(error, 90_500, answers), 2, 0.0, 0.5).delay_seconds == 0.5 * 0.5 * 2**3


def test_a_refresh_with_the_token_of_another_user_announces_a_close() -> None:
    assert next_step(4101, refused("token_refused", 90_500, "refresh"), 2, 0.0, 0.5).delay_seconds == 90.5


@given(st.floats(1e-3, 1e10))
def test_a_token_is_refreshed_late_but_before_its_end(remaining: float) -> None:
    wait = refresh_after(remaining)
    assert 0 <= wait < remaining
    assert wait == max(0.8 * remaining, remaining - 60)
    assert refresh_after(-remaining) == 0


@pytest.mark.parametrize(
    ("module", "others", "encodes"),
    [
        (replica_module, set(), False),
        (mutation_module, set(), False),
        (codec_module, {"atlas_sync.mutation", "atlas_sync.replica"}, True),
        (session_module, {"atlas_sync.mutation", "atlas_sync.replica", "atlas_sync.codec"}, False),
        (comeback_module, {"atlas_sync.session"}, False),
        (
            outbox_module,
            {"atlas_sync.session", "atlas_sync.comeback", "atlas_sync.mutation", "atlas_sync.codec"},
            False,
        ),
        (view_module, {"atlas_sync.mutation", "atlas_sync.outbox", "atlas_sync.replica"}, False),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_client_awaits_nothing_reads_no_clock_and_knows_its_encodings_in_one_place(
    module: ModuleType, others: set[str], encodes: bool
) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"asyncio", "time", "socket", "random", "datetime", "msgspec", "sqlite3"}
    assert {name for name in imported if name.startswith(("atlas_sync", "protocol"))} == others
    assert imported & {"msgpack", "json"} == ({"msgpack", "json"} if encodes else set())
