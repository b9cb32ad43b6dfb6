"""The rows that an app shows: the synced rows with the outbox's effects over them (SPEC.md, 8.8).

Pure: computed from its arguments each time. The synced rows are never changed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import Any, Protocol

from atlas_sync.mutation import Delete, Insert, Mutation, Update, split
from atlas_sync.outbox import Entry, EntryState
from atlas_sync.rows import Key, Row
from atlas_sync.schema import Devices, Kind, Schema
from atlas_sync.streams import OPEN, HeldStream


class Certainty(IntEnum):
    """How certain a row is. A row that several mutations changed is as certain as the least certain of them."""

    SYNCED = 0
    """The server sent the row as it is shown."""
    ACKED = 1
    """The server has made the change durable; it has not arrived through the feed yet."""
    PENDING = 2
    """The server has not answered the change yet."""
    REJECTED = 3
    """The row was created here, and the server rejected it: show it as «not delivered». `entry` says why."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A row, and how certain it is. `entry` is the last entry of the outbox that changed it; None if it is synced.

    A row that only the outbox has gets seq 0, and None in the columns that the device did not write.

    `state` is that of the stream whose text the row shows: "open", "done", "failed" or "stopped"; None: it shows none.
    """

    row: Row
    certainty: Certainty = Certainty.SYNCED
    entry: Entry | None = None
    state: str | None = None

    @property
    def streaming(self) -> bool:
        """Whether the text may still grow."""
        return self.state == OPEN


@dataclass(slots=True)
class View:
    """The rows to show: `rows[kind][id]`."""

    rows: dict[str, dict[Key, Shown]] = field(default_factory=dict)


class Synced(Protocol):
    """The rows as the server sent them: a Replica, or an object of the app's."""

    @property
    def schema(self) -> Schema | None: ...

    @property
    def rows(self) -> Mapping[str, Mapping[Key, Row]]: ...


def build_view(synced: Synced, entries: Iterable[Entry], streams: Iterable[HeldStream] = ()) -> View:
    """Compute the rows to show. `entries` are those of the outbox, in its order; `streams` those of the Replica.

    A rejected update or deletion has no effect: the row is shown as the server has it, and the quarantine keeps the
    mutation. A rejected insert stays visible, marked, so that no text disappears while a person reads it.
    """
    shown = Overlay(synced)
    for stream in {(each.kind, each.id, each.column): each for each in streams}.values():  # the last one of a column
        shown.stream(stream)
    rejected = []
    for entry in entries:
        if entry.state is EntryState.REJECTED:
            rejected.append(entry)
        else:
            shown.put(entry.mutation, Certainty.ACKED if entry.state is EntryState.ACKED else Certainty.PENDING, entry)
    for entry in rejected:
        if isinstance(entry.mutation, Insert):
            shown.put(entry.mutation, Certainty.REJECTED, entry)
    return shown.view


