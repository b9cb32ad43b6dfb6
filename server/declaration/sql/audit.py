"""Statements that find out how a database fits a declaration that it follows, and what an operator could do. Pure."""

from collections.abc import Iterator
from typing import Final, NamedTuple

from protocol.schema import Type
from server.declaration.model import Declaration, Field, Kind
from server.declaration.sql.pieces import column, literal, order, quoted, table
from server.declaration.usage import USAGE

ANY: Final = {Type.UUID: "00000000-0000-0000-0000-000000000000", Type.TEXT: "", Type.INT: "0", Type.BIGINT: "0"}
"""A value of each type that a key or an owner may have."""


class List(NamedTuple):
    """A list that devices read."""

    kind: str
    query: str
    """Reads its first row. With an index it needs no sort, and no other rows."""
    statement: str
    """The statement that creates such an index."""


def lists(declaration: Declaration) -> Iterator[List]:
    """The list of each kind of the app: of a user, or of a parent. A table of usage needs none: it has a row a day."""
    for kind in declaration.kinds:
        if kind.table == USAGE:
            continue
        of = kind.owner if kind.parent is None else kind.parent.field
        assert of is not None
        ordered = order(kind, "t")
        value = f"{literal(ANY[of.of])}::{of.type}"
        query = (
            f"SELECT {', '.join(ordered)} FROM {table(kind.table)} t WHERE {column('t', of)} = {value} "
            f"ORDER BY {', '.join(f'{each} DESC' for each in ordered)} LIMIT 1"
        )
        yield List(kind.name, query, _index(kind, of))


def _index(kind: Kind, of: Field) -> str:
    # An index of a partitioned table cannot be built beside its writers.
    how = "CREATE INDEX" if kind.partition is not None else "CREATE INDEX CONCURRENTLY"
    names = {quoted(field.name) for field in (*kind.key, *(synced.field for synced in kind.columns))}
    ordered = [each if each in names else f"({each})" for each in order(kind, "")]
    return f"{how} ON {table(kind.table)} ({quoted(of.name)}, {', '.join(f'{each} DESC' for each in ordered)})"


def gate(declaration: Declaration) -> str | None:
    """Counts the users by the value of the gate's column: `value`, `users`. None without a gate."""
    if declaration.gate is None:
        return None
    kind = declaration.kind[declaration.gate.kind]
    return (
        f"SELECT {column('t', declaration.gate.field)}::text AS value, count(*) AS users FROM {table(kind.table)} t "
        "GROUP BY 1 ORDER BY 2 DESC, 1"
    )


def ownerless(declaration: Declaration) -> dict[str, str]:
    """By kind with an owner: counts the rows without one, and those whose owner is a text that names no user."""
    found = {}
    for kind in declaration.kinds:
        if kind.owner is None or not (kind.owner.nullable or kind.owner.of is Type.TEXT):
            continue
        held = column("t", kind.owner)
        unknown = f"sync.user_of({held}) IS NULL AND {held} IS NOT NULL" if kind.owner.of is Type.TEXT else "false"
        found[kind.name] = (
            f"SELECT count(*) FILTER (WHERE {held} IS NULL) AS none, count(*) FILTER (WHERE {unknown}) AS unknown "
            f"FROM {table(kind.table)} t WHERE {held} IS NULL OR ({unknown})"
        )
    return found
