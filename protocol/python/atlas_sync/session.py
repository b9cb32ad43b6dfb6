"""The client's end of a connection: frames in, events out (SPEC.md, sections 3–4 and 7–10).

Sans-I/O: it knows neither sockets nor clocks nor storage. connection.py is the asyncio edge around it; comeback.py
decides what follows the connection's end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from atlas_sync.codec import CODECS, CURSOR_BYTES, Encoding, Frame, ProtocolError, flag, integer, natural, seq, text
from atlas_sync.mutation import FRAME_BYTES, NUMBER_END, Mutation, Result, columns
from atlas_sync.replica import Row

PAGE_ROWS = 1000
WINDOW = (500, 200)  # at most: conversations, messages of each


class StateError(Exception):
    """The connection's state does not permit this frame now."""


# ---- Events ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits, from `welcome`.

    frame_bytes: size of one frame from the client. page_rows: rows of one page. pages_in_flight: unanswered pages at a
    time. mutations: mutations of one push. title_bytes, content_bytes: size of a title and of a content in UTF-8.
    """

    frame_bytes: int
    page_rows: int
    pages_in_flight: int
    mutations: int
    title_bytes: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server accepted the connection.

    `time` and `expires` (of the token) are microseconds by the server's clock. `mode` is "resumed" or "snapshot"; `why`
    is the reason of a snapshot.
    """

    session: str
    epoch: str
    tier: str
    mode: str
    why: str | None
    time: int
    expires: int
    keepalive_ms: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows to apply, and the cursor to store with them in one local transaction.

    `replaces`: delete all synced rows first. `cursor` is None in all parts of a snapshot but the last: store None too,
    so that a device that is interrupted in between starts over. `partial`: the rest of a large transaction follows.
    `seq` is the device's position after the rows are applied; None within a snapshot or a transaction.
    """

    rows: tuple[Row, ...]
    cursor: bytes | None
    replaces: bool
    partial: bool
    seq: int | None = None


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
    rows: tuple[Row, ...]
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


Event = Welcomed | Batch | Live | PageArrived | Acknowledged | Refreshed | ErrorAnswer | Pong


# ---- The connection ------------------------------------------------------------------------------------------------


class State(Enum):
    """The state of a connection, seen from the client. The values are used in error messages."""

    NEW = "hello has not been sent"
    GREETING = "hello was sent, no welcome yet"
    SNAPSHOT_DUE = "welcome promised a snapshot, none of it has come"
    SNAPSHOT = "a part of the snapshot has come; there is no cursor"
    CATCHING_UP = "there is a cursor, and changes follow it"
    LIVE = "everything has come; changes follow as they are committed"
    BROKEN = "the server broke the protocol: close the connection"


_ALWAYS = frozenset({"error", "pong"})
_SAID_HELLO = _ALWAYS | {"refreshed"}
_WELCOME = _SAID_HELLO | {"ack"}
_IN_STEP = _WELCOME | {"changes", "live", "page"}

# The frames that the server may send in each state. Any other known frame is a ProtocolError; unknown ones are ignored.
ALLOWED: dict[State, frozenset[str]] = {
    State.NEW: _ALWAYS,
    State.GREETING: _SAID_HELLO | {"welcome"},
    State.SNAPSHOT_DUE: _WELCOME | {"snapshot"},
    State.SNAPSHOT: _WELCOME | {"snapshot"},
    State.CATCHING_UP: _IN_STEP,
    State.LIVE: _IN_STEP,
}


class Session:
    """The state machine of one connection, from `hello` to its end. Use one session for one connection.

    Raises ValueError for a window out of bounds or a cursor of more than 128 bytes.

    May be read: `state`; `cursor`, for the next connection; `limits`; `unanswered`, the ids of unanswered pages;
    `pushed`, the numbers of the unanswered push; `last_error`, the `error` if it was the last frame to arrive.
    """

    def __init__(
        self,
        *,
        token: str,
        client_id: UUID,
        cursor: bytes | None = None,
        window: tuple[int, int] = (50, 50),
        encoding: Encoding = "msgpack",
        generation: int | None = None,
    ) -> None:
        if not all(0 <= wanted <= most for wanted, most in zip(window, WINDOW, strict=True)):
            raise ValueError(f"window {window} is outside of {WINDOW}")
        if cursor is not None and len(cursor) > CURSOR_BYTES:
            raise ValueError(f"a cursor has at most {CURSOR_BYTES} bytes")
        self.state = State.NEW
        self.cursor = cursor
        # Until `welcome` brings the real ones; `hello` needs frame_bytes before.
        self.limits = Limits(FRAME_BYTES, PAGE_ROWS, 1, mutations=0, title_bytes=0, content_bytes=0)
        self.unanswered: set[int] = set()
        self.pushed: range | None = None
        self.last_error: ErrorAnswer | None = None
        self._token, self._client_id, self._window, self._generation = token, client_id, window, generation
        self._codec = CODECS[encoding]
        self._last_page = 0
        self._refreshing = False
        self._readers: dict[str, Callable[[Frame], Event]] = {
            "welcome": self._welcome,
            "snapshot": self._snapshot,
            "changes": self._changes,
            "live": self._live,
            "page": self._page,
            "ack": self._ack,
            "refreshed": self._refreshed,
            "error": self._error,
            "pong": lambda frame: Pong(),
        }

    def hello(self) -> bytes | str:
        """Return the first frame to send. Raises StateError the second time."""
        if self.state is not State.NEW:
            raise StateError("hello is sent once")
        self.state = State.GREETING
        window = dict(zip(("conversations", "messages"), self._window, strict=True))
        frame: dict[str, object] = {"token": self._token, "client_id": self._client_id, "cursor": self.cursor}
        if self._generation is not None:
            frame["generation"] = self._generation
        return self._say(t="hello", **frame, window=window)

    @property
    def may_ask(self) -> bool:
        """Whether a page may be asked for.

        Not before the end of a snapshot, which would delete the page's rows, and not more at a time than permitted.
        """
        in_step = self.state in (State.CATCHING_UP, State.LIVE)
        return in_step and len(self.unanswered) < self.limits.pages_in_flight

    def ask_page(
        self, conversation: UUID | None = None, before: tuple[int, UUID] | None = None, limit: int = 50
    ) -> tuple[int, bytes | str]:
        """Return the id of a page and the frame that asks for it.

        Raises StateError unless `may_ask`, ValueError for a limit outside 1–1000.
        """
        if not self.may_ask:
            raise StateError(f"no page can be asked for: {self.state.value}, {len(self.unanswered)} are unanswered")
        if not 1 <= limit <= PAGE_ROWS:
            raise ValueError(f"a page has 1 to {PAGE_ROWS} rows")
        self._last_page += 1
        self.unanswered.add(self._last_page)
        page: dict[str, object] = {"conversation": conversation, "before": before, "limit": limit}
        return self._last_page, self._say(t="page", id=self._last_page, **page)

    @property
    def may_push(self) -> bool:
        """Whether a push may be sent: after `welcome`, and one at a time."""
        return self.state not in (State.NEW, State.GREETING, State.BROKEN) and self.pushed is None

    def push(self, n: int, mutations: Sequence[Mutation | None], held: int | None = None) -> bytes | str:
        """Return the frame that sends mutations with the numbers from `n` on.

        None is sent as an empty array: outbox.py explains why. `held` is the lowest number whose mutation the device
        still holds. Raises StateError unless `may_push`, ValueError for a push that the server would refuse.
        """
        if not self.may_push:
            raise StateError(f"nothing can be pushed: {self.state.value}, or the last push is unanswered")
        if len(mutations) > self.limits.mutations:
            raise ValueError(f"a push has at most {self.limits.mutations} mutations")
        if n < 1 or n + len(mutations) - 1 > NUMBER_END:
            raise ValueError("numbers go from 1 to 2^53")
        arrays = [() if mutation is None else columns(mutation) for mutation in mutations]
        if held is None:
            frame = self._say(t="push", n=n, mutations=arrays)
        else:
            frame = self._say(t="push", n=n, mutations=arrays, held=held)
        self.pushed = range(n, n + len(mutations))
        return frame

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

    def _welcome(self, frame: Frame) -> Event:
        limits = frame.read("limits", Frame)
        welcomed = Welcomed(
            session=frame.read("session", text),
            epoch=frame.read("epoch", text),
            tier=frame.read("tier", text),
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
        self.state = State.SNAPSHOT_DUE if welcomed.mode == "snapshot" else State.CATCHING_UP
        self.limits = welcomed.limits
        return welcomed

    def _snapshot(self, frame: Frame) -> Event:
        frame.read("as_of", seq)  # checked only: each row's seq equals it
        rows, cursor = frame.read("rows", self._codec.rows), frame.maybe("cursor", self._codec.cursor)
        first = self.state is State.SNAPSHOT_DUE
        self.cursor = cursor
        self.state = State.SNAPSHOT if cursor is None else State.CATCHING_UP
        return Batch(rows, cursor, replaces=first, partial=False)

    def _changes(self, frame: Frame) -> Event:
        start, to = frame.read("from", self._codec.cursor), frame.read("to", self._codec.cursor)
        rows, partial = frame.read("rows", self._codec.rows), frame.maybe("partial", flag) or False
        position = frame.maybe("seq", seq)
        if start != self.cursor:
            raise ProtocolError("from: not the device's cursor")
        self.cursor = to
        return Batch(rows, to, replaces=False, partial=partial, seq=None if partial else position)

    def _live(self, frame: Frame) -> Event:
        cursor, position = frame.read("cursor", self._codec.cursor), frame.read("seq", seq)
        if cursor != self.cursor:
            raise ProtocolError("cursor: not the device's")
        self.state = State.LIVE
        return Live(cursor, position)

    def _page(self, frame: Frame) -> Event:
        page = PageArrived(
            id=frame.read("id", natural),
            as_of=frame.read("as_of", seq),
            rows=frame.read("rows", self._codec.rows),
            more=frame.read("more", flag),
        )
        if page.id not in self.unanswered:
            raise ProtocolError("id: not that of an unanswered page")
        self.unanswered.remove(page.id)
        return page

    def _ack(self, frame: Frame) -> Event:
        results = frame.read("results", self._codec.results)
        if self.pushed is None:
            raise ProtocolError("an ack, but no push is unanswered")
        if [result.n for result in results] != list(self.pushed):
            raise ProtocolError("results: not one for each mutation of the push, in its order")
        self.pushed = None
        return Acknowledged(results)

    def _refreshed(self, frame: Frame) -> Event:
        self._refreshing = False
        return Refreshed(frame.read("expires", integer))

    def _error(self, frame: Frame) -> Event:
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
