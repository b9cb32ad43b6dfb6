"""The client's end of a connection: frames in, events out (SPEC.md, sections 3–4 and 7–10).

Sans-I/O: it knows neither sockets nor clocks nor storage. connection.py is the asyncio edge around it; comeback.py
decides what follows the connection's end.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

from atlas_sync.checks import Fields, ProtocolError, array, flag, integer, natural, seq, text
from atlas_sync.codec import CODECS, CURSOR_BYTES, Encoding, results
from atlas_sync.mutation import FRAME_BYTES, NUMBER_END, Mutation, Result
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.schema import Schema
from atlas_sync.streams import StreamGrew, StreamsNamed
from atlas_sync.wire import Wire

PAGE_ROWS = 1000
STREAMS, STOPS = "streams", 8  # the extension (SPEC.md, section 13); unanswered stops
WINDOW, WINDOW_BELOW = 500, 200  # at most: rows of a kind without parent, rows of each parent


class StateError(Exception):
    """The connection's state does not permit this frame now."""


# ---- Events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits, from `welcome`.

    frame_bytes: size of one frame from the client. page_rows: rows of one page. pages_in_flight: unanswered pages at a
    time. mutations: mutations of one push.
    """

    frame_bytes: int
    page_rows: int
    pages_in_flight: int
    mutations: int


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server accepted the connection.

    `time` and `expires` (of the token) are microseconds by the server's clock. `mode` is "resumed" or "snapshot"; `why`
    is the reason of a snapshot. `schema` names the server's schema. `tier` is the value by which the server decided
    that this user syncs; None if it asks for none.
    """

    session: str
    epoch: str
    schema: str
    tier: str | None
    mode: str
    why: str | None
    time: int
    expires: int
    keepalive_ms: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class SchemaArrived:
    """The server's schema, which is not the one that the device was made with. Comes before the first batch."""

    schema: Schema


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to apply, and the cursor to store with them in one local transaction.

    `replaces`: delete all synced rows first. `cursor` is None in all parts of a snapshot but the last: store None too,
    so that a device that is interrupted in between starts over. `partial`: the rest of a large transaction follows.
    `seq` is the device's position after the rows are applied; None within a snapshot or a transaction. `window`: in
    the last part of a snapshot, how many rows of each kind it has at most, of the list or of each parent; None for all.
    """

    rows: tuple[Row | Deleted, ...]
    cursor: bytes | None
    replaces: bool
    partial: bool
    seq: int | None = None
    window: Mapping[str, int | None] | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """The device has received every change up to the position `seq`."""

    cursor: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class PageArrived:
    """The answer to `ask_page`."""

    id: int
    as_of: int
    rows: tuple[Row | Deleted, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The answer to `push`: one result for each of its mutations, in their order."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The server accepted the new token; it ends at `expires` (microseconds, the server's clock)."""

    expires: int


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An `error` frame.

    `answers` is the kind of the frame that it answers, `id` the page's id or the push's first number; None if it
    answers no frame. `expected` is the next number that the server accepts, after a `gap`.
    """

    code: str
    message: str
    retryable: bool
    answers: str | None = None
    id: int | None = None
    retry_after_ms: int | None = None
    expected: int | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `ping`, or a heartbeat."""


@dataclass(frozen=True, slots=True)
class StopAnswered:
    """The answer to `stop`. `found`: whether there was an open stream."""

    n: int
    found: bool


Event = (
    Welcomed
    | SchemaArrived
    | Batch
    | Live
    | PageArrived
    | Acknowledged
    | Refreshed
    | StreamsNamed
    | StreamGrew
    | StopAnswered
    | ErrorAnswer
    | Pong
)


# ---- The connection ------------------------------------------------------------------------------------------------


class State(Enum):
    """The state of a connection, seen from the client. The values are used in error messages."""

    NEW = "hello has not been sent"
    GREETING = "hello was sent, no welcome yet"
    SCHEMA_DUE = "welcome named another schema, which has not come"
    SNAPSHOT_DUE = "welcome promised a snapshot, none of it has come"
    SNAPSHOT = "a part of the snapshot has come; there is no cursor"
    CATCHING_UP = "there is a cursor, and changes follow it"
    LIVE = "everything has come; changes follow as they are committed"
    BROKEN = "the server broke the protocol: close the connection"


