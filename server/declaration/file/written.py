"""A declaration as its file has it, before the catalogue is asked. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.schema import Limit
from server.declaration.file.locate import Path, Place
from server.declaration.model import Table


@dataclass(frozen=True, slots=True)
class Named:
    """`column as name`. Without `as` the name is the column's."""

    column: str
    name: str
    number: int = field(default=0, compare=False)
    """Its place in the list."""


@dataclass(frozen=True, slots=True)
class Columns:
    named: tuple[Named, ...] = ()
    all: bool = False
    """`"*"`: all columns of the table, those that are named under their names."""
    without: tuple[Named, ...] = ()
    """`"-column"`."""


@dataclass(frozen=True, slots=True)
class Parent:
    kind: str
    column: Named


@dataclass(frozen=True, slots=True)
class Devices:
    insert: tuple[str, ...] | None = None
    update: tuple[str, ...] = ()
    delete: bool = False
    created: str | None = None
    updated: str | None = None
    touches: str | None = None
    owner: str | None = None

    @property
    def writable(self) -> frozenset[str]:
        return frozenset((*(self.insert or ()), *self.update))


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    table: Table
    tag: str
    columns: Columns
    key: tuple[str, ...] | None = None
    """None: the primary key."""
    owner: str | None = None
    parent: Parent | None = None
    newest: str | None = None
    window: int | None = None
    devices: Devices | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    partition: bool = False
    archive: int | None = None
    policies: bool = False
    streams: tuple[str, ...] = ()
    ended: str | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    table: Table
    column: str
    syncs: tuple[str, ...] = ()
    local_only: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """The kinds that could be read, in their order. `places` has those of all keys."""

    kinds: tuple[Kind, ...]
    gate: Gate | None = None
    places: Mapping[Path, Place] = field(default_factory=dict, compare=False)
    unread: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of kinds, and `kind.key`, that are wrong: nothing that depends on them is wrong on that account."""

    def place(self, *path: str | int) -> Place:
        """Of the key, or of the nearest table around it that stands somewhere."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1))
