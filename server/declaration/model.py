"""The declaration as values, resolved against the catalogue. Pure; `sync.declaration` keeps it as JSON."""

import hashlib
from functools import cached_property
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import Struct

from protocol import schema
from protocol.schema import Limit, Schema, Type

TEXTS: Final = ("text", "character varying", "character", "name")
TYPES: Final = {
    **dict.fromkeys(TEXTS, Type.TEXT),
    "uuid": Type.UUID,
    "boolean": Type.BOOL,
    "smallint": Type.INT,
    "integer": Type.INT,
    "bigint": Type.BIGINT,
    "real": Type.FLOAT,
    "double precision": Type.FLOAT,
    "numeric": Type.NUMERIC,
    "timestamp with time zone": Type.INSTANT,
    "timestamp without time zone": Type.INSTANT,
    "date": Type.DATE,
    "json": Type.JSON,
    "jsonb": Type.JSON,
    "bytea": Type.BYTES,
}
"""How each type of Postgres travels. An enumeration and citext travel as text, an array of these as an array."""


class Table(NamedTuple):
    schema: str
    name: str


class Field(Struct, frozen=True, omit_defaults=True):
    """A column of a table, as the catalogue has it."""

    name: str
    of: Type
    """How it travels."""
    type: str
    """Its type in SQL, with its schema unless that is pg_catalog, and without length or precision."""
    nullable: bool = False
    default: str | None = None
    """An SQL expression."""


class Column(Struct, frozen=True, omit_defaults=True):
    """A synced column: its name on the wire, and where it is."""

    name: str
    field: Field
    instead: Field | None = None
    """The column whose value counts where this one has none: in tables that an app made, a row that was never updated
    may have no instant of it."""
    above: bool = False
    """It is a column of the parent: the key of the parent's parent. A device that does not hold the parent needs it
    when that is deleted."""

    @property
    def nullable(self) -> bool:
        return self.field.nullable and (self.instead is None or self.instead.nullable)


class Parent(Struct, frozen=True, omit_defaults=True):
    """The parent of a kind's rows. Its key is the first of the synced columns."""

    kind: str
    field: Field
    loose: bool = False
    """No foreign key says that the parent exists: rows may be there before it."""


class Reference(Struct, frozen=True):
    """What a foreign key of a column refers to."""

    kind: str
    field: Field


class Devices(Struct, frozen=True, omit_defaults=True):
    """What devices may write. `insert` and `update` are names on the wire, the others columns of the table."""

    insert: tuple[str, ...] | None = None
    """None: devices do not insert."""
    update: tuple[str, ...] = ()
    delete: bool = False
    created: Field | None = None
    """Takes the instant of an insert."""
    updated: Field | None = None
    """Takes the instant of an insert, and of an update unless it is later already."""
    touches: Field | None = None
    """The column of the parent's table that an insert raises to its instant."""
    owner: Field | None = None
    """Takes the user, where the rows of a parent hold the user too."""


class Kind(Struct, frozen=True, omit_defaults=True, dict=True):
    """A synced table."""

    name: str
    tag: str
    table: Table
    key: tuple[Field, ...]
    """One or two. Not the instant by which the table is partitioned."""
    columns: tuple[Column, ...]
    """In their order on the wire. For a kind with a parent, the first is the parent's key."""
    owner: Field | None = None
    """The column that holds the user, of type uuid or text. None: the owner is the parent's."""
    parent: Parent | None = None
    newest: str | None = None
    """The name on the wire of the column that orders lists."""
    window: int | None = None
    """None: all."""
    devices: Devices | None = None
    limits: dict[str, Limit] = {}
    partition: Literal["month"] | None = None
    """By `newest`."""
    archive: int | None = None
    """Months."""
    policies: bool = False
    """Whether `migrate` makes row policies for end users."""
    streams: tuple[str, ...] = ()
    """The columns, by their names on the wire, whose text the app's backend may stream."""
    ended: Field | None = None
    """Takes how a stream ended when the server writes its text to the row."""
    references: dict[str, Reference] = {}
    """By column of the table: rows of a kind that devices name in it. They must be the user's own."""

    @cached_property
    def column(self) -> dict[str, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def index(self) -> dict[str, int]:
        """The places of the columns on the wire, from 0."""
        return {column.name: i for i, column in enumerate(self.columns)}

    @property
    def own(self) -> list[Column]:
        """The synced columns of its table."""
        return [column for column in self.columns if not column.above]

    @property
    def dated(self) -> Field | None:
        """The instant by which the table is partitioned, the other half of its primary key."""
        return None if self.partition is None or self.newest is None else self.column[self.newest].field


class Gate(Struct, frozen=True, omit_defaults=True):
    """Which users sync: those whose row of a kind has a value that syncs. Without a row a user does not."""

    kind: str
    field: Field
    syncs: tuple[str, ...] = ()
    """The values that sync; or, if empty, all but `local_only`, NULL included."""
    local_only: tuple[str, ...] = ()

    def admits(self, value: str) -> bool:
        """Whether users with this value sync; the empty one stands for NULL."""
        return value in self.syncs if self.syncs else value not in self.local_only


class Declaration(Struct, frozen=True, omit_defaults=True, dict=True):
    """All kinds, each after its parent."""

    kinds: tuple[Kind, ...]
    gate: Gate | None = None

    @cached_property
    def kind(self) -> dict[str, Kind]:
        return {kind.name: kind for kind in self.kinds}

    @cached_property
    def streams(self) -> bool:
        """Whether there is a column that may be streamed."""
        return any(kind.streams for kind in self.kinds)

    @cached_property
    def tagged(self) -> dict[str, Kind]:
        return {kind.tag: kind for kind in self.kinds}

    def parent_of(self, kind: Kind) -> Kind | None:
        return None if kind.parent is None else self.kind[kind.parent.kind]

    def children_of(self, kind: Kind) -> list[Kind]:
        return [child for child in self.kinds if child.parent is not None and child.parent.kind == kind.name]

    @cached_property
    def digest(self) -> str:
        """Names this declaration, 16 hexadecimal digits."""
        return _digest(msgspec.json.encode(self, order="deterministic"))

    @cached_property
    def schema(self) -> Schema:
        """What devices know of it."""
        kinds = tuple(_for_devices(kind, self.parent_of(kind)) for kind in self.kinds)
        return Schema(_digest(msgspec.json.encode(kinds, order="deterministic")), kinds)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _for_devices(kind: Kind, parent: Kind | None) -> schema.Kind:
    return schema.Kind(
        name=kind.name,
        tag=kind.tag,
        key=tuple(field.of for field in kind.key),
        columns=tuple(
            schema.Column(column.name, column.field.of + ("?" if column.nullable else "")) for column in kind.columns
        ),
        parent=None if kind.parent is None else kind.parent.kind,
        newest=kind.newest,
        window=kind.window,
        dated=None if kind.partition is None else kind.newest,
        devices=None if kind.devices is None else _devices(kind.devices, kind, parent),
        limits=kind.limits,
    )


def _devices(devices: Devices, kind: Kind, parent: Kind | None) -> schema.Devices:
    return schema.Devices(
        insert=devices.insert,
        update=devices.update,
        delete=devices.delete,
        created=_name(devices.created, kind),
        updated=_name(devices.updated, kind),
        touches=None if parent is None else _name(devices.touches, parent),
    )


def _name(field: Field | None, kind: Kind) -> str | None:
    """The name of the field on the wire; None if devices do not receive it."""
    return next((column.name for column in kind.columns if column.field == field), None)
