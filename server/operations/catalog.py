"""What PostgreSQL's catalog says of the app's tables, and what one step of a change to them is. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Protocol, TypeVar

from msgspec import Struct, field

from server.declaration.sql.pieces import quoted

INSTANTS: Final = ("conversations.created_at", "conversations.updated_at", "messages.created_at")
"""Columns by which devices order rows and load pages. They must never be NULL."""
UPDATED: Final = "messages.updated_at"
"""The column that adoption adds if it is missing."""
OLD: Final = "public.messages_v1"
"""The name of the app's own `messages` after adoption, when it is a partition."""
CLOSED: Final = "atlas_sync_closed"
"""The policy that keeps the policies of the old table from letting anybody past those of the new one."""
LONGEST_NAME: Final = 63
"""Bytes of a name in Postgres."""

INDEXES: Final = {
    "atlas_messages_v1_pkey": "CREATE UNIQUE INDEX CONCURRENTLY atlas_messages_v1_pkey "
    "ON public.messages (id, created_at)",
    "atlas_messages_v1_newest": "CREATE INDEX CONCURRENTLY atlas_messages_v1_newest "
    "ON public.messages (conversation_id, created_at DESC, id DESC)",
    "conversations_newest": "CREATE INDEX CONCURRENTLY conversations_newest "
    "ON public.conversations (user_id, updated_at DESC, id DESC)",
}
CASCADE: Final = "atlas_messages_v1_conversation"
ENABLING: Final = {"D": "DISABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


# ---- The answer of sql/catalog.sql ----------------------------------------------------------------------------------
# Names in it are quoted as SQL identifiers. `sync.original` keeps such an answer as jsonb from the first migration on.
# Therefore its keys stay as they are, and a field that older versions did not read has a default. NULLs are left out.


class Table(Struct, frozen=True):
    kind: str
    """pg_class.relkind: r table, p partitioned table, v view …"""
    owner: str
    mine: bool
    """This login is the owner."""
    secured: bool
    """Row level security is enabled."""
    forced: bool
    """It is enabled for the owner too (FORCE ROW LEVEL SECURITY)."""
    identified_by_index: bool = field(name="told_by_key", default=False)
    """Its REPLICA IDENTITY is USING INDEX."""
    identified_by_all: bool = field(name="told_by_all", default=False)
    """Its REPLICA IDENTITY is FULL."""
    comment: str | None = None


class Column(Struct, frozen=True):
    type: str
    required: bool
    """NOT NULL."""
    identity: bool = False
    default: str | None = None


class Constraint(Struct, frozen=True):
    table: str = field(name="tab")
    name: str
    kind: str
    """pg_constraint.contype: p primary key, f foreign key, c check, x exclusion …"""
    definition: str = field(name="def")
    validated: bool
    inherited: bool = True
    """Not NO INHERIT."""
    cascades: bool = False
    """A foreign key ON DELETE CASCADE, and everything else about it is the default."""
    columns: tuple[str, ...] = ()


class Index(Struct, frozen=True):
    table: str = field(name="tab")
    name: str
    definition: str = field(name="def")
    valid: bool
    unique: bool
    constraint: bool
    """It belongs to a constraint."""


class Trigger(Struct, frozen=True):
    """A trigger of messages."""

    name: str
    definition: str = field(name="def")
    enabled: str
    """pg_trigger.tgenabled: O enabled, or a key of ENABLING."""
    transitions: bool
    """It has transition tables."""
    row: bool
    """FOR EACH ROW."""
    ours: bool = False
    """Atlas Sync made it."""


class Policy(Struct, frozen=True):
    """A row policy of messages."""

    name: str
    permissive: bool
    command: str
    """pg_policy.polcmd: r SELECT, a INSERT, w UPDATE, d DELETE, * ALL."""
    roles: str
    using: str | None = None
    check: str | None = None


class PolicyElsewhere(Struct, frozen=True):
    """A row policy of another table whose condition refers to messages."""

    name: str
    table: str = field(name="tab")
    using: str | None = None
    check: str | None = None


class Grant(Struct, frozen=True):
    table: str = field(name="tab")
    privilege: str = field(name="what")
    role: str = field(name="to")
    option: bool
    """WITH GRANT OPTION."""
    column: str | None = None
    grantor: str | None = field(name="by", default=None)
    """None: the owner."""


class Access(Struct, frozen=True):
    """A role that can read or write all rows of a table."""

    table: str = field(name="tab")
    role: str


class View(Struct, frozen=True):
    """A view of messages."""

    name: str
    kind: str
    """pg_class.relkind: v view, m materialized view."""
    definition: str = field(name="def")
    options: str = ""
    owner: str = ""
    mine: bool = False
    """This login has the owner's rights."""


class Sequence(Struct, frozen=True):
    """A sequence that a column of messages owns."""

    name: str
    column: str


class Publication(Struct, frozen=True):
    """A publication of messages."""

    name: str
    owner: str = ""
    mine: bool = False
    """This login has the owner's rights."""
    all: bool = False
    """It publishes all tables, or all of schema public, and does not name messages."""
    partitioned: tuple[str, ...] = ()
    """Other partitioned tables that it names."""
    root: bool = False
    """publish_via_partition_root."""
    columns: str | None = None
    where: str | None = None


class Facts(Struct, frozen=True):
    """The app's three tables, and everything that depends on messages."""

    now: float
    """Seconds since 1970."""
    sees_all: bool = False
    """Row level security does not apply to this login."""
    tables: dict[str, Table] = {}
    columns: dict[str, Column] = {}
    """By `table.column`."""
    constraints: tuple[Constraint, ...] = ()
    indexes: tuple[Index, ...] = ()
    referenced_by: tuple[str, ...] = ()
    """Foreign keys that refer to messages."""
    triggers: tuple[Trigger, ...] = ()
    policies: tuple[Policy, ...] = ()
    grants: tuple[Grant, ...] = ()
    column_grants: tuple[Grant, ...] = ()
    unsecured: tuple[Access, ...] = ()
    """Roles that would lose rows if row level security were enabled."""
    kept_open: tuple[Access, ...] = ()
    """Roles for which adoption has made a policy that keeps all rows accessible."""
    views: tuple[View, ...] = ()
    policies_elsewhere: tuple[PolicyElsewhere, ...] = ()
    functions: tuple[str, ...] = ()
    """Functions whose parsed body depends on messages."""
    row_functions: tuple[str, ...] = ()
    """Functions that take or return rows of messages."""
    rules: tuple[str, ...] = ()
    key_views: tuple[str, ...] = ()
    """Views that depend on the primary key of messages."""
    sequences: tuple[Sequence, ...] = ()
    publications: tuple[Publication, ...] = ()
    auth: bool | None = None
    """auth.uid() exists; None: not known."""
    usage: tuple[str, ...] = ()
    """Roles that have USAGE on schema public."""


# ---- Steps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    says: str
    locks: str
    statements: tuple[str, ...]
    kind: Literal["brief", "index", "scan", "rows"] = "brief"
    """brief: one transaction of milliseconds. index, scan: a single statement outside of a transaction block; its
    duration grows with the table.
    rows: a statement repeated until it returns NULL. $1 is the ctid to continue after. It returns the last ctid, the
    table's size in blocks, and whether some row stayed unchanged (a trigger undid it)."""


# ---- Looking things up ----------------------------------------------------------------------------------------------


class _OfTable(Protocol):
    @property
    def table(self) -> str: ...


Entry = TypeVar("Entry", bound=_OfTable)


def of(entries: Iterable[Entry], table: str) -> list[Entry]:
    """The entries that belong to a table."""
    return [entry for entry in entries if entry.table == table]


def parked(index: str) -> str:
    """What an index of the old table is called while the new table has one of its name. Both are quoted as SQL
    identifiers."""
    plain = index[1:-1].replace('""', '"') if index.startswith('"') else index
    name = f"atlas_v1_{plain}"
    if len(name.encode()) > LONGEST_NAME:
        name = f"atlas_v1_{hashlib.md5(plain.encode(), usedforsecurity=False).hexdigest()}"
    return quoted(name)


def bound(definition: str) -> str:
    """The upper bound in the definition of the constraint `atlas_bounds`, as a literal."""
    return "'" + definition.rpartition("< '")[2].partition("'")[0] + "'"


def literal(moment: datetime) -> str:
    return f"'{moment:%Y-%m-%d %H:%M:%S}+00'"


def constraint(facts: Facts, table: str, name: str) -> Constraint | None:
    return next((k for k in of(facts.constraints, table) if k.name == name), None)


def primary_key(facts: Facts) -> Constraint | None:
    """That of messages."""
    return next((k for k in of(facts.constraints, "messages") if k.kind == "p"), None)


def foreign_keys(facts: Facts) -> list[Constraint]:
    """Those of messages that refer to conversations."""
    return [k for k in of(facts.constraints, "messages") if k.kind == "f" and k.columns == ("conversation_id",)]
