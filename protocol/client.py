"""The client's end of a connection: frames in, events out, and what to do after its end (SPEC.md, sections 3–4, 7–9).

Sans-I/O: it knows neither sockets nor clocks nor storage; time and randomness come in as arguments. connect.py is the
edge around it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from protocol.close import Instruction, instruction
from protocol.replica import Row
from protocol.wire import CODECS, CURSOR_BYTES, Encoding, Frame, ProtocolError, flag, integer, natural, seq, text

FRAME_BYTES = 262_144  # what `limits.frame_bytes` is; `hello` is sent before a welcome could say so
PAGE_ROWS = 1000
WINDOW = (500, 200)  # at most: conversations, messages of each

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 30.0  # seconds
LASTED = 60.0  # seconds; the end of a connection that lasted so long is the first in its row
REFRESH_AFTER, REFRESH_MARGIN = 0.8, 60.0  # a share of the token's remaining life; seconds before its end


class StateError(Exception):
    """This frame may not be sent now."""


# ---- Events: what arrived ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What this server allows: bytes of one frame from the client, rows of one page, pages unanswered at a time."""

    frame_bytes: int
    page_rows: int
    pages_in_flight: int


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server took us. `time` and `expires` are microseconds by the server's clock; `why` is about a snapshot."""

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

    `replaces`: drop all synced rows first. `cursor` is None in all but the last part of a snapshot: store None, so that
    a device interrupted in between starts over. `partial`: the rest of a large transaction follows.
    """

    rows: tuple[Row, ...]
    cursor: bytes | None
    replaces: bool
    partial: bool


@dataclass(frozen=True, slots=True)
class Live:
    """We have everything up to here."""

    cursor: bytes


@dataclass(frozen=True, slots=True)
class PageArrived:
    """The answer to `ask_page`."""

    id: int
    as_of: int
    rows: tuple[Row, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The newer token was taken; it ends at `expires` (microseconds, the server's clock)."""

    expires: int


