"""What PostgreSQL's catalogue says of the tables of a database: the answer of sql/declared_catalogue.sql. Pure.

Names are as the catalogue has them. Types and expressions are SQL, with their schema unless that is pg_catalog.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct

from server.declaration.model import Table as Name

DESCENDING = 1
NULLS_FIRST = 2


class Type(Struct, frozen=True):
    """A type without length or precision. A domain is the type beneath it."""

    name: str
    kind: str
    """pg_type.typtype: b base, e enumeration, c composite, r range, m multirange, p pseudo."""
    element: "Type | None" = None
    """Of an array."""


class Column(Struct, frozen=True):
    name: str
    type: Type
    domain: str | None = None
    """Its own type, if that is a domain."""
    required: bool = False
    """NOT NULL."""
    default: str | None = None
    generated: Literal["s", "v"] | None = None
    """Computed from other columns, stored or virtual."""
    identity: Literal["a", "d"] | None = None
    """GENERATED ALWAYS or BY DEFAULT AS IDENTITY."""

    @property
    def numbered(self) -> bool:
        """The database makes its values, from a sequence."""
        return self.identity is not None or (self.default or "").startswith("nextval(")

    @property
    def filled(self) -> bool:
        """A row can be inserted without a value for it."""
        return not self.required or self.default is not None or self.generated is not None or self.identity is not None


class ForeignKey(Struct, frozen=True):
    columns: tuple[str, ...]
    schema: str
    table: str
    referenced: tuple[str, ...]
    on_delete: str
    """pg_constraint.confdeltype: a no action, r restrict, c cascade, n set null, d set default."""

    @property
    def target(self) -> Name:
        return Name(self.schema, self.table)

    @property
    def cascades(self) -> bool:
        return self.on_delete == "c"


class Index(Struct, frozen=True):
    """A valid btree index of all rows."""

    name: str
    columns: tuple[str | None, ...]
    """None: an expression."""
    options: tuple[int, ...]
    """Of each column, DESCENDING and NULLS_FIRST."""
    unique: bool = False
    """At once, and not only at the end of a transaction."""

    def serves(self, equal: Sequence[str], ordered: Sequence[str]) -> bool:
        """It finds the rows in which the first columns have given values, ordered by the others."""
        wanted = (*equal, *ordered)
        directions = {option & DESCENDING for option in self.options[len(equal) : len(wanted)]}
        return self.columns[: len(wanted)] == wanted and len(directions) <= 1


class Table(Struct, frozen=True, dict=True):
    schema: str
    name: str
    owner: str
    """A role."""
    rows: int
    """As last counted by ANALYZE or VACUUM; -1: never."""
    columns: tuple[Column, ...] = ()
    key: tuple[str, ...] = ()
    """The primary key."""
    foreign: tuple[ForeignKey, ...] = ()
    indexes: tuple[Index, ...] = ()
    secured: bool = False
    """Row level security is enabled."""
    forced: bool = False
    """Also for the owner."""
    partitioned_by: tuple[str, ...] | None = None
    partition_of: str | None = None
    """The table of which this is a partition. Then nothing else is known of it."""

    @property
    def named(self) -> Name:
        return Name(self.schema, self.name)

    @cached_property
    def column(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    def is_unique(self, columns: Sequence[str]) -> bool:
        """No two rows agree in these columns, apart from those by which the table is partitioned."""
        partitioned = set(self.partitioned_by or ())
        return any(
            index.unique
            and None not in index.columns
            and set(columns) <= set(index.columns)
            and set(index.columns) - set(columns) <= partitioned
            for index in self.indexes
        )


class Other(Struct, frozen=True):
    """What is no table, but can be taken for one."""

    schema: str
    name: str
    kind: str
    """pg_class.relkind: v view, m materialized view, f foreign table."""


class Facts(Struct, frozen=True, dict=True):
    tables: tuple[Table, ...] = ()
    others: tuple[Other, ...] = ()

    @cached_property
    def table(self) -> dict[Name, Table]:
        return {table.named: table for table in self.tables}

    def references(self, name: Name) -> list[Name]:
        """The tables that refer to this one with a foreign key."""
        return [table.named for table in self.tables if any(foreign.target == name for foreign in table.foreign)]
