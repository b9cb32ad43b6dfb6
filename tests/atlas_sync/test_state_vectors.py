"""The golden courses of a device: what it holds, sends and shows after certain frames (protocol/vectors/README.md)."""

import base64
import json
import pickle
import random
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

import protocol
from atlas_sync.checks import ProtocolError
from atlas_sync.clock import clock_ahead
from atlas_sync.outbox import Entry, EntryState, Outbox
from atlas_sync.outbox_sender import OutboxSender
from atlas_sync.replica import Older, Replica
from atlas_sync.rows import Row
from atlas_sync.schema import Schema
from atlas_sync.session import ALLOWED, Batch, Event, Live, PageArrived, Session, Welcomed
from atlas_sync.storage import SqliteStorage
from atlas_sync.streams import HeldStream, StreamGrew, StreamsNamed
from atlas_sync.view import Shown, View, build_view
from tests.atlas_sync.second_schema import SCHEMAS
from tests.atlas_sync.test_vectors import key, meant, named, read_row, value

VECTORS = Path(protocol.__file__).parent / "vectors"
USER = UUID(int=0xABC)
NOW = 1_750_000_010_000_000
LIMITS = {"frame_bytes": 262_144, "page_rows": 1000, "pages_in_flight": 2, "mutations": 256}


def load(name: str) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return cases


def courses(name: str) -> list[dict[str, Any]]:
    return [case for case in load(name) if "steps" in case]


class Course:
    """A device of the client's own parts, without a network: what a Device does, step by step."""

    def __init__(self, case: dict[str, Any], path: Path) -> None:
        self.schema = Schema.parse(SCHEMAS[case.get("schema", "chat")])
        self.window: dict[str, int] | None = case.get("window")
        self.replica = Replica(self.schema)
        self.cursor: bytes | None = None
        self.path, self.now = path, 0.0
        self.pages, self.expected = ExitStack(), dict[int, Older]()
        self.session: Session | None = None
        self.start()

    def start(self) -> None:
        self.storage = SqliteStorage(self.path, USER)
        self.outbox = Outbox(self.storage, self.schema)

    def end(self) -> None:
        """The connection and the app end."""
        self.pages.close()
        self.expected.clear()
        self.outbox.end()
        # What an Outbox keeps in memory is how long to wait; an app that only loses its connection keeps it.
        self.storage.close()
        self.replica = pickle.loads(pickle.dumps(self.replica))
        waits = self.outbox._not_before, self.outbox._failures
        self.start()
        self.outbox._not_before, self.outbox._failures = waits
        self.session = None

    def connect(self) -> Session:
        self.session = session = Session(
            token="t",
            client_id=self.outbox.client_id,
            schema=self.schema,
            cursor=self.cursor,
            window=self.window,
            encoding="json",
            streams=True,
            generation=self.outbox.generation(1),
        )
        session.hello()
        unused: Any = None
        self.sender = OutboxSender(self.outbox, session, unused, random.Random(1))
        self.sender._clock = lambda: self.now
        return session

    def receive(self, frame: dict[str, Any]) -> None:
        if frame["t"] == "welcome":
            filled = {"session": "s", "epoch": "e", "schema": self.schema.hash, "time": NOW, "expires": NOW + 10**9}
            frame = {**filled, "keepalive": 25_000, **frame, "limits": {**LIMITS, **frame.get("limits", {})}}
        session = self.connect() if self.session is None else self.session
        event = session.receive(json.dumps(frame))
        if event is not None:
            self.apply(event)
            self.sender.receive(event)

    def apply(self, event: Event) -> None:
        match event:
            case Welcomed():
                self.outbox.keep_time(0, event.time)
            case Batch():
                self.replica.receive(event)
                self.cursor = event.cursor
            case Live() | StreamsNamed() | StreamGrew():
                self.replica.receive(event)
            case PageArrived():
                self.expected.pop(event.id).apply(event)
                if not self.expected:
                    self.pages.close()

    def ask(self, page: dict[str, Any]) -> None:
        assert self.session is not None
        kind = self.schema[page["kind"]]
        parent = None if page["parent"] is None else value(kind.columns[0].type, page["parent"])
        before = None if page["before"] is None else (page["before"][0], key(kind, page["before"][1]))
        older = self.pages.enter_context(self.replica.older(kind.name, parent, before=before))
        number, _ = self.session.ask_page(kind.name, parent, before)
        self.expected[number] = older

    def sends(self) -> dict[str, Any] | None:
        session = self.session
        if session is None or not session.may_push or session.wire is None:
            return None
        push = self.outbox.next_push(session.limits, session.wire, self.now)
        if push is None:
            return None
        frame: dict[str, Any] = json.loads(session.push(push.n, push.mutations, push.held))
        return frame

    def shows(self, wanted: dict[str, Any]) -> None:
        view = build_view(self.replica, self.outbox.entries, self.replica.streams)
        for each, (_, _, _, state) in zip(check_shown(view, self.schema, wanted), wanted["rows"], strict=True):
            assert (each.state, each.streaming) == (state, state == "open")

    def take(self, step: dict[str, Any]) -> None:
        match step:
            case {"t": _}:
                self.receive(step)
            case {"write": mutation}:
                self.outbox.add(meant(mutation, self.schema))
            case {"ask": page}:
                self.ask(page)
            case {"sends": frame}:
                assert self.sends() == frame
            case {"after": milliseconds}:
                self.now += milliseconds / 1000
            case {"end": True}:
                self.end()
            case {"shown": wanted}:
                self.shows(wanted)
            case {"breaks": frame}:
                with pytest.raises(ProtocolError):
                    self.receive(frame)
            case _:
                raise AssertionError(step)


