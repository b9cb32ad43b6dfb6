"""What connected devices notice of another declaration, and whether they need a snapshot for it. Pure.

A device that resumes keeps its rows and receives what the log has since. That is enough as long as its rows, read by
the new schema, are those that a new device would get. Otherwise a new history begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from server.declaration.model import Declaration, Field, Kind, Table
from server.declaration.sql.pieces import archive, column, table, tables


class Need(StrEnum):
    """Whether devices need a snapshot."""

    NO = "no"
    YES = "yes"
    IF_ROWS = "rows"
    """If the kind has rows."""
    IF_VALUES = "values"
    """If the column is not NULL everywhere."""
    IF_ARCHIVED = "archived"
    """If the archive has rows."""


@dataclass(frozen=True, slots=True)
class Change:
    """A difference between two declarations."""

    kind: str
    """The name of a kind of the later one, or of the former one if it is gone; empty: the gate."""
    says: str
    """What was changed, in a sentence without a point."""
    need: Need = Need.NO
    field: Field | None = None
    """The column of IF_VALUES."""
    archive: Table | None = None
    """The table of IF_ARCHIVED."""


def changes(before: Declaration | None, after: Declaration) -> list[Change]:
    """All differences that concern devices. `before`: None if nothing was declared, so that there are no devices."""
    if before is None or before == after:
        return []
    return [*_gate(before, after), *_kinds(before, after)]


def evidence(after: Declaration, change: Change) -> str | None:
    """An SQL condition by which needs with «if» are decided. None: there is nothing to look up."""
    if change.need in (Need.NO, Need.YES):
        return None
    if change.archive is not None:
        return f"EXISTS (SELECT FROM {table(change.archive)} t)"
    held = "" if change.field is None else f" WHERE {column('t', change.field)} IS NOT NULL"
    return " OR ".join(f"EXISTS (SELECT FROM {table(of)} t{held})" for of in tables(after.kind[change.kind]))


def _gate(before: Declaration, after: Declaration) -> Iterator[Change]:
    if _admits(before) == _admits(after):
        return
    # The log has the changes of all users, so that whoever may sync now resumes as if it had been so before.
    if after.gate is None:
        yield Change("", "There is no gate any more: every user with a token syncs")
    else:
        yield Change("", "The gate changes: who no longer syncs is told so, and who does from now on resumes")


def _admits(declaration: Declaration) -> tuple[object, ...] | None:
    gate = declaration.gate
    return None if gate is None else (gate.kind, _value(gate.field), set(gate.syncs), set(gate.local_only))


def _kinds(before: Declaration, after: Declaration) -> Iterator[Change]:
    for kind in before.kinds:
        if kind.name not in after.kind:
            # Deletions that some devices have not received yet go with its log.
            yield Change(kind.name, f"Kind {kind.name} is gone, and devices drop its rows", Need.YES)
    for kind in after.kinds:
        former = before.kind.get(kind.name)
        if former is None:
            yield _new(after, kind)
        elif (other := _identity(former, kind)) is not None:
            yield Change(kind.name, f"The {other} of kind {kind.name} changes", Need.YES)
        else:
            yield from _columns(former, kind)
            yield from _lists(former, kind)
            yield from _writing(former, kind)
            yield from _streaming(former, kind)
        if former is not None and former.table == kind.table:
            yield from _archive(former, kind)


def _new(after: Declaration, kind: Kind) -> Change:
    says = f"Kind {kind.name} is new"
    above: Kind | None = kind
    while above is not None:
        if above.window == 0:
            return Change(kind.name, f"{says}; a new device gets none of its rows at first, and so do the others")
        above = after.parent_of(above)
    return Change(kind.name, says, Need.IF_ROWS)


def _identity(former: Kind, kind: Kind) -> str | None:
    """What is different by which a row is known or belongs to a user. Then its entries in the log name nothing."""
    parts = {
        "tag": (former.tag, kind.tag),
        "table": (former.table, kind.table),
        "key": (_values(former.key), _values(kind.key)),
        "owner": (_value(former.owner), _value(kind.owner)),
        "parent": (
            former.parent and (former.parent.kind, _value(former.parent.field)),
            kind.parent and (kind.parent.kind, _value(kind.parent.field)),
        ),
        "instant in its primary key": (_value(former.dated), _value(kind.dated)),
    }
    return next((what for what, (one, other) in parts.items() if one != other), None)


def _columns(former: Kind, kind: Kind) -> Iterator[Change]:
    for name, synced in kind.column.items():
        before = former.column.get(name)
        if before is None:
            says = f"Column {name} of kind {kind.name} is new"
            yield Change(kind.name, says, Need.IF_VALUES, synced.field)
        elif before.field.name != synced.field.name:
            says = f"Column {name} of kind {kind.name} is another column of the table"
            yield Change(kind.name, says, Need.IF_ROWS)
        elif _value(before.field) != _value(synced.field):
            says = f"Column {name} of kind {kind.name} is of another type: {synced.field.type}"
            yield Change(kind.name, says, Need.IF_ROWS)
    for name in former.column.keys() - kind.column.keys():
        yield Change(kind.name, f"Column {name} of kind {kind.name} is gone", Need.IF_ROWS)


def _lists(former: Kind, kind: Kind) -> Iterator[Change]:
    if former.newest != kind.newest:
        says = f"Lists of kind {kind.name} are ordered by {kind.newest or 'the key'}"
        # A device that has all rows has the newest, whatever orders them.
        yield Change(kind.name, says, Need.NO if former.window is None else Need.IF_ROWS)
    if former.window != kind.window:
        fewer = former.window is None or (kind.window is not None and kind.window < former.window)
        says = f"A new device gets {'all' if kind.window is None else kind.window} rows of kind {kind.name}"
        yield Change(kind.name, says, Need.NO if fewer else Need.IF_ROWS)


def _archive(former: Kind, kind: Kind) -> Iterator[Change]:
    """Devices that hold archived rows have rows that a new device does not get, or the other way round."""
    had, has = archive(former), archive(kind)
    if had is not None and has is None:
        says = f"Kind {kind.name} has no archive any more: devices no longer get the rows in {table(had)}"
        yield Change(kind.name, says, Need.IF_ARCHIVED, archive=had)
    elif has is not None and had is None:
        says = f"Kind {kind.name} has an archive: devices get the rows in {table(has)}, too"
        yield Change(kind.name, says, Need.IF_ARCHIVED, archive=has)


def _streaming(former: Kind, kind: Kind) -> Iterator[Change]:
    for name in former.streams:
        if name not in kind.streams:
            says = (
                f"Column {name} of kind {kind.name} is streamed no more: its open streams end, and rows get their texts"
            )
            yield Change(kind.name, says)
    for name in kind.streams:
        if name not in former.streams:
            yield Change(kind.name, f"Column {name} of kind {kind.name} may be streamed")
    if former.ended != kind.ended:
        yield Change(kind.name, f"How streams of kind {kind.name} ended is {_noted(kind.ended)}")


def _writing(former: Kind, kind: Kind) -> Iterator[Change]:
    if (former.devices, former.limits) != (kind.devices, kind.limits):
        yield Change(kind.name, f"What devices may write of kind {kind.name} changes")


def _noted(field: Field | None) -> str:
    return "noted no more" if field is None else f"noted in its column {field.name}"


def _value(field: Field | None) -> tuple[str, str, str] | None:
    """The column, and how its values travel. Whether it may be NULL and its default make no other rows."""
    return None if field is None else (field.name, field.of, field.type)


def _values(fields: tuple[Field, ...]) -> list[tuple[str, str, str] | None]:
    return [_value(field) for field in fields]
