"""The mutations of a device that the server has not confirmed yet, in order and numbered (SPEC.md, section 8).

Sans-I/O: it knows neither sockets nor clocks. Time is an argument, and a `Storage` keeps what must outlast the app.
view.py shows the outbox's effects, outbox_sender.py sends it.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from atlas_sync.codec import CODECS
from atlas_sync.comeback import backoff
from atlas_sync.mutation import (
    FRAME_BYTES,
    NUMBER_END,
    Delete,
    Insert,
    Mutation,
    Rejected,
    Result,
    Update,
    WriteError,
    check,
    split,
)
from atlas_sync.rows import Key, Row
from atlas_sync.schema import Schema
from atlas_sync.session import ErrorAnswer, Limits
from atlas_sync.wire import Wire

ENVELOPE = 96  # bytes at most of a push without its mutations: its kind, its numbers, the head of its list
EARLIEST = 1_420_070_400_000_000  # microseconds: 2015-01-01, before which a server accepts no write
JITTER = 0.5  # up to this fraction is added to `retry_after`: several devices may have been told the same


# ---- What is kept --------------------------------------------------------------------------------------------------


class EntryState(Enum):
    """The state of an outbox entry."""

    PENDING = "pending"
    """The mutation has no result yet."""
    ACKED = "acked"
    """The mutation is durable on the server; its change may not have arrived through the feed yet."""
    REJECTED = "rejected"
    """The mutation will never be applied. It waits in quarantine for a person's decision."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A mutation and its state.

    key: Names the entry on this device, for ever.
    n: The mutation's number; 0 if it was acknowledged under another client_id.
    seq: ACKED: the position at which the feed contains the change; None if it was acknowledged on an earlier
        connection, which says nothing about the database of this one.
    code, message, column: REJECTED: the reason; `message` can be shown to people, and `column` names the column that
        is the reason, if one is.
    """

    key: int
    n: int
    mutation: Mutation
    state: EntryState = EntryState.PENDING
    seq: int | None = None
    code: str | None = None
    message: str | None = None
    column: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What an outbox keeps besides its entries.

    next_key, next_n: For the next entry. frame_bytes: From the last `welcome`. generation: That of the last connection.
    schema: The server's, if the outbox was made without one. ahead: How far the server's clock was ahead of
    the device's at the last `welcome`, in microseconds; None before the first one.
    """

    next_key: int = 1
    next_n: int = 1
    frame_bytes: int = FRAME_BYTES
    generation: int = 0
    schema: Schema | None = None
    ahead: int | None = None


class Storage(Protocol):
    """Keeps one outbox of one user."""

    @property
    def client_id(self) -> UUID:
        """Made once at random, and kept. The numbers of the mutations belong to it."""

    @property
    def user(self) -> UUID | None:
        """The user whose outbox it keeps. A storage that does not outlast the app may return None."""

    def load(self) -> tuple[Head, list[Entry]]:
        """Return what was committed, the entries in the order of their keys."""

    def commit(self, head: Head, put: list[Entry], drop: list[int]) -> None:
        """Store all of this in one transaction. It is durable when this returns; if it raises, nothing is stored.

        `put` has entries to insert or replace, `drop` keys of entries to delete.
        """


@dataclass(frozen=True, slots=True)
class Push:
    """Mutations to send, with the numbers from `n` on.

    None takes the place of a mutation that exceeds the limits (see `next_push`), or that the outbox holds no longer.
    `held` is the lowest number whose mutation the outbox holds.
    """

    n: int
    mutations: tuple[Mutation | None, ...]
    held: int


# ---- The outbox ----------------------------------------------------------------------------------------------------


