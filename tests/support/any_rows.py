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
        for tag, seq, *rest in rows:
            if tag.startswith("-"):
                kind = self._tagged[tag[1:]]
                self._delete(kind, wire.key(kind, rest[0]), seq)
            else:
                kind = self._tagged[tag]
                assert len(rest) == 1 + len(kind.columns)
                values = (wire.value(of, value) for (_, of), value in zip(kind.columns, rest[1:], strict=True))
                self._upsert(kind, wire.key(kind, rest[0]), Held(seq, tuple(values)))

    def of_parent(self, kind: Kind, parent: Id) -> list[Id]:
        return [key for key, row in self.held[kind.name].items() if row.values[0] == parent]

    def _upsert(self, kind: Kind, key: Id, row: Held) -> None:
        held = self.held[kind.name]
        before = held.get(key)
        if before is not None and before.seq > row.seq:
            return
        lineage = [kind.name, *self.above(kind)]
        if any(self._deletions.get(each, -1) > row.seq for each in zip(lineage, (key, *row.values), strict=False)):
            return
        held[key] = row

    def above(self, kind: Kind) -> Iterator[str]:
        """The kinds of its parent and its parent's parent, whose keys are the first columns."""
        while kind.parent is not None:
            kind = self.kinds[kind.parent]
            yield kind.name

    def _delete(self, kind: Kind, key: Id, seq: int) -> None:
        before = self.held[kind.name].get(key)
        if before is not None and before.seq <= seq:
            del self.held[kind.name][key]
        self._deletions[kind.name, key] = max(seq, self._deletions.get((kind.name, key), -1))
        for below in self.kinds.values():
            for column, above in enumerate(self.above(below)):
                if above == kind.name:
                    rows = self.held[below.name]
                    for each in [each for each, row in rows.items() if row.values[column] == key and row.seq <= seq]:
                        del rows[each]
