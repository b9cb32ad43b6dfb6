"""The client's end of the sync protocol: frames in, events out, and what to do after a close.

Written against SPEC.md alone, with msgpack instead of the server's codec, so that each checks the other. Sans-I/O: it
knows nothing of sockets, clocks or storage; time and randomness come in as arguments (connect.py is the edge around
it). Long on purpose: this file and close.py, copied, are the whole client. Sections named are those of SPEC.md.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import msgpack

from protocol.close import Instruction, instruction

Encoding = Literal["msgpack", "json"]
Kind = Literal["p", "c", "m"]
T = TypeVar("T")

SEQ_END = 2**53  # beyond it a JavaScript number is no longer exact
CURSOR_BYTES = 128
FRAME_BYTES = 262_144  # what `limits.frame_bytes` is; `hello` is sent before a welcome could say so
PAGE_ROWS = 1000
WINDOW_CONVERSATIONS, WINDOW_MESSAGES = 500, 200

BACKOFF_FIRST = 0.5  # seconds
BACKOFF_MOST = 30.0  # seconds
LIVE_ENOUGH = 60.0  # seconds; a connection that was live for so long was no failure
REFRESH_AFTER, REFRESH_MARGIN = 0.8, 60.0  # a share of the token's remaining life; seconds before its end


class ProtocolError(Exception):
    """The server sent what the protocol does not allow. The connection is of no more use."""


class StateError(Exception):
    """This frame may not be sent now: before `hello`, before a snapshot is complete, or after a break."""


# ---- Rows (section 5) -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Profile:
    """The user. `id` is the user's."""

    seq: int
    id: UUID
    tier: str
    status: str | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. Instants are microseconds since 1970-01-01 UTC."""

    seq: int
    id: UUID
    title: str | None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message. Instants are microseconds since 1970-01-01 UTC; `role` is one of the three, or one from the future."""

    seq: int
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """The row of this kind and id is gone."""

    kind: Kind
    seq: int
    id: UUID


Row = Profile | Conversation | Message | Deleted


class Replica:
    """The rows that one device holds, by the rules of sections 5 and 7.3. In memory; an app does the same in SQL."""

    def __init__(self) -> None:
        self.profiles: dict[UUID, Profile] = {}
        self.conversations: dict[UUID, Conversation] = {}
        self.messages: dict[UUID, Message] = {}
        self._held: dict[Kind, dict[UUID, Any]] = {"p": self.profiles, "c": self.conversations, "m": self.messages}
        self._deletions: dict[tuple[Kind, UUID], int] = {}
        self._pages_expected = 0

    def replace(self, rows: Iterable[Row]) -> None:
        """The first frame of a snapshot: everything held goes, memories too, for its history may be another one."""
        for held in (self.profiles, self.conversations, self.messages, self._deletions):
            held.clear()
        self.apply(rows)

    def apply(self, rows: Iterable[Row]) -> None:
        """Apply the rows of `changes`, a page, or a snapshot's further frames, in order. A repeat is harmless."""
        for row in rows:
            match row:
                case Profile() if row.seq >= self._newest("p", row.id, self.profiles):
                    self.profiles[row.id] = row
                case Conversation() if row.seq >= self._newest("c", row.id, self.conversations):
                    self.conversations[row.id] = row
                case Message() if row.seq >= max(
                    self._newest("m", row.id, self.messages), self._deletions.get(("c", row.conversation_id), -1)
                ):
                    self.messages[row.id] = row
                case Deleted():
                    self._delete(row)

    @contextmanager
    def expecting_page(self) -> Iterator[None]:
        """Remember deletions meanwhile (5.4): enter before asking, leave when its rows are applied or will not come."""
        self._pages_expected += 1
        try:
            yield
        finally:
            self._pages_expected -= 1
            if not self._pages_expected:
                self._deletions.clear()

    def _newest(self, kind: Kind, row_id: UUID, held: Mapping[UUID, Row]) -> int:
        row = held.get(row_id)
        return max(-1 if row is None else row.seq, self._deletions.get((kind, row_id), -1))

    def _delete(self, row: Deleted) -> None:
        held = self._held[row.kind]
        if row.seq >= self._newest(row.kind, row.id, held):
            held.pop(row.id, None)
        if row.kind == "c":
            # Also when a newer conversation of the same id is held, which has come back since: its old messages have
            # not, and no `-m` will ever say so.
            gone = [m.id for m in self.messages.values() if m.conversation_id == row.id and m.seq <= row.seq]
            for message_id in gone:
                del self.messages[message_id]
        if self._pages_expected:
            key = (row.kind, row.id)
            self._deletions[key] = max(row.seq, self._deletions.get(key, -1))


