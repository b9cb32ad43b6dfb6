"""The rows of the protocol, and a device's copy of them in memory (SPEC.md, sections 5 and 7.3).

Does no I/O, and knows nothing of frames and connections. An app that keeps its rows in a database does in SQL what
`Replica` does here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from uuid import UUID

Kind = Literal["p", "c", "m"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The user's profile. `id` is the user's."""

    kind: ClassVar[Kind] = "p"
    seq: int
    id: UUID
    tier: str
    status: str | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. Instants are microseconds since 1970-01-01 UTC."""

    kind: ClassVar[Kind] = "c"
    seq: int
    id: UUID
    title: str | None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message. Instants are microseconds since 1970-01-01 UTC; `role` may be an unknown one."""

    kind: ClassVar[Kind] = "m"
    seq: int
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """The row of this kind and id was deleted."""

    kind: Kind
    seq: int
    id: UUID


Row = Profile | Conversation | Message | Deleted


class Replica:
    """The rows that one device holds, by id. Read `profiles`, `conversations` and `messages`; do not change them."""

    def __init__(self) -> None:
        self.profiles: dict[UUID, Profile] = {}
        self.conversations: dict[UUID, Conversation] = {}
        self.messages: dict[UUID, Message] = {}
        self._held: dict[Kind, dict[UUID, Any]] = {"p": self.profiles, "c": self.conversations, "m": self.messages}
        self._deletions: dict[tuple[Kind, UUID], int] = {}  # the memories of 5.4
        self._pages: set[object] = set()  # pages asked for and not applied yet

    def replace(self, rows: Iterable[Row]) -> None:
        """Apply the first frame of a snapshot: discard all rows, memories of deletions and expected pages (7.3)."""
        for held in self._held.values():
            held.clear()
        self._deletions.clear()
        self._pages.clear()
        self.apply(rows)

    def apply(self, rows: Iterable[Row]) -> None:
        """Apply the rows of `changes`, or of a snapshot's later frames, in their order. A repeat is harmless."""
        for row in rows:
            held = self._held[row.kind]
            newest = max(held[row.id].seq if row.id in held else -1, self._deletions.get((row.kind, row.id), -1))
            if isinstance(row, Message):
                newest = max(newest, self._deletions.get(("c", row.conversation_id), -1))
            if isinstance(row, Deleted):
                if row.seq >= newest:
                    held.pop(row.id, None)
                self._after_deletion(row)
            elif row.seq >= newest:
                held[row.id] = row

    @contextmanager
    def expecting_page(self) -> Iterator[Callable[[Iterable[Row]], None]]:
        """A context in which to ask for one page: the replica remembers the deletions that arrive meanwhile (5.4).

        Yields a function that applies the page's rows. It does nothing if a snapshot has arrived since.
        """
        page = object()
        self._pages.add(page)
        try:
            yield lambda rows: self.apply(rows) if page in self._pages else None
        finally:
            self._pages.discard(page)
            if not self._pages:
                self._deletions.clear()

    def _after_deletion(self, row: Deleted) -> None:
        """Delete the messages of a deleted conversation (5.3), and remember the deletion while a page is expected."""
        if row.kind == "c":
            # Also if a newer conversation of the same id is held: it was created again, its old messages were not.
            gone = [m.id for m in self.messages.values() if m.conversation_id == row.id and m.seq <= row.seq]
            for message_id in gone:
                del self.messages[message_id]
        if self._pages:
            key = (row.kind, row.id)
            self._deletions[key] = max(row.seq, self._deletions.get(key, -1))
