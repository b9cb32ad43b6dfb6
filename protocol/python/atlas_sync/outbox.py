"""What a device has written and the server has not yet confirmed, in order and numbered (SPEC.md, section 8).

Pure: it knows neither sockets nor clocks; time comes in as an argument, and a `Storage` keeps what must outlast the
app. view.py shows its effects, outbox_sender.py sends it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol
from uuid import UUID

from atlas_sync.codec import CODECS, Codec
from atlas_sync.comeback import backoff
from atlas_sync.mutation import NUMBER_END, Bounds, Mutation, Rejected, Result, WriteError, check
from atlas_sync.session import ErrorAnswer, Limits

ENVELOPE = 96  # bytes of a push at most, besides its mutations: its kind, its numbers, the head of its list
RELUCTANCE = 0.5  # a share of `retry_after` at most that is waited longer: several devices may have been told the same


# ---- What is kept --------------------------------------------------------------------------------------------------


class EntryState(Enum):
    """How far a mutation has come."""

    PENDING = "pending"
    """It has no result yet."""
    ACKED = "acked"
    """It is durable on the server; the synced rows need not have it yet."""
    REJECTED = "rejected"
    """It will never be applied, and waits here in quarantine for a person to decide."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A mutation and how far it has come. `key` names it on this device for ever. `n` is its number for the server, 0
    if it was acknowledged under another client_id.

    `seq` is where the feed has it (ACKED; None: in doubt, for it was acknowledged on an earlier connection); `code` and
    `message` are why not (REJECTED).
    """

    key: int
    n: int
    mutation: Mutation
    state: EntryState = EntryState.PENDING
    seq: int | None = None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """What an outbox keeps besides its entries: what the next one gets, the bounds that a server last named, and the
    generation of the last connection."""

    next_key: int = 1
    next_n: int = 1
    bounds: Bounds = field(default_factory=Bounds)
    generation: int = 0


class Storage(Protocol):
    """Where one outbox of one user is kept."""

    @property
    def client_id(self) -> UUID:
        """Made once at random, and kept: the numbers belong to it."""

    @property
    def user(self) -> UUID | None:
        """Whose outbox it keeps; None if it does not outlast the app, and need not know."""

    def load(self) -> tuple[Head, list[Entry]]:
        """What was committed, in the order of keys."""

    def commit(self, head: Head, put: list[Entry], drop: list[int]) -> None:
        """One transaction: durable when it returns; nothing of it is kept if it raises. `drop` has keys."""


@dataclass(frozen=True, slots=True)
class Push:
    """What to send: mutations with the numbers from `n` on.

    None stands for one that outgrew the limits (see `next_push`), or that is held no more. `held` is the lowest number
    whose mutation is.
    """

    n: int
    mutations: tuple[Mutation | None, ...]
    held: int


# ---- The outbox ----------------------------------------------------------------------------------------------------


class Outbox:
    """The writes of one device. One for each storage, and not from several threads.

    What may be read, and only read: `user`; `client_id`; `unanswered`, the push that was given out and has no answer
    yet. If the storage raises, nothing has changed. `on_add` is called when there is something new to send.
    """

    def __init__(self, storage: Storage) -> None:
        self.user, self.client_id = storage.user, storage.client_id
        self.unanswered: Push | None = None
        self.on_add: Callable[[], object] = lambda: None
        self._storage = storage
        self._head, entries = storage.load()
        self._entries = {entry.key: entry for entry in entries}  # always in the order of keys
        self._position: int | None = None  # of this connection; unknown until it tells
        self._not_before = 0.0
        self._failures = 0  # in a row

    # ---- For the app -------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All that are not settled yet, in the order in which they were made."""
        return tuple(self._entries.values())

    @property
    def quarantine(self) -> tuple[Entry, ...]:
        """The rejected ones: each waits for `retry` or `discard`."""
        return self._in(EntryState.REJECTED)

    def add(self, mutation: Mutation) -> Entry:
        """Durable, and numbered for good, when it returns. WriteError for what no server would take."""
        return self._add(mutation, [])

    def retry(self, key: int, corrected: Mutation | None = None) -> Entry:
        """A rejected mutation once more, as a new one at the end. ValueError if `key` has none, and as by `add`."""
        mutation = self._rejected(key).mutation if corrected is None else corrected
        return self._add(mutation, [self._rejected(key).key])

    def discard(self, key: int) -> None:
        """Forget a rejected mutation. ValueError if `key` has none."""
        self._commit(self._head, [], [self._rejected(key).key])

    # ---- For the connection ------------------------------------------------------------------------------------------

    def generation(self, now: int) -> int:
        """A number for the next connection, larger than that of any before. `now` is the clock in microseconds."""
        self._commit(replace(self._head, generation=next_generation(self._head.generation, now)), [], [])
        return self._head.generation

    def begin(self, limits: Limits) -> None:
        """The server sent `welcome`: no push is unanswered, and the position of the synced rows is not known yet."""
        self.end()
        bounds = Bounds(limits.frame_bytes, limits.title_bytes, limits.content_bytes)
        if bounds != self._head.bounds:
            self._commit(replace(self._head, bounds=bounds), [], [])
        self.distrust_acks()

    def distrust_acks(self) -> None:
        """The database of this connection may have lost what was acknowledged, or be another one: push it again."""
        acked = [replace(entry, seq=None) for entry in self._in(EntryState.ACKED) if entry.n and entry.seq is not None]
        if acked:
            self._commit(self._head, acked, [])

    def end(self) -> None:
        """The connection is over. A push that it has not answered is simply the next one again."""
        self.unanswered = self._position = None

    def due(self, now: float) -> float | None:
        """Seconds until there is a push to send, 0: now. None while there is nothing to send, or one unanswered."""
        if self.unanswered is not None or not self._waiting():
            return None
        return max(0.0, self._not_before - now)

    def next_push(self, limits: Limits, codec: Codec, now: float) -> Push | None:
        """What to send now; it is unanswered from now on. None unless `due` says 0, or if the limits permit none.

        A mutation that fits no frame any more, because the limits shrank after it was added, cannot be sent, and those
        behind it not before it has a result. None stands in its place: the server consumes its number with a rejection,
        or says that it had applied it already, which after a lost answer nobody else knows. None stands also for the
        numbers between others whose mutations are settled or rejected.
        """
        if self.due(now) != 0 or limits.mutations < 1:
            return None
        room, waiting, mutations = limits.frame_bytes - ENVELOPE, self._waiting(), list[Mutation | None]()
        first = min(waiting)
        for n in range(first, min(first + limits.mutations, max(waiting) + 1)):
            mutation, size = waiting.get(n), 2
            if mutation is not None and (size := codec.size(mutation)) + ENVELOPE > limits.frame_bytes:
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
        """The answer to the unanswered push: one result for each mutation, in its order (session.py sees to that)."""
        if self.unanswered is None:
            raise ValueError("No push is unanswered: acknowledge only what answers one.")
        push, put, drop = self.unanswered, list[Entry](), list[int]()
        by_number = {entry.n: entry for entry in self._unanswered()}
        for sent, result in zip(push.mutations, results, strict=True):
            if (entry := by_number.get(result.n)) is None:
                continue
            if isinstance(result, Rejected):
                code, message = result.code, result.message
                if sent is None:
                    code, message = "too_long", "It is longer than the server takes now."
                put.append(replace(entry, state=EntryState.REJECTED, code=_whole(code), message=_whole(message)))
            elif self._position is not None and result.seq <= self._position:
                drop.append(entry.key)
            else:
                put.append(replace(entry, state=EntryState.ACKED, seq=result.seq))
        self._commit(self._head, put, drop)
        self.unanswered, self._failures = None, 0

    def push_failed(self, error: ErrorAnswer, now: float, rnd: float) -> None:
        """The unanswered push was answered by an `error`: all of it stays, and is sent again after a pause.

        After a gap it has new numbers. `rnd` is a random number between 0 and 1.
        """
        if error.code == "gap" and error.expected is not None and self.unanswered is not None:
            self._renumber(error.expected, above=error.expected > self.unanswered.n)
            # The next one fits, unless the connection leads to another database each time.
            pause = backoff(self._failures, rnd) if self._failures else 0.0
        else:
            pause = backoff(self._failures + 1, rnd)
        self._failures += 1
        if error.retry_after_ms is not None:
            pause = error.retry_after_ms / 1000 * (1 + RELUCTANCE * rnd)
        self._not_before = now + pause
        self.unanswered = None

    def advance(self, seq: int | None) -> None:
        """The synced rows stand at this position (None: nowhere yet): what is acked up to there is settled, and goes;
        but not what is in doubt.

        An app that stores rows in the storage's own transaction calls it there; twice is as good as once.
        """
        if seq is None:
            return
        self._position = max(seq, self._position or 0)
        settled = [e.key for e in self._in(EntryState.ACKED) if e.seq is not None and e.seq <= self._position]
        if settled:
            self._commit(self._head, [], settled)

    # ---- Within ------------------------------------------------------------------------------------------------------

    def _in(self, state: EntryState) -> tuple[Entry, ...]:
        return tuple(entry for entry in self._entries.values() if entry.state is state)

    def _unanswered(self) -> list[Entry]:
        """Those that have no result on this connection."""
        return [
            entry
            for entry in self._entries.values()
            if entry.state is EntryState.PENDING or (entry.state is EntryState.ACKED and entry.seq is None)
        ]

    def _waiting(self) -> dict[int, Mutation]:
        return {entry.n: entry.mutation for entry in self._unanswered()}

    def _rejected(self, key: int) -> Entry:
        entry = self._entries.get(key)
        if entry is None or entry.state is not EntryState.REJECTED:
            raise ValueError(f"No rejected mutation has the key {key}: `quarantine` lists those that have one.")
        return entry

    def _add(self, mutation: Mutation, drop: list[int]) -> Entry:
        head = self._head
        check(mutation, head.bounds)
        # In whichever encoding the app will connect.
        if max(codec.size(mutation) for codec in CODECS.values()) + ENVELOPE > head.bounds.frame_bytes:
            raise WriteError("too_long", f"it fits in no frame of {head.bounds.frame_bytes} bytes: shorten it")
        if head.next_n > NUMBER_END:
            raise ValueError("every number up to 2^53 is given: start anew with another client_id")
        entry = Entry(head.next_key, head.next_n, mutation)
        self._commit(replace(head, next_key=entry.key + 1, next_n=entry.n + 1), [entry], drop)
        self.on_add()
        return entry

    def _renumber(self, expected: int, *, above: bool) -> None:
        """The database lost its tail: what it had acked from `expected` on, and we still hold, is to be sent again. Or
        it consumed our numbers for other mutations (`above`): then all that we hold is."""
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
    """Of a device whose last connection had `last`, at `now` by its clock in microseconds."""
    return min(max(last + 1, now), NUMBER_END)


def _whole(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can say and no storage takes."""
    return text.encode(errors="replace").decode()