# ---- Events: what arrived -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What this server allows: bytes of one frame from the client, rows of one page, pages unanswered at a time."""

    frame_bytes: int
    page_rows: int
    pages_in_flight: int


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The server took us. `time` and `expires` are microseconds by the server's clock; `why` is set for a snapshot."""

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
    """The answer to `ask_page`; the rows carry `as_of` as their seq."""

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
    """The answer to `ping`."""


@dataclass(frozen=True, slots=True)
class ChainBroken:
    """What arrived does not start where we stand (7.4, 7.5). Close with 4000 and come back with `expected`."""

    expected: bytes | None
    got: bytes


Event = Welcomed | Batch | Live | PageArrived | Refreshed | Refused | Pong | ChainBroken


# ---- Encodings (section 2) ------------------------------------------------------------------------------------------
# A check takes a decoded value and returns it typed, or raises ProtocolError. Its words never contain the value: it may
# be somebody's message, and errors end in logs.


def _integer(value: Any) -> int:
    if type(value) is not int:  # not isinstance: True is an int to Python, and not to the protocol
        raise ProtocolError("not an integer")
    return value


def _natural(value: Any) -> int:
    if _integer(value) < 0:
        raise ProtocolError("negative")
    return int(value)


def _seq(value: Any) -> int:
    if _natural(value) >= SEQ_END:
        raise ProtocolError("a seq of 2^53 or more")
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ProtocolError("not a boolean")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ProtocolError("not a text")
    return value


