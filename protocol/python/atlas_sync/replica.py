"""A device's copy of its rows in memory (SPEC.md, sections 5 and 7.3).

Does no I/O, and knows nothing of connections. An app that keeps its rows in a database does in SQL what
`Replica` does here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from atlas_sync.floors import START, Floor, Place, after_page, after_snapshot, is_new
from atlas_sync.mutation import Insert
from atlas_sync.outbox import Entry
from atlas_sync.rows import Deleted, Key, Row
from atlas_sync.schema import Kind, Schema
from atlas_sync.session import Batch, Live, PageArrived
from atlas_sync.streams import StreamGrew, Streams, StreamsNamed


class Older:
    """A page of older rows that is expected: ask for it with `before`, and `apply` what arrives."""

    def __init__(self, before: Place | None, apply: Callable[[PageArrived], None]) -> None:
        self.before, self.apply = before, apply


class Replica:
    """The rows that one device holds: `rows[kind][id]`, and their `streams`. Read them; do not change them.

    Without a schema it holds nothing until `adopt`. A row of a kind that the schema does not have is left out.
    """

    def __init__(self, schema: Schema | None = None) -> None:
        self.schema: Schema | None = None
        self.rows: dict[str, dict[Key, Row]] = {}
        self.streams = Streams()
        self._kinds: dict[str, Kind] = {}
        self._above: dict[str, tuple[tuple[str, str], ...]] = {}
        self._below: dict[str, tuple[tuple[str, str], ...]] = {}
        self._deletions: dict[tuple[str, Any], int] = {}  # the memories of 5.4
        self._pages: set[object] = set()  # pages asked for and not applied yet
        self._floors: dict[tuple[str, Key | None], Floor] = {}  # by kind and parent (SPEC.md, 7.10)
        self._arrived: dict[tuple[str, Key | None], dict[Key, Row]] | None = None  # the rows of an unfinished snapshot
        if schema is not None:
            self.adopt(schema)

    def adopt(self, schema: Schema) -> None:
        """Take over the server's schema. Rows of kinds that it does not have are discarded."""
        self.schema = schema
        self.rows = {kind.name: self.rows.get(kind.name, {}) for kind in schema}
        self._kinds = {kind.name: kind for kind in schema}
        self._above = {kind.name: schema.above(kind.name) for kind in schema}
        self._below = {kind.name: schema.below(kind.name) for kind in schema}

    def newest_first(self, kind: str, parent: Key | None = None) -> list[Row]:
        """The rows of a kind, or of a kind within a parent, in the order of pages.

        Raises KeyError for a kind that the schema does not have.
        """
        of = self._kinds[kind]
        rows = (row for row in self.rows[kind].values() if of.parent_of(row) == parent)
        return sorted(rows, key=of.rank, reverse=True)

    def receive(self, event: Batch | Live | StreamsNamed | StreamGrew) -> None:
        """Apply what a Device gives to `on_batch` and to `on_stream`.

        A batch also says something about floors: `replace` and `apply` leave them unknown.
        """
        match event:
            case Batch():
                self._receive(event)
            case Live():
                self.streams.drop_unnamed()
            case StreamsNamed():
                self.streams.name(event.streams)
            case StreamGrew():
                self.streams.grow(event, self._row(event.kind, event.id))

    def _receive(self, batch: Batch) -> None:
        if batch.replaces:
            self._clear()
            self._arrived = {}
            self.apply(batch.rows)
        else:
            self.apply(batch.rows)
        if batch.window is not None and self._arrived is not None:
            self._complete(self._arrived, batch.window)
            self._arrived = None

    def replace(self, rows: Iterable[Row | Deleted]) -> None:
        """Apply the first frame of a snapshot: discard all rows, memories of deletions and expected pages (7.3)."""
        self._clear()
        self.apply(rows)

    def _complete(
        self, arrived: Mapping[tuple[str, Key | None], Mapping[Key, Row]], window: Mapping[str, int | None]
    ) -> None:
        """The last frame of a snapshot was applied: the floors are known. `window`: as of Batch."""
        for kind in self._kinds.values():
            parents = [None] if kind.parent is None else list(self.rows[kind.parent])
            for parent in parents:
                rows = arrived.get((kind.name, parent), {}).values()
                self._floors[kind.name, parent] = after_snapshot(kind, rows, window.get(kind.name))

    def floor(self, kind: str, parent: Key | None = None, entries: Iterable[Entry] = ()) -> Floor:
        """From where on no row of a history is missing: a place, START, or None if nothing is known (SPEC.md, 7.10).

        `entries` are those of the outbox: below a row that this device creates there is nothing that it does not know.
        """
        if (known := self._floors.get((kind, parent))) is not None:
            return known
        above = self._kinds[kind].parent
        inserts = (entry.mutation for entry in entries if isinstance(entry.mutation, Insert))
        return START if any(each.kind == above and each.id == parent for each in inserts) else None

    def apply(self, rows: Iterable[Row | Deleted]) -> None:
        """Apply the rows of `changes`, or of a snapshot's later frames, in their order. A repeat is harmless."""
        streamed = [(each.kind, each.id) for each in self.streams if self._row(each.kind, each.id) is not None]
        self._apply(rows)
        for kind, key in streamed:
            if self._row(kind, key) is None:
                self.streams.forget(kind, key)
        self.streams.look(self._row)

    def _apply(self, rows: Iterable[Row | Deleted]) -> None:
        for row in rows:
            if row.kind not in self.rows:
                continue
            held = self.rows[row.kind]
            newest = max(held[row.id].seq if row.id in held else -1, self._deletions.get((row.kind, row.id), -1))
            if isinstance(row, Deleted):
                if row.seq >= newest:
                    held.pop(row.id, None)
                    self._forget_below(row.kind, row.id)
                self._after_deletion(row)
            elif row.seq >= max(newest, self._deleted_above(row)):
                self._begin_below(row, is_held=row.id in held)
                held[row.id] = row

    @contextmanager
    def expecting_page(self) -> Iterator[Callable[[Iterable[Row | Deleted]], None]]:
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

    @contextmanager
    def older(
        self, kind: str, parent: Key | None = None, before: Place | Literal["floor"] | None = "floor"
    ) -> Iterator[Older]:
        """A context in which to ask for the rows before the floor, or before another place; None: for the newest.

        The page moves the floor down, unless rows may be missing between the two.

        Yields an Older, whose `apply` does nothing if a snapshot has arrived since.
        """
        name = (kind, parent)
        floor = self._floors.get(name)
        if before == "floor":
            before = floor if isinstance(floor, tuple) else None
        of = self._kinds[kind]
        with self.expecting_page() as apply:
            expected = set(self._pages)

            def receive(page: PageArrived) -> None:
                if not expected & self._pages:
                    return
                apply(page.rows)
                last = next((row for row in reversed(page.rows) if isinstance(row, Row)), None)
                self._floors[name] = after_page(of, self._floors.get(name), before, last, more=page.more)

            yield Older(before, receive)

    def _row(self, kind: str, key: Key) -> Row | None:
        return self.rows.get(kind, {}).get(key)

    def _clear(self) -> None:
        for held in self.rows.values():
            held.clear()
        self._deletions.clear()
        self._pages.clear()
        self._floors.clear()
        self._arrived = None

    def __getstate__(self) -> dict[str, Any]:
        """What an app may keep of it: pages that were asked for end with the process."""
        return {**self.__dict__, "_pages": set(), "_deletions": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"streams": Streams(), **state})  # a version without streams may have kept it

    def _begin_below(self, row: Row, *, is_held: bool) -> None:
        """Note what the arrival of a row says about the histories below it, and in a snapshot about its own."""
        kind = self._kinds[row.kind]
        own = (row.kind, kind.parent_of(row))
        if self._arrived is not None:
            self._arrived.setdefault(own, {})[row.id] = row
        elif not is_held and is_new(kind, self._floors.get(own), row):
            for child in self._kinds.values():
                if child.parent == row.kind and self._floors.get((child.name, row.id)) is None:
                    self._floors[child.name, row.id] = START

    def _forget_below(self, kind: str, key: Key) -> None:
        for child in self._kinds.values():
            if child.parent == kind:
                self._floors.pop((child.name, key), None)

    def _deleted_above(self, row: Row) -> int:
        """The greatest seq of a remembered deletion of a row above this one; -1 if there is none."""
        if not self._deletions:
            return -1
        return max(
            (self._deletions.get((kind, row.values.get(column)), -1) for kind, column in self._above[row.kind]),
            default=-1,
        )

    def _after_deletion(self, row: Deleted) -> None:
        """Delete the rows below a deleted row (5.3), and remember the deletion while a page is expected."""
        # Also if a newer row of the same id is held: it was created again, the rows below it were not.
        for kind, column in self._below[row.kind]:
            held = self.rows[kind]
            for key in [each.id for each in held.values() if each.values[column] == row.id and each.seq <= row.seq]:
                del held[key]
                self._forget_below(kind, key)
        if self._pages:
            name = (row.kind, row.id)
            self._deletions[name] = max(row.seq, self._deletions.get(name, -1))
