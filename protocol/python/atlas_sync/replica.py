"""The rows of the sync protocol, and the copy of them that a device holds (SPEC.md, sections 5 and 7.3).

Pure. Knows nothing of frames and connections; what `Replica` does in memory, an app does in SQL.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from uuid import UUID

Kind = Literal["p", "c", "m"]


@dataclass(frozen=True, slots=True)
class Profile:
    """The user. `id` is the user's."""

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
    """A message. Instants are microseconds since 1970-01-01 UTC; `role` is one of the three, or one from the future."""

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
    """The row of this kind and id is gone."""

    kind: Kind
    seq: int
    id: UUID


Row = Profile | Conversation | Message | Deleted


class Replica:
    """The rows that one device holds."""

    def __init__(self) -> None:
        self.profiles: dict[UUID, Profile] = {}
        self.conversations: dict[UUID, Conversation] = {}
        self.messages: dict[UUID, Message] = {}
        self._held: dict[Kind, dict[UUID, Any]] = {"p": self.profiles, "c": self.conversations, "m": self.messages}
        self._deletions: dict[tuple[Kind, UUID], int] = {}  # the memories of 5.4
        self._pages: set[object] = set()  # asked for, and not yet applied

    def replace(self, rows: Iterable[Row]) -> None:
        """The first frame of a snapshot: all that is held goes, and memories and expected pages with it (7.3)."""
        for held in self._held.values():
            held.clear()
        self._deletions.clear()
        self._pages.clear()
        self.apply(rows)

    def apply(self, rows: Iterable[Row]) -> None:
        """Apply the rows of `changes`, or of a snapshot's further frames, in their order. A repeat is harmless."""
        for row in rows:
            held = self._held[row.kind]
            newest = max(held[row.id].seq if row.id in held else -1, self._deletions.get((row.kind, row.id), -1))
            if isinstance(row, Message):
                newest = max(newest, self._deletions.get(("c", row.conversation_id), -1))
            if isinstance(row, Deleted):
                if row.seq >= newest:
                    held.pop(row.id, None)
                self._follow(row)
            elif row.seq >= newest:
                held[row.id] = row

    @contextmanager
    def expecting_page(self) -> Iterator[Callable[[Iterable[Row]], None]]:
        """Remember deletions meanwhile: enter before asking, leave when the page has come or will not come any more.

        Yields what applies the page's rows; it does nothing once a snapshot has replaced what they are a part of.
        """
        page = object()
        self._pages.add(page)
        try:
            yield lambda rows: self.apply(rows) if page in self._pages else None
        finally:
            self._pages.discard(page)
            if not self._pages:
                self._deletions.clear()

    def _follow(self, row: Deleted) -> None:
        """What a deletion takes along, and leaves behind."""
        if row.kind == "c":
            # Also when a newer conversation of the same id is held: it was made anew, its old messages were not.
            gone = [m.id for m in self.messages.values() if m.conversation_id == row.id and m.seq <= row.seq]
            for message_id in gone:
                del self.messages[message_id]
        if self._pages:
            key = (row.kind, row.id)
            self._deletions[key] = max(row.seq, self._deletions.get(key, -1))