@dataclass(frozen=True, slots=True)
class Refused:
    """An `error` frame. `answers` and `id` say what it answers, if anything."""

    code: str
    message: str
    retryable: bool
    answers: str | None = None
    id: int | None = None
    retry_after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `ping`, or a heartbeat."""


Event = Welcomed | Batch | Live | PageArrived | Refreshed | Refused | Pong


# ---- The connection ------------------------------------------------------------------------------------------------


class State(Enum):
    """Where a connection stands, seen from the client."""

    NEW = "hello has not been sent"
    GREETING = "hello was sent, no welcome yet"
    SNAPSHOT_DUE = "welcome promised a snapshot, none of it has come"
    SNAPSHOT = "a part of the snapshot has come; there is no cursor"
    CATCHING_UP = "the cursor stands, changes follow it"
    LIVE = "everything has come; changes follow as they are made"
    BROKEN = "of no more use: close it"


_ALWAYS = frozenset({"error", "pong"})
_SAID_HELLO = _ALWAYS | {"refreshed"}
_IN_STEP = _SAID_HELLO | {"changes", "live", "page"}

# What the server may say in each state. Anything else that we know is a ProtocolError; what we do not know is ignored.
ALLOWED: dict[State, frozenset[str]] = {
    State.NEW: _ALWAYS,
    State.GREETING: _SAID_HELLO | {"welcome"},
    State.SNAPSHOT_DUE: _SAID_HELLO | {"snapshot"},
    State.SNAPSHOT: _SAID_HELLO | {"snapshot"},
    State.CATCHING_UP: _IN_STEP,
    State.LIVE: _IN_STEP,
}


class Client:
    """One connection, from `hello` to its end. Make another one for the next connection, with the cursor of this one.

    Raises ValueError for a window out of bounds or a cursor of more than 128 bytes. What may be read, and only read:
    `state`, `cursor`, `limits`; `unanswered`, the ids of the pages that were asked for; `last_words`, the `error` that
    was the last frame to arrive, if it was one.
    """

    def __init__(
        self,
        *,
        token: str,
        client_id: UUID,
        cursor: bytes | None = None,
        window: tuple[int, int] = (50, 50),
        encoding: Encoding = "msgpack",
    ) -> None:
        if not all(0 <= wanted <= most for wanted, most in zip(window, WINDOW, strict=True)):
            raise ValueError(f"window {window} is outside of {WINDOW}")
        if cursor is not None and len(cursor) > CURSOR_BYTES:
            raise ValueError(f"a cursor has at most {CURSOR_BYTES} bytes")
        self.state = State.NEW
        self.cursor = cursor
        self.limits = Limits(FRAME_BYTES, PAGE_ROWS, pages_in_flight=1)  # until welcome tells
        self.unanswered: set[int] = set()
        self.last_words: Refused | None = None
        self._token, self._client_id, self._window = token, client_id, window
        self._codec = CODECS[encoding]
        self._last_page = 0
        self._refreshing = False
        self._readers: dict[str, Callable[[Frame], Event]] = {
            "welcome": self._welcome,
            "snapshot": self._snapshot,
            "changes": self._changes,
            "live": self._live,
            "page": self._page,
            "refreshed": self._refreshed,
            "error": self._error,
            "pong": lambda frame: Pong(),
        }

    def hello(self) -> bytes | str:
        """The first frame. Raises StateError the second time."""
        if self.state is not State.NEW:
            raise StateError("hello is said once")
        self.state = State.GREETING
        window = dict(zip(("conversations", "messages"), self._window, strict=True))
        return self._say(t="hello", token=self._token, client_id=self._client_id, cursor=self.cursor, window=window)

    @property
    def may_ask(self) -> bool:
        """Whether a page may be asked for: after a snapshot, which would wipe it, and not too many at a time."""
        in_step = self.state in (State.CATCHING_UP, State.LIVE)
        return in_step and len(self.unanswered) < self.limits.pages_in_flight

    def ask_page(
        self, conversation: UUID | None = None, before: tuple[int, UUID] | None = None, limit: int = 50
    ) -> tuple[int, bytes | str]:
        """The page's id and its frame. StateError unless `may_ask`, ValueError for a limit outside 1–1000."""
        if not self.may_ask:
            raise StateError(f"no page can be asked for: {self.state.value}, {len(self.unanswered)} are unanswered")
        if not 1 <= limit <= PAGE_ROWS:
            raise ValueError(f"a page has 1 to {PAGE_ROWS} rows")
        self._last_page += 1
        self.unanswered.add(self._last_page)
        page: dict[str, object] = {"conversation": conversation, "before": before, "limit": limit}
        return self._last_page, self._say(t="page", id=self._last_page, **page)

    def refresh(self, token: str) -> bytes | str:
        """A later token of the same user. Raises StateError before hello, after a break, while one is unanswered."""
        if self._refreshing:
            raise StateError("one refresh at a time")
        frame = self._say(t="refresh", token=token)
        self._refreshing = True
        return frame

    def ping(self) -> bytes | str:
        """Asks for a pong. Raises StateError before hello and after a break."""
        return self._say(t="ping")

    def receive(self, data: bytes | str) -> Event | None:
        """What a message from the server means: None for a frame from the future, and for any once BROKEN.

        Raises ProtocolError for a frame that is malformed, may not come now, or does not start where we stand; that
        breaks the connection: close it with 4000, and come back with `cursor`.
        """
        if self.state is State.BROKEN:
            return None
        self.last_words = None
        try:
            frame = self._codec.decode(data)
            kind = frame.read("t", text)
            if kind not in self._readers:
                return None
            if kind not in ALLOWED[self.state]:
                raise ProtocolError(f"{kind} may not come now: {self.state.value}")
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
            raise ProtocolError("mode: neither a snapshot nor resumed from a cursor that we gave")
        self.state = State.SNAPSHOT_DUE if welcomed.mode == "snapshot" else State.CATCHING_UP
        self.limits = welcomed.limits
        return welcomed

    def _snapshot(self, frame: Frame) -> Event:
        frame.read("as_of", seq)  # which every row says too
        rows, cursor = frame.read("rows", self._codec.rows), frame.maybe("cursor", self._codec.cursor)
        first = self.state is State.SNAPSHOT_DUE
        self.cursor = cursor
        self.state = State.SNAPSHOT if cursor is None else State.CATCHING_UP
        return Batch(rows, cursor, replaces=first, partial=False)

    def _changes(self, frame: Frame) -> Event:
        start, to = frame.read("from", self._codec.cursor), frame.read("to", self._codec.cursor)
        rows, partial = frame.read("rows", self._codec.rows), frame.maybe("partial", flag) or False
        if start != self.cursor:
            raise ProtocolError("from: not our cursor")
        self.cursor = to
        return Batch(rows, to, replaces=False, partial=partial)

    def _live(self, frame: Frame) -> Event:
        cursor = frame.read("cursor", self._codec.cursor)
        if cursor != self.cursor:
            raise ProtocolError("cursor: not ours")
        self.state = State.LIVE
        return Live(cursor)

    def _page(self, frame: Frame) -> Event:
        page = PageArrived(
            id=frame.read("id", natural),
            as_of=frame.read("as_of", seq),
            rows=frame.read("rows", self._codec.rows),
            more=frame.read("more", flag),
        )
        if page.id not in self.unanswered:
            raise ProtocolError("id: a page that nobody asked for, or a second answer")
        self.unanswered.remove(page.id)
        return page

    def _refreshed(self, frame: Frame) -> Event:
        self._refreshing = False
        return Refreshed(frame.read("expires", integer))

    def _error(self, frame: Frame) -> Event:
        self.last_words = refused = Refused(
            code=frame.read("code", text),
            message=frame.read("message", text),
            retryable=frame.read("retryable", flag),
            answers=frame.maybe("answers", text),
            id=frame.maybe("id", natural),
            retry_after_ms=frame.maybe("retry_after", natural),
        )
        if refused.id is not None and refused.code != "unavailable":  # such a page is answered when Postgres is back
            self.unanswered.discard(refused.id)
        if refused.answers == "refresh":
            self._refreshing = False
        return refused