_ALWAYS = frozenset({"error", "pong"})
_SAID_HELLO = _ALWAYS | {"refreshed"}
_WELCOME = _SAID_HELLO | {"ack", "streams", "stream", "stopped"}
_IN_STEP = _WELCOME | {"changes", "live", "page"}

# The frames that the server may send in each state. Any other known frame is a ProtocolError; unknown ones are ignored.
ALLOWED: dict[State, frozenset[str]] = {
    State.NEW: _ALWAYS,
    State.GREETING: _SAID_HELLO | {"welcome"},
    State.SCHEMA_DUE: _SAID_HELLO | {"schema"},
    State.SNAPSHOT_DUE: _WELCOME | {"snapshot"},
    State.SNAPSHOT: _WELCOME | {"snapshot"},
    State.CATCHING_UP: _IN_STEP,
    State.LIVE: _IN_STEP,
}


class Session:
    """The state machine of one connection, from `hello` to its end. Use one session for one connection.

    `schema` is the one that the app was built with; None takes the server's. `window` has for names of kinds the rows
    of a snapshot, of the list or of each parent; where it says nothing the server's schema decides. `streams` asks for
    streams.

    Raises ValueError for a window out of bounds or of a kind that the schema does not have, for a cursor of more than
    128 bytes, and for the nil UUID as client_id.

    May be read: `state`; `schema`, by which rows are read and mutations written, None until it has arrived; `wire`,
    None until the server's schema is known; `cursor`, for the next connection; `limits`; `unanswered`, the ids of
    unanswered pages; `pushed`, the numbers of the unanswered push; `stops`, the numbers of unanswered stops;
    `last_error`, the `error` if it was the last frame to arrive.
    """

    def __init__(
        self,
        *,
        token: str,
        client_id: UUID,
        schema: Schema | None = None,
        cursor: bytes | None = None,
        window: Mapping[str, int] | None = None,
        encoding: Encoding = "msgpack",
        generation: int | None = None,
        streams: bool = False,
    ) -> None:
        _check_window(window or {}, schema)
        if not client_id.int:
            raise ValueError("the nil UUID names no device: make a client_id once at random, and keep it")
        if cursor is not None and len(cursor) > CURSOR_BYTES:
            raise ValueError(f"a cursor has at most {CURSOR_BYTES} bytes")
        self.state = State.NEW
        self.schema = schema
        self.wire: Wire | None = None
        self.cursor = cursor
        # Until `welcome` brings the real ones; `hello` needs frame_bytes before.
        self.limits = Limits(FRAME_BYTES, PAGE_ROWS, 1, mutations=0)
        self.unanswered: set[int] = set()
        self.pushed: range | None = None
        self.stops: set[int] = set()
        self.last_error: ErrorAnswer | None = None
        self._token, self._client_id, self._window, self._generation = token, client_id, window, generation
        self._codec = CODECS[encoding]
        self._asks_streams = streams
        self._lengths: dict[UUID, int] = {}  # of the texts that this connection brought
        self._last_page = 0
        self._named = ""  # the server's schema, once `welcome` named it
        self._resumed = False
        self._refreshing = False
        self._readers: dict[str, Callable[[Fields], Event | None]] = {
            "welcome": self._welcome,
            "schema": self._schema,
            "snapshot": self._snapshot,
            "changes": self._changes,
            "live": self._live,
            "page": self._page,
            "ack": self._ack,
            "refreshed": self._refreshed,
            "streams": self._streams,
            "stream": self._stream,
            "stopped": self._stopped,
            "error": self._error,
            "pong": lambda frame: Pong(),
        }

    def hello(self) -> bytes | str:
        """Return the first frame to send. Raises StateError the second time."""
        if self.state is not State.NEW:
            raise StateError("hello is sent once")
        self.state = State.GREETING
        frame: dict[str, object] = {"token": self._token, "client_id": self._client_id, "cursor": self.cursor}
        frame["schema"] = "" if self.schema is None else self.schema.hash
        if self._generation is not None:
            frame["generation"] = self._generation
        if self._window is not None:
            frame["window"] = dict(self._window)
        if self._asks_streams:
            frame["extras"] = [STREAMS]
        return self._say(t="hello", **frame)

    @property
    def may_ask(self) -> bool:
        """Whether a page may be asked for.

        Not before the end of a snapshot, which would delete the page's rows, and not more at a time than permitted.
        """
        in_step = self.state in (State.CATCHING_UP, State.LIVE)
        return in_step and len(self.unanswered) < self.limits.pages_in_flight

    def ask_page(
        self, kind: str, parent: Key | None = None, before: tuple[Any, Key] | None = None, limit: int = 50
    ) -> tuple[int, bytes | str]:
        """Return the id of a page and the frame that asks for it. `before` is the `Kind.place` of a row.

        Raises StateError unless `may_ask`, ValueError for a limit outside 1–1000, a kind that the schema does not have,
        a parent that is missing, or one that the kind does not have.
        """
        if not self.may_ask or self.schema is None or self.wire is None:
            raise StateError(f"no page can be asked for: {self.state.value}, {len(self.unanswered)} are unanswered")
        if not 1 <= limit <= PAGE_ROWS:
            raise ValueError(f"a page has 1 to {PAGE_ROWS} rows")
        if (of := self.schema.get(kind)) is None:
            raise ValueError(f"the schema has no kind {kind!r}")
        if (of.parent is None) != (parent is None):
            raise ValueError(f"{kind}: give `parent` for a kind with a parent, and for no other one")
        page = self.wire.page(kind, parent, before)
        self._last_page += 1
        self.unanswered.add(self._last_page)
        return self._last_page, self._say(t="page", id=self._last_page, **page, limit=limit)

    @property
    def may_push(self) -> bool:
        """Whether a push may be sent: once the schema is known, and one at a time."""
        return self.state is not State.BROKEN and self.wire is not None and self.pushed is None

    def push(self, n: int, mutations: Sequence[Mutation | None], held: int | None = None) -> bytes | str:
        """Return the frame that sends mutations with the numbers from `n` on.

        None is sent as an empty array: outbox.py explains why. `held` is the lowest number whose mutation the device
        still holds. Raises StateError unless `may_push`, ValueError for a push that the server would refuse.
        """
        if not self.may_push or self.wire is None:
            raise StateError(f"nothing can be pushed: {self.state.value}, or the last push is unanswered")
        if len(mutations) > self.limits.mutations:
            raise ValueError(f"a push has at most {self.limits.mutations} mutations")
        if n < 1 or n + len(mutations) - 1 > NUMBER_END:
            raise ValueError("numbers go from 1 to 2^53")
        arrays = [() if mutation is None else self.wire.mutation(mutation) for mutation in mutations]
        if held is None:
            frame = self._say(t="push", n=n, mutations=arrays)
        else:
            frame = self._say(t="push", n=n, mutations=arrays, held=held)
        self.pushed = range(n, n + len(mutations))
        return frame

    @property
    def may_stop(self) -> bool:
        """Whether a stop may be sent: once the schema is known, and not more at a time than permitted."""
        return self.state is not State.BROKEN and self.wire is not None and len(self.stops) < STOPS

    def stop(self, n: int, kind: str, key: Key, column: str | None = None) -> bytes | str | None:
        """Return the frame that ends the open streams of a row, or of one column of it. `n` comes back in the answer.

        None if the server has no such kind: then there is no stream. Raises StateError unless `may_stop`.
        """
        if not self.may_stop or self.wire is None:
            raise StateError(f"nothing can be stopped: {self.state.value}, {len(self.stops)} are unanswered")
        fields = self.wire.stop(kind, key, column)
        if fields is None:
            return None
        frame = self._say(t="stop", n=n, **fields)
        self.stops.add(n)
        return frame

    def drop_stops(self) -> set[int]:
        """The server does not know `stop`: the numbers of those that it will never answer."""
        dropped, self.stops = self.stops, set()
        return dropped

    def refresh(self, token: str) -> bytes | str:
        """Return the frame that sends a later token of the same user.

        Raises StateError before hello, once BROKEN, and while a refresh is unanswered.
        """
        if self._refreshing:
            raise StateError("one refresh at a time")
        frame = self._say(t="refresh", token=token)
        self._refreshing = True
        return frame

    def ping(self) -> bytes | str:
        """Return the frame that asks for a `pong`. Raises StateError before hello and once BROKEN."""
        return self._say(t="ping")

    def receive(self, data: bytes | str) -> Event | None:
        """Process a message from the server and return its event. None for a frame of an unknown kind, and once BROKEN.

        Raises ProtocolError for a frame that is malformed, may not arrive in this state, or does not start at `cursor`.
        The session is BROKEN then: close the connection with 4000, and connect again with `cursor`.
        """
        if self.state is State.BROKEN:
            return None
        self.last_error = None
        try:
            frame = self._codec.decode(data)
            kind = frame.read("t", text)
            if kind not in self._readers:
                return None
            if kind not in ALLOWED[self.state]:
                raise ProtocolError(f"{kind} may not arrive now: {self.state.value}")
            return self._readers[kind](frame)
        except ProtocolError:
            self.state = State.BROKEN
            raise

    def _say(self, **frame: object) -> bytes | str:
        if self.state in (State.NEW, State.BROKEN):
            raise StateError(self.state.value)
        return self._codec.encode(frame, self.limits.frame_bytes)

    def _welcome(self, frame: Fields) -> Event:
        limits = frame.read("limits", Fields)
        welcomed = Welcomed(
            session=frame.read("session", text),
            epoch=frame.read("epoch", text),
            schema=frame.read("schema", text),
            tier=frame.maybe("tier", text),
            mode=frame.read("mode", text),
            why=frame.maybe("why", text),
            time=frame.read("time", integer),
            expires=frame.read("expires", integer),
            keepalive_ms=frame.read("keepalive", natural),
            limits=Limits(*(limits.read(name, natural) for name in Limits.__slots__)),
        )
        if welcomed.keepalive_ms == 0:
            raise ProtocolError("keepalive: zero")
        if welcomed.mode not in ("snapshot", "resumed") or (welcomed.mode == "resumed" and self.cursor is None):
            raise ProtocolError("mode: neither a snapshot nor resumed from a cursor that the device sent")
        self.limits = welcomed.limits
        self._named, self._resumed = welcomed.schema, welcomed.mode == "resumed"
        if self.schema is not None and self.schema.hash == welcomed.schema:
            self._begin(Wire(self._codec, self.schema))
        else:
            self.state = State.SCHEMA_DUE
        return welcomed

    def _begin(self, wire: Wire) -> None:
        """The schema is known: the first batch may arrive."""
        self.wire = wire
        self.state = State.CATCHING_UP if self._resumed else State.SNAPSHOT_DUE

    def _schema(self, frame: Fields) -> Event:
        theirs = frame.whole(Schema.parse)
        if theirs.hash != self._named:
            raise ProtocolError("hash: not that of the schema that welcome named")
        self._begin(Wire(self._codec, theirs, self.schema))
        self.schema = self.schema or theirs
        return SchemaArrived(theirs)

    def _rows(self, value: Any) -> tuple[Row | Deleted, ...]:
        if self.wire is None:
            raise ProtocolError("rows before the schema")
        return self.wire.rows(value)

    def _snapshot(self, frame: Fields) -> Event:
        frame.read("as_of", seq)  # checked only: each row's seq equals it
        rows, cursor = frame.read("rows", self._rows), frame.maybe("cursor", self._codec.cursor)
        first = self.state is State.SNAPSHOT_DUE
        self.cursor = cursor
        self.state = State.SNAPSHOT if cursor is None else State.CATCHING_UP
        window = None if cursor is None or self.wire is None else self.wire.windows(self._window or {})
        return Batch(rows, cursor, replaces=first, partial=False, window=window)

    def _changes(self, frame: Fields) -> Event:
        start, to = frame.read("from", self._codec.cursor), frame.read("to", self._codec.cursor)
        rows, partial = frame.read("rows", self._rows), frame.maybe("partial", flag) or False
        position = frame.maybe("seq", seq)
        if start != self.cursor:
            raise ProtocolError("from: not the device's cursor")
        self.cursor = to
        return Batch(rows, to, replaces=False, partial=partial, seq=None if partial else position)

    def _live(self, frame: Fields) -> Event:
        cursor, position = frame.read("cursor", self._codec.cursor), frame.read("seq", seq)
        if cursor != self.cursor:
            raise ProtocolError("cursor: not the device's")
        self.state = State.LIVE
        return Live(cursor, position)

    def _page(self, frame: Fields) -> Event:
        page = PageArrived(
            id=frame.read("id", natural),
            as_of=frame.read("as_of", seq),
            rows=frame.read("rows", self._rows),
            more=frame.read("more", flag),
        )
        if page.id not in self.unanswered:
            raise ProtocolError("id: not that of an unanswered page")
        self.unanswered.remove(page.id)
        return page

    def _ack(self, frame: Fields) -> Event:
        answers = frame.read("results", results)
        if self.pushed is None:
            raise ProtocolError("an ack, but no push is unanswered")
        if [answer.n for answer in answers] != list(self.pushed):
            raise ProtocolError("results: not one for each mutation of the push, in its order")
        self.pushed = None
        return Acknowledged(answers)

    def _refreshed(self, frame: Fields) -> Event:
        self._refreshing = False
        return Refreshed(frame.read("expires", integer))

    def _streams(self, frame: Fields) -> Event:
        uuid = self._codec.types["uuid"]
        return StreamsNamed(frozenset(uuid(each) for each in frame.read("open", array)))

    def _stream(self, frame: Fields) -> Event | None:
        name, since = frame.read("stream", self._codec.types["uuid"]), frame.read("since", seq)
        tag, column = frame.read("kind", text), frame.read("column", text)
        offset, words, state = frame.read("offset", natural), frame.read("text", text), frame.read("state", text)
        place = None if self.wire is None else frame.read("id", partial(self.wire.place, tag, column))
        if place is None:
            return None
        if offset > self._lengths.get(name, 0):
            raise ProtocolError("offset: behind the end of the text that this connection brought")
        self._lengths[name] = offset + len(words)
        return StreamGrew(name, *place, column, since, offset, words, state)

    def _stopped(self, frame: Fields) -> Event:
        answer = StopAnswered(frame.read("n", natural), frame.read("found", flag))
        if answer.n not in self.stops:
            raise ProtocolError("n: not that of an unanswered stop")
        self.stops.remove(answer.n)
        return answer

    def _error(self, frame: Fields) -> Event:
        self.last_error = answer = ErrorAnswer(
            code=frame.read("code", text),
            message=frame.read("message", text),
            retryable=frame.read("retryable", flag),
            answers=frame.maybe("answers", text),
            id=frame.maybe("id", natural),
            retry_after_ms=frame.maybe("retry_after", natural),
            expected=frame.maybe("expected", natural),
        )
        if answer.answers == "push":
            self._push_failed(answer)
            return answer
        if answer.answers == "stop":
            if answer.id is not None:
                self.stops.discard(answer.id)
            return answer
        if answer.id is not None and answer.code != "unavailable":  # the page is answered once Postgres is back
            self.unanswered.discard(answer.id)
        if answer.answers == "refresh":
            self._refreshing = False
        return answer

    def _push_failed(self, answer: ErrorAnswer) -> None:
        if self.pushed is None or answer.id not in (None, self.pushed.start):
            return  # the error answers another push
        if answer.code == "gap" and (answer.expected is None or answer.expected in (0, self.pushed.start)):
            # A correct server expects another number than that of the push, and no number is 0.
            raise ProtocolError("expected: missing, 0, or the number that the push began with")
        self.pushed = None


def _check_window(window: Mapping[str, int], schema: Schema | None) -> None:
    for name, rows in window.items():
        kind = None if schema is None else schema.get(name)
        if schema is not None and kind is None:
            raise ValueError(f"window: the schema has no kind {name!r}")
        most = WINDOW if kind is None or kind.parent is None else WINDOW_BELOW
        if not 0 <= rows <= most:
            raise ValueError(f"window: {name} takes 0 to {most} rows")