@pytest.mark.parametrize("case", [*load("store"), *load("outbox"), *courses("streams")], ids=named)
async def test_a_device_holds_and_sends_what_the_golden_course_says(case: dict[str, Any], tmp_path: Path) -> None:
    course = Course(case, tmp_path / "outbox.db")
    for step in case["steps"]:
        course.take(step)
    schema, replica = course.schema, course.replica
    if "rows" in case:
        expected = [read_row(columns, schema) for columns in case["rows"]]
        held = [row for rows in replica.rows.values() for row in rows.values()]
        assert sorted(map(repr, held)) == sorted(map(repr, expected))
    for name, parent, floor in case.get("floors", []):
        kind = schema[name]
        above = None if parent is None else value(kind.columns[0].type, parent)
        place = (floor[0], key(kind, floor[1])) if isinstance(floor, list) else floor
        assert replica.floor(name, above, course.outbox.entries) == place, (name, parent)
    if "cursor" in case:
        assert course.cursor == base64.b64decode(case["cursor"])
    if "outbox" in case:
        entries = [[each.n, each.state.value, *([each.code] if each.code else [])] for each in course.outbox.entries]
        assert entries == case["outbox"]
    if "streams" in case:
        assert {str(each.stream) for each in replica.streams if not each.over} == set(case["streams"])
    course.storage.close()


@pytest.mark.parametrize("case", load("view"), ids=named)
def test_what_is_shown_is_what_the_golden_view_says(case: dict[str, Any]) -> None:
    schema = Schema.parse(SCHEMAS[case.get("schema", "chat")])
    replica = Replica(schema)
    replica.apply([row for columns in case["rows"] if isinstance(row := read_row(columns, schema), Row)])
    entries = [
        Entry(n, n, meant(mutation, schema), EntryState(state), code=next(iter(code), None))
        for n, (mutation, state, *code) in enumerate(case["outbox"], 1)
    ]
    view = build_view(replica, entries)
    for wanted in case["shown"]:
        check_shown(view, schema, wanted)


def check_shown(view: View, schema: Schema, wanted: dict[str, Any]) -> list[Shown]:
    """Check the rows, columns and certainties that are shown, newest first, and return them."""
    kind = schema[wanted["kind"]]
    parent = None if wanted["parent"] is None else value(kind.columns[0].type, wanted["parent"])
    shown = [each for each in view.rows.get(kind.name, {}).values() if kind.parent_of(each.row) == parent]
    shown.sort(key=lambda each: kind.rank(each.row), reverse=True)
    assert [[each.row.id, each.certainty.name.lower()] for each in shown] == [
        [key(kind, name), certainty] for name, _, certainty, *_ in wanted["rows"]
    ]
    for each, (_, columns, *_) in zip(shown, wanted["rows"], strict=True):
        types = {column.name: column.type for column in kind.columns}
        assert {name: each.row.values[name] for name in columns} == {
            name: value(types[name], carried) for name, carried in columns.items()
        }
    return shown


@pytest.mark.parametrize("case", [case for case in load("streams") if "shows" in case], ids=named)
def test_a_stream_is_shown_or_its_row_as_the_golden_decision_says(case: dict[str, Any]) -> None:
    row = None if case["row"] is None else Row("message", case["row"]["seq"], USER, {"content": case["row"]["value"]})
    stream = HeldStream(USER, "message", USER, "content", case["since"], case["text"], case["state"], case["base"])
    assert stream.shows(row) == case["shows"]


@pytest.mark.parametrize("case", load("clock"), ids=named)
def test_the_offset_of_the_server_s_clock_is_what_the_golden_greeting_says(case: dict[str, Any]) -> None:
    least, took = case["time"] - case["received"], case["received"] - case["sent"]
    assert clock_ahead(case["offset"], least, took) == case["result"]


def test_the_page_on_the_vectors_names_every_file() -> None:
    page = (VECTORS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+\.json)` \|", page, re.M)) == {path.name for path in VECTORS.glob("*.json")}


def test_the_page_on_writing_a_client_names_the_frames_that_may_arrive_in_each_state() -> None:
    page = (VECTORS.parent / "CLIENT.md").read_text(encoding="utf-8").split("## States of a connection")[1]
    told: dict[str, set[str]] = {}
    for states, frames in re.findall(r"^\| ([A-Z_, ]+) \| ([^|]+) \|", page, re.M):
        names = set(re.findall(r"`(\w+)`", frames))
        for state in states.split(", "):
            told[state] = names | (told["NEW"] if frames.startswith("and") else set())
    assert told == {state.name: set(frames) for state, frames in ALLOWED.items()}