# ---- After the end -------------------------------------------------------------------------------------------------

_ANNOUNCE_NO_CLOSE = frozenset({"unknown_frame", "too_many_pages", "unavailable"})


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a connection ended. `attempt` is for the next `next_step`."""

    order: Instruction
    delay_seconds: float
    attempt: int


def next_step(
    close_code: int | None, last_words: Refused | None, attempt: int, lasted_seconds: float, rnd: float
) -> Step:
    """What to do after a connection, or an attempt at one, has ended.

    `close_code` is the server's, None if there was none. `last_words` is the connection's. `attempt` is what the last
    `next_step` gave, 0 at first; `rnd` is a random number between 0 and 1.
    """
    order = Instruction.COME_BACK if close_code is None else instruction(close_code)
    attempt = 1 if lasted_seconds >= LASTED else attempt + 1
    delay = rnd * min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(attempt, 16))  # 16: far past the cap, and no huge int
    if last_words is not None and last_words.retry_after_ms is not None:
        # A refused refresh announces a close only if its token was another user's.
        only_refresh = last_words.answers == "refresh" and order is Instruction.COME_BACK
        if last_words.code not in _ANNOUNCE_NO_CLOSE and not only_refresh:
            delay = last_words.retry_after_ms / 1000
    return Step(order, delay, attempt)


def refresh_after(remaining_seconds: float) -> float:
    """Seconds to wait before a token with so much life left is refreshed: late, but never after its end."""
    return max(REFRESH_AFTER * remaining_seconds, remaining_seconds - REFRESH_MARGIN, 0.0)
