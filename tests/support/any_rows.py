"""The rows that a device of any schema holds, by the rules of SPEC.md 5.2 to 5.5."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tests.support.any_values import Id, Kind, Wire


class Held(NamedTuple):
    seq: int
    values: tuple[Any, ...]
    """In the order of the schema; of a kind with a parent, the first is the parent's key."""


class Rows:
    """By kind and id, plain values. Kinds that the schema does not have are ignored."""

    def __init__(self, kinds: dict[str, Kind]) -> None:
        self.kinds = kinds
        self.held: dict[str, dict[Id, Held]] = {name: {} for name in kinds}
        self._tagged = {kind.tag: kind for kind in kinds.values()}
        self._below = {name: [kind for kind in kinds.values() if kind.parent == name] for name in kinds}
        self._deletions: dict[tuple[str, Id], int] = {}

    def clear(self) -> None:
        """A snapshot begins (7.3)."""
        for held in self.held.values():
            held.clear()
        self._deletions.clear()

    def forget_deletions(self) -> None:
        """No page is unanswered (5.4)."""
        self._deletions.clear()

    def apply(self, wire: Wire, rows: Iterable[list[Any]]) -> None:
        """Apply the rows of one frame."""
        deep: list[tuple[Kind, Id]] = []
        for tag, seq, *rest in rows:
            if tag.startswith("-"):
                kind = self._tagged[tag[1:]]
                self._delete(kind, wire.key(kind, rest[0]), seq)
            else:
                kind = self._tagged[tag]
                assert len(rest) == 1 + len(kind.columns)
                values = (wire.value(of, value) for (_, of), value in zip(kind.columns, rest[1:], strict=True))
                key = wire.key(kind, rest[0])
                self._upsert(kind, key, Held(seq, tuple(values)))
                if kind.parent is not None and self.kinds[kind.parent].parent is not None:
                    deep.append((kind, key))
        for kind, key in deep:
            row = self.held[kind.name].get(key)
            if row is not None and row.values[0] not in self.held[kind.parent or ""]:
                # Its parent is outside of the window, and nothing would say that both are gone.
                del self.held[kind.name][key]

    def of_parent(self, kind: Kind, parent: Id) -> list[Id]:
        return [key for key, row in self.held[kind.name].items() if row.values[0] == parent]

    def _upsert(self, kind: Kind, key: Id, row: Held) -> None:
        held = self.held[kind.name]
        before = held.get(key)
        if before is not None and before.seq > row.seq:
            return
        if any(self._deletions.get(each, -1) > row.seq for each in self._lineage(kind, key, row)):
            return
        held[key] = row

    def _lineage(self, kind: Kind, key: Id, row: Held) -> Iterator[tuple[str, Id]]:
        """The row, its parent, and the parent's parent where the parent is held."""
        yield kind.name, key
        above: Held | None = row
        while kind.parent is not None and above is not None:
            key, kind = above.values[0], self.kinds[kind.parent]
            yield kind.name, key
            above = self.held[kind.name].get(key)

    def _delete(self, kind: Kind, key: Id, seq: int) -> None:
        before = self.held[kind.name].get(key)
        if before is not None and before.seq <= seq:
            del self.held[kind.name][key]
        self._deletions[kind.name, key] = max(seq, self._deletions.get((kind.name, key), -1))
        self._delete_below(kind, key, seq)

    def _delete_below(self, kind: Kind, key: Id, seq: int) -> None:
        for child in self._below[kind.name]:
            for each in self.of_parent(child, key):
                if self.held[child.name][each].seq <= seq:
                    self._delete(child, each, seq)
                else:
                    # It was made again under its id, and the older rows below it were not.
                    self._delete_below(child, each, seq)