class Outbox:
    """The mutations that one device has made and the server has not confirmed yet.

    Make one for a storage, and give it to a `Device`, which sends it::

        outbox = Outbox(SqliteStorage("outbox.db", user), schema)
        device = Device(url, user=user, client_id=outbox.client_id, schema=schema, outbox=outbox, ...)
        entry = outbox.add(Insert("conversation", uuid4(), {"title": "Vienna"}, device.now()))

    Give it the schema that the Device gets. Without one it checks mutations by the server's schema, which the storage
    keeps: it accepts none until a first connection has brought that.

    An entry leaves the outbox once its mutation was applied and its change arrived through the feed. A rejected one
    waits in `quarantine` for `retry` or `discard`. The outbox itself need not be closed; close its storage after the
    device has ended. It is not thread-safe: use it in the thread of the event loop.

    Its methods return at once, so they cannot be cancelled. An exception of the storage passes through, and nothing has
    changed then.

    May be read: `user`; `client_id`; `schema`, None until it is known; `unanswered`, the push that was sent and is not
    answered yet. `on_add` is called after each addition; a Device sets it.
    """

    def __init__(self, storage: Storage, schema: Schema | None = None) -> None:
        self.user, self.client_id = storage.user, storage.client_id
        self.unanswered: Push | None = None
        self.on_add: Callable[[], object] = lambda: None
        self._storage = storage
        self._built_with = schema
        self._measures: tuple[Schema, tuple[Wire, ...]] | None = None
        self._head, entries = storage.load()
        self._entries = {entry.key: entry for entry in entries}  # always in the order of keys
        self._position: int | None = None  # on this connection; None until its first `changes` or `live`
        self._not_before = 0.0
        self._failures = 0  # in a row

    # ---- For the app -------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> Schema | None:
        return self._built_with or self._head.schema

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries, in the order in which they were made."""
        return tuple(self._entries.values())

    @property
    def quarantine(self) -> tuple[Entry, ...]:
        """The rejected entries. Each waits for `retry` or `discard`."""
        return self._in(EntryState.REJECTED)

    def add(self, mutation: Mutation) -> Entry:
        """Add a mutation. It is durable and has its number when this returns.

        Raises WriteError for a mutation that no server of this schema would accept, RuntimeError if no schema is known
        yet. Do not change the mutation's columns afterwards.
        """
        return self._add(mutation, [])

    def retry(self, key: int, corrected: Mutation | None = None) -> Entry:
        """Add a rejected mutation again, perhaps corrected, as a new entry at the end; the rejected one goes.

        Raises ValueError if no rejected entry has this key, and WriteError as `add` does; the entry stays then.
        """
        mutation = self._rejected(key).mutation if corrected is None else corrected
        return self._add(mutation, [self._rejected(key).key])

    def discard(self, key: int) -> None:
        """Delete a rejected entry. Raises ValueError if none has this key."""
        self._commit(self._head, [], [self._rejected(key).key])

    def export(self, rows: Mapping[str, Mapping[Key, Row]] | None = None) -> dict[str, Any]:
        """Return what the server has not confirmed, as plain JSON without a token: for a support case.

        `rows` are the rows that the device holds (`Replica.rows`): those that the mutations are about are added. The
        result contains content of the user: send it nowhere without their consent.
        """
        unsent = [
            {
                "state": entry.state.value,
                "n": entry.n,
                "op": {Insert: "+", Update: "~", Delete: "-"}[type(entry.mutation)],
                "kind": entry.mutation.kind,
                "id": _plain(entry.mutation.id),
                "at": None if isinstance(entry.mutation, Delete) else entry.mutation.at,
                "columns": {} if isinstance(entry.mutation, Delete) else _plain(entry.mutation.columns),
                "row": self._held(entry.mutation, rows or {}),
                "code": entry.code,
                "message": entry.message,
            }
            for entry in self.unsent
        ]
        user = None if self.user is None else str(self.user)
        return {"version": 1, "user": user, "client_id": str(self.client_id), "unsent": unsent}

    @property
    def unsent(self) -> tuple[Entry, ...]:
        """The entries that the server has not confirmed, or not yet again on this connection; rejected ones too."""
        return tuple(unconfirmed(self._entries.values()))

    # ---- For the connection ------------------------------------------------------------------------------------------

    def generation(self, now: int) -> int:
        """Draw the generation of the next connection, larger than any before.

        `now` is the device's clock in microseconds.
        """
        self._commit(replace(self._head, generation=next_generation(self._head.generation, now)), [], [])
        return self._head.generation

    def begin(self, limits: Limits) -> None:
        """The server sent `welcome`: no push is unanswered, and the position of the synced rows is not known yet."""
        self.end()
        if limits.frame_bytes != self._head.frame_bytes:
            self._commit(replace(self._head, frame_bytes=limits.frame_bytes), [], [])
        self.distrust_acks()

    @property
    def ahead(self) -> int:
        """How far the server's clock is ahead of the device's, in microseconds, as far as it is known."""
        return self._head.ahead or 0

    def keep_time(self, ahead: int, now: int) -> None:
        """A `welcome` has shown how far the server's clock is `ahead`, in microseconds; it shows `now`.

        Before the first `welcome` nothing was sent: what waits gets the instants that a right clock would have given,
        in the same order. Later the server may know what waits, and compare it: instants stay.
        """
        if ahead != self._head.ahead:
            put = self._redated(ahead, now) if self._head.ahead is None else []
            self._commit(replace(self._head, ahead=ahead), put, [])

    def learn(self, schema: Schema) -> None:
        """The server's schema has arrived: keep it if the outbox was made without one."""
        if self._built_with is None and schema != self._head.schema:
            self._commit(replace(self._head, schema=schema), [], [])

    def distrust_acks(self) -> None:
        """The database of this connection may have lost what was acknowledged, or be another one: push it again."""
        acked = [replace(entry, seq=None) for entry in self._in(EntryState.ACKED) if entry.n and entry.seq is not None]
        if acked:
            self._commit(self._head, acked, [])

    def end(self) -> None:
        """The connection has ended. A push that it did not answer is sent again on the next one."""
        self.unanswered = self._position = None

    def due(self, now: float) -> float | None:
        """Seconds until a push may be sent, 0 for now; None while there is nothing to send or a push is unanswered.

        `now` here and below: seconds of any clock that only moves forward.
        """
        if self.unanswered is not None or not self._waiting():
            return None
        return max(0.0, self._not_before - now)

    def next_push(self, limits: Limits, wire: Wire, now: float) -> Push | None:
        """Return the push to send now; it counts as unanswered. None unless `due` is 0 and the limits permit a push.

        If the limits have shrunk, a mutation may fit in no frame any more. It cannot be sent, and later ones cannot be
        sent before it has a result. None takes its place: the server consumes its number with a rejection, or answers
        that it had applied the mutation already, which after a lost answer only the server knows. None also takes the
        place of numbers in between whose mutations are confirmed or rejected.
        """
        if self.due(now) != 0 or limits.mutations < 1:
            return None
        room, waiting, mutations = limits.frame_bytes - ENVELOPE, self._waiting(), list[Mutation | None]()
        first = min(waiting)
        for n in range(first, min(first + limits.mutations, max(waiting) + 1)):
            mutation, size = waiting.get(n), 2
            if mutation is not None and (size := wire.size(mutation)) + ENVELOPE > limits.frame_bytes:
                mutation, size = None, 2
            if (room := room - size) < 0:
                break
            mutations.append(mutation)
        if mutations:
            held = min(
                entry.n for entry in self._entries.values() if entry.n and entry.state is not EntryState.REJECTED
            )
            self.unanswered = Push(first, tuple(mutations), held)
        return self.unanswered

    def acknowledge(self, results: tuple[Result, ...]) -> None:
        """Process the answer to the unanswered push: one result for each mutation, in its order (session.py checks it).

        Raises ValueError if no push is unanswered.
        """
        if self.unanswered is None:
            raise ValueError("No push is unanswered: acknowledge only what answers one.")
        push, put, drop = self.unanswered, list[Entry](), list[int]()
        by_number = {entry.n: entry for entry in self._unanswered()}
        for sent, result in zip(push.mutations, results, strict=True):
            if (entry := by_number.get(result.n)) is None:
                continue
            if isinstance(result, Rejected):
                code, message, column = result.code, result.message, result.column
                if sent is None:
                    code, message, column = "too_long", "It is longer than the server takes now.", None
                rejected = replace(entry, state=EntryState.REJECTED, code=_whole(code), message=_whole(message))
                put.append(replace(rejected, column=column and _whole(column)))
            elif self._position is not None and result.seq <= self._position:
                drop.append(entry.key)
            else:
                put.append(replace(entry, state=EntryState.ACKED, seq=result.seq))
        self._commit(self._head, put, drop)
        self.unanswered, self._failures = None, 0

    def push_failed(self, error: ErrorAnswer, now: float, rnd: float) -> None:
        """Process an `error` that answers the unanswered push: all of it stays, and is sent again after a pause.

        After a `gap` it gets new numbers. `rnd` is a random number between 0 and 1.
        """
        if error.code == "gap" and error.expected is not None and self.unanswered is not None:
            self._renumber(error.expected, above=error.expected > self.unanswered.n)
            # The next push fits, unless each one reaches another database: so only the first is sent without a pause.
            pause = backoff(self._failures, rnd) if self._failures else 0.0
        else:
            pause = backoff(self._failures + 1, rnd)
        self._failures += 1
        if error.retry_after_ms is not None:
            pause = error.retry_after_ms / 1000 * (1 + JITTER * rnd)
        self._not_before = now + pause
        self.unanswered = None

    def advance(self, seq: int | None) -> None:
        """The synced rows have reached this position (None: no position yet): delete the acked entries up to it.

        Entries acknowledged on an earlier connection stay. A Device calls this after each batch. An app that stores
        rows in the storage's own transaction calls it there too; repeating it is harmless.
        """
        if seq is None:
            return
        self._position = max(seq, self._position or 0)
        confirmed = [e.key for e in self._in(EntryState.ACKED) if e.seq is not None and e.seq <= self._position]
        if confirmed:
            self._commit(self._head, [], confirmed)

    # ---- Within ------------------------------------------------------------------------------------------------------

    def _in(self, state: EntryState) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._entries.values() if entry.state is state)

    def _unanswered(self) -> list[Entry]:
        """The entries that have no result on this connection."""
        return [
            entry
            for entry in self._entries.values()
            if entry.state is EntryState.PENDING or (entry.state is EntryState.ACKED and entry.seq is None)
        ]

    def _held(self, mutation: Mutation, rows: Mapping[str, Mapping[Key, Row]]) -> Any:
        kind = None if self.schema is None else self.schema.get(mutation.kind)
        target: Any = mutation.id
        key = target if kind is None or isinstance(mutation, Insert) else split(target, kind)[0]
        row = rows.get(mutation.kind, {}).get(key)
        return None if row is None else _plain(row.values)

    def _redated(self, shift: int, now: int) -> list[Entry]:
        written = [each.mutation for each in self._entries.values()]
        instants = redated((each.at for each in written if not isinstance(each, Delete)), shift, now)
        made = {(each.kind, each.id) for each in written if isinstance(each, Insert)}

        def target(mutation: Update | Delete) -> Any:
            kind = None if self.schema is None else self.schema.get(mutation.kind)
            key, at = (mutation.id, None) if kind is None else split(mutation.id, kind)
            # The instant of a row that the server has stays what it is.
            return (key, instants.get(at, at)) if at is not None and (mutation.kind, key) in made else mutation.id

        def moved(mutation: Mutation) -> Mutation:
            match mutation:
                case Insert():
                    return replace(mutation, at=instants[mutation.at])
                case Update():
                    return replace(mutation, id=target(mutation), at=instants[mutation.at])
                case Delete():
                    return replace(mutation, id=target(mutation))

        return [replace(each, mutation=moved(each.mutation)) for each in self._entries.values()]

    def _waiting(self) -> dict[int, Mutation]:
        return {entry.n: entry.mutation for entry in self._unanswered()}

    def _rejected(self, key: int) -> Entry:
        entry = self._entries.get(key)
        if entry is None or entry.state is not EntryState.REJECTED:
            raise ValueError(f"No rejected mutation has the key {key}: `quarantine` lists those that have one.")
        return entry

    def _add(self, mutation: Mutation, drop: list[int]) -> Entry:
        head, schema = self._head, self.schema
        if schema is None:
            raise RuntimeError("No schema is known yet: make the outbox with one, or connect once before writing.")
        check(mutation, schema)
        # In both encodings: the app may connect with either.
        if max(wire.size(mutation) for wire in self._wires(schema)) + ENVELOPE > head.frame_bytes:
            raise WriteError("too_long", f"the mutation fits in no frame of {head.frame_bytes} bytes: shorten it")
        if head.next_n > NUMBER_END:
            raise ValueError("every number up to 2^53 is used: make a new outbox, which has another client_id")
        entry = Entry(head.next_key, head.next_n, mutation)
        self._commit(replace(head, next_key=entry.key + 1, next_n=entry.n + 1), [entry], drop)
        self.on_add()
        return entry

    def _wires(self, schema: Schema) -> tuple[Wire, ...]:
        if self._measures is None or self._measures[0] is not schema:
            self._measures = schema, tuple(Wire(codec, schema) for codec in CODECS.values())
        return self._measures[1]

    def _renumber(self, expected: int, *, above: bool) -> None:
        """Give new numbers from `expected` on to the mutations that must be sent again after a `gap`.

        If the database lost its latest transactions, these are the pending ones, and the acked ones from `expected` on.
        If it consumed the numbers for other mutations (`above`), these are all that the outbox holds.
        """
        lost = [
            entry
            for entry in self._entries.values()
            if entry.state is EntryState.PENDING
            or (entry.state is EntryState.ACKED and entry.n and (above or entry.n >= expected))
        ]
        put = [replace(e, n=n, state=EntryState.PENDING, seq=None) for n, e in enumerate(lost, expected)]
        self._commit(replace(self._head, next_n=expected + len(put)), put, [])

    def _commit(self, head: Head, put: list[Entry], drop: list[int]) -> None:
        self._storage.commit(head, put, drop)
        self._head = head
        self._entries.update((entry.key, entry) for entry in put)
        for key in drop:
            self._entries.pop(key, None)