def _maybe(check: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else check(value)


def _sized(value: bytes) -> bytes:
    if len(value) > CURSOR_BYTES:
        raise ProtocolError("a cursor of more than 128 bytes")
    return value


def _uuid_bytes(value: Any) -> UUID:
    if not isinstance(value, bytes) or len(value) != 16:
        raise ProtocolError("not a uuid of 16 bytes")
    return UUID(bytes=value)


def _uuid_text(value: Any) -> UUID:
    try:
        parsed = UUID(_text(value))
    except ValueError as error:
        raise ProtocolError("not a uuid") from error
    if str(parsed) != value.lower():  # UUID() would also take braces, a urn, no hyphens
        raise ProtocolError("not a uuid in canonical form")
    return parsed


def _cursor_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ProtocolError("not a cursor")
    return _sized(value)


def _cursor_text(value: Any) -> bytes:
    try:
        return _sized(base64.b64decode(_text(value), validate=True))
    except ValueError as error:
        raise ProtocolError("not base64") from error


def _load_msgpack(data: bytes | str) -> Any:
    if not isinstance(data, bytes):
        raise ProtocolError("a text message, but the encoding is MessagePack")
    # Any map key is let through: a field that we do not know may hold whatever it likes.
    return msgpack.unpackb(data, strict_map_key=False)


def _load_json(data: bytes | str) -> Any:
    if not isinstance(data, str):
        raise ProtocolError("a binary message, but the encoding is JSON")
    return json.loads(data)


class _Codec:
    """One encoding: how a frame is packed, and which check a value of each type has to pass."""

    def __init__(
        self,
        load: Callable[[bytes | str], Any],
        dump: Callable[[Any], bytes | str],
        uuid: Callable[[Any], UUID],
        cursor: Callable[[Any], bytes],
        put_uuid: Callable[[UUID], object],
        put_cursor: Callable[[bytes], object],
    ) -> None:
        self.load, self.dump, self.uuid, self.cursor = load, dump, uuid, cursor
        self.put_uuid, self.put_cursor = put_uuid, put_cursor
        self.shapes: dict[str, tuple[Callable[..., Row], tuple[Callable[[Any], object], ...]]] = {
            "p": (Profile, (_seq, uuid, _text, _maybe(_text))),
            "c": (Conversation, (_seq, uuid, _maybe(_text), _integer, _integer)),
            "m": (Message, (_seq, uuid, uuid, _text, _text, _integer, _integer)),
            "-p": (partial(Deleted, "p"), (_seq, uuid)),
            "-c": (partial(Deleted, "c"), (_seq, uuid)),
            "-m": (partial(Deleted, "m"), (_seq, uuid)),
        }

    def decode(self, data: bytes | str) -> dict[Any, Any]:
        """The frame as a map. Raises ProtocolError for anything else."""
        try:
            frame = self.load(data)
        except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
            raise ProtocolError(f"not a frame: {type(error).__name__}") from error
        if not isinstance(frame, dict):
            raise ProtocolError("a frame is a map")
        return frame

    def rows(self, raw: Any, as_of: int | None = None) -> tuple[Row, ...]:
        """The rows of kinds that we know. With `as_of` that is their seq: so 7.3 and 7.7 have it."""
        if not isinstance(raw, list):
            raise ProtocolError("not an array")
        rows = []
        for columns in raw:
            if not isinstance(columns, list) or not columns:
                raise ProtocolError("a row is an array that starts with its kind")
            shape = self.shapes.get(_text(columns[0]))
            if shape is None:
                continue  # a kind from the future
            make, checks = shape
            if len(columns) <= len(checks):
                raise ProtocolError("a row with too few columns")
            values = [check(value) for check, value in zip(checks, columns[1:], strict=False)]
            if as_of is not None:
                values[0] = as_of
            rows.append(make(*values))
        return tuple(rows)


_CODECS: dict[str, _Codec] = {
    "msgpack": _Codec(
        _load_msgpack, msgpack.packb, _uuid_bytes, _cursor_bytes, lambda value: value.bytes, lambda value: value
    ),
    "json": _Codec(
        _load_json,
        lambda frame: json.dumps(frame, ensure_ascii=False, separators=(",", ":")),
        _uuid_text,
        _cursor_text,
        str,
        lambda value: base64.b64encode(value).decode("ascii"),
    ),
}


# ---- The connection (sections 3, 4, 7) ------------------------------------------------------------------------------


class State(Enum):
    """Where a connection stands, seen from the client."""

    NEW = "hello has not been sent"
    GREETING = "hello was sent, no welcome yet"
    SNAPSHOT_DUE = "welcome promised a snapshot, none of it has come"
    SNAPSHOT = "a part of the snapshot has come; there is no cursor"
    CATCHING_UP = "the cursor stands, changes follow it"
    LIVE = "everything has come; changes follow as they are made"
    BROKEN = "of no more use: close it"


_ANSWERS = {"error", "refreshed", "pong"}

# What the server may say in each state. Anything else that we know is a ProtocolError; what we do not know is ignored.
ALLOWED: dict[State, frozenset[str]] = {
    State.NEW: frozenset({"error"}),  # `hello_timeout`
    State.GREETING: frozenset({"welcome"} | _ANSWERS),
    State.SNAPSHOT_DUE: frozenset({"snapshot"} | _ANSWERS),
    State.SNAPSHOT: frozenset({"snapshot"} | _ANSWERS),
    State.CATCHING_UP: frozenset({"changes", "live", "page"} | _ANSWERS),
    State.LIVE: frozenset({"changes", "live", "page"} | _ANSWERS),
    State.BROKEN: frozenset(),
}

# A page asked for before the snapshot is complete could arrive before it, and be wiped by it.
MAY_ASK = frozenset({State.CATCHING_UP, State.LIVE})


class Client:
    """One connection, from `hello` to its end. Make another one for the next connection, with the cursor of this one.

    Raises ValueError for a window out of bounds or a cursor of more than 128 bytes.
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
        conversations, messages = window
        if not (0 <= conversations <= WINDOW_CONVERSATIONS and 0 <= messages <= WINDOW_MESSAGES):
            raise ValueError(f"window {window} is outside of {(WINDOW_CONVERSATIONS, WINDOW_MESSAGES)}")
        if cursor is not None and len(cursor) > CURSOR_BYTES:
            raise ValueError(f"a cursor has at most {CURSOR_BYTES} bytes")
        self.state = State.NEW
        self.cursor = cursor
        self.limits: Limits | None = None
        self._token, self._client_id, self._window = token, client_id, window
        self._codec = _CODECS[encoding]
        self._last_page = 0
        self._unanswered: set[int] = set()
        self._readers: dict[str, Callable[[dict[Any, Any]], Event]] = {
            "welcome": self._welcome,
            "snapshot": self._snapshot,
            "changes": self._changes,
            "live": self._live,
            "page": self._page,
            "refreshed": lambda frame: Refreshed(_field(frame, "expires", _integer)),
            "error": self._error,
            "pong": lambda frame: Pong(),
        }

    @property
    def unanswered(self) -> frozenset[int]:
        """The ids of the pages that were asked for and have not been answered."""
        return frozenset(self._unanswered)

    def hello(self) -> bytes | str:
        """The first frame. Raises StateError the second time."""
        if self.state is not State.NEW:
            raise StateError("hello is said once")
        self.state = State.GREETING
        conversations, messages = self._window
        return self._encode(
            {
                "t": "hello",
                "token": self._token,
                "client_id": self._codec.put_uuid(self._client_id),
                "cursor": None if self.cursor is None else self._codec.put_cursor(self.cursor),
                "window": {"conversations": conversations, "messages": messages},
                "extras": [],
            }
        )

    def ask_page(
        self, conversation: UUID | None = None, before: tuple[int, UUID] | None = None, limit: int = 50
    ) -> tuple[int, bytes | str]:
        """The page's id and its frame. StateError until `cursor` stands, ValueError for a limit outside 1–1000."""
        if self.state not in MAY_ASK:
            raise StateError(f"no page can be asked for: {self.state.value}")
        if not 1 <= limit <= PAGE_ROWS:
            raise ValueError(f"a page has 1 to {PAGE_ROWS} rows")
        put_uuid = self._codec.put_uuid
        frame = {
            "t": "page",
            "id": self._last_page + 1,
            "conversation": None if conversation is None else put_uuid(conversation),
            "before": None if before is None else [before[0], put_uuid(before[1])],
            "limit": limit,
        }
        encoded = self._encode(frame)
        self._last_page += 1
        self._unanswered.add(self._last_page)
        return self._last_page, encoded

    def refresh(self, token: str) -> bytes | str:
        """A newer token of the same user for this connection. Raises StateError before hello and after a break."""
        return self._say({"t": "refresh", "token": token})

    def ping(self) -> bytes | str:
        """Asks for a pong. Raises StateError before hello and after a break."""
        return self._say({"t": "ping"})

    def receive(self, data: bytes | str) -> list[Event]:
        """What a message from the server means. Once the state is BROKEN: nothing.

        Raises ProtocolError for a frame that is malformed or may not come now; that breaks the connection too.
        """
        if self.state is State.BROKEN:
            return []
        try:
            frame = self._codec.decode(data)
            kind = _field(frame, "t", _text)
            reader = self._readers.get(kind)
            if reader is None:
                return []  # a frame from the future
            if kind not in ALLOWED[self.state]:
                raise ProtocolError(f"{kind} may not come now: {self.state.value}")
            return [reader(frame)]
        except ProtocolError:
            self.state = State.BROKEN
            raise

    def _say(self, frame: dict[str, object]) -> bytes | str:
        if self.state in (State.NEW, State.BROKEN):
            raise StateError(self.state.value)
        return self._encode(frame)

    def _encode(self, frame: dict[str, object]) -> bytes | str:
        encoded = self._codec.dump(frame)
        size = len(encoded.encode()) if isinstance(encoded, str) else len(encoded)
        if size > (self.limits.frame_bytes if self.limits else FRAME_BYTES):
            raise ValueError(f"a frame of {size} bytes is more than the server takes")
        return encoded

    def _welcome(self, frame: dict[Any, Any]) -> Event:
        mode = _field(frame, "mode", _text)
        if mode not in ("resumed", "snapshot"):
            raise ProtocolError("welcome.mode: neither resumed nor snapshot")
        if mode == "resumed" and self.cursor is None:
            raise ProtocolError("welcome.mode: resumed, but there was no cursor")
        limits = _field(frame, "limits", _map)
        self.limits = Limits(*(_field(limits, name, _natural) for name in Limits.__slots__))
        welcomed = Welcomed(
            session=_field(frame, "session", _text),
            epoch=_field(frame, "epoch", _text),
            tier=_field(frame, "tier", _text),
            mode=mode,
            why=_field(frame, "why", _text) if mode == "snapshot" else None,
            time=_field(frame, "time", _integer),
            expires=_field(frame, "expires", _integer),
            keepalive_ms=_field(frame, "keepalive", _natural),
            limits=self.limits,
        )
        if welcomed.keepalive_ms == 0:
            raise ProtocolError("welcome.keepalive: zero")
        self.state = State.CATCHING_UP if mode == "resumed" else State.SNAPSHOT_DUE
        return welcomed

    def _snapshot(self, frame: dict[Any, Any]) -> Event:
        as_of = _field(frame, "as_of", _seq)
        rows = _field(frame, "rows", partial(self._codec.rows, as_of=as_of))
        cursor = _optional(frame, "cursor", self._codec.cursor)
        first = self.state is State.SNAPSHOT_DUE
        self.cursor = cursor
        self.state = State.SNAPSHOT if cursor is None else State.CATCHING_UP
        return Batch(rows, cursor, replaces=first, partial=False)

    def _changes(self, frame: dict[Any, Any]) -> Event:
        start, to = _field(frame, "from", self._codec.cursor), _field(frame, "to", self._codec.cursor)
        rows = _field(frame, "rows", self._codec.rows)
        more = _optional(frame, "partial", _flag) or False
        if start != self.cursor:
            return self._broken(start)
        self.cursor = to
        return Batch(rows, to, replaces=False, partial=more)

    def _live(self, frame: dict[Any, Any]) -> Event:
        cursor = _field(frame, "cursor", self._codec.cursor)
        if cursor != self.cursor:
            return self._broken(cursor)
        self.state = State.LIVE
        return Live(cursor)

    def _broken(self, got: bytes) -> Event:
        self.state = State.BROKEN
        return ChainBroken(self.cursor, got)

    def _page(self, frame: dict[Any, Any]) -> Event:
        page_id, as_of = _field(frame, "id", _natural), _field(frame, "as_of", _seq)
        rows = _field(frame, "rows", partial(self._codec.rows, as_of=as_of))
        more = _field(frame, "more", _flag)
        if page_id not in self._unanswered:
            raise ProtocolError("a page that nobody asked for, or a second answer")
        self._unanswered.remove(page_id)
        return PageArrived(page_id, as_of, rows, more)

    def _error(self, frame: dict[Any, Any]) -> Event:
        refused = Refused(
            code=_field(frame, "code", _text),
            message=_field(frame, "message", _text),
            retryable=_field(frame, "retryable", _flag),
            answers=_optional(frame, "answers", _text),
            id=_optional(frame, "id", _natural),
            retry_after_ms=_optional(frame, "retry_after", _natural),
        )
        if refused.id is not None and refused.code != "unavailable":  # such a page is answered when Postgres is back
            self._unanswered.discard(refused.id)
        return refused


def _map(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ProtocolError("not a map")
    return value


def _field(frame: dict[Any, Any], name: str, check: Callable[[Any], T]) -> T:
    try:
        return check(frame[name])
    except KeyError:
        raise ProtocolError(f"{name}: missing") from None
    except ProtocolError as error:
        raise ProtocolError(f"{name}: {error}") from error


def _optional(frame: dict[Any, Any], name: str, check: Callable[[Any], T]) -> T | None:
    """Absent and nil are the same (2.3)."""
    return None if frame.get(name) is None else _field(frame, name, check)


# ---- After the end (section 9) --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after a connection ended. `attempt` is what to give to the next `next_step`."""

    delay_seconds: float
    drop_cursor: bool
    new_token: bool
    give_up: bool
    attempt: int


def next_step(
    close_code: int | None,
    last_error: Refused | None,
    attempt: int,
    lived_seconds: float,
    rnd: float,
    *,
    fresh_token: bool = True,
) -> Step:
    """What to do after a connection, or an attempt at one, has ended.

    `close_code` is the server's, None if there was none. `last_error` is this connection's last `error`. `attempt` is
    how many attempts in a row had failed before this one, `lived_seconds` how long this one was live (0 if never),
    `rnd` a random number between 0 and 1, `fresh_token` whether the connection was the first one with its token.
    """
    order = Instruction.COME_BACK if close_code is None else instruction(close_code)
    failed = {
        Instruction.COME_BACK: lived_seconds < LIVE_ENOUGH,
        Instruction.NEW_TOKEN: fresh_token,  # a token that had worked before has ended: that is nobody's failure
        Instruction.START_OVER: True,  # however long it lived, the next one may end the same way at once
        Instruction.STAY_AWAY: True,
    }[order]
    attempt = (0 if lived_seconds >= LIVE_ENOUGH else attempt) + failed
    if last_error is not None and last_error.retry_after_ms is not None:
        delay = last_error.retry_after_ms / 1000
    else:
        delay = rnd * min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(attempt, 16))  # 16: far past the cap, and no huge int
    return Step(
        delay_seconds=delay,
        drop_cursor=order is Instruction.START_OVER,
        new_token=order is Instruction.NEW_TOKEN,
        give_up=order is Instruction.STAY_AWAY,
        attempt=attempt,
    )


def refresh_after(remaining_seconds: float) -> float:
    """Seconds to wait before a token with so much life left is refreshed: late, but never after its end."""
    return max(REFRESH_AFTER * remaining_seconds, remaining_seconds - REFRESH_MARGIN, 0.0)