class Overlay:
    """A view being computed: applies mutations one after the other, as the server would."""

    def __init__(self, synced: Synced) -> None:
        self.view = View({kind: {key: Shown(row) for key, row in rows.items()} for kind, rows in synced.rows.items()})
        self._kinds = {kind.name: kind for kind in synced.schema or ()}
        self._above = {name: synced.schema.above(name) for name in self._kinds} if synced.schema is not None else {}
        self._gone: set[tuple[str, Key]] = set()  # rows that the outbox deletes

    def stream(self, stream: HeldStream) -> None:
        """Show the stream's text in its row. Call it before `put`."""
        shown = self.view.rows.get(stream.kind, {}).get(stream.id)
        if shown is None or stream.over or (what := stream.shows(shown.row)) not in ("stream", "lags"):
            return
        texts = {stream.column: stream.text} if what == "stream" else {}
        row = replace(shown.row, values={**shown.row.values, **texts})
        state = OPEN if shown.streaming else stream.state
        self.view.rows[stream.kind][stream.id] = replace(shown, row=row, state=state)

    def put(self, mutation: Mutation, certainty: Certainty, entry: Entry) -> None:
        if (kind := self._kinds.get(mutation.kind)) is None:
            return
        rows = self.view.rows.setdefault(kind.name, {})
        if isinstance(mutation, Insert):
            self._insert(mutation, kind, rows, certainty, entry)
            return
        key, instant = split(mutation.id, kind)
        shown = rows.get(key)
        if isinstance(mutation, Delete):
            self._gone.add((kind.name, key))
        if shown is None or (kind.dated is not None and shown.row.values[kind.dated] != instant):
            # Another row that had this id. One that is not held may still have rows below it.
            if isinstance(mutation, Delete) and shown is None:
                self._delete_below(kind.name, key)
        elif isinstance(mutation, Delete):
            del rows[key]
            self._delete_below(kind.name, key)
        else:
            row, certainty = _updated(shown.row, kind, mutation), max(shown.certainty, certainty)
            rows[key] = replace(shown, row=row, certainty=certainty, entry=entry)

    def _insert(self, mutation: Insert, kind: Kind, rows: dict[Key, Shown], certainty: Certainty, entry: Entry) -> None:
        own = (kind.name, mutation.id)
        if mutation.id in rows or (own in self._gone and certainty is Certainty.REJECTED):
            return
        row, devices = Row(kind.name, 0, mutation.id, self._inserted(kind, mutation)), kind.devices or Devices()
        # A row above that is not held may be outside of the window: only a deleted one hides the rows below it.
        if any((above, row.values[column]) in self._gone for above, column in self._above[kind.name]):
            return
        if kind.parent is not None and devices.touches is not None and certainty is not Certainty.REJECTED:
            self._touch(kind.parent, kind.parent_of(row), devices.touches, mutation.at)
        self._gone.discard(own)
        rows[mutation.id] = Shown(row, certainty, entry)

    def _touch(self, kind: str, key: Key, column: str, at: int) -> None:
        """A new row raises an instant of its parent. The parent itself stays as certain as it was."""
        shown = self.view.rows.get(kind, {}).get(key)
        if shown is not None and (shown.row.values[column] is None or shown.row.values[column] < at):
            row = Row(kind, shown.row.seq, key, {**shown.row.values, column: at})
            self.view.rows[kind][key] = replace(shown, row=row)

    def _delete_below(self, kind: str, key: Key) -> None:
        for name, above in self._above.items():
            for column in [column for of, column in above if of == kind]:
                rows = self.view.rows.get(name, {})
                for gone in [shown.row for shown in rows.values() if shown.row.values[column] == key]:
                    rows.pop(gone.id, None)
                    self._gone.add((name, gone.id))
                    self._delete_below(name, gone.id)  # own rows may not have the key of the parent's parent

    def _inserted(self, kind: Kind, mutation: Insert) -> dict[str, Any]:
        values = _inserted(kind, mutation)
        for (parent, column), (_, further) in pairwise(self._above[kind.name]):
            held = self.view.rows.get(parent, {}).get(values[column])
            if held is not None:
                values[further] = self._kinds[parent].parent_of(held.row)
        return values


def _inserted(kind: Kind, mutation: Insert) -> dict[str, Any]:
    devices = kind.devices or Devices()
    dates = (devices.created, devices.updated, kind.dated)
    instants = {name: mutation.at for name in dates if name is not None}
    values: dict[str, Any] = dict.fromkeys(column.name for column in kind.columns)
    known = {name: value for name, value in mutation.columns.items() if name in values}
    return {**values, **known, **instants}


def _updated(row: Row, kind: Kind, mutation: Update) -> Row:
    values = {**row.values, **{name: value for name, value in mutation.columns.items() if name in row.values}}
    updated = None if kind.devices is None else kind.devices.updated
    if updated is not None:
        values[updated] = max(mutation.at, mutation.at if row.values[updated] is None else row.values[updated])
    return replace(row, values=values)