def next_generation(last: int, now: int) -> int:
    """The generation after `last`, at `now` by the device's clock in microseconds."""
    return min(max(last + 1, now), NUMBER_END)


def redated(instants: Iterable[int], shift: int, most: int) -> dict[int, int]:
    """Instants that a wrong clock gave, as they should have been, by the former ones. All in microseconds.

    Each is moved by `shift`, and then to the nearest that a server accepts, from EARLIEST to `most`. Two that differed
    still differ, in the same order.
    """
    ordered = sorted(set(instants))
    moved, last = [at + shift for at in ordered], most
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], last)
        last = moved[i] - 1
    first = EARLIEST
    for i in range(len(moved)):
        moved[i] = max(moved[i], first)
        first = moved[i] + 1
    return dict(zip(ordered, moved, strict=True))


def unconfirmed(entries: Iterable[Entry]) -> list[Entry]:
    """Those that the server has not confirmed, or not yet again on this connection; rejected ones too."""
    return [each for each in entries if each.state is not EntryState.ACKED or each.seq is None]


def _plain(value: Any) -> Any:
    """As JSON has it: numbers that are none, and what is no number or text, as texts; bytes as base64."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return b64encode(value).decode("ascii")
        case Mapping():
            return {str(name): _plain(part) for name, part in value.items()}
        case list() | tuple():
            return [_plain(part) for part in value]
    return str(value)


def _whole(text: str) -> str:
    """Replace halves of surrogate pairs: JSON can contain them, and no storage accepts them."""
    return text.encode(errors="replace").decode()
